"""Runs from anybody's table."""

from __future__ import annotations

import codecs
import csv
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from har_sweep.errors import InputError, first_line
from har_sweep.record.record import Epoch
from multirun_analysis.findings import RunInfo
from multirun_analysis.sources.cells import Column, Style, choose_style, describe
from multirun_analysis.sources.runs import Found, some


@dataclass(frozen=True)
class TableRow:
    """A row of somebody's table: there is nothing more."""

    def epochs(self) -> list[Epoch]:
        return []

    def predictions(self) -> pd.DataFrame | None:
        return None


@dataclass
class Sheet:
    """A table as it was read: ``notes`` say what was assumed, ``units`` in what the numbers of a column are, where its
    cells say so, and ``unclear`` why the numbers of a column cannot be told."""

    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)


def read_table(path: Path) -> Sheet:
    """Anyone's results: a csv with any delimiter, however its numbers are written, or a parquet file.

    Raises
    ------
    InputError
        if the file is missing, empty, or not such a table.
    """
    try:
        table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except FileNotFoundError as e:
        raise InputError(f"There is no {path}.", "Look at the spelling, and where you are.") from e
    except InputError:
        raise
    except Exception as e:  # pandas' and pyarrow's own, and what a file system can say
        raise InputError(f"{path} cannot be read as a table: {first_line(e)}", "Is it the right file?") from e
    if table.frame.empty:
        raise InputError(f"{path} has no rows.", "A table needs a head and a row for each model.")
    return table


def _read_parquet(path: Path) -> Sheet:
    frame = pd.read_parquet(path)
    for column in frame.select_dtypes(object):  # lists, such as the classes
        frame[column] = frame[column].map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value)
    return Sheet(frame)


def _read_csv(path: Path) -> Sheet:
    encoding, notes = _encoding(path)
    try:
        delimiter, frame = _parse(path, encoding)
    except UnicodeDecodeError as wrong:
        try:
            delimiter, frame = _parse(path, "cp1252")
        except UnicodeDecodeError:
            raise _not_text(path, "neither UTF-8 nor Windows-1252") from wrong
        notes = [
            f"{path} is no UTF-8 and was read as Windows-1252 (latin-1). If names look wrong: "
            f"`iconv -f ENCODING -t UTF-8 {shlex.quote(str(path))} > utf8.csv`."
        ]
        encoding = "cp1252"
    if not isinstance(frame.index, pd.RangeIndex):
        width = len(frame.columns)
        raise InputError(
            f"{path} has a head of {width} cells and rows of {width + frame.index.nlevels}.",
            "Quote cells that hold the delimiter, such as numbers with a decimal comma in a table of commas.",
        )
    table = Sheet(frame, notes)
    _read_numbers(table, path, delimiter, encoding)
    return table


def _encoding(path: Path) -> tuple[str, list[str]]:
    """The encoding that the start of a file tells, and what is to be said of it; UTF-8 if it tells none."""
    with path.open("rb") as file:
        start = file.read(65_536)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not start.startswith(codecs.BOM_UTF32_LE):
        return "utf-16", [f"{path} is UTF-16, and was read so."]
    if b"\0" in start:
        raise _not_text(path, "not UTF-8: it has zeros between its letters, as UTF-16 and UTF-32 have")
    return "utf-8-sig", []


def _not_text(path: Path, why: str) -> InputError:
    name = shlex.quote(str(path))
    return InputError(
        f"{path} is {why}.",
        f"Convert it from the encoding that it was saved in, such as UTF-16LE: `iconv -f UTF-16LE -t UTF-8 {name} > "
        "utf8.csv`.",
    )


def _parse(path: Path, encoding: str) -> tuple[str, pd.DataFrame]:
    """The delimiter and the cells: numbers where all cells of a column plainly are some, else texts."""
    with path.open(encoding=encoding, newline="") as file:
        head = file.readline(65_536)
    try:
        delimiter = csv.Sniffer().sniff(head, delimiters=",;\t|").delimiter
    except csv.Error:
        delimiter = ","
    return delimiter, pd.read_csv(path, sep=delimiter, encoding=encoding, low_memory=False)


