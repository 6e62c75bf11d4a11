"""What is asked of which runs: accuracy, costs, budgets."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from har_sweep.errors import InputError
from multirun_analysis.analysis.budget import UNITS, UNITS_OF, Budget
from multirun_analysis.analysis.sanity import kind_by_size, labelled, numbers_in
from multirun_analysis.quantities import COSTS, DEFAULT_COSTS, METRICS, Goal, Kind, Quantity, columns_of, metric_of
from multirun_analysis.sources.runs import Runs


@dataclass(frozen=True)
class Question:
    """What is asked of the runs, in the words of the command line; empty lists ask for the defaults."""

    accuracy: str | None = None
    costs: Sequence[str] = ()
    label: Sequence[str] = ()
    by: Sequence[str] = ()
    budgets: Sequence[str] = ()
    images: Path | None = None
    family: str | None = None


@dataclass(frozen=True)
class Asked:
    """A question, understood: ``costs`` are what fronts are drawn for, ``known_costs`` all that some run has.
    ``selecting`` is what trials are chosen by: the accuracy on val, where runs have one."""

    accuracy: Quantity
    selecting: Quantity
    costs: list[Quantity]
    metrics: list[Quantity]
    known_costs: list[Quantity]
    joint: bool
    label: list[str]
    by: list[str]
    budgets: list[Budget]
    images: Path | None
    family: str | None

    @property
    def quantities(self) -> list[Quantity]:
        """All of them, each once."""
        return _distinct([*self.metrics, self.selecting, *self.known_costs])

    @property
    def columns(self) -> set[str]:
        """What the question is about: its numbers must be right, or there is no answer."""
        budgeted = (column for budget in self.budgets for column in budget.columns)
        return {self.accuracy.column, self.selecting.column, *(cost.column for cost in self.costs), *budgeted}


def understand(runs: Runs, question: Question, notes: list[str]) -> tuple[Runs, Asked]:
    """What a question means for these runs, and those of them that it can be asked of; what had to be guessed or left
    out is noted.

    Raises
    ------
    InputError
        as ``analyse``.
    """
    frame = runs.frame
    if question.images and not question.images.is_dir():
        raise InputError(
            f"--images {question.images}: there is no such folder.",
            "Give the one that the images' paths begin in, or leave it out: they are looked for where they were.",
        )
    label = [column for name in question.label for column in columns_of(name, frame.columns)]
    accuracy, costs = choose_accuracy(runs, question, notes), choose_costs(runs, question, notes)
    if accuracy.column in {cost.column for cost in costs}:
        raise InputError(
            f"{accuracy.column} is asked for as the accuracy and as a cost.", "Name another column for one of them."
        )
    if not label and not runs.are_records:
        label = [column for column in ("model", "label", "name", "architecture") if column in frame.columns][:1]
        if not label:
            listed = ", ".join(map(str, frame.columns[:20]))
            raise InputError(f"It is not told which column names the models: {listed}.", "Add --label COLUMN.")
    selecting = _as_told(runs, accuracy.on("val"))
    asked = {column: _as_told(runs, _cost(column, notes, quiet=True)) for column in runs.units}
    asked |= {quantity.column: quantity for quantity in [accuracy, *costs]}
    budgets = [Budget.parse(text, runs.known_columns, asked, accuracy) for text in question.budgets]
    metrics = [METRICS[column] for column in METRICS if column in runs.known_columns]
    metrics = _distinct([accuracy, *(_as_told(runs, metric) for metric in metrics)])
    of_metrics = {metric.column for metric in metrics}
    budgeted = [
        asked.get(column) or _cost(column, notes)
        for budget in budgets
        for column in budget.columns
        if column not in of_metrics
    ]
    others = [_as_told(runs, COSTS[column]) for column in COSTS if column in runs.known_columns]
    by = [column for name in question.by for column in columns_of(name, frame.columns)]
    family = columns_of(question.family, frame.columns)[0] if question.family else None
    names = [column for column in [*label, *by, family] if column]
    return labelled(runs.as_written(names), label, notes), Asked(
        accuracy=accuracy,
        selecting=selecting if selecting.column in runs.known_columns else accuracy,
        costs=costs,
        metrics=metrics,
        known_costs=[cost for cost in _distinct([*costs, *budgeted, *others]) if cost.column not in of_metrics],
        joint=len(question.costs) > 1 < len(costs),
        label=label,
        by=by,
        budgets=budgets,
        images=question.images,
        family=family,
    )


def choose_accuracy(runs: Runs, question: Question, notes: list[str]) -> Quantity:
    """The accuracy that is asked for; by default that on the test images."""
    columns = runs.frame.columns
    name, goal, unit = _parts(question.accuracy or "", columns)
    if not name:
        usual = ["metrics/test/accuracy", "metrics/val/accuracy"]
        usual += ["accuracy", "top1", "acc", "test_accuracy", "val_accuracy"]
        name = next((column for column in usual if column in runs.known_columns), "")
        if not name:
            if runs.are_records:
                raise InputError(
                    f"{'The run has not' if len(runs.info) == 1 else f'None of the {len(runs.info)} runs has'} been "
                    "evaluated: "
                    + ", ".join(f"{info.name or info.run_id} is {info.status}" for info in runs.info[:5])
                    + ("." if len(runs.info) <= 5 else ", ..."),
                    "Finish them first: the same har_sweep command goes on with them.",
                )
            raise InputError(
                f"It is not told which column is the accuracy: {', '.join(map(str, columns[:20]))}.",
                "Add --accuracy COLUMN.",
            )
        if name == "metrics/val/accuracy":
            notes.append(
                "No run has a test accuracy: accuracies are those on val, which epochs and settings may be chosen by."
            )
    column = columns_of(name, runs.known_columns)[0]
    numbers_in(runs, column)
    if column in METRICS:
        if goal and _goal(goal, "--accuracy") != METRICS[column].goal:
            raise InputError(
                f"--accuracy {question.accuracy}: it is known which {METRICS[column].label} is better.",
                f"Write --accuracy {name}.",
            )
        return _in_unit(runs, METRICS[column], unit, "--accuracy")
    if not goal:
        goal = "min" if re.search(r"err|loss|nll", column, re.I) else "max"
        if goal == "min":
            notes.append(f"{column}: less is taken for better, by its name; --accuracy {column}:max says otherwise.")
    better = _goal(goal, "--accuracy")
    unit = unit or "%" * bool(re.search(r"[(\[]%[)\]]$", column))  # as this report's own heads have it
    quantity = _in_unit(runs, Quantity(column, better, column), unit, "--accuracy")
    kind = quantity.kind if quantity.kind != "plain" else kind_by_size(runs, column, better, notes)
    split, metric = metric_of(column)
    return replace(quantity, kind=kind, split=split, metric=metric)


def choose_costs(runs: Runs, question: Question, notes: list[str]) -> list[Quantity]:
    """The costs that fronts are drawn for; by default one for each thing that people pay with."""
    columns = runs.frame.columns
    if not question.costs:
        if runs.are_records:
            usual = [*DEFAULT_COSTS, "cost/price"]
            return [_as_told(runs, COSTS[column]) for column in usual if column in runs.known_columns]
        raise InputError(
            f"It is not told which columns are costs: {', '.join(map(str, columns[:20]))}.",
            "Add --cost COLUMN:min (or :max where more is better), once for each.",
        )
    chosen = []
    for given in question.costs:
        name, goal, unit = _parts(given, columns)
        for column in columns_of(name, runs.known_columns):
            numbers_in(runs, column)
            cost = _in_unit(runs, _cost(column, notes, quiet=bool(goal)), unit, "--cost")
            chosen.append(replace(cost, goal=_goal(goal, "--cost")) if goal else cost)
    for one, other in itertools.combinations(chosen, 2):
        if one.column == other.column and one != other:
            raise InputError(f"The cost {one.column} is asked for twice, not alike.", "Ask for it once.")
    return _distinct(chosen)


def _parts(given: str, columns: Iterable[str]) -> tuple[str, str, str]:
    """Name, goal and unit of ``NAME[:GOAL[:UNIT]]``; what is not given is empty. A column's name may have colons."""
    if given in columns:
        return given, "", ""
    name, goal, unit = [*given.split(":", 2), "", ""][:3]
    return name, goal, unit


