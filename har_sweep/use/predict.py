"""The story of ``predict``: what a run answers about pictures, and where that goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from har_sweep.data.sources.listing import problems
from har_sweep.data.unlabelled import Picture
from har_sweep.events import Tell
from har_sweep.launch.terminal import Screen
from har_sweep.units import digits, duration
from har_sweep.use.run import FinishedRun
from har_sweep.use.show import PICTURES_SHOWN, Row, rows_of, show_table, write_csv, write_json, write_sheet
from har_sweep.use.work import in_process

if TYPE_CHECKING:
    from har_sweep.use.answer import Answers


@dataclass(frozen=True)
class Wanted:
    """How many classes of each picture, and where they go beside the screen: to files, or to stdout as ``-``."""

    top: int = 1
    csv: str | None = None
    json: str | None = None
    sheet: Path | None = None


def predict(run: FinishedRun, pictures: Sequence[Picture], wanted: Wanted, screen: Screen) -> int:
    """Tell what a finished run answers about pictures; 1 if some cannot be used, 2 if none can, else 0.

    Raises
    ------
    InputError, Failed
        as ``in_process``; then nothing was written.
    """
    began = time.monotonic()
    work = partial(_answer, run, [picture.file for picture in pictures], wanted.top)
    answers = in_process(work, run.spec.device, run.record.run_id, screen)
    seconds = time.monotonic() - began
    rows = rows_of(pictures, answers, run.record.dataset.classes)
    broken = [(pictures[index].path, why) for index, why in sorted(answers.broken.items())]
    _deliver(rows, broken, run, wanted, screen)
    rate = f", {digits(len(rows) / seconds)} images/s with the start" if len(rows) > 1 else ""
    screen.say(f"{len(rows):,} images by {run.record.run_id} in {duration(seconds)}{rate}.")
    if broken:
        lines = [f"{path}: {why}" for path, why in broken]
        screen.error(problems(lines, "image cannot be used", "images cannot be used"), "Repair or leave them out.")
    return 2 if broken and not rows else int(bool(broken))


def _answer(run: FinishedRun, files: list[Path], top: int, tell: Tell) -> Answers:
    from har_sweep.use.answer import answer

    return answer(run, files, top, tell)


def _deliver(rows: list[Row], broken: list[tuple[str, str]], run: FinishedRun, wanted: Wanted, screen: Screen) -> None:
    if rows and "-" not in (wanted.csv, wanted.json):
        show_table(rows, screen)
    if wanted.csv:
        write_csv(rows, wanted.csv)
    if wanted.json:
        write_json(rows, broken, run, wanted.json)
    if rows and wanted.sheet:
        write_sheet(rows, int(run.spec.config.data.max_megapixels * 1e6), wanted.sheet)
        if len(rows) > PICTURES_SHOWN:
            screen.say(f"{wanted.sheet} has the first {PICTURES_SHOWN} of {len(rows):,} pictures.")
