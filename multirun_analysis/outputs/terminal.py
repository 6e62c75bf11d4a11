"""What the terminal shows: progress while runs are read, then tables and sentences."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from har_sweep.console import Console
from har_sweep.units import escaped

if TYPE_CHECKING:
    from multirun_analysis.findings import Analysis
    from multirun_analysis.sources.runs import Progress
    from multirun_analysis.tables.table import Table

PLAIN_WIDTH = 180  # a file has no width of its own, and a wrapped table is hard to read in one
SECONDS_BETWEEN_LINES = 5.0


def console(to_error: bool = False) -> Console:
    """For text that anybody may have written."""
    width = None if (sys.stderr if to_error else sys.stdout).isatty() else PLAIN_WIDTH
    return Console(stderr=to_error, width=width)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line now and then. Both go to standard error: the results are the output."""
    screen = console(to_error=True)
    if not screen.is_terminal:
        said: dict[str, float] = {}

        def tell(what: str, done: int, total: int | None) -> None:
            now = time.monotonic()
            if what not in said or now - said[what] > SECONDS_BETWEEN_LINES:
                screen.print(f"{what} {done:,}/{total:,}" if total else what)
                said[what] = now

        yield tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("Starting", total=None)
        what_goes_on = ""

        def show(what: str, done: int, total: int | None) -> None:
            nonlocal what_goes_on
            if what != what_goes_on:
                bar.reset(task, description=what, total=total)
                what_goes_on = what
            bar.update(task, completed=done, total=total)

        yield show


def show(analysis: Analysis, tables: list[Table]) -> None:
    """Notes, then for each block its headline, Table 1, Table 2, first front, all fronts in short, and sentences; then
    the study's tables, where its recipe was run."""
    screen = console()
    for note in analysis.notes:
        screen.print(Text(f"! {note}", style="yellow"))
    for number, block in enumerate(analysis.blocks, 1):
        own = [table for table in tables if table.block == (number if len(analysis.blocks) > 1 else None)]
        if block.headline:
            screen.print(Text(block.headline, style="bold"))
            screen.print()
        for note in block.notes:
            screen.print(Text(f"! {note}", style="yellow"))
        for kind in ("table1", "table2", "front", "fronts"):
            _show_table(next((table for table in own if table.kind == kind), None), screen)
        for sentence in block.sentences:
            screen.print(Text(sentence))
        if block.recommendation:
            screen.print()
            for place, sentence in enumerate(block.recommendation.sentences):
                screen.print(Text(sentence, style="bold" if place == 0 else ""))
        screen.print()
    for table in tables:
        if table.kind in ("study1", "study2"):
            _show_table(table, screen)


def _show_table(table: Table | None, screen: Console) -> None:
    if table:
        screen.print(draw(table, screen.width))
        for line in table.footnotes():
            screen.print(Text(f"  {line}", style="dim"))
        screen.print()


MOST_ROWS = 40


def draw(table: Table, width: int) -> RichTable:
    """A table for a terminal: with a column a model, as in the study, where only that fits; else without the columns
    that do not fit, which it names."""
    heads, rows = (list(table.columns), [[(c.shown, c.best) for c in row] for row in table.rows[:MOST_ROWS]])
    below = [f"Rows that only the report has: {len(table.rows) - MOST_ROWS:,}."] if len(table.rows) > MOST_ROWS else []
    room = width - MARGIN  # the table's own edges
    if sum(_widths(heads, rows)) > room and rows:
        columns = [[(head, False), *(row[place] for row in rows)] for place, head in enumerate(heads)]
        turned = [text for text, _ in columns[0]], columns[1:]
        first, *others = _widths(*turned)
        if min(first, FOLDED_WIDTH) + sum(others) <= room:
            heads, rows = turned
        else:
            fitting = max(2, sum(so_far <= room for so_far in itertools.accumulate(_widths(heads, rows))))
            below.append(f"In the report also: {', '.join(heads[fitting:])}.")
            heads, rows = heads[:fitting], [row[:fitting] for row in rows]
    drawn = RichTable(
        title=Text(table.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    # Exact widths: what is needed, and what there is beyond that from the left, until heads stand on one line.
    least, *others = _widths(heads, rows)
    needed = [min(least, FOLDED_WIDTH), *others]
    spare = max(0, room - sum(needed))
    for place, head in enumerate(heads):
        wanted = max([len(head), *(len(row[place][0]) for row in rows)]) + MARGIN
        more = max(0, min(spare, wanted - needed[place]))
        spare -= more
        justify: JustifyMethod = "right" if place else "left"
        drawn.add_column(Text(head), justify=justify, overflow="fold", width=needed[place] + more - MARGIN)
    for row in rows:
        drawn.add_row(*(Text(text, style="bold" if best else "") for text, best in row))
    drawn.caption, drawn.caption_justify = Text("\n".join(below)), "left"
    return drawn


FOLDED_WIDTH = 24  # of a first column whose lines are broken
MARGIN = 2  # beside each column


def _widths(heads: Sequence[str], rows: Sequence[Sequence[tuple[str, bool]]]) -> list[int]:
    """What each column needs, with its margin: heads may be broken between words, cells not."""
    words = [max(map(len, head.split()), default=0) for head in heads]
    return [max([word, *(len(row[place][0]) for row in rows)]) + MARGIN for place, word in enumerate(words)]


def say(text: str) -> None:
    """A line that stays."""
    console().print(Text(text))


def error(message: str, hint: str = "") -> None:
    """What went wrong, and what to do."""
    out = console(to_error=True)
    out.print(Text(escaped(f"Error: {message}"), style="bold red"))
    if hint:
        out.print(Text(f"  {hint}"))
