"""Tests, intervals and probabilities that need no more than counts; ``crossed`` has the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, betaincinv

from multirun_analysis.analysis.crossed import LEVEL, Floats
from multirun_analysis.analysis.distributions import student_quantile
from multirun_analysis.analysis.pareto import nondominated

SAMPLES = 2000  # a probability of 0.5 is then known to +- 0.02


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test: that of as uneven a share of the images that only one got right, if each
    of them were as likely for either (McNemar, 1947, with the binomial distribution)."""
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def of_the_uneven(only_first: int, only_second: int, images: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval, of this ``level``, of the difference of two runs' accuracies on the same ``images``.

    The wider, to each side, of Student's and of Clopper and Pearson's (1934) for the share of the first among the
    images that only one got right: so it contains 0 wherever ``mcnemar``'s p is above 1 - ``level``.
    """
    uneven = only_first + only_second
    gap = (only_first - only_second) / images
    variance = (uneven / images - gap**2) / max(1, images - 1)
    half = float(student_quantile(0.5 + level / 2, max(1, images - 1)) * math.sqrt(variance))
    if not uneven:
        return gap, gap
    rest = (1 - level) / 2
    shares = (
        betaincinv(only_first, only_second + 1, rest) if only_first else 0.0,
        betaincinv(only_first + 1, only_second, 1 - rest) if only_second else 1.0,
    )
    low, high = (float(2 * share - 1) * uneven / images for share in shares)
    return max(-1.0, min(low, gap - half)), min(1.0, max(high, gap + half))


def holm(p_values: Sequence[float]) -> Floats:
    """``p_values`` corrected for their number, in their order (Holm, 1979)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def agreement(both: Floats, only_first: Floats, only_second: Floats, neither: Floats) -> Floats:
    """Error consistency: Cohen's kappa of whether each of two got each image right, from the numbers of images; nan
    where chance alone makes them agree always (Geirhos, Meding and Wichmann, "Beyond accuracy", 2020)."""
    images = both + only_first + only_second + neither
    first, second = (both + only_first) / images, (both + only_second) / images
    by_chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((both + neither) / images - by_chance) / (1 - by_chance))


def agreement_interval(counts: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of ``agreement`` for other images, by the bootstrap (Efron and Tibshirani, 1993)."""
    drawn = np.random.default_rng(0).multinomial(sum(counts), np.array(counts) / sum(counts), SAMPLES)
    kappa = agreement(*drawn.T.astype(float))
    if np.isnan(kappa).all():
        return math.nan, math.nan
    low, high = np.nanquantile(kappa, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def on_front(accuracies: Floats, costs: Floats) -> Floats:
    """How often each candidate is on the front: ``accuracies`` [samples, candidates] and ``costs`` [samples,
    candidates, costs], lower is better in each."""
    points = np.concatenate([accuracies[:, :, None], costs], axis=2)
    if points.shape[2] > 2:
        return np.asarray(np.mean([nondominated(sample) for sample in points], axis=0))
    # By cost, then accuracy: whoever is better than all before is on the front, and so are its equals.
    accuracy, cost = points[:, :, 0], points[:, :, 1]
    order = np.lexsort((accuracy, cost), axis=1)
    sorted_accuracy = np.take_along_axis(accuracy, order, axis=1)
    sorted_cost = np.take_along_axis(cost, order, axis=1)
    before = np.full_like(sorted_accuracy, np.inf)
    before[:, 1:] = np.minimum.accumulate(sorted_accuracy, axis=1)[:, :-1]
    new = sorted_accuracy < before
    same = np.zeros_like(new)
    same[:, 1:] = (sorted_accuracy[:, 1:] == sorted_accuracy[:, :-1]) & (sorted_cost[:, 1:] == sorted_cost[:, :-1])
    for place in range(1, new.shape[1]):
        new[:, place] |= same[:, place] & new[:, place - 1]
    result = np.empty(new.shape, dtype=bool)
    np.put_along_axis(result, order, new, axis=1)
    return np.asarray(result.mean(axis=0))
