"""CNN or transformer? Families of candidates, compared by what is on the front of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from multirun_analysis.analysis.candidates import as_text
from multirun_analysis.analysis.claims import claims_along
from multirun_analysis.analysis.crossed import LEVEL, Components, Floats, judge
from multirun_analysis.analysis.statistics import holm
from multirun_analysis.findings import Candidate, Family, FamilyComparison
from multirun_analysis.quantities import Quantity
from multirun_analysis.sources.runs import Runs

MOST_FAMILIES = 4  # those with the most accurate members: six pairs


def in_families(runs: Runs, candidates: Sequence[Candidate], column: str) -> list[Candidate]:
    """The candidates with what their runs have in a column as their family; none where nothing stands there."""
    names = as_text(runs.frame, [column])[column].replace("-", "").tolist()
    return [replace(c, family=names[(c.rows or c.unfinished)[0]]) for c in candidates]


def compare_families(
    candidates: Sequence[Candidate], compared: Sequence[int], found: Components, spent: Floats, sign: float
) -> list[FamilyComparison]:
    """The families that have answered the same images, by the mean accuracy of the members on each one's own front; of
    variants nobody counts, as their trainings are their parents'.

    ``found`` and ``spent`` (lower is better) have the ``compared`` candidates, most accurate first; ``sign`` is 1
    where a larger accuracy is better. Images crossed with runs, as for two candidates: the members' mean is a weighted
    sum.
    """
    usable = found.known & (found.split == found.split[0]) & ~np.isnan(spent) if len(compared) else np.zeros(0, bool)
    usable &= np.array([not candidates[place].variant for place in compared], bool)
    names = dict.fromkeys(candidates[compared[i]].family for i in np.flatnonzero(usable).tolist())
    members: dict[str, list[int]] = {}
    for name in [name for name in names if name][:MOST_FAMILIES]:
        mine = np.array([usable[i] and candidates[place].family == name for i, place in enumerate(compared)])
        steps = [c for c in claims_along(np.where(mine, -sign * found.mean, np.nan), spent) if c.is_step]
        cheapest = int(np.flatnonzero(mine)[np.lexsort((-sign * found.mean[mine], spent[mine]))[0]])
        members[name] = [cheapest, *(step.first for step in steps)]
    pairs = []
    for one, other in itertools.combinations(members, 2):
        weights = np.zeros(len(compared))
        weights[members[one]], weights[members[other]] = 1 / len(members[one]), -1 / len(members[other])
        if sign * (weights @ found.mean) < 0:
            one, other, weights = other, one, -weights
        gap, variance, freedom = found.contrast(weights)
        if variance <= 0:
            continue
        p, low, high = judge(gap, variance, freedom, LEVEL)
        costs = [np.abs(spent[members[name]]) for name in (one, other)]
        positive = all((own > 0).all() for own in costs)
        ratio = float(np.exp(np.log(costs[0]).mean() - np.log(costs[1]).mean())) if positive else np.nan
        several = bool((found.runs[np.flatnonzero(weights)] > 1).all())
        of = tuple(tuple(compared[i] for i in members[name]) for name in (one, other))
        pairs.append(FamilyComparison(one, other, (of[0], of[1]), ratio, gap, low, high, p, p, several))
    corrected = holm([pair.p for pair in pairs])
    return [replace(pair, p_corrected=float(p)) for pair, p in zip(pairs, corrected, strict=True)]


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
