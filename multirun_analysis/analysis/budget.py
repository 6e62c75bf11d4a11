"""Budgets: what is the best that one can have within them, and what would the next step up cost?"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from har_sweep.errors import InputError
from multirun_analysis.analysis.busy import CAUSE as BUSY
from multirun_analysis.analysis.crossed import LEVEL
from multirun_analysis.analysis.distributions import student_quantile
from multirun_analysis.analysis.sentences import MOST_NAMED, scoped_certainty, spoilt
from multirun_analysis.findings import Block, Recommendation
from multirun_analysis.quantities import Kind, Quantity, columns_of, named
from multirun_analysis.sources.runs import some

UNITS: dict[str, float] = {
    "": 1, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60, "h": 3600,
    "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "J": 1, "kJ": 1e3, "MJ": 1e6, "Wh": 3600, "kWh": 3.6e6, "%": 0.01,
}  # fmt: skip
UNITS_OF: dict[Kind, tuple[str, ...]] = {
    "seconds": ("s", "ms", "us", "µs", "min", "h"),
    "bytes": ("B", "kB", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"),
    "count": ("", "k", "K", "M", "G", "T"),
    "joules": ("J", "kJ", "MJ", "Wh", "kWh"),
    "share": ("", "%"),
    "percent": ("", "%"),
}
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Budget:
    """``text`` as it was given; every one of ``columns`` must compare so with ``limit`` (SI)."""

    text: str
    columns: tuple[str, ...]
    comparison: str
    limit: float
    quantities: dict[str, Quantity]

    @classmethod
    def parse(cls, text: str, known: Iterable[str], asked: Mapping[str, Quantity], accuracy: Quantity) -> Budget:
        """Read ``latency_p50<5ms``, ``memory<2GB``, ``accuracy>=80%``. ``asked`` are the quantities that the question
        has, by their columns; they know the units of columns of somebody's table.

        Raises
        ------
        InputError
            saying what in it is not understood, or cannot be.
        """
        match = re.fullmatch(r"\s*([^<>=]+?)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\S*)\s*", text)
        if not match:
            raise InputError(
                f"--budget {text!r} is not understood.", 'Write it like "latency_p50<5ms" or "memory<2GB".'
            )
        name, comparison, number, unit = match.groups()
        columns = columns_of(name, known)
        quantities = {column: asked.get(column) or named(column) for column in columns}
        kind = quantities[columns[0]].kind
        allowed = UNITS_OF.get(kind, ("",))
        if unit not in allowed and kind == "plain" and unit in UNITS:
            raise InputError(
                f"--budget {text!r}: it is not told what {name} is in.",
                f"Say it (--cost '{name}:min:{unit}'), or give the limit without a unit, in that of the column.",
            )
        if unit not in allowed:
            raise InputError(
                f"--budget {text!r} has no unit." if not unit else f"--budget {text!r}: '{unit}' is no unit of {name}.",
                f"Use {', '.join(filter(None, allowed)) or 'none'}.",
            )
        try:
            given = float(number)
        except ValueError as e:
            raise InputError(f"--budget {text!r}: '{number}' is not a number.") from e
        limit = given if kind == "percent" else given * UNITS[unit]
        if limit < 0 and (kind != "plain" or columns != (accuracy.column,)):
            raise InputError(f"--budget {text!r}: {name} is never below 0.", "Give a limit that is not negative.")
        whole, start = quantities[columns[0]].whole, f"{name}{comparison}"
        if whole == 1 and not unit and 1 < given <= 100:
            raise InputError(
                f"--budget {text!r}: {name} is a share of 1, and never {number}.",
                f"Write '{start}{number}%' or '{start}{given / 100:g}'.",
            )
        if whole is not None and limit > whole:
            raise InputError(f"--budget {text!r}: {name} is never more than 100 %.", "Give a limit up to 100%.")
        if whole == 100 and not unit and 0 < given <= 1:
            raise InputError(
                f"--budget {text!r}: {name} is in percent, and {number} may be meant as a share.",
                f"Write '{start}{100 * given:g}%', or '{start}{number}%' if it is so little.",
            )
        return cls(text.strip(), columns, comparison, limit, quantities)

    def met(self, values: dict[str, float]) -> bool:
        """Whether a candidate with these means is within it; what is not known is not within."""
        return all(_COMPARE[self.comparison](values[column], self.limit) for column in self.columns)

    def over(self, values: dict[str, float]) -> float:
        """How many times the limit a candidate needs; 1 or less within it, infinite for what is not known."""
        worst = []
        for column in self.columns:
            ratio = (
                values[column] / (self.limit or np.nan)
                if self.comparison.startswith("<")
                else self.limit / (values[column] or np.nan)
            )
            worst.append(np.inf if np.isnan(ratio) else ratio)
        return max(worst)


def recommend(block: Block, budgets: Sequence[Budget]) -> Recommendation:
    """The most accurate candidate within all budgets, the next best within them, and the least step over them that
    would bring more accuracy."""
    values = block.means.to_dict("records")
    accuracy = block.accuracy
    usable = [i for i, c in enumerate(block.candidates) if c.rows and not np.isnan(values[i][accuracy.column])]
    aside = {i for budget in budgets for column in budget.columns for i in block.aside.get(column, [])}
    usable = [i for i in usable if i not in aside]
    within = [i for i in usable if all(budget.met(values[i]) for budget in budgets)]
    # The most accurate first; of equally accurate ones what is furthest within the limits.
    within.sort(key=lambda i: (-accuracy.sign * values[i][accuracy.column], max(b.over(values[i]) for b in budgets)))
    said = " and ".join(budget.text for budget in budgets)
    unknown = [
        block.labels[i] for i in usable if any(np.isnan(values[i][c]) for budget in budgets for c in budget.columns)
    ]
    lines: list[str] = []
    best = within[0] if within else None
    runner_up = within[1] if len(within) > 1 else None

    def shown(place: int) -> str:
        return f"{block.labels[place]} ({accuracy.text(values[place][accuracy.column])})"

    def costs(place: int) -> str:
        """Of what the budgets are on, but for the accuracy, which ``shown`` has; empty if that is all."""
        of = {column: quantity for budget in budgets for column, quantity in budget.quantities.items()}
        said = ", ".join(f"{q.label} {q.text(values[place][c])}" for c, q in of.items() if c != accuracy.column)
        return f", with {said}" if said else ""

    least = -np.inf if best is None else accuracy.sign * values[best][accuracy.column]
    better = [i for i in usable if i not in within and accuracy.sign * values[i][accuracy.column] > least]
    better.sort(key=lambda i: (max(budget.over(values[i]) for budget in budgets), i))
    next_step = better[0] if better and np.isfinite(max(b.over(values[better[0]]) for b in budgets)) else None
    if best is None:
        lines.append(f"Nothing is within {said}.")
        if next_step is not None:
            lines.append(f"Nearest is {shown(next_step)}{costs(next_step)}.")
    else:
        lines.append(f"Within {said}: take {shown(best)}{costs(best)}.")
        if why := spoilt(block, best, [column for budget in budgets for column in budget.columns]):
            lines.append(f"Mind that its costs are marked: {'; '.join(why)}.")
        lines += _near_the_limit(block, best, budgets)
        if runner_up is None:
            lines.append("Nothing else is within it.")
        else:
            gap = values[runner_up][accuracy.column] - values[best][accuracy.column]
            lines.append(
                f"Runner-up: {shown(runner_up)}, {accuracy.difference(gap)}{costs(runner_up)}"
                f"{scoped_certainty(block, best, runner_up)}."
            )
        if next_step is not None:
            gain = values[next_step][accuracy.column] - values[best][accuracy.column]
            lines.append(
                f"The next step up is {shown(next_step)}: {accuracy.difference(gain)}{costs(next_step)} "
                f"({_excess(budgets, values[next_step])}){scoped_certainty(block, next_step, best)}."
            )
            lines += _near_the_limit(block, next_step, budgets)
        else:
            lines.append("No more accuracy is to be had outside of it.")
    if unknown:
        lines.append(f"Not considered, as a cost of theirs is not known: {some(unknown, MOST_NAMED)}.")
    if aside:
        names = some([block.labels[i] for i in sorted(aside)], MOST_NAMED)
        lines.append(f"Not considered, as a cost of theirs was {BUSY}: {names}.")
    return Recommendation(tuple(b.text for b in budgets), best, runner_up, next_step, tuple(lines))


def _near_the_limit(block: Block, place: int, budgets: Sequence[Budget]) -> list[str]:
    """A sentence for each cost of a candidate whose 95 % interval over its runs (Student's) has a limit in it."""
    found = []
    runs = len(block.candidates[place].rows)
    for budget in budgets if runs > 1 else ():
        for column in budget.columns:
            value, deviation = (float(table[column].iat[place]) for table in (block.means, block.deviations))
            half = float(student_quantile(0.5 + LEVEL / 2, runs - 1)) * deviation / runs**0.5
            if abs(value - budget.limit) < half:
                cost = budget.quantities[column]
                found.append(
                    f"Its {cost.label}, {cost.text(value)} ± {cost.text(deviation)} over {runs} runs, is within its "
                    "noise of the limit: its runs do not tell which side it is on."
                )
    return found


def _excess(budgets: Sequence[Budget], values: dict[str, float]) -> str:
    over = [(budget, budget.over(values)) for budget in budgets if not budget.met(values)]
    return ", ".join(f"{ratio:.3g} times the limit of {budget.text}" for budget, ratio in over)
