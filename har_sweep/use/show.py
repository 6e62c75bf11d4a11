"""Answers as a table on the screen, as CSV, as JSON, and as a sheet of pictures."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich import box
from rich.table import Table

from har_sweep.data.decode import decode
from har_sweep.data.unlabelled import Picture
from har_sweep.files import atomic
from har_sweep.launch.terminal import Screen
from har_sweep.units import escaped, no_formula
from har_sweep.use.run import FinishedRun

if TYPE_CHECKING:
    from har_sweep.use.answer import Answers

ROWS_SHOWN, PICTURES_SHOWN, COLUMNS = 50, 100, 5


@dataclass(frozen=True)
class Row:
    """A picture and its likeliest classes with their probabilities, the likeliest first."""

    picture: Picture
    classes: list[tuple[str, float]]


def rows_of(pictures: Sequence[Picture], answers: Answers, classes: Sequence[str]) -> list[Row]:
    """A row for each picture that could be used, in their order."""
    found = zip(answers.indices.tolist(), answers.classes.tolist(), answers.probabilities.tolist(), strict=True)
    return [
        Row(pictures[index], [(classes[place], p) for place, p in zip(places, probabilities, strict=True)])
        for index, places, probabilities in found
    ]


def show_table(rows: Sequence[Row], screen: Screen) -> None:
    """The first rows; how many more there are is said."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("path", overflow="fold")
    for _ in rows[0].classes:
        table.add_column("class", overflow="fold")
        table.add_column("%", justify="right", no_wrap=True)
    for row in rows[:ROWS_SHOWN]:
        cells = [cell for name, probability in row.classes for cell in (name, f"{100 * probability:.1f}")]
        table.add_row(row.picture.path, *cells)
    screen.console.print(table)
    if len(rows) > ROWS_SHOWN:
        screen.say(f"... and {len(rows) - ROWS_SHOWN:,} more: --csv FILE and --json FILE have all.")


def write_csv(rows: Sequence[Row], to: str) -> None:
    """A line a picture: ``path,class,probability``, and ``class_2,probability_2`` and so on for further classes. What a
    spreadsheet would take for a formula has an apostrophe before it."""
    with _opened(to) as file:
        lines = csv.writer(file, lineterminator="\n")
        places = len(rows[0].classes) if rows else 1
        more = [f"{name}_{k}" for k in range(2, places + 1) for name in ("class", "probability")]
        lines.writerow(["path", "class", "probability", *more])
        for row in rows:
            cells = [cell for name, probability in row.classes for cell in (_plain(name), probability)]
            lines.writerow([_plain(row.picture.path), *cells])


def _plain(text: str) -> str:
    return escaped(no_formula(text))


def write_json(rows: Sequence[Row], broken: Sequence[tuple[str, str]], run: FinishedRun, to: str) -> None:
    """All that is known: the run, each picture with its classes, and the broken ones with the reason."""
    tree = {
        "run": run.record.run_id,
        "images": [
            {"path": row.picture.path, "classes": [{"class": name, "probability": p} for name, p in row.classes]}
            for row in rows
        ],
        "broken": [{"path": path, "reason": reason} for path, reason in broken],
    }
    with _opened(to) as file:
        json.dump(tree, file, indent=1)  # in ASCII: a file's name may be no text at all
        file.write("\n")


@contextmanager
def _opened(to: str) -> Iterator[IO[str]]:
    """A file that is whole or not there, or stdout for ``-``."""
    if to == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    with atomic(Path(to), "w") as file:
        yield file


def write_sheet(rows: Sequence[Row], max_pixels: int, to: Path) -> None:
    """The first pictures beside each other, as they are, each with its likeliest class, as PNG."""
    from matplotlib.figure import Figure

    shown = rows[:PICTURES_SHOWN]
    lines = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2.3 * lines), layout="constrained")
    places = figure.subplots(lines, COLUMNS, squeeze=False).flat
    for axes, row in zip(places, [*shown, *[None] * (lines * COLUMNS - len(shown))], strict=True):
        axes.axis("off")
        if row:
            image = decode(row.picture.file, max_pixels)
            image.thumbnail((240, 240))
            axes.imshow(image)
            (name, probability), path = row.classes[0], row.picture.path
            caption = f"{name} {100 * probability:.0f} %\n{path if len(path) < 30 else f'...{path[-27:]}'}"
            axes.set_title(escaped(caption), fontsize=7, parse_math=False)
    with atomic(to) as file:
        figure.savefig(file, format="png", dpi=120)
