"""Runs from a folder of records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pyarrow import parquet

from har_sweep.errors import InputError, first_line
from har_sweep.files import redact_text
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.record.record import Epoch, contradictions, flatten
from multirun_analysis.findings import RunInfo
from multirun_analysis.quantities import plural
from multirun_analysis.sources.runs import PREDICTION_COLUMNS, Found, Progress, some


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    paths: RunPaths

    def epochs(self) -> list[Epoch]:
        """As ``Origin``.

        Raises
        ------
        InputError
            if its record has gone since it was first read.
        """
        try:
            return read_record(self.paths.record).epochs
        except OSError as e:
            raise InputError(f"{self.paths.record} cannot be read any more: {e.strerror}.") from e

    def predictions(self) -> pd.DataFrame | None:
        if not self.paths.predictions.is_file():
            return None
        try:
            return _read_predictions(self.paths.predictions)
        except Exception as e:  # pyarrow has many, for what is not parquet, or not whole
            raise InputError(f"{self.paths.predictions} cannot be read: {first_line(e)}") from e


def _read_predictions(file: Path) -> pd.DataFrame:
    """The predictions, and instead of the probabilities of all classes the ``confidence`` in the answer."""
    known = parquet.read_schema(file).names
    table = parquet.read_table(file, columns=[*PREDICTION_COLUMNS, *(["probabilities"] * ("probabilities" in known))])
    frame = table.select(PREDICTION_COLUMNS).to_pandas()
    if "probabilities" in known and len(frame):
        probabilities = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(len(frame), -1)
        frame["confidence"] = probabilities.max(axis=1)
    return frame


def read_folder(folder: Path, progress: Progress) -> Found:
    """Every run below a folder, or the run that the folder is; what is broken is noted by name.

    Raises
    ------
    InputError
        if the folder cannot be listed.
    """
    rows, info, origins = [], [], []
    unbegun, gone, broken = 0, list[str](), list[str]()
    unknown: dict[str, list[str]] = {}
    folders = _runs_in(folder)
    for done, run in enumerate(folders, 1):
        if done % 50 == 0 or done == len(folders):
            progress(f"Reading {folder}", done, len(folders))
        try:
            record = read_record(RunPaths(run).record)
        except (FileNotFoundError, NotADirectoryError):
            unbegun += run.is_dir()
            gone += [] if os.path.lexists(run) else [run.name]
            continue
        except InputError as e:
            broken.append(e.message)
            continue
        except OSError as e:
            broken.append(f"{RunPaths(run).record} cannot be read: {e.strerror}.")
            continue
        if record.status == "done" and (why := contradictions(record)):
            broken.append(f"{RunPaths(run).record} contradicts itself: {'; '.join(why)}.")
            continue
        row = flatten(record)
        for column in [column for column, value in row.items() if value != value]:  # nan
            unknown.setdefault(column, []).append(record.run_id)
        rows.append(row)
        info.append(RunInfo(record.run_id, record.name, record.seed, record.status, redact_text(str(run)), None))
        origins.append(RunFolder(RunPaths(run)))
    notes = [f"Left out: {reason}" for reason in broken[:20]]
    if len(broken) > 20:
        notes.append(f"Left out: {plural(len(broken) - 20, 'more broken record', 'more broken records')} in {folder}.")
    if unbegun and len(folders) > unbegun:
        notes.append(f"{folder}: no record (yet) in {plural(unbegun, 'folder', 'folders')}.")
    if gone:
        removed = plural(len(gone), "folder was", "folders were")
        notes.append(f"{folder}: {removed} removed while being read: {some(gone)}.")
    for column, runs in list(unknown.items())[:10]:
        records = plural(len(runs), "record", "records")
        notes.append(f"{folder}: {column} is null, so not known, in {records}: {some(runs)}.")
    if len(unknown) > 10:
        more = plural(len(unknown) - 10, "more number is", "more numbers are")
        notes.append(f"{folder}: {more} null in some records.")
    return Found(rows, info, origins, notes)


def _runs_in(folder: Path) -> list[Path]:
    """The folders that may be runs: the folder itself if it is one, or those in it."""
    if (folder / "record.json").is_file():
        return [folder]
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    except OSError as e:
        raise InputError(f"{folder} cannot be read: {e.strerror}.", "Is it still there, and may you read it?") from e
