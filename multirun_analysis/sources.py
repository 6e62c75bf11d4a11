"""Runs, from folders, tables and Weights & Biases, as one table with a row a run."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from har_sweep import record as records
from har_sweep.errors import InputError
from har_sweep.record import Epoch, RunPaths
from multirun_analysis.findings import RunInfo

Progress = Callable[[str, int, int | None], None]
"""What is done, how much of it, and of how much in all, where that is known."""

PREDICTION_COLUMNS = ["path", "split", "label", "prediction"]


class Origin(Protocol):
    """Where more is known of a run than its row says; read only for the runs that are compared."""

    def epochs(self) -> list[Epoch]:
        """Its learning curve."""

    def predictions(self) -> pd.DataFrame | None:
        """Path, split, label and prediction of each image; None where there are none."""


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    paths: RunPaths

    def epochs(self) -> list[Epoch]:
        return records.read(self.paths.record).epochs

    def predictions(self) -> pd.DataFrame | None:
        if not self.paths.predictions.is_file():
            return None
        try:
            return pd.read_parquet(self.paths.predictions, columns=PREDICTION_COLUMNS)
        except Exception as e:  # pyarrow has many, for what is not parquet, or not whole
            raise InputError(f"{self.paths.predictions} cannot be read: {str(e).splitlines()[0]}") from e


@dataclass(frozen=True)
class TableRow:
    """A row of somebody's table: there is nothing more."""

    def epochs(self) -> list[Epoch]:
        return []

    def predictions(self) -> pd.DataFrame | None:
        return None


@dataclass(frozen=True)
class Runs:
    """Row i of ``frame`` is described by ``info[i]``, and ``origins[i]`` knows more of it. ``notes`` say what was left
    out, and why."""

    frame: pd.DataFrame
    info: list[RunInfo]
    origins: list[Origin]
    notes: list[str]

    @property
    def are_records(self) -> bool:
        """Whether har_sweep made them, so that it is known what their columns mean."""
        return {"run_id", "model/name", "status"} <= set(self.frame.columns)

    @cached_property
    def known_columns(self) -> list[str]:
        """The columns in which any run has a value."""
        return list(self.frame.columns[self.frame.notna().any()])


def read(sources: Sequence[str], cache: Path, progress: Progress) -> Runs:
    """Read all sources into one table. A run that comes twice is taken once: from its record where there is one, else
    where it got furthest.

    Raises
    ------
    InputError
        if a source cannot be read at all, or none of them has a run.
    """
    rows: list[dict[str, Any]] = []
    info: list[RunInfo] = []
    origins: list[Origin] = []
    notes: list[str] = []
    tables: list[tuple[str, pd.DataFrame]] = []
    for source in sources:
        if source.startswith("wandb:"):
            from multirun_analysis import wandb_source

            pulled = wandb_source.pull(source, cache, progress)
            rows += pulled.rows
            info += pulled.info
            origins += pulled.origins
            notes += pulled.notes
        elif source.lower().endswith((".csv", ".tsv", ".parquet")):
            tables.append((source, read_table(Path(source))))
        elif Path(source).is_dir():
            for folder, record in _records(Path(source), progress, notes):
                rows.append(records.flatten(record))
                where = records.redact_text(str(folder))
                info.append(RunInfo(record.run_id, record.name, record.seed, record.status, where, None))
                origins.append(RunFolder(RunPaths(folder)))
        else:
            raise InputError(
                f"{source} is neither a folder of runs, nor a .csv or .parquet file, nor wandb://ENTITY/PROJECT.",
                "Without any source, 'runs' is read; `python -m har_sweep -m model=...` makes it."
                if source == "runs"
                else "Look at the spelling; a folder of runs holds <run>/record.json.",
            )
    parts = [pd.DataFrame(rows)] if rows else []
    for source, frame in tables:
        parts.append(frame)
        info += _table_info(frame, source)
        origins += [TableRow()] * len(frame)
    if not parts:
        raise InputError(
            f"There is no run in {', '.join(sources)}." + "".join(f"\n{note}" for note in notes),
            "`python -m har_sweep -m model=...` makes runs.",
        )
    frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return _once(Runs(frame, info, origins, notes))