def _in_unit(runs: Runs, quantity: Quantity, unit: str, option: str) -> Quantity:
    """A quantity of a column in some unit: the one that is given, or that its cells tell.

    Raises
    ------
    InputError
        if it is none, or the column is in another.
    """
    column = quantity.column
    told = runs.units.get(column, "")
    if unit and unit not in UNITS:
        raise InputError(
            f"{option} {column}: '{unit}' is no unit.", f"Use one of {', '.join(filter(None, UNITS))}, or none."
        )
    if unit and told and unit != told:
        raise InputError(f"{option} {column}: its cells are in {told}, not {unit}.", f"Leave :{unit} out.")
    if unit and not told and quantity.kind != "plain":
        raise InputError(
            f"{option} {column}: a record has it in SI units, and so must a table under this name.",
            f"Leave :{unit} out; it is shown in the unit that is best to read.",
        )
    if not unit:
        return _as_told(runs, quantity)
    kind = _kind(unit)
    names = "|".join([re.escape(unit), *([kind] if kind in ("seconds", "bytes", "joules") else [])])
    apart = r"(?<![^\W\d_])" if unit.isalpha() else ""  # latency_seconds is no latency_second in s
    without = re.fullmatch(rf"(.+?)[\s_./-]*[(\[]?{apart}(?:{names})[)\]]?", column, re.I)
    label = without[1] if without and quantity.label == column and len(column) > len(unit) + 1 else quantity.label
    return replace(quantity, kind=kind, size=UNITS[unit], label=label)


def _as_told(runs: Runs, quantity: Quantity) -> Quantity:
    """A quantity in the unit that its cells tell, if they do."""
    unit = runs.units.get(quantity.column)
    return replace(quantity, kind=_kind(unit), size=UNITS[unit]) if unit else quantity


def _kind(unit: str) -> Kind:
    return next(kind for kind, units in UNITS_OF.items() if unit in units)


def _cost(column: str, notes: list[str], quiet: bool = False) -> Quantity:
    if column in COSTS:
        return COSTS[column]
    more_is_better = re.search(r"per_sec|per_second|throughput|fps", column, re.I)
    if more_is_better and not quiet:
        notes.append(f"{column}: more is taken for better, by its name; --cost {column}:min says otherwise.")
    return Quantity(column, "max" if more_is_better else "min", column)


def _goal(word: str, option: str) -> Goal:
    if word not in get_args(Goal):
        hint = "Say :min where less is better, :max where more is."
        raise InputError(f"{option} ...:{word} is neither :min nor :max.", hint)
    return cast(Goal, word)


def _distinct(found: Sequence[Quantity]) -> list[Quantity]:
    return list({quantity.column: quantity for quantity in reversed(found)}.values())[::-1]
