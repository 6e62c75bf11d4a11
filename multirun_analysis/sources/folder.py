"""Runs from a folder of records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pyarrow import parquet

from har_sweep.errors import InputError
from har_sweep.files import redact_text
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.record.record import Epoch, contradictions, flatten
from multirun_analysis.findings import RunInfo
from multirun_analysis.sources.runs import PREDICTION_COLUMNS, Found, Progress


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    paths: RunPaths

    def epochs(self) -> list[Epoch]:
        return read_record(self.paths.record).epochs

    def predictions(self) -> pd.DataFrame | None:
        if not self.paths.predictions.is_file():
            return None
        try:
            return _read_predictions(self.paths.predictions)
        except Exception as e:  # pyarrow has many, for what is not parquet, or not whole
            raise InputError(f"{self.paths.predictions} cannot be read: {str(e).splitlines()[0]}") from e


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
    """Every run below a folder, or the run that the folder is; what is broken is noted by name."""
    if (folder / "record.json").is_file():
        folders = [folder]
    else:
        with os.scandir(folder) as entries:
            folders = sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    rows, info, origins = [], [], []
    unbegun, broken = 0, []
    for done, run in enumerate(folders, 1):
        try:
            record = read_record(RunPaths(run).record)
        except (FileNotFoundError, NotADirectoryError):
            unbegun += run.is_dir()
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
        rows.append(flatten(record))
        info.append(RunInfo(record.run_id, record.name, record.seed, record.status, redact_text(str(run)), None))
        origins.append(RunFolder(RunPaths(run)))
        if done % 50 == 0 or done == len(folders):
            progress(f"Reading {folder}", done, len(folders))
    notes = [f"Left out: {reason}" for reason in broken[:20]]
    if len(broken) > 20:
        notes.append(f"Left out: {len(broken) - 20} more broken records in {folder}.")
    if unbegun and len(folders) > unbegun:
        notes.append(f"{folder}: {unbegun} folders have no record (yet).")
    return Found(rows, info, origins, notes)
