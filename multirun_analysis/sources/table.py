"""Runs from anybody's table."""

from __future__ import annotations

import codecs
import csv
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from har_sweep.errors import InputError, first_line
from har_sweep.record.record import Epoch
from multirun_analysis.findings import RunInfo
from multirun_analysis.quantities import plural
from multirun_analysis.sources.cells import Column, Style, choose_style, describe
from multirun_analysis.sources.runs import Found, is_text, some

START = 65_536  # of a file: how much tells its encoding and its delimiter


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
    cells say so, and ``unclear`` why the numbers of a column cannot be told. ``written`` reads a column's cells as
    texts, where those are known."""

    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    written: Callable[[str], pd.Series] | None = None


def read_table(path: Path) -> Sheet:
    """Anyone's results: a csv with any delimiter, however its numbers are written, or a parquet file.

    Raises
    ------
    InputError
        if the file is missing, empty, or not such a table.
    """
    try:
        if path.suffix.lower() == ".parquet":
            table = sheet_of(pd.read_parquet(path), str(path))
        else:
            table = _read_csv(path)
    except FileNotFoundError as e:
        raise InputError(f"There is no {path}.", "Look at the spelling, and where you are.") from e
    except InputError:
        raise
    except Exception as e:  # pandas' and pyarrow's own, and what a file system can say
        raise InputError(f"{path} cannot be read as a table: {first_line(e)}", "Is it the right file?") from e
    if table.frame.empty:
        raise InputError(f"{path} has no rows.", "A table needs a head and a row for each model.")
    return table


def sheet_of(frame: pd.DataFrame, source: str) -> Sheet:
    """A DataFrame of any column types. Levels of the index that have a name are columns, dates are texts as records
    have them, and durations are seconds.

    Raises
    ------
    InputError
        if two columns have one name.
    """
    indexed = [name for name in frame.index.names if name is not None and name not in frame.columns]
    frame = frame.reset_index(level=indexed).reset_index(drop=True)
    names = ["/".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    _each_once(names, source)
    table = Sheet(frame.set_axis(names, axis="columns"))
    for name, values in table.frame.items():
        kind = getattr(values.dtype, "kind", "O")
        if kind == "M":
            values = values.map(lambda when: when.isoformat(), na_action="ignore")
        elif kind == "m":
            values, table.units[str(name)] = values.dt.total_seconds(), "s"
        usual = isinstance(values.dtype, np.dtype) or values.dtype == pd.Series([""]).dtype
        if not usual:  # such as those that have a missing value of their own
            values = values.astype(object).where(values.notna(), None).infer_objects()
        if values.dtype == object:  # lists, such as the classes
            values = values.map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value)
        table.frame[name] = values
    _read_numbers(table, source, ",")
    return table


def _each_once(names: list[str], source: str) -> None:
    if several := [name for name, times in Counter(names).items() if times > 1 and name.strip()]:
        raise InputError(f"{source} has several columns called {several[0]}.", "Give each a name of its own.")


def _read_csv(path: Path) -> Sheet:
    encoding, notes = _encoding(path)
    try:
        table = _parse(path, encoding)
    except UnicodeDecodeError as wrong:
        try:
            table = _parse(path, "cp1252")
        except UnicodeDecodeError:
            raise _not_text(path, "neither UTF-8 nor Windows-1252") from wrong
        notes = [
            f"{path} is no UTF-8 and was read as Windows-1252 (latin-1). If names look wrong: "
            f"`iconv -f ENCODING -t UTF-8 {shlex.quote(str(path))} > utf8.csv`."
        ]
    table.notes[:0] = notes
    return table


def _encoding(path: Path) -> tuple[str, list[str]]:
    """The encoding that the start of a file tells, and what is to be said of it; UTF-8 if it tells none."""
    with path.open("rb") as file:
        start = file.read(START)
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


def _parse(path: Path, encoding: str) -> Sheet:
    """The cells of a csv: numbers where all cells of a column are some, else texts."""
    with path.open(encoding=encoding, newline="") as file:
        text = file.read(START)
    lines = text.splitlines()
    start = (lines[:-1] or lines if len(text) == START else lines)[:50]  # whole ones, unless there is none
    told = [line.strip().lower() for line in start[:1] if line.strip().lower().startswith("sep=")]  # as Excel has it
    start = start[len(told) :]
    delimiter = told[0][4:] or "\t" if told else max(",;\t|", key=partial(_fits, start))
    head = [name.strip() for name in next(csv.reader(start, delimiter=delimiter, skipinitialspace=True), [])]
    _each_once(head, str(path))
    read = partial(
        pd.read_csv, path, sep=delimiter, encoding=encoding, skiprows=len(told), skipinitialspace=True, low_memory=False
    )
    frame = read()
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputError(
            f"{path} has a head of {len(head)} cells and rows of {len(head) + frame.index.nlevels}.",
            "Quote cells that hold the delimiter, such as numbers with a decimal comma in a table of commas.",
        )
    frame.columns = frame.columns.str.strip()

    def written(column: str) -> pd.Series:
        return read(usecols=[frame.columns.get_loc(column)], dtype=str).squeeze("columns")

    table = Sheet(frame, written=written)
    _read_numbers(table, str(path), delimiter)
    return table


def _fits(lines: list[str], delimiter: str) -> tuple[bool, float, int]:
    """How well a delimiter divides some lines: whether at all, how many alike, and into how many cells."""
    cells = [len(row) for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if row] or [1]
    return cells[0] > 1, cells.count(cells[0]) / len(cells), cells[0]


def _read_numbers(table: Sheet, source: str, delimiter: str) -> None:
    """Let columns of texts that are numbers be numbers, and say how they were read."""
    frame = table.frame
    texts = frame.select_dtypes("object" if pd.__version__ < "3" else ["object", "str"])
    # Names that tell rows apart are names, though all of them may look like numbers.
    found = {name: Column.of(texts[name]) for name in texts if name not in ("run_id", "name") and is_text(texts[name])}
    some_numbers = {name: column for name, column in found.items() if column}
    columns = {name: column for name, column in some_numbers.items() if not column.is_text}
    unclear = {name: why for name, column in columns.items() if (why := column.contradiction())}
    table.unclear |= {name: f"{name} in {source}: {why}" for name, why in unclear.items()}
    styles: set[Style] = {c.style for name, c in columns.items() if c.style and name not in unclear}
    doubtful = [name for name in frame.select_dtypes("float") if table.written and _may_be_thousands(frame[name])]
    if any(not (values % 1 == 0).all() for name in frame.select_dtypes("float").drop(columns=doubtful)
           if len(values := frame[name].dropna())):  # fmt: skip
        styles.add("English")
    if table.written and (delimiter == ";" or "Continental" in styles):
        written = {name: Column.of(table.written(name)) for name in doubtful}
        columns |= {name: column for name, column in written.items() if column and column.style is None}
    if styles == {"Continental"}:  # numbers beside words are not what any program reads them for
        columns |= {n: c for n, c in some_numbers.items() if c.style is None and (c.numbers & c.has(".")).any()}
    read: dict[str, list[str]] = {}
    for name, column in columns.items():
        if name in unclear:
            continue
        style, why = choose_style(column, styles, delimiter)
        assumed = describe(column, style)
        if why and (marked := column.numbers & column.has(".,")).any():
            assumed = (
                f"{assumed or 'a decimal point'}, {why}, though {column.example(marked)} can be read in another way"
            )
        if column.percent[column.numbers].all():
            table.units[name] = "%"
        frame[name] = column.read(style)
        read.setdefault(assumed, []).append(name)
    read.pop("", None)  # as anybody would
    for assumed, names in read.items():
        table.notes.append(f"{source}: read with {assumed}: {some(names, 12)}.")


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
        have = plural(len(empty), "row has no status and is", "rows have no status and are")
        notes.append(f"{source}: {have} taken for done: {rows}.")
    info = [
        RunInfo(
            str(f"row {place}" if run_id is None else run_id), str("" if name is None else name), seed,
            _status(status), source, None, place,
        )
        for place, (run_id, name, seed, status) in enumerate(zip(*known[:2], seeds, known[3], strict=True), 1)
    ]  # fmt: skip
    written = {source: table.written} if table.written else {}
    return Found(frame, info, [TableRow()] * len(frame), notes, table.units, table.unclear, written)


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
        are = plural(int(wrong.sum()), "seed is no whole number", "seeds are no whole numbers")
        notes.append(f"{source}: {are}, and so not known: {rows}.")
    return [None if seed != seed else int(seed) for seed in whole.tolist()]
