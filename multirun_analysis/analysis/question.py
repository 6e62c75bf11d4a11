"""What is asked of which runs: accuracy, costs, budgets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import pandas as pd

from har_sweep.errors import InputError
from multirun_analysis.analysis.budget import Budget
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


def understand(runs: Runs, question: Question, notes: list[str]) -> Asked:
    """What a question means for these runs; what had to be guessed is noted.

    Raises
    ------
    InputError
        as ``analyse``.
    """
    frame = runs.frame
    accuracy, costs = choose_accuracy(runs, question, notes), choose_costs(runs, question, notes)
    label = [column for name in question.label for column in columns_of(name, frame.columns)]
    if not label and not runs.are_records:
        label = [column for column in ("model", "label", "name", "architecture") if column in frame.columns][:1]
        if not label:
            listed = ", ".join(map(str, frame.columns[:20]))
            raise InputError(f"It is not told which column names the models: {listed}.", "Add --label COLUMN.")
    selecting = accuracy.on("val")
    budgets = [Budget.parse(text, runs.known_columns) for text in question.budgets]
    metrics = _distinct([accuracy, *(METRICS[column] for column in METRICS if column in runs.known_columns)])
    of_metrics = {metric.column for metric in metrics}
    budgeted = [_cost(c, notes) for budget in budgets for c in budget.columns if c not in of_metrics]
    known_costs = _distinct([*costs, *budgeted, *(COSTS[column] for column in COSTS if column in runs.known_columns)])
    return Asked(
        accuracy=accuracy,
        selecting=selecting if selecting.column in frame.columns else accuracy,
        costs=costs,
        metrics=metrics,
        known_costs=[cost for cost in known_costs if cost.column not in of_metrics],
        joint=len(question.costs) > 1,
        label=label,
        by=[column for name in question.by for column in columns_of(name, frame.columns)],
        budgets=budgets,
        images=question.images,
    )


def choose_accuracy(runs: Runs, question: Question, notes: list[str]) -> Quantity:
    """The accuracy that is asked for; by default that on the test images."""
    columns = runs.frame.columns
    name, _, goal = (question.accuracy or "").partition(":")
    if not name:
        usual = ["metrics/test/accuracy", "metrics/val/accuracy"]
        usual += ["accuracy", "top1", "acc", "test_accuracy", "val_accuracy"]
        name = next((column for column in usual if column in runs.known_columns), "")
        if not name:
            if runs.are_records:
                raise InputError(
                    f"None of the {len(runs.info)} runs has been evaluated: "
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
    if column in METRICS:
        return METRICS[column]
    if not goal:
        goal = "min" if re.search(r"err|loss|nll", column, re.I) else "max"
        if goal == "min":
            notes.append(f"{column}: less is taken for better, by its name; --accuracy {column}:max says otherwise.")
    values = numbers_in(runs.frame, column)
    like_shares = re.search(r"acc|top|err|f1|recall|precision|score", column, re.I) and values.min() >= 0
    kind: Kind = (
        "share" if like_shares and values.max() <= 1 else "percent" if like_shares and values.max() <= 100 else "plain"
    )
    return Quantity(column, _goal(goal, "--accuracy"), column, kind, *metric_of(column))


def choose_costs(runs: Runs, question: Question, notes: list[str]) -> list[Quantity]:
    """The costs that fronts are drawn for; by default one for each thing that people pay with."""
    columns = runs.frame.columns
    if not question.costs:
        if runs.are_records:
            usual = [*DEFAULT_COSTS, "cost/price"]
            return [COSTS[column] for column in usual if column in runs.known_columns]
        raise InputError(
            f"It is not told which columns are costs: {', '.join(map(str, columns[:20]))}.",
            "Add --cost COLUMN:min (or :max where more is better), once for each.",
        )
    chosen = []
    for given in question.costs:
        name, _, goal = given.partition(":")
        for column in columns_of(name, runs.known_columns):
            numbers_in(runs.frame, column)
            cost = _cost(column, notes, quiet=bool(goal))
            chosen.append(replace(cost, goal=_goal(goal, "--cost")) if goal else cost)
    return _distinct(chosen)


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


def numbers_in(frame: pd.DataFrame, column: str) -> pd.Series:
    values = pd.to_numeric(frame[column], errors="coerce")
    if values.isna().all():
        raise InputError(
            f"The column {column} has no number in any row.", "Name another; units in the cells are not read."
        )
    return values


def _distinct(found: Sequence[Quantity]) -> list[Quantity]:
    return list({quantity.column: quantity for quantity in reversed(found)}.values())[::-1]
