"""Numbers before anything is made of them: in SI units, finite, and within what they can be.

What can be left out is left out and named; what would make every number beside it meaningless is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from har_sweep.errors import InputError
from multirun_analysis.analysis.ranking import as_numbers
from multirun_analysis.quantities import Goal, Kind, Quantity, plural
from multirun_analysis.sources.runs import Runs, some

SENTINELS = (-1, -9, -99, -999, -9999)  # what people write where there is no number and none can be negative
ROUNDING = 1e-6  # of shares that were computed in single precision

_LIKE_SHARES = re.compile(r"acc|top|err|f1|recall|precision|score", re.I)
_SHARES = re.compile(
    r"(?:^|[^a-z])(?:acc(?:uracy)?[15]?|top[-_]?[15]|recall|precision|f1|err(?:or)?[-_]?rate)(?:[^a-z0-9]|$)", re.I
)


def numbers_in(runs: Runs, column: str) -> pd.Series:
    """A column as numbers, as they were written; nan for what is none.

    Raises
    ------
    InputError
        if there are none, or they can be read in several ways.
    """
    if column in runs.unclear:
        raise InputError(
            f"{runs.unclear[column]}.",
            "Write all its numbers with a decimal point, nothing between thousands, and in one unit.",
        )
    values = pd.to_numeric(runs.frame[column], errors="coerce").astype(float)
    if values.isna().all():
        raise InputError(
            f"The column {column} has no number in any row.", "Name another; units in the cells are not read."
        )
    return values


def kind_by_size(runs: Runs, column: str, goal: Goal, notes: list[str]) -> Kind:
    """What the numbers of an accuracy are, by its name and their size.

    Raises
    ------
    InputError
        if some are shares and some are percent, or none of the two.
    """
    values = numbers_in(runs, column)
    values = values.mask(values.isin(SENTINELS) | np.isinf(values))
    is_one = bool(_SHARES.search(column))
    if not _LIKE_SHARES.search(column) or (values.min() < 0 and not is_one):
        return "plain"
    small, large = (values > 0) & (values <= 1), values > 1
    if small.any() and large.any() and is_one:
        fewer = np.flatnonzero(small if small.sum() <= large.sum() else large)
        raise InputError(
            f"{column} has shares and percents in one column: of its values {int(small.sum())} at most 1 "
            f"({values[small].max():g}), and {int(large.sum())} more ({values[large].max():g}). The fewer are in "
            f"{runs.named(fewer)}.",
            f"Write all in one unit; if all of them are percent, say so: --accuracy '{column}:{goal}:%'.",
        )
    if values.max() > 100:
        if is_one:
            raise _outside(runs, column, values, values > 100, "from 0 to 1, or from 0 to 100 in percent")
        return "plain"
    if large.any():
        return "plain" if small.any() else "percent"
    notes.append(
        f"{column}: at most 1, so taken for shares of 1 and shown in %; --accuracy '{column}:{goal}:%' says that they "
        "are percent."
    )
    return "share"


def check_numbers(
    runs: Runs, quantities: Sequence[Quantity], asked: Collection[str], accuracies: Collection[str], notes: list[str]
) -> pd.DataFrame:
    """The numbers of each quantity by run, in SI units; what is none, is left out and named.

    ``asked`` are the columns that the question is about, ``accuracies`` those of them that are no costs.

    Raises
    ------
    InputError
        if a number that is asked for cannot be: a share beyond 1, a cost below 0.
    """
    numbers = as_numbers(runs.frame, quantities)
    for quantity in quantities:
        column = quantity.column
        raw, values = runs.frame[column], numbers[column].copy()
        if column in runs.unclear:
            numbers[column] = np.nan
            continue
        written = pd.to_numeric(raw, errors="coerce")
        _name(runs, column, "no number", raw.notna() & written.isna(), notes)
        _name(runs, column, "not finite", written.abs() == np.inf, notes)
        if quantity.is_share or column not in accuracies:
            sentinel = written.isin(SENTINELS)
            _name(runs, column, "taken for missing, as they cannot be negative", sentinel, notes)
            values[sentinel] = np.nan
            top = {"share": 1.0, "percent": 100.0}.get(quantity.kind, np.inf)
            wrong = (values < 0) | (values > top * (1 + ROUNDING))
            if wrong.any() and column in asked:
                raise _outside(runs, column, raw, wrong, _range(quantity, top))
            _name(runs, column, f"not {_range(quantity, top)}", wrong, notes)
            values[wrong] = np.nan
        numbers[column] = values
        if column in asked and values.isna().all():
            raise InputError(f"The column {column} has no number that can be used in any row.", "Name another.")
    return numbers


def _is_text(values: pd.Series) -> bool:
    return values.dtype == object or isinstance(values.dtype, pd.StringDtype)


def _range(quantity: Quantity, top: float) -> str:
    if quantity.kind == "share" and quantity.size != 1:
        return "from 0 to 100 %"
    return "0 or more" if np.isinf(top) else f"from 0 to {top:g}" + " (percent)" * (top > 1)


def _outside(runs: Runs, column: str, values: pd.Series, wrong: pd.Series, allowed: str) -> InputError:
    rows = np.flatnonzero(wrong)
    shown = some([f"{values.iat[row]}" for row in rows])
    return InputError(
        f"{column} must be {allowed}, and is {shown} in {runs.named(rows)}.",
        "Mend these rows, or leave them out, and give the command again.",
    )


def _name(runs: Runs, column: str, why: str, wrong: pd.Series, notes: list[str]) -> None:
    """Say which cells of a column are not used."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        cells = some(list(dict.fromkeys(str(runs.frame[column].iat[row]) for row in rows[:1000])))
        left_out = plural(len(rows), "cell is", "cells are")
        notes.append(f"{column}: {left_out} {why}, and left out ({cells}): {runs.named(rows)}.")


def labelled(runs: Runs, label: Sequence[str], notes: list[str]) -> Runs:
    """The runs that have a label; those without are named.

    Raises
    ------
    InputError
        if none has.
    """
    columns = list(label) or [column for column in ("model/name",) if column in runs.frame.columns]
    if not columns:
        return runs
    blank = np.ones(len(runs.frame), dtype=bool)
    for column in columns:
        values = runs.frame[column]
        missing = values.isna()
        if _is_text(values):
            missing |= values.astype(str).str.strip() == ""
        blank &= missing.to_numpy(bool)
    if not blank.any():
        return runs
    if blank.all():
        raise InputError(f"No run has a {' or '.join(columns)}.", "Add --label COLUMN.")
    rows = np.flatnonzero(blank)
    notes.append(f"Left out: {plural(len(rows), 'run', 'runs')} without a {' or '.join(columns)}: {runs.named(rows)}.")
    return runs.take(np.flatnonzero(~blank).tolist())
