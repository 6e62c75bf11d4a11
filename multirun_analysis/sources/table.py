"""Runs from anybody's table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from har_sweep.errors import InputError
from har_sweep.record.record import Epoch
from multirun_analysis.findings import RunInfo
from multirun_analysis.sources.runs import Found


@dataclass(frozen=True)
class TableRow:
    """A row of somebody's table: there is nothing more."""

    def epochs(self) -> list[Epoch]:
        return []

    def predictions(self) -> pd.DataFrame | None:
        return None


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
    return frame


def rows_of(frame: pd.DataFrame, source: str) -> Found:
    """Each row of a table as a run; ``source`` is where it is from. Fronts of an earlier analysis are left out."""
    frame = frame.drop(columns=[column for column in frame.columns if str(column).startswith("front/")])
    known = [
        frame[c].tolist() if c in frame.columns else [None] * len(frame) for c in ("run_id", "name", "seed", "status")
    ]
    info = [
        RunInfo(str(run_id or f"row {place}"), str(name or ""), seed, status or "done", f"{source}, row {place}", None)
        for place, (run_id, name, seed, status) in enumerate(zip(*known, strict=True), 1)
    ]
    return Found(frame, info, [TableRow()] * len(frame))