def _records(folder: Path, progress: Progress, notes: list[str]) -> Iterable[tuple[Path, records.Record]]:
    """Every run below a folder, or the run that the folder is; what is broken is noted by name."""
    if (folder / "record.json").is_file():
        folders = [folder]
    else:
        with os.scandir(folder) as entries:
            folders = sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    unbegun, broken = 0, []
    for done, run in enumerate(folders, 1):
        try:
            record = records.read(RunPaths(run).record)
        except (FileNotFoundError, NotADirectoryError):
            unbegun += run.is_dir()
            continue
        except InputError as e:
            broken.append(e.message)
            continue
        except OSError as e:
            broken.append(f"{RunPaths(run).record} cannot be read: {e.strerror}.")
            continue
        yield run, record
        if done % 50 == 0 or done == len(folders):
            progress(f"Reading {folder}", done, len(folders))
    notes += [f"Left out: {reason}" for reason in broken[:20]]
    if len(broken) > 20:
        notes.append(f"Left out: {len(broken) - 20} more broken records in {folder}.")
    if unbegun and len(folders) > unbegun:
        notes.append(f"{folder}: {unbegun} folders have no record (yet).")


def read_table(path: Path) -> pd.DataFrame:
    """Anyone's results: a csv with any delimiter, thousands marked or not, or a parquet file.

    Raises
    ------
    InputError
        if the file is missing, empty, or not such a table.
    """
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
            for column in frame.select_dtypes(object):  # lists, such as the classes
                frame[column] = frame[column].map(
                    lambda value: value.tolist() if isinstance(value, np.ndarray) else value
                )
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                head = file.read(65_536)
            try:
                delimiter = csv.Sniffer().sniff(head.split("\n", 1)[0], delimiters=",;\t|").delimiter
            except csv.Error:
                delimiter = ","
            readings = [pd.read_csv(path, sep=delimiter, thousands=",", encoding="utf-8-sig")]
            if delimiter != ",":  # then a comma may be the decimal point
                readings.append(pd.read_csv(path, sep=delimiter, decimal=",", thousands=".", encoding="utf-8-sig"))
            frame = max(readings, key=lambda reading: len(reading.select_dtypes("number").columns))
    except FileNotFoundError as e:
        raise InputError(f"There is no {path}.", "Look at the spelling, and where you are.") from e
    except Exception as e:  # pandas' and pyarrow's own, and what a file system can say
        raise InputError(f"{path} cannot be read as a table: {str(e).splitlines()[0]}", "Is it the right file?") from e
    if frame.empty:
        raise InputError(f"{path} has no rows.", "A table needs a head and a row for each model.")
    return frame.drop(columns=[column for column in frame.columns if str(column).startswith("front/")])


def _table_info(frame: pd.DataFrame, source: str) -> list[RunInfo]:
    known = [
        frame[c].tolist() if c in frame.columns else [None] * len(frame) for c in ("run_id", "name", "seed", "status")
    ]
    return [
        RunInfo(str(run_id or f"row {place}"), str(name or ""), seed, status or "done", f"{source}, row {place}", None)
        for place, (run_id, name, seed, status) in enumerate(zip(*known, strict=True), 1)
    ]


def _once(runs: Runs) -> Runs:
    """Each run id once; a record beats W&B, then what is done beats what is not, then the later beats the earlier."""
    if "run_id" not in runs.frame.columns or not runs.frame["run_id"].duplicated().any():
        return runs
    url = {info.run_id: info.url for info in runs.info if info.url}
    begun = (
        runs.frame["started_at"].fillna("").tolist() if "started_at" in runs.frame.columns else [""] * len(runs.info)
    )
    best: dict[object, tuple[tuple[bool, bool, str], int]] = {}
    for place, (info, started) in enumerate(zip(runs.info, begun, strict=True)):
        key = info.run_id if pd.notna(runs.frame["run_id"].iat[place]) else place
        rank = (isinstance(runs.origins[place], RunFolder), info.status == "done", started)
        if key not in best or rank > best[key][0]:
            best[key] = (rank, place)
    kept = sorted(place for _, place in best.values())
    frame = runs.frame.iloc[kept].dropna(axis="columns", how="all").reset_index(drop=True)
    infos = [runs.info[place] for place in kept]
    infos = [replace(info, url=info.url or url.get(info.run_id)) for info in infos]
    notes = [*runs.notes, f"{len(runs.info) - len(kept)} runs came twice and are taken once."]
    return Runs(frame, infos, [runs.origins[place] for place in kept], notes)
