"""Pareto fronts: who is on them, what each member adds, and how far off the others are."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def lower_is_better(values: Floats, goals: list[str]) -> Floats:
    """The same numbers with what is to be maximised negated; ``values`` [n, d]."""
    return values * np.array([-1.0 if goal == "max" else 1.0 for goal in goals])


def nondominated(points: Floats) -> NDArray[np.bool_]:
    """Which of ``points`` [n, d], lower is better in each, no other point beats: none is as good in all and better in
    one. Equal points are all on the front or none is. Points with a missing value (nan) are not."""
    known = ~np.isnan(points).any(axis=1)
    on = np.zeros(len(points), dtype=bool)
    if known.any():
        on[known] = moocore.is_nondominated(points[known], keep_weakly=True)
    return on


def contributions(points: Floats) -> Floats:
    """Each point's share of the hypervolume that all of ``points`` [n, d] (lower is better) dominate.

    What would be lost without the point alone, so equal points have 0 each; points with a missing value too. Each
    coordinate is scaled to 0..1 between the front's ideal and nadir, and the reference point is 1.1 in each, which
    keeps the extreme members from counting nothing (Ishibuchi et al., "How to specify a reference point in hypervolume
    calculation", 2018). Where all are equal in a coordinate it is 0.
    """
    shares, on = np.zeros(len(points)), nondominated(points)
    if not on.any():
        return shares
    front = points[on]
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    scaled = (front - low) / np.where(span > 0, span, 1.0)
    reference = np.full(points.shape[1], 1.1)
    whole = moocore.hypervolume(scaled, ref=reference)
    shares[on] = moocore.hv_contributions(scaled, ref=reference) / whole
    return shares


def shortfall(accuracy: Floats, cost: Floats) -> tuple[Floats, Floats]:
    """How far points are off their front, both numbers [n] lower-is-better (so give accuracies negated).

    Returns the accuracy that is to be had more at no more cost, and the smallest cost for which no less accuracy is to
    be had: for points on the front 0 and their own cost. nan for points with a missing value.
    """
    below, cheapest = np.full(len(cost), np.nan), np.full(len(cost), np.nan)
    known = np.flatnonzero(~(np.isnan(accuracy) | np.isnan(cost)))
    for found, by, of in ((below, cost, accuracy), (cheapest, accuracy, cost)):
        order = known[np.argsort(by[known], kind="stable")]
        best = np.minimum.accumulate(of[order])
        # Of several with the same value each may use the best of all of them.
        last = np.searchsorted(by[order], by[order], side="right") - 1
        found[order] = best[last]
    return accuracy - below, cheapest
