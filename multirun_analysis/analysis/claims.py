"""What a report claims, and how often equally good models would make one claim as much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multirun_analysis.analysis.crossed import Components, Floats, of_images
from multirun_analysis.analysis.distributions import student_tail

ALPHA = 0.05
SAMPLES = 4000  # a corrected p of 0.05 is then known to +- 0.007


class Claim(NamedTuple):
    """``first`` is better than ``second``; either a step up the front, for more of its cost, or for no more of it."""

    first: int
    second: int
    is_step: bool


def claims_along(accuracies: Floats, costs: Floats, about: NDArray[np.bool_] | None = None) -> list[Claim]:
    """What is claimed of the front of ``accuracies`` and ``costs`` [candidates], lower is better in both, nan unknown:
    each step along it, and of each other candidate, or of those in ``about`` [candidates], that the most accurate of
    those that cost no more is better."""
    known = np.flatnonzero(~(np.isnan(accuracies) | np.isnan(costs)))
    order, before = _by_cost(accuracies[None, known], costs[known])
    mine, best = known[order[0, 1:]], known[before[0]]
    step = accuracies[mine] < accuracies[best]
    claimed = step | (accuracies[mine] > accuracies[best]) & (about is None or about[mine])
    pairs = np.where(step, (mine, best), (best, mine)).T[claimed].tolist()
    return [
        Claim(first, second, is_step) for (first, second), is_step in zip(pairs, step[claimed].tolist(), strict=True)
    ]


def front_of(accuracies: Floats, costs: Floats) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Candidates in the order of their ``costs`` [candidates], of equal ones the better first, for each sample of
    ``accuracies`` [samples, candidates]; and which of them, in that order, are better than all before."""
    order = np.lexsort((accuracies, np.broadcast_to(costs, accuracies.shape)), axis=1)
    ordered = np.take_along_axis(accuracies, order, axis=1)
    better = np.ones(order.shape, bool)
    better[:, 1:] = ordered[:, 1:] < np.minimum.accumulate(ordered, axis=1)[:, :-1]
    return order, better


def _by_cost(accuracies: Floats, costs: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of ``front_of``, and for all but the first of them the best of those before."""
    order, better = front_of(accuracies, costs)
    best = np.maximum.accumulate(np.where(better, np.arange(order.shape[1]), 0), axis=1)
    return order, np.take_along_axis(order, best, axis=1)[:, :-1]


def draw_equals(found: Components, whose: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
    """Deviations of the accuracies, and the variances of their runs, [samples, candidates], as other images and other
    trainings would give them if all candidates were equally good; those with the same number in ``whose``
    [candidates] have the same trainings."""
    random = np.random.default_rng(0)
    count = len(found.mean)
    shape = (SAMPLES, count)
    free = np.maximum(found.runs - 1, 1)
    again = random.standard_normal(shape)[:, np.arange(count) if whose is None else whose]
    deviations = of_images(found, SAMPLES, random) * found.known + np.sqrt(found.of_training) * again
    of_runs = (found.of_training + np.minimum(found.noise, found.of_runs)) * random.chisquare(free, shape) / free
    return deviations, of_runs


def chance(gap: Floats | float, variance: Floats | float, freedom: Floats | float) -> Floats:
    """The two-sided p of differences, of any shape; 1 where there is no variance to go by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * student_tail(np.abs(gap) / np.sqrt(variance), freedom)
    return np.where(np.asarray(variance) > 0, p, 1.0)


def by_smallest(p_values: Floats, smallest: Floats) -> tuple[Floats, float]:
    """p values corrected by the ``smallest`` [samples] that reports of equals have: the share of those that have one
    as small; and the uncorrected p below which a corrected one is below 5 %."""
    smallest = np.sort(smallest)
    ranks = np.searchsorted(smallest, p_values, side="right")
    return np.maximum(p_values, (1 + ranks) / (1 + SAMPLES)), min(ALPHA, float(smallest[int(ALPHA * SAMPLES) - 1]))


def correct(
    found: Components, costs: Sequence[Floats], p_values: Floats, trainings: NDArray[np.int64] | None = None
) -> tuple[Floats, float]:
    """``p_values`` of a report's claims along the fronts of ``costs`` (each [candidates], lower is better), corrected
    for how many it makes and for how it picks them; and the uncorrected p below which a corrected one is below 5 %.
    ``trainings`` [candidates] tells whose trainings a candidate comes from (default: its own): between those of the
    same nothing is claimed.

    The smallest p of the claims that the same report would make if all candidates were equally good: other images and
    other trainings are drawn with the variances that were found, what is then ahead is claimed and tested as here
    (Westfall and Young, "Resampling-based multiple testing", 1993; a parametric bootstrap). The share of such reports
    that have one as small as p is the corrected p.
    """
    if len(p_values) < 2:
        return p_values, ALPHA
    whose = np.arange(len(found.mean)) if trainings is None else trainings
    deviations, of_runs = draw_equals(found, whose)
    smallest = np.ones(SAMPLES)
    for cost in costs:
        known = np.flatnonzero(~np.isnan(cost))
        if len(known) < 2:
            continue
        order, before = (known[places] for places in _by_cost(deviations[:, known], cost[known]))
        first = order[:, 1:]
        gap = np.take_along_axis(deviations, first, axis=1) - np.take_along_axis(deviations, before, axis=1)
        runs = np.stack([np.take_along_axis(of_runs, places, axis=1) for places in (first, before)])
        variance, freedom = found.difference(first, before, runs)
        p = np.where(
            found.testable(first, before) & (whose[first] != whose[before]), chance(gap, variance, freedom), 1.0
        )
        smallest = np.minimum(smallest, p.min(axis=1))
    return by_smallest(p_values, smallest)
