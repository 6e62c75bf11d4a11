"""What the data carry: intervals, paired tests, and how sure a place on the front is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from multirun_analysis.analysis.pareto import nondominated

Floats = NDArray[np.float64]

LEVEL = 0.95
SAMPLES = 2000  # of the bootstrap: a probability of 0.5 is then known to +- 0.02


def wilson(share: Floats, count: Floats) -> Floats:
    """The 95 % interval [n, 2] of a share from ``count`` images (Wilson, 1927); nan without a count."""
    z = stats.norm.ppf(0.5 + LEVEL / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.stack([centre - half, centre + half], axis=1)


def student(mean: Floats, deviation: Floats, count: Floats) -> Floats:
    """The 95 % interval [n, 2] of a mean over ``count`` runs (Student's t); nan for fewer than two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        half = np.where(count > 1, stats.t.ppf(0.5 + LEVEL / 2, count - 1) * deviation / np.sqrt(count), np.nan)
    return np.stack([mean - half, mean + half], axis=1)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test: that of as uneven a share of the images that only one got right, if each
    of them were as likely for either (McNemar, 1947, with the binomial distribution)."""
    return float(stats.binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def most_agree(p_values: Sequence[float]) -> float:
    """One p from several tests of the same claim that may depend on each other: k / K times the k-th of K, smallest
    first, holds for any k chosen beforehand (Rüger, 1978). Here k is a majority, so that most must agree."""
    k = len(p_values) // 2 + 1
    return float(min(1.0, len(p_values) / k * sorted(p_values)[k - 1]))


def holm(p_values: Sequence[float]) -> Floats:
    """``p_values`` corrected for their number, in their order (Holm, 1979)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def welch(first: Floats, second: Floats) -> float | None:
    """The two-sided p of Welch's t-test between two candidates' runs; None if it has nothing to go by."""
    if min(len(first), len(second)) < 2 or not (np.ptp(first) or np.ptp(second)):
        return None
    samples = [part for each in (first, second) for part in (each.mean(), each.std(ddof=1), len(each))]
    return float(stats.ttest_ind_from_stats(*samples, equal_var=False).pvalue)  # ttest_ind warns where runs are equal


def agreement(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Error consistency: Cohen's kappa of whether each of two got each image right; nan where chance alone makes them
    agree always (Geirhos, Meding and Wichmann, "Beyond accuracy", 2020)."""
    a, b = first.mean(), second.mean()
    by_chance = a * b + (1 - a) * (1 - b)
    return float(((first == second).mean() - by_chance) / (1 - by_chance)) if by_chance < 1 else math.nan


@dataclass(frozen=True)
class Resampled:
    """One candidate as the bootstrap sees it.

    ``accuracies`` [runs]; ``right`` [runs, images], if predictions are there, on the images of ``split``; ``images``
    how many there were (nan if unknown); ``costs`` [runs, costs].
    """

    accuracies: Floats
    right: NDArray[np.bool_] | None
    split: str
    images: float
    costs: Floats

    @property
    def varies(self) -> bool:
        """Whether there is anything to resample."""
        return len(self.accuracies) > 1 or self.right is not None or self.images > 0


def bootstrap(candidates: Sequence[Resampled], samples: int = SAMPLES) -> tuple[Floats, Floats]:
    """Accuracies [samples, candidates] and costs [samples, candidates, costs] as other images and other seeds might
    have given them (Efron and Tibshirani, 1993).

    Images are drawn once a sample for all candidates that predicted the same ones, so that what is easy or hard for
    both stays so; each candidate's runs are drawn with replacement, their costs with them. Where predictions are
    missing but the number of images is known, each candidate's own images are drawn (binomially).
    """
    random = np.random.default_rng(0)
    accuracies = np.empty((samples, len(candidates)))
    costs = np.empty((samples, len(candidates), candidates[0].costs.shape[1] if candidates else 0))
    shared: dict[str, Floats] = {}
    for split in sorted({c.split for c in candidates if c.right is not None}):
        members = [c.right for c in candidates if c.split == split and c.right is not None]
        right = np.concatenate(members).T.astype(np.float32)  # [images, runs]
        count = len(right)
        drawn = np.empty((samples, right.shape[1]))
        for start in range(0, samples, 250):  # so that the weights stay small
            weights = random.multinomial(count, np.full(count, 1 / count), size=min(250, samples - start))
            drawn[start : start + 250] = weights.astype(np.float32) @ right / count
        shared[split] = drawn
    taken = dict.fromkeys(shared, 0)
    for place, candidate in enumerate(candidates):
        runs = len(candidate.accuracies)
        chosen = random.integers(runs, size=(samples, runs))
        costs[:, place] = candidate.costs[chosen].mean(axis=1)
        if candidate.right is not None:
            start = taken[candidate.split]
            taken[candidate.split] = start + runs
            of_runs = shared[candidate.split][:, start : start + runs]
            accuracies[:, place] = np.take_along_axis(of_runs, chosen, axis=1).mean(axis=1)
            continue
        accuracies[:, place] = candidate.accuracies[chosen].mean(axis=1)
        if candidate.images > 0:
            share = np.clip(accuracies[:, place], 0, 1)
            accuracies[:, place] = random.binomial(int(candidate.images), share) / candidate.images
    return accuracies, costs


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
