"""What the user sees: a live bar on a terminal, plain lines at a sane rate in a file or pipe, and the closing table."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from har_sweep.console import Console
from har_sweep.errors import Failed, InputError
from har_sweep.events import Counted, Event, Line, Phase, Step
from har_sweep.launch.board import STANDING, Standing, standings
from har_sweep.record.record import DISTURBED, Record
from har_sweep.units import byte_size, digits, duration, escaped, quantity

SECONDS_BETWEEN_LINES = 10.0
PLAIN_WIDTH = 180  # a file has no width of its own, and a wrapped table is hard to read in one


def describe(step: Step) -> str:
    """A training step in one line."""
    rate = f"{digits(step.images_per_second)} images/s" if step.images_per_second else "measuring speed"
    loss = f"loss {step.loss:.4f}" if step.loss is not None else ""
    left = f"{duration(step.seconds_left)} left" if step.seconds_left is not None else ""
    where = f"epoch {step.epoch}/{step.epochs}  step {step.step}/{step.steps}"
    return "  ".join(part for part in (where, rate, loss, left) if part)


def exit_status(error: InputError | Failed | KeyboardInterrupt, screen: Screen) -> int:
    """Of a command that ended so: what the user gave wrong is said here, why work failed has been."""
    if isinstance(error, InputError):
        screen.error(error.message, error.hint)
        return 2
    if isinstance(error, Failed):
        return 1
    screen.warn("Interrupted.")
    return 130


# The most telling first: a narrow terminal shows those alone.
COLUMNS = (
    "val\nacc %",
    "test\nacc %",
    "training\ntime",
    "latency\nms",
    "para-\nmeters",
    "MACs",
    "peak\nmemory",
    "images\n/s",
    "data\nwait %",
)
DISTURBED_SIGN = "~"
RUN_WIDTH, COLUMN_WIDTH = 44, 9  # of label and status, and of each number
PROGRESS_COLUMNS = (
    TextColumn("{task.description}", markup=False),
    BarColumn(bar_width=24),
    TextColumn("{task.fields[detail]}", markup=False),
)


class Screen:
    """Everything printed goes through here, so that lines and the live bar do not disturb each other."""

    def __init__(self, console: Console | None = None) -> None:
        # A terminal gets lines broken between words; a file gets them whole.
        tty = sys.stdout.isatty()
        self.console = console or Console(soft_wrap=not tty, width=None if tty else PLAIN_WIDTH)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[str, float, int]] = {}
        self._last_line: dict[str, float] = {}

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self.console.print(Text(escaped(text), style=style))

    def warn(self, text: str) -> None:
        """A line that must not be missed."""
        self.say(f"! {text}", "bold yellow")

    def error(self, message: str, hint: str = "") -> None:
        """What went wrong, and what to do."""
        self.say(f"Error: {message}", "bold red")
        if hint:
            self.say(f"  {hint}")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show progress while inside: where there is a terminal, a bar for everything that goes on."""
        if not self.console.is_terminal:
            yield
            return
        with Progress(*PROGRESS_COLUMNS, console=self.console, transient=True) as progress:
            self._progress = progress
            try:
                yield
            finally:
                self._progress, self._tasks = None, {}

    def progress(self, what: str, done: int, total: int | None, detail: str = "", of: str = "") -> None:
        """``done`` of ``total`` of something, and by default the time left; the total may not be known.

        ``of`` names one of several things that go on at once.
        """
        now, before = time.monotonic(), self._began.get(of)
        new = before is None or before[0] != what
        _, began, at_first = self._began[of] = (what, now, done) if before is None or new else before
        if total and not detail and total > 1:
            left = (now - began) * (total - done) / (done - at_first) if done > at_first else None
            detail = f"{done:,}/{total:,}" + (f"  {duration(left)} left" if left is not None else "")
        if self._progress:
            if of not in self._tasks:
                self._tasks[of] = self._progress.add_task("", total=None, detail="")
            task = self._tasks[of]
            self._progress.update(task, description=what, completed=done, total=total or None, detail=detail)
        elif new or now - self._last_line[of] >= SECONDS_BETWEEN_LINES or (total and done == total):
            self._last_line[of] = now
            self.say(f"{what}  {detail}".rstrip())

    def over(self, of: str) -> None:
        """Show no more of one of the things that went on."""
        if self._progress and of in self._tasks:
            self._progress.remove_task(self._tasks.pop(of))

    def show(self, label: str, event: Event) -> None:
        """What a run tells."""
        if isinstance(event, Step):
            done = (event.epoch - 1) * event.steps + event.step
            self.progress(label, done, event.epochs * event.steps, describe(event), of=label)
        elif isinstance(event, Phase):
            self.progress(f"{label}  {event.text}", 0, 0, of=label)
        elif isinstance(event, Counted):
            self.progress(f"{label}  {event.text}", event.done, event.total, of=label)
        elif isinstance(event, Line):
            (self.warn if event.warning else self.say)(f"{label}  {event.text}")

    def table(self, title: str, rows: Sequence[tuple[Record | None, str, str, str]]) -> None:
        """The runs of a sweep: a record (or None), its label, its run id, and what became of it."""
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
        table.add_column("run", overflow="fold", min_width=max(len(run_id) for *_, run_id, _ in rows))
        table.add_column("status")
        shown = max(2, min(len(COLUMNS), (self.console.width - RUN_WIDTH) // COLUMN_WIDTH))
        for column in COLUMNS[:shown]:
            table.add_column(column, justify="right", no_wrap=True, min_width=COLUMN_WIDTH - 1)
        marked = False
        for record, label, run_id, status in rows:
            style = {"done": "green", "failed": "bold red", "interrupted": "yellow"}.get(status.split(" ")[0], "")
            cells = _cells(record) if record else ["-"] * len(COLUMNS)
            marked |= any(cell.startswith(DISTURBED_SIGN) for cell in cells[:shown])
            table.add_row(Text.assemble(label, "\n", (run_id, "dim")), Text(status, style=style), *cells[:shown])
        self.console.print(table)
        if marked:
            self.say(
                f"{DISTURBED_SIGN} measured while others took more than {100 * DISTURBED:.0f} % of the time (a busy "
                "machine): not to be compared; python -m har_sweep.measure RUN measures latency and images/s again, "
                "rerun=true all."
            )

    @contextmanager
    def board(self) -> Iterator[Callable[[Sequence[Standing], str], None]]:
        """A table of runs, brought up to date by calling with them and a note; in a file, a line for each change."""
        if self.console.is_terminal:
            with Live(console=self.console, auto_refresh=False, transient=True) as live:

                def draw(rows: Sequence[Standing], note: str) -> None:
                    room = max(3, (self.console.height - 6) // 2)
                    live.update(Group(standings(rows, room), Text(note, style="bold yellow")), refresh=True)

                yield draw
            return
        seen: dict[str, tuple[str, ...]] = {}
        counted = Counter[str]()
        noted = ""

        def tell(rows: Sequence[Standing], note: str) -> None:
            nonlocal counted, noted
            counts = Counter(row.word for row in rows)
            for row in rows:
                key = (row.word, row.epoch)
                if row.word not in ("queued", "new") and seen.get(row.label) != key:
                    cells = zip(
                        STANDING, (row.state, row.epoch, row.accuracy, row.left, row.node, row.job), strict=True
                    )
                    self.say("  ".join([row.label, *(f"{name} {cell}" for name, cell in cells if cell != "-")]))
                seen[row.label] = key
            if counts != counted:
                self.say(", ".join(f"{count} {word}" for word, count in counts.items()))
            if note and note != noted:
                self.warn(note)
            counted, noted = counts, note

        yield tell


def _cells(record: Record) -> list[str]:
    cost, training, inference = record.cost, record.cost.training, record.cost.inference
    accuracy = {split: f"{100 * metrics.accuracy:.2f}" for split, metrics in record.metrics.items()}
    latency = inference and inference.latency_seconds["batch_1"]["p50"]
    return [
        accuracy.get("val", "-"),
        accuracy.get("test", "-"),
        _marked(duration(training.seconds), training.disturbed_share) if training.seconds else "-",
        _marked(f"{1000 * latency:.1f}", inference.disturbed_share) if inference and latency else "-",
        quantity(cost.parameters),
        quantity(cost.macs),
        byte_size(training.peak_memory_bytes),
        _marked(quantity(training.images_per_second), training.images_disturbed_share),
        "-" if training.data_wait_share is None else f"{100 * training.data_wait_share:.1f}",
    ]


def _marked(cell: str, disturbed_share: float | None) -> str:
    return DISTURBED_SIGN + cell if (disturbed_share or 0.0) > DISTURBED else cell


def failure(record: Record, log: Path) -> list[str]:
    """What became of a failed run: cause, hint and where its log is."""
    error = record.error
    lines = [f"{record.name} ({record.run_id}): {error.message if error else 'it ended without a word'}"]
    if error and error.hint:
        lines.append(f"  {error.hint}")
    return [*lines, f"  log: {log}"]
