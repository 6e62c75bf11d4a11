"""One table, in every format."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from pyarrow import compute as pc

from har_sweep.units import no_formula
from multirun_analysis.quantities import Quantity, Steps, to_digits
from multirun_analysis.sources.runs import some
from multirun_analysis.tables.columns import Cell, Column, Rows

MOST_NAMED = 8  # rows that a cause is about; the CSV has all
MOST_PLACES = 6  # after the point; a spread that needs more is no more than the rounding of sums
MOST_PRINTED = 500  # rows, in Markdown, LaTeX and notebooks; the CSV has all
PART = 50_000  # rows of a file that are written at once: all those of a large one would fill the memory

_TEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {character: "\\" + character for character in "&%$#_{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # ¡, ¿ and — in LaTeX's first encoding
    | {"†": r"\textdagger{}", "±": r"$\pm$", "µ": r"$\mu$", "×": r"$\times$"}
)
_HARMLESS = r"[A-Za-z0-9/][^\r]*"  # at a glance, of all cells of a column at once
_STEPS: Steps = {
    "seconds": ((1, 1, "s"), (0, 1e-3, "ms")),
    "count": ((5e11, 1e12, "T"), (5e8, 1e9, "G"), (5e5, 1e6, "M"), (500, 1e3, "k")),
}


@dataclass(frozen=True)
class Table:
    """``kind`` says what it is about, ``part`` of which cost or model, where each has one; ``block`` is the number of
    its block, from 1, where there are several. The units stand in ``columns``; ``note`` explains what the head cannot.
    """

    kind: str
    title: str
    columns: list[str]
    rows: Sequence[list[Cell]]
    note: str = ""
    part: str = ""
    block: int | None = None

    @property
    def name(self) -> str:
        """That of its files."""
        return "-".join(filter(None, (self.kind, self.part, str(self.block or ""))))

    @classmethod
    def of_columns(cls, kind: str, title: str, columns: Sequence[Column], note: str = "", part: str = "") -> Table:
        """A table that may be long."""
        return cls(kind, title, [column.head for column in columns], Rows(columns), note, part)

    def _whole_columns(self) -> Sequence[Column]:
        if isinstance(self.rows, Rows):
            return self.rows.columns
        return [Column.of_cells(head, cells) for head, *cells in zip(self.columns, *self.rows, strict=True)]

    def to_frame(self) -> pd.DataFrame:
        """The values, in full precision, in the units of the head; every part of a cell in a column of its own."""
        parts = [
            (f"{column.head} {part}".strip(), values)
            for column in self._whole_columns()
            for part, values in column.parts.items()
        ]
        frame = pd.DataFrame({place: values for place, (_, values) in enumerate(parts)})
        frame.columns = pd.Index([head for head, _ in parts])
        return frame

    def csv(self) -> str:
        """``to_frame`` as a file; what a spreadsheet would take for a formula, in a head too, has an apostrophe before
        it."""
        return "".join(self.csv_parts())

    def csv_parts(self) -> Iterator[str]:
        """``csv`` a part after the other."""
        frame = self.to_frame()
        yield ",".join(_csv_texts(frame.columns.to_series()).to_pylist()) + "\n"
        for start in range(0, len(frame), PART):
            columns = [_csv_texts(cells) for _, cells in frame.iloc[start : start + PART].items()]
            yield "\n".join([*pc.binary_join_element_wise(*columns, ",").to_pylist(), ""])

    def markdown(self) -> str:
        """The texts, the best in bold; what cannot be compared has a dagger, and the reasons stand below."""

        def escape(text: str) -> str:
            return re.sub(r"([\\|<>&*_~$`\[\]])", r"\\\1", " ".join(text.split()))

        rows = self.rows[:MOST_PRINTED]
        numeric = [all(not isinstance(row[i].value, str) for row in rows) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(map(escape, self.columns)) + " |",
            "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
        ]
        for row in rows:
            cells = [f"**{escape(cell.shown)}**" if cell.best else escape(cell.shown) for cell in row]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, *(f"\n{escape(line)}" for line in self._below())]) + "\n"

    def tex(self) -> str:
        """For LaTeX with booktabs, the best in bold."""

        def line(cells: Sequence[Cell]) -> str:
            texts = [" ".join(cell.shown.split()).translate(_TEX) for cell in cells]
            bold = [rf"\textbf{{{text}}}" if cell.best else text for cell, text in zip(cells, texts, strict=True)]
            # A \\ or a rule takes a star or a bracket after it, in the next line too, for an argument of its own.
            return "{}" * bold[0].startswith(("[", "*")) + " & ".join(bold) + r" \\"

        layout = "l" + "r" * (len(self.columns) - 1)
        lines = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
        lines += [line([name_cell(head) for head in self.columns]), r"\midrule"]
        lines += [*map(line, self.rows[:MOST_PRINTED]), r"\bottomrule", r"\end{tabular}"]
        lines += [f"% {' '.join(below.split())}" for below in self._below()]  # a comment ends with its line
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = self.rows[:MOST_PRINTED]
        texts = pd.DataFrame([[cell.shown for cell in row] for row in rows])
        best = pd.DataFrame([["font-weight: bold;" * cell.best for cell in row] for row in rows])
        styled = texts.style.hide(axis="index").format(html.escape).apply(lambda _: best, axis=None)
        styled = styled.format_index(lambda place: html.escape(self.columns[place]), axis=1)
        below = "<br>".join(map(html.escape, self._below()))
        return f"{styled.set_caption(html.escape(self.title)).to_html()}<p><small>{below}</small></p>"

    def _below(self) -> list[str]:
        left_out = len(self.rows) - MOST_PRINTED
        return [*([f"Rows that only the CSV has: {left_out:,}."] if left_out > 0 else []), *self.footnotes()]

    def footnotes(self) -> list[str]:
        """The note, and each cause why something is marked, with the rows that it is about."""
        columns, reasons = self._whole_columns(), dict[str, dict[str, None]]()
        marked = sorted({row for column in columns for row, mark in enumerate(column.marks) if mark})
        for row in marked:
            name = columns[0].cell(row).text
            for reason in (mark for column in columns if column.marks and (mark := column.marks[row])):
                for one in reason.split("; "):
                    cause, _, detail = one.partition(": ")
                    reasons.setdefault(cause, {})[f"{name} ({detail})" if detail else name] = None
        about = []
        for reason, names in reasons.items():
            every = len(names) == len(self.rows) > 1
            every = every and list(names) == [columns[0].cell(row).text for row in range(len(self.rows))]
            about.append(f"† {reason}: {'all' if every else some(list(names), MOST_NAMED)}")
        return [line for line in (self.note, *about) if line]


def _no_formulas(cells: pd.Series) -> pd.Series:
    if is_numeric_dtype(cells):
        return cells
    doubtful = cells if cells.dtype == object else cells[~cells.str.fullmatch(_HARMLESS)]
    if doubtful.empty:
        return cells
    return cells.mask(cells.index.isin(doubtful.index), doubtful.map(no_formula, na_action="ignore"))


def _csv_texts(cells: pd.Series) -> pa.StringArray:
    """What stands in a CSV for each cell, nothing for what is missing."""
    if cells.dtype == object:
        cells = cells.map(str, na_action="ignore")
    texts = pc.fill_null(pa.array(_no_formulas(cells), from_pandas=True).cast(pa.string()), "")
    if is_numeric_dtype(cells):
        return texts
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return pc.if_else(pc.match_substring_regex(texts, '[",\\r\\n]'), quoted, texts)


def name_cell(text: str) -> Cell:
    return Cell(text, text)


def plain_cell(value: float | int | None, form: str = "{}") -> Cell:
    missing = value is None or np.isnan(value)
    return Cell(None if missing else value, "-" if missing else form.format(value))


def numbers_column(head: str, values: Sequence[float] | NDArray[np.float64], form: str = "{}") -> Column:
    """A number for each row, written by ``form``."""
    numbers = np.asarray(values)
    return Column(head, {"": numbers}, lambda row: plain_cell(numbers[row].item(), form))


def number_text(value: float) -> str:
    """Two decimals, or three digits where two decimals would say little."""
    return f"{value:,.2f}".replace(",", "") if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def interval_cell(low: float | None, high: float | None, form: str = "") -> Cell:
    """Both bounds, written by ``form``, or to two digits of half the width."""
    if low is None or high is None or np.isnan(low):
        return Cell(None, "-", parts={"lower": None, "upper": None})
    bounds = float(low), float(high)
    texts = [form.format(bound) for bound in bounds] if form else rounded(bounds, (bounds[1] - bounds[0]) / 2)
    return Cell(bounds[0], " to ".join(texts), parts={"lower": bounds[0], "upper": bounds[1]})


def in_unit(values: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Values in another unit, without what multiplying adds to their last digits: 0.58 in percent is 58."""
    return to_digits(values * factor, 15)


def rounded(values: Sequence[float], uncertainty: float) -> list[str]:
    """Values to the place of the second significant digit of their uncertainty: 1819000 for 1818561 ± 31789."""
    if not np.isfinite(uncertainty) or uncertainty <= 0:
        return [number_text(value) for value in values]
    places = 1 - int(f"{uncertainty:.1e}".partition("e")[2])
    if places > MOST_PLACES:
        return [number_text(value) for value in values]
    return [f"{round(value, places):.{max(places, 0)}f}" for value in values]


def with_spread(value: float, spread: float) -> str:
    """``81.52 ± 0.35``: both to the place of the second significant digit of the spread."""
    shown, beside = rounded([value, spread], spread)
    return f"{shown} ± {beside}"


def unit_of(quantity: Quantity, values: pd.Series) -> tuple[str, float]:
    """A head with a unit that keeps a column's numbers short, and what turns values into it."""
    unit, factor = quantity.unit(values.abs().max(), _STEPS)
    return quantity.named_in(unit), factor
