"""One table, in every format."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from multirun_analysis.quantities import Quantity

MOST_PRINTED = 500  # rows, in Markdown and LaTeX; the CSV has all


@dataclass(frozen=True)
class Cell:
    """``value`` is what one sorts and computes by, ``text`` what one reads; ``mark`` says why it cannot be compared."""

    value: float | str | None
    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """``name`` is that of its files. The units stand in ``columns``; ``note`` explains what the head cannot."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""

    def csv(self) -> str:
        """The values, in full precision, in the units of the head."""
        values = [[cell.value for cell in row] for row in self.rows]
        return str(pd.DataFrame(values, columns=self.columns).to_csv(index=False))

    def markdown(self) -> str:
        """The texts, the best in bold; what cannot be compared has a dagger, and the reasons stand below."""

        def escape(text: str) -> str:
            return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(text.split()))

        numeric = [all(not isinstance(row[i].value, str) for row in self.rows) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(map(escape, self.columns)) + " |",
            "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
        ]
        for row in self.rows[:MOST_PRINTED]:
            cells = [escape(cell.text) + ("†" if cell.mark else "") for cell in row]
            cells = [f"**{text}**" if cell.best else text for text, cell in zip(cells, row, strict=True)]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, *(f"\n{escape(line)}" for line in self._below())]) + "\n"

    def tex(self) -> str:
        """For LaTeX with booktabs, the best in bold."""

        def escape(text: str) -> str:
            special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
            special |= {c: "\\" + c for c in "&%$#_{}"} | {
                "†": r"\textdagger{}",
                "±": r"$\pm$",
                "µ": r"$\mu$",
                "×": r"$\times$",
            }
            return "".join(special.get(c, c) for c in " ".join(text.split()))

        lines = [
            "% \\usepackage{booktabs}",
            "\\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}",
            "\\toprule",
            " & ".join(map(escape, self.columns)) + r" \\",
            "\\midrule",
        ]
        for row in self.rows[:MOST_PRINTED]:
            cells = [escape(cell.text + ("†" if cell.mark else "")) for cell in row]
            lines.append(
                " & ".join(rf"\textbf{{{t}}}" if c.best else t for t, c in zip(cells, row, strict=True)) + r" \\"
            )
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {line}" for line in self._below())]) + "\n"

    def _below(self) -> list[str]:
        left_out = len(self.rows) - MOST_PRINTED
        return [*([f"{left_out:,} more rows are in the CSV."] if left_out > 0 else []), *self.footnotes()]

    def footnotes(self) -> list[str]:
        """The note, and each reason why something is marked, with the rows that it is about."""
        reasons: dict[str, dict[str, None]] = {}
        for row in self.rows:
            for cell in row:
                for reason in cell.mark.split("; ") if cell.mark else ():
                    reasons.setdefault(reason, {})[row[0].text] = None
        about = []
        for reason, names in reasons.items():
            listed = ", ".join(list(names)[:8]) + (" ..." if len(names) > 8 else "")
            about.append(f"† {reason}: {'all' if len(names) == len(self.rows) > 1 else listed}")
        return [line for line in (self.note, *about) if line]


def name_cell(text: str) -> Cell:
    return Cell(text, text)


def plain_cell(value: float | int | None, form: str = "{}") -> Cell:
    missing = value is None or np.isnan(value)
    return Cell(None if missing else value, "-" if missing else form.format(value))


def number_text(value: float) -> str:
    """Two decimals, or three digits where two decimals would say little."""
    return f"{value:,.2f}".replace(",", "") if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def unit_of(quantity: Quantity, values: pd.Series) -> tuple[str, float]:
    """A head with a unit that keeps a column's numbers short, and what turns values into it."""
    largest = values.abs().max()
    if quantity.kind == "seconds" and largest < 1:
        return f"{quantity.label} (ms)", 1e3
    if quantity.kind == "count":
        for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if largest >= size / 2:
                return f"{quantity.label} ({unit})", 1 / size
    return quantity.axis, quantity.scale
