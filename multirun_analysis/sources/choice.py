"""Choosing the runs that a report is about: by their sweep, by any column, by what follows a source's ``?``."""

from __future__ import annotations

import itertools
import operator
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.errors import InputError
from multirun_analysis.quantities import columns_of, plural
from multirun_analysis.sources.runs import Found, Runs

MOST_TOLD = 8  # values of a column, or sweeps
MISSING = "null"  # how one asks for what is not there

_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NUMBERS = ("integer", "floating", "mixed-integer-float")
_DATE = r"\d{4}-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)?Z?"
_IN_ADDRESSES = {"since": ("started_at", ">="), "until": ("started_at", "<=")}  # any other key is a column's name


@dataclass(frozen=True)
class Condition:
    """``said`` is how it was given. ``name`` means one or several columns; ``values`` are read as those of a column."""

    said: str
    name: str
    comparison: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read ``model==resnet18``, ``lr<0.01``, ``model in resnet18,vit_tiny``.

        Raises
        ------
        InputError
            if it is none.
        """
        match = re.fullmatch(r"\s*(.+?)\s*(==|!=|<=|>=|<|>)\s*(.*?)\s*", text, re.DOTALL)
        match = match or re.fullmatch(r"\s*(.+?)\s+(in)\s+(.+?)\s*", text, re.DOTALL)
        if not match:
            raise InputError(
                f"--where '{text}' is not understood.",
                "Write it like 'model==resnet18', 'lr<0.01', 'started_at>=2026-11-01' or 'model in resnet18,vit_tiny'.",
            )
        name, comparison, value = match.groups()
        return cls(f"--where '{text}'", name, comparison, _listed(value) if comparison == "in" else (value,))

    def holds(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        """For which rows: all columns that are meant compare so. Of a list some part must; what is missing compares
        with nothing, and so is unlike everything.

        Raises
        ------
        InputError
            if there is no such column, or its values cannot be compared so.
        """
        columns = columns_of(self.name, frame.columns)
        return np.asarray(np.logical_and.reduce([self._of(frame[column]) for column in columns]))

    def _of(self, column: pd.Series) -> NDArray[np.bool_]:
        parts = column.explode() if column.dtype == object else column
        known = parts.notna().to_numpy()
        held = ~known & (MISSING in self.values)
        wanted = [value for value in self.values if value != MISSING]
        if known.any() and wanted:
            held[known] = self._compare(parts[known], wanted)
        rows = pd.Series(held, parts.index).groupby(level=0).any().to_numpy(bool)
        return ~rows if self.comparison == "!=" else rows

    def _compare(self, known: pd.Series, wanted: list[str]) -> pd.Series:
        """Which of a column's values are equal to any that is wanted, or compare with the one that is."""
        kind = pd.api.types.infer_dtype(known)
        if kind in _NUMBERS:
            numbers = [self._number(value, known.name) for value in wanted]
            order = _ORDER.get(self.comparison)
            return order(known, numbers[0]) if order else known.isin(numbers)
        texts = known.astype(str)
        if kind == "boolean":
            texts, wanted = texts.str.lower(), [value.lower() for value in wanted]
        elif texts.str.fullmatch(_DATE).all():
            return self._dates(texts, wanted)
        if self.comparison in _ORDER:
            raise InputError(f"{self.said}: {known.name} has no order.", "It can be compared by ==, != and in.")
        return texts.isin(wanted)

    def _number(self, text: str, column: object) -> float:
        try:
            return float(text)
        except ValueError as e:
            raise InputError(
                f"{self.said}: {column} holds numbers, and '{text}' is none.",
                "Give it without a unit, as the record has it: in seconds, bytes, shares of 1.",
            ) from e

    def _dates(self, texts: pd.Series, wanted: list[str]) -> pd.Series:
        """As far as each date that is wanted goes: ``<=2026-11-01`` has all of that day."""
        found = pd.Series(False, texts.index)
        texts = texts.str.replace(" ", "T").str.removesuffix("Z")
        for text in wanted:
            if not re.fullmatch(_DATE, text):
                raise InputError(f"{self.said}: '{text}' is no date.", "Write 2026-11-01 or 2026-11-01T13:30, in UTC.")
            date = text.replace(" ", "T").removesuffix("Z")
            found |= _ORDER.get(self.comparison, operator.eq)(texts.str[: len(date)], date)
        return found


def choose(runs: Runs, sweeps: Sequence[str], where: Sequence[str]) -> Runs:
    """The runs of any of ``sweeps`` for which every condition of ``where`` holds; notes tell how many were left out.

    Raises
    ------
    InputError
        if a condition is not understood, or leaves no run.
    """
    conditions = [Condition.parse(text) for text in where]
    if not sweeps and not conditions:
        return runs
    if sweeps and "sweeps" not in runs.frame.columns:
        raise InputError(
            f"--sweep {sweeps[0]}: only har_sweep's runs are of sweeps, not those of {', '.join(runs.sources)}.",
            "Leave it out, or choose rows by a column: --where 'COLUMN==VALUE'.",
        )
    for name in sweeps:  # each is one that there is
        _kept(runs.frame, [Condition(f"--sweep {name}", "sweeps", "in", (name,))])
    if sweeps:
        said = " ".join(f"--sweep {name}" for name in sweeps)
        conditions = [Condition(said, "sweeps", "in", tuple(sweeps)), *conditions]
    kept, notes = _kept(runs.frame, conditions)
    return replace(
        runs,
        frame=runs.frame.iloc[kept].dropna(axis="columns", how="all").reset_index(drop=True),
        info=[runs.info[row] for row in kept],
        origins=[runs.origins[row] for row in kept],
        notes=[*runs.notes, *notes],
        sweeps=(*runs.sweeps, *sweeps),
    )


