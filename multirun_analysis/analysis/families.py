"""CNN or transformer? Families of candidates, compared by what is on the front of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multirun_analysis.analysis.candidates import as_text
from multirun_analysis.analysis.claims import by_smallest, chance, draw_equals, front_of
from multirun_analysis.analysis.crossed import Components, Floats, judge
from multirun_analysis.findings import Candidate, Family, FamilyComparison
from multirun_analysis.quantities import Quantity
from multirun_analysis.sources.runs import Runs

MOST_FAMILIES = 4  # those with the most accurate members: six pairs


def in_families(runs: Runs, candidates: Sequence[Candidate], column: str) -> list[Candidate]:
    """The candidates with what their runs have in a column as their family; none where nothing stands there."""
    names = as_text(runs.frame, [column])[column].replace("-", "").tolist()
    return [replace(c, family=names[(c.rows or c.unfinished)[0]]) for c in candidates]


def compare_families(
    candidates: Sequence[Candidate], compared: Sequence[int], found: Components, costs: Sequence[Floats], sign: float
) -> list[list[FamilyComparison]]:
    """For each of ``costs`` (lower is better) the families that have answered the same images, by the mean accuracy of
    the members on each one's own front; of variants nobody counts, as their trainings are their parents'.

    ``found`` and each of ``costs`` have the ``compared`` candidates, most accurate first; ``sign`` is 1 where a larger
    accuracy is better. Images crossed with runs, as for two candidates: the members' mean is a weighted sum. p is
    corrected as that of claims is: for all pairs and costs, and for who is on a front by chance.
    """
    names = np.array([candidates[place].family for place in compared], object)
    usable = found.known & (found.split == found.split[:1]) & (names != "")
    usable &= np.array([not candidates[place].variant for place in compared], bool)
    if len(set(names[usable].tolist())) < 2 or not found.varies:
        return [[] for _ in costs]
    deviations, of_runs = draw_equals(found)
    smallest = np.ones(len(deviations))
    pairs: list[tuple[int, FamilyComparison, float, float]] = []
    for number, spent in enumerate(costs):
        there = usable & ~np.isnan(spent)
        families = list(dict.fromkeys(names[there].tolist()))[:MOST_FAMILIES]
        mine = [np.flatnonzero(there & (names == family)) for family in families]
        weights = [_weights(-sign * found.mean[None], spent, places)[0] for places in mine]
        drawn = [_weights(deviations, spent, places) for places in mine]
        for first, second in itertools.combinations(range(len(families)), 2):
            ahead = sign * float((weights[first] - weights[second]) @ found.mean) >= 0
            one, other = (first, second) if ahead else (second, first)
            between = weights[one] - weights[other]
            variance, freedom = map(float, found.contrast(between))
            if variance <= 0:
                continue
            again = drawn[one] - drawn[other]
            smallest = np.minimum(smallest, chance((again * deviations).sum(1), *found.contrast(again, of_runs)))
            members = [
                sorted(np.flatnonzero(weights[family]).tolist(), key=spent.__getitem__) for family in (one, other)
            ]
            own = [np.abs(spent[places]) for places in members]
            comparison = FamilyComparison(
                families[one],
                families[other],
                members=(tuple(compared[i] for i in members[0]), tuple(compared[i] for i in members[1])),
                cost_ratio=_ratio_of_means(*own),
                difference=float(between @ found.mean),
                of_models=bool((found.runs[between != 0] > 1).all()),
            )
            pairs.append((number, comparison, variance, freedom))
    gaps, variances, freedoms = np.array([(pair.difference, *of) for _, pair, *of in pairs]).reshape(-1, 3).T
    corrected, critical = by_smallest(chance(gaps, variances, freedoms), smallest)
    made: list[list[FamilyComparison]] = [[] for _ in costs]
    for (number, pair, variance, freedom), p in zip(pairs, corrected.tolist(), strict=True):
        own_p, low, high = judge(pair.difference, variance, freedom, 1 - critical)
        made[number].append(replace(pair, low=low, high=high, p=own_p, p_corrected=p))
    return made


def _weights(accuracies: Floats, costs: Floats, places: NDArray[np.int64]) -> Floats:
    """Equal weights [samples, candidates] of those of ``places`` that are on their front in each sample of
    ``accuracies`` [samples, candidates]; lower is better in both."""
    order, on = front_of(accuracies[:, places], costs[places])
    weights = np.zeros(accuracies.shape)
    np.put_along_axis(weights, places[order], on / on.sum(axis=1, keepdims=True), axis=1)
    return weights


def _ratio_of_means(ours: Floats, theirs: Floats) -> float:
    """That of the geometric means; nan where one is not positive."""
    positive = (ours > 0).all() and (theirs > 0).all()
    return float(np.exp(np.log(ours).mean() - np.log(theirs).mean())) if positive else np.nan


def find_families(candidates: Sequence[Candidate], means: pd.DataFrame, accuracy: Quantity) -> list[Family]:
    """Architectures of which there are several sizes, with the points of accuracy that a doubling brought: the slope of
    the least-squares line over the logarithm of the size."""
    sizes = {column: means[column].to_numpy() for column in ("cost/parameters", "cost/macs") if column in means}
    values = means[accuracy.column].to_numpy()
    members: dict[str, list[int]] = {}
    for place, (candidate, missing) in enumerate(zip(candidates, np.isnan(values), strict=True)):
        if candidate.rows and not missing and not candidate.variant:
            members.setdefault(candidate.family, []).append(place)
    families = []
    for name, places in members.items():
        slopes = {}
        for column, of_all in sizes.items():
            size, value = of_all[places], values[places]
            usable = size > 0
            if len(set(size[usable])) > 1:
                slopes[column] = float(np.polyfit(np.log2(size[usable]), value[usable], 1)[0])
        if slopes:
            families.append(Family(name, tuple(places), slopes))
    return families
