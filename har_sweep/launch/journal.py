"""What is written down of a sweep beside its runs' records: which runs it asked for, and which jobs were submitted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from har_sweep.errors import InputError, nearest
from har_sweep.files import atomic, redact_text
from har_sweep.record.folder import RunPaths
from har_sweep.record.record import utc_now
from har_sweep.spec.run_spec import RunSpec


@dataclass
class NotedRun:
    """``label`` is what the sweep calls the run."""

    run_id: str
    label: str
    epochs: int


@dataclass
class SweepNote:
    """``runs/.sweeps/<name>/sweep.json``; the folder is claimed while a local sweep is at work."""

    name: str
    overrides: list[str]
    asked_at: str
    runs: list[NotedRun]


@dataclass
class Submission:
    """``job.json`` in a run's folder: the batch job that was last submitted for it, and the file of its output."""

    job: str
    sweep: str
    submitted_at: str
    log: str


def sweep_folder(runs: Path, name: str) -> Path:
    """Where a sweep's note is."""
    return runs / ".sweeps" / name


def note_sweep(specs: list[RunSpec], overrides: list[str]) -> Path:
    """Write down what a sweep asks for; under a name used before, runs are added. Returns its folder."""
    first = specs[0]
    folder = sweep_folder(Path(first.config.paths.runs), first.sweep)
    noted = {spec.run_id: NotedRun(spec.run_id, spec.label, spec.config.trainer.epochs) for spec in specs}
    with suppress(FileNotFoundError, InputError):  # of one that is damaged, what is asked for now is written anew
        noted = {run.run_id: run for run in _read(folder).runs} | noted
    note = SweepNote(first.sweep, [redact_text(o) for o in overrides], utc_now(), list(noted.values()))
    with atomic(folder / "sweep.json") as file:
        file.write(msgspec.json.format(msgspec.json.encode(note), indent=1))
    return folder


def read_sweeps(runs: Path) -> list[SweepNote]:
    """Every sweep noted beside these runs, the latest first; those whose note is damaged are left out."""
    notes = []
    for file in runs.glob(".sweeps/*/sweep.json"):
        with suppress(InputError):
            notes.append(_read(file.parent))
    return sorted(notes, key=lambda note: note.asked_at, reverse=True)


def find_sweep(runs: Path, name: str | None) -> SweepNote:
    """The sweep with this name, or the latest.

    Raises
    ------
    InputError
        if there is none, or its note is damaged.
    """
    notes = read_sweeps(runs)
    if name and name not in {note.name for note in notes} and (sweep_folder(runs, name) / "sweep.json").exists():
        _read(sweep_folder(runs, name))
    if not notes:
        raise InputError(f"There are no sweeps in {runs}.", "Name the folder of the runs with paths.runs=FOLDER.")
    for note in notes:
        if name in (None, note.name):
            return note
    names = [note.name for note in notes]
    raise InputError(
        f"There is no sweep '{name}' in {runs}.", nearest(name or "", names) or f"There are {', '.join(names)}."
    )


def _read(folder: Path) -> SweepNote:
    file = folder / "sweep.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=SweepNote)
    except msgspec.MsgspecError as e:
        raise InputError(f"{file} is not a sweep's note: {e}.", "Move it away; the same sweep writes it anew.") from e


def note_submission(paths: RunPaths, submission: Submission) -> None:
    """Write down which job a run was given to."""
    with atomic(paths.job) as file:
        file.write(msgspec.json.encode(submission))


def submission(paths: RunPaths) -> Submission | None:
    """The job that was last submitted for a run, whatever became of it; None where that is not known."""
    try:
        return msgspec.json.decode(paths.job.read_bytes(), type=Submission)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