def parse_address(source: str) -> tuple[str, list[Condition]]:
    """``runs?sweep=NAME&status=done&model=resnet18,vit_tiny&since=2026-11-01``: the source alone, and what must hold of
    its runs. Several values of a key, and a key that comes again, mean any of them; what exists is taken as it stands.

    Raises
    ------
    InputError
        if what follows the ``?`` is no query.
    """
    place, mark, query = source.partition("?")
    if not mark or os.path.exists(source):  # Path.exists() raises for what is too long to be a name
        return source, []
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError as e:
        raise InputError(
            f"{source}: what follows '?' must be key=value, joined by '&'.",
            f"For example {place}?sweep=NAME&status=done&model=resnet18,vit_tiny&since=2026-11-01",
        ) from e
    given: dict[str, list[str]] = {}
    for key, value in pairs:
        given.setdefault(key, []).extend([value] if key in _IN_ADDRESSES else _listed(value))
    conditions = []
    for key, values in given.items():
        said = f"{place}?{key}={','.join(values)}"
        name, comparison = _IN_ADDRESSES.get(key, (key, "in"))
        if name.startswith("config."):  # as W&B's filters have it
            name = name.replace(".", "/")
        if comparison != "in" and len(values) > 1:
            raise InputError(f"{said}: there can be only one date.", f"Give one {key}=.")
        conditions.append(Condition(said, name, comparison, tuple(values)))
    return place, conditions


def choose_found(found: Found, conditions: Sequence[Condition]) -> Found:
    """What of one source is chosen by its address."""
    if not conditions or not found.info:
        return found
    frame = found.rows if isinstance(found.rows, pd.DataFrame) else _columns(found.rows, conditions)
    kept, notes = _kept(frame, conditions)
    rows = found.rows
    return replace(
        found,
        rows=rows.iloc[kept].reset_index(drop=True) if isinstance(rows, pd.DataFrame) else [rows[row] for row in kept],
        info=[found.info[row] for row in kept],
        origins=[found.origins[row] for row in kept],
        notes=[*found.notes, *notes],
    )


def _columns(rows: Sequence[dict[str, object]], conditions: Sequence[Condition]) -> pd.DataFrame:
    """Those of the columns that the conditions are about: a record has hundreds."""
    known = dict.fromkeys(itertools.chain.from_iterable(rows))
    names = dict.fromkeys(name for condition in conditions for name in columns_of(condition.name, known))
    return pd.DataFrame({name: [row.get(name) for row in rows] for name in names})


def several_sweeps(runs: Runs) -> list[str]:
    """A note where runs are of several sweeps, and none was chosen."""
    if runs.sweeps:
        return []
    of_runs = [sweeps for sweeps in runs.column("sweeps") if isinstance(sweeps, list)]
    counts = Counter(itertools.chain.from_iterable(map(dict.fromkeys, of_runs)))
    if all(count == len(of_runs) for count in counts.values()):
        return []
    return [f"These runs are of {len(counts)} sweeps, and none was chosen: {_told(counts)}. --sweep NAME chooses one."]


def _kept(frame: pd.DataFrame, conditions: Sequence[Condition]) -> tuple[list[int], list[str]]:
    """The rows for which all conditions hold, one after the other, and what each left out."""
    rows = np.arange(len(frame))
    notes = []
    for condition in conditions:
        there = frame.iloc[rows].reset_index(drop=True)
        holds = condition.holds(there)
        if not holds.any():
            raise InputError(f"{condition.said} leaves none of {_runs(len(there))}.", _values(there, condition.name))
        left_out = f"{len(there) - holds.sum():,}" if not holds.all() else "none"
        notes.append(f"Left out by {condition.said}: {left_out} of {_runs(len(there))}.")
        rows = rows[holds]
    return rows.tolist(), notes


def _values(frame: pd.DataFrame, name: str) -> str:
    """Which values of a column there are to choose from."""
    said = []
    for column in columns_of(name, frame.columns):
        known = frame[column].explode().dropna()
        if known.empty:
            said.append(f"None of them has {column}.")
        elif pd.api.types.infer_dtype(known) in _NUMBERS and known.nunique() > MOST_TOLD:
            said.append(f"{column} is between {known.min():g} and {known.max():g}.")
        else:
            said.append(f"{column} is {_told(Counter(known.astype(str)))}.")
    return " ".join(said)


def _told(counts: Counter[str]) -> str:
    """``main (9 runs), pilot (3 runs)``, the most frequent first."""
    told = [f"{value} ({_runs(count)})" for value, count in counts.most_common(MOST_TOLD)]
    return ", ".join(told) + (f" and {len(counts) - MOST_TOLD} more" if len(counts) > MOST_TOLD else "")


def _runs(count: int) -> str:
    return plural(count, "run", "runs")


def _listed(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))
