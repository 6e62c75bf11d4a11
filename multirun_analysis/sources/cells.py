"""Numbers as people and spreadsheets write them: what a comma, a point and a percent sign mean in a column of texts.

A column is read one way, decided from all of its cells: 1,014.5 (as in English) or 1.014,5 (as on the Continent). A
mark between thousands has groups of exactly three digits after it; in either style it can be a blank or an apostrophe
(ISO 80000-1, Switzerland). Where all cells of a column can be either (1,234), the other columns of the table decide,
and where they do not, its delimiter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

Style = Literal["English", "Continental"]


_BLANKS, _APOSTROPHES = " \u00a0\u2009\u202f", "'\u2019"


def _pattern(decimal: str, thousands: str) -> str:
    """Numbers of one style, as a regular expression."""
    grouped = "|".join(rf"([{marks}]\d{{3}})+" for marks in (thousands, _BLANKS, _APOSTROPHES))
    whole = rf"(\d+|[1-9]\d{{0,2}}({grouped}))"
    return rf"[+-]?({whole}({decimal}\d*)?|{decimal}\d+)([eE][+-]?\d+)?"


_PATTERNS: dict[Style, str] = {"English": _pattern(r"\.", ","), "Continental": _pattern(",", r"\.")}
_MARKS: dict[Style, tuple[str, str]] = {"English": (".", ","), "Continental": (",", ".")}  # decimal, thousands
_NOTHING = ("", "-", "–", "—")  # cells that say that there is no number


@dataclass(frozen=True)
class Column:
    """A column of texts, some of which are numbers. ``codes`` say for each row which of ``cells`` it has (-1: none);
    ``percent`` are those that end with the sign, and ``bare`` what they are without. ``fits`` says which cells can be
    numbers of each style, ``numbers`` which of any.
    """

    codes: np.ndarray
    cells: pd.Series
    bare: pd.Series
    percent: np.ndarray
    fits: dict[Style, np.ndarray]
    nothing: np.ndarray

    @classmethod
    def of(cls, texts: pd.Series) -> Column | None:
        """None where a column holds no numbers, or mostly other things."""
        codes, unique = pd.factorize(texts)
        cells = pd.Series(unique, dtype="str")
        bare = cells.str.strip().str.replace("−", "-")
        percent = bare.str.endswith("%").to_numpy(bool)
        bare = bare.str.removesuffix("%").str.strip()
        fits = {style: bare.str.fullmatch(pattern).to_numpy(bool) for style, pattern in _PATTERNS.items()}
        column = cls(codes, cells, bare, percent, fits, bare.isin(_NOTHING).to_numpy(bool))
        texts_left = ~column.numbers & ~column.nothing
        return column if column.numbers.sum() > texts_left.sum() else None

    @property
    def numbers(self) -> np.ndarray:
        return self.fits["English"] | self.fits["Continental"]

    @property
    def is_text(self) -> bool:
        """Whether it is best left as it is: it has other texts, and no number but such as any program would write."""
        plain = self.bare.str.fullmatch(r"[+-]?[\d.]+([eE][+-]?\d+)?").to_numpy(bool) & ~self.percent
        return bool((~self.numbers & ~self.nothing).any() and not (self.numbers & ~plain).any())

    def has(self, marks: str) -> np.ndarray:
        """Which cells have any of some marks."""
        return self.bare.str.contains(f"[{marks}]").to_numpy(bool)

    def example(self, which: np.ndarray) -> str:
        """One of some cells, to be shown."""
        return f"'{self.cells[int(np.flatnonzero(which)[0])]}'"

    @property
    def style(self) -> Style | None:
        """What its cells say by themselves; None where they can be either."""
        only = {style: (fit & self.numbers & ~self.fits[_other(style)]).any() for style, fit in self.fits.items()}
        return next((style for style, alone in only.items() if alone), None)

    def contradiction(self) -> str:
        """Why it cannot be read one way; empty if it can."""
        english, continental = self.fits["English"], self.fits["Continental"]
        either = english & continental
        point, comma = self.has("."), self.has(",")
        if (english & ~continental).any() and (continental & ~english).any():
            first, second = self.example(english & ~continental), self.example(continental & ~english)
            return f"{first} is a number with a decimal point, {second} one with a decimal comma"
        if self.style is None and (either & point).any() and (either & comma).any():
            return f"{self.example(either & point)} and {self.example(either & comma)} cannot be read in one way"
        signed, unsigned = self.numbers & self.percent, self.numbers & ~self.percent
        if signed.any() and unsigned.any():
            counts = [int(np.isin(self.codes, np.flatnonzero(which)).sum()) for which in (signed, unsigned)]
            return f"cells with a % sign ({counts[0]}, such as {self.example(signed)}) are mixed with cells without " \
                   f"({counts[1]}, such as {self.example(unsigned)})"  # fmt: skip
        return ""

    def read(self, style: Style) -> pd.Series:
        """The numbers; what is none stays as it is."""
        decimal, thousands = _MARKS[style]
        digits = self.bare[self.numbers].str.replace(f"[{thousands}{_BLANKS}{_APOSTROPHES}]", "", regex=True)
        digits = digits.str.replace(decimal, ".", regex=False)
        values = pd.to_numeric(digits)
        if self.numbers.all() and (self.codes >= 0).all():
            return pd.Series(values.to_numpy()[self.codes])
        if (self.numbers | self.nothing).all():
            known = values.astype(float).reindex(range(len(self.cells))).to_numpy()
            return pd.Series(np.append(known, np.nan)[self.codes])
        mixed = self.cells.astype(object)
        mixed[self.numbers] = values.astype(object)
        mixed[self.nothing] = None
        return pd.Series(np.append(mixed.to_numpy(object), [None])[self.codes], dtype=object)


def _other(style: Style) -> Style:
    return "Continental" if style == "English" else "English"


def choose_style(column: Column, others: Collection[Style], delimiter: str) -> tuple[Style, str]:
    """How a column is read, and, where its cells can be either, why so: ``others`` are the styles of other columns."""
    if column.style:
        return column.style, ""
    if len(set(others)) == 1:
        return next(iter(others)), "as the other columns are written"
    if column.has(",").any() and delimiter == ";":
        return "Continental", "as a table of semicolons usually is"
    return "English", "as is usual where nothing says otherwise"


def describe(column: Column, style: Style) -> str:
    """What was assumed, beyond a decimal point; empty for nothing."""
    decimal, thousands = _MARKS[style]
    said = []
    if style == "Continental" and (column.numbers & column.has(decimal)).any():
        said.append("a decimal comma")
    between = {",": "a comma", ".": "a point", _BLANKS: "a blank", _APOSTROPHES: "an apostrophe"}
    for marks in (thousands, _BLANKS, _APOSTROPHES):
        if (column.numbers & column.has(marks)).any():
            said.append(f"{between[marks]} between thousands")
    if (column.numbers & column.percent).any():
        said.append("percent signs")
    return " and ".join(said)