def _read_numbers(table: Sheet, path: Path, delimiter: str, encoding: str) -> None:
    """Let columns of texts that are numbers be numbers, and say how they were read."""
    frame = table.frame
    texts = frame.select_dtypes("object" if pd.__version__ < "3" else ["object", "str"])
    # Names that tell rows apart are names, though all of them may look like numbers.
    found = {name: Column.of(texts[name]) for name in texts if name not in ("run_id", "name")}
    columns = {name: column for name, column in found.items() if column and not column.is_text}
    unclear = {name: why for name, column in columns.items() if (why := column.contradiction())}
    table.unclear |= {name: f"{name} in {path}: {why}" for name, why in unclear.items()}
    styles: set[Style] = {c.style for name, c in columns.items() if c.style and name not in unclear}
    doubtful = [name for name in frame.select_dtypes("float") if _may_be_thousands(frame[name])]
    if any(not (values % 1 == 0).all() for name in frame.select_dtypes("float").drop(columns=doubtful)
           if len(values := frame[name].dropna())):  # fmt: skip
        styles.add("English")
    if doubtful and (delimiter == ";" or "Continental" in styles):
        places = [frame.columns.get_loc(name) for name in doubtful]
        cells = pd.read_csv(path, sep=delimiter, encoding=encoding, usecols=places, dtype=str)
        columns |= {name: column for name in doubtful if (column := Column.of(cells[name])) and column.style is None}
    read: dict[str, list[str]] = {}
    for name, column in columns.items():
        if name in unclear:
            continue
        style, why = choose_style(column, styles, delimiter)
        assumed = describe(column, style)
        if why and (marked := column.numbers & (column.has(",") | column.has("."))).any():
            assumed = (
                f"{assumed or 'a decimal point'}, {why}, though {column.example(marked)} can be read in another way"
            )
        if column.percent[column.numbers].all():
            table.units[name] = "%"
        frame[name] = column.read(style)
        read.setdefault(assumed, []).append(name)
    read.pop("", None)  # as anybody would
    for assumed, names in read.items():
        table.notes.append(f"{path}: read with {assumed}: {some(names, 12)}.")


def _may_be_thousands(values: pd.Series) -> bool:
    """Whether all numbers that were read with a decimal point can have one between thousands instead, as 1.234 can."""
    known = values.dropna().abs()
    thousandths = known * 1000
    return bool(
        len(known)
        and ((known == 0) | ((known >= 1) & (known < 1000))).all()
        and (thousandths.round() - thousandths).abs().max() < 1e-6
        and ((known * 100).round() - known * 100).abs().max() > 1e-6
    )


def rows_of(table: Sheet, source: str) -> Found:
    """Each row of a table as a run; ``source`` is where it is from. Fronts of an earlier analysis are left out."""
    frame = table.frame.drop(columns=[c for c in table.frame.columns if str(c).startswith("front/")])
    notes = list(table.notes)
    known = [_known(frame, c) for c in ("run_id", "name", "seed", "status")]
    seeds = _whole(frame, notes, source)
    if "status" in frame.columns and (empty := [place for place, word in enumerate(known[3], 1) if word is None]):
        rows = some([f"row {place}" for place in empty])
        notes.append(f"{source}: {len(empty)} rows have no status and are taken for done: {rows}.")
    info = [
        RunInfo(
            str(f"row {place}" if run_id is None else run_id), str("" if name is None else name), seed,
            _status(status), source, None, place,
        )
        for place, (run_id, name, seed, status) in enumerate(zip(*known[:2], seeds, known[3], strict=True), 1)
    ]  # fmt: skip
    return Found(frame, info, [TableRow()] * len(frame), notes, table.units, table.unclear)


_DONE = ("done", "finished", "completed", "success", "succeeded")


def _status(word: Any) -> str:
    """As records have it, of what others call it."""
    return "done" if word is None or str(word).strip().lower() in _DONE else str(word)


def _known(frame: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column; None for what is missing or blank."""
    if column not in frame.columns:
        return [None] * len(frame)
    values = frame[column].astype(object)
    blank = values.isna() | (values.astype(str).str.strip() == "")
    return list(values.where(~blank, None))


def _whole(frame: pd.DataFrame, notes: list[str], source: str) -> list[int | None]:
    """The seeds; what is none is said."""
    if "seed" not in frame.columns:
        return [None] * len(frame)
    numbers = pd.to_numeric(frame["seed"], errors="coerce").astype(float)
    whole = numbers.where(numbers % 1 == 0)
    if (wrong := frame["seed"].notna() & whole.isna()).any():
        rows = some([f"row {place + 1} ({frame['seed'].iat[place]})" for place in np.flatnonzero(wrong)])
        notes.append(f"{source}: {int(wrong.sum())} seeds are no whole numbers and are not known: {rows}.")
    return [None if seed != seed else int(seed) for seed in whole.tolist()]
