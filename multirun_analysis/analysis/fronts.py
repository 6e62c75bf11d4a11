"""Pareto fronts of candidates, and how certain each place on them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from multirun_analysis.analysis.crossed import Components, draw
from multirun_analysis.analysis.pareto import Floats, contributions, lower_is_better, nondominated, shortfall
from multirun_analysis.analysis.statistics import SAMPLES, on_front
from multirun_analysis.findings import JOINT, Candidate, Front
from multirun_analysis.quantities import Quantity


def find_fronts(means: pd.DataFrame, accuracy: Quantity, costs: Sequence[Quantity], joint: bool) -> dict[str, Front]:
    """A front for each cost by its column, and one of all together if that is asked for."""
    fronts = {cost.column: find_front(means, accuracy, [cost]) for cost in costs}
    key = JOINT
    while key in fronts:  # somebody's table may have a column of that name
        key += " costs"
    return {**fronts, key: find_front(means, accuracy, costs)} if joint else fronts


def find_front(means: pd.DataFrame, accuracy: Quantity, costs: Sequence[Quantity]) -> Front:
    """The front of accuracy against one cost or several, on the candidates' means."""
    points = _lower(means, accuracy, costs)
    known = np.asarray(~np.isnan(points).any(axis=1))
    below = ratio = np.full(len(points), np.nan)
    scaled = points.copy()
    for place, cost in enumerate(costs, 1):
        value = means[cost.column].to_numpy()
        if np.nanmin(value, initial=np.inf) > 0:  # costs are compared by ratio, so areas are on their logarithms
            scaled[:, place] = -cost.sign * np.log(value)
    if len(costs) == 1:
        below, cheapest = shortfall(points[:, 0], points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = cheapest / points[:, 1] if costs[0].goal == "max" else points[:, 1] / cheapest
        ratio = np.where(points[:, 1] == cheapest, 1.0, ratio)
    scaled[~known] = np.nan
    return Front(
        costs=tuple(costs),
        on=nondominated(points),
        known=known,
        contribution=contributions(scaled),
        points_below=below,
        cost_ratio=ratio,
        probability=np.full(len(points), np.nan),
    )


def _lower(means: pd.DataFrame, accuracy: Quantity, costs: Sequence[Quantity]) -> Floats:
    axes = [accuracy, *costs]
    return lower_is_better(means[[axis.column for axis in axes]].to_numpy(float), [axis.goal for axis in axes])


def resample(
    found: Components,
    compared: Sequence[int],
    spent: Sequence[Floats],
    fronts: dict[str, Front],
    means: pd.DataFrame,
    accuracy: Quantity,
    costs: Sequence[Quantity],
) -> dict[str, Front]:
    """The fronts with the compared candidates' probabilities to be on them, as other images and other trainings might
    give their accuracies, and their runs drawn anew their costs (``spent``: of each [runs, costs]; Efron and Tibshirani
    1993). As they were where there is nothing to go by."""
    if not found.varies:
        return fronts
    random = np.random.default_rng(0)
    accuracies = found.mean + draw(found, SAMPLES, random)
    drawn = [own[random.integers(len(own), size=(SAMPLES, len(own)))].mean(axis=1) for own in spent]
    sampled = np.stack(drawn, axis=1)
    return {
        key: replace(front, probability=_probability(front, compared, accuracies, sampled, means, accuracy, costs))
        for key, front in fronts.items()
    }


def spent_by(candidate: Candidate, numbers: pd.DataFrame, costs: Sequence[Quantity]) -> Floats:
    """What a candidate's runs cost, [runs, costs]; where one is not known, the mean of the others."""
    rows = numbers[[cost.column for cost in costs]].iloc[list(candidate.rows)]
    return np.asarray(rows.fillna(rows.mean()).to_numpy(float))


def signed_costs(means: pd.DataFrame, compared: Sequence[int], costs: Sequence[Quantity]) -> list[Floats]:
    """The compared candidates' means of each cost, lower is better."""
    return [-cost.sign * means[cost.column].to_numpy(float)[list(compared)] for cost in costs]


def _probability(
    front: Front,
    compared: Sequence[int],
    accuracies: Floats,
    costs: Floats,
    means: pd.DataFrame,
    accuracy: Quantity,
    all_costs: Sequence[Quantity],
) -> Floats:
    """How often each compared candidate is on the front; the others stay where they are, and only their own front can
    matter."""
    places = [all_costs.index(cost) for cost in front.costs]
    mine = [i for i, place in enumerate(compared) if front.known[place]]
    points = _lower(means, accuracy, front.costs)
    fixed = front.known.copy()
    fixed[list(compared)] = False
    others = points[fixed][nondominated(points[fixed])] if fixed.any() else np.empty((0, points.shape[1]))
    still = np.broadcast_to(others, (len(accuracies), *others.shape))
    of_accuracy = -accuracy.sign * accuracies[:, mine]
    of_costs = costs[:, mine][:, :, places] * [-cost.sign for cost in front.costs]
    shares = on_front(
        np.concatenate([of_accuracy, still[:, :, 0]], axis=1), np.concatenate([of_costs, still[:, :, 1:]], axis=1)
    )
    result = np.full(len(front.on), np.nan)
    result[[compared[i] for i in mine]] = shares[: len(mine)]
    return result
