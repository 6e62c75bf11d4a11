"""Fronts are what the definition says, for any table: against brute force."""

from __future__ import annotations

import math

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from multirun_analysis.analysis.pareto import Floats, contributions, lower_is_better, nondominated, shortfall

# Few different values, so that ties and duplicates are the rule, and some that are missing.
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, -1.0, 0.25, math.nan])
TABLES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=VALUES).filter(
    lambda table: 2 <= table.shape[1] <= 4
)


def dominates(a: Floats, b: Floats) -> bool:
    return bool((a <= b).all() and (a < b).any())


def brute_force(points: Floats) -> list[bool]:
    known = [not np.isnan(point).any() for point in points]
    return [
        known[i] and not any(known[j] and dominates(points[j], points[i]) for j in range(len(points)))
        for i in range(len(points))
    ]


@settings(max_examples=1000, deadline=None)
@given(TABLES)
def test_the_front_is_all_that_nothing_dominates_with_ties_and_without_missing_values(points: Floats) -> None:
    assert nondominated(points).tolist() == brute_force(points)


@settings(max_examples=1000, deadline=None)
@given(TABLES)
def test_a_contribution_is_the_share_of_the_hypervolume_that_would_be_lost(points: Floats) -> None:
    shares, on = contributions(points), np.asarray(nondominated(points))
    assert (shares[~on] == 0).all()
    if not on.any():
        return
    front = points[on]
    span = np.ptp(front, axis=0)
    scaled = (front - front.min(axis=0)) / np.where(span > 0, span, 1)
    reference = np.full(points.shape[1], 1.1)
    whole = float(moocore.hypervolume(scaled, ref=reference))
    for place, share in enumerate(shares[on].tolist()):
        rest = np.delete(scaled, place, axis=0)
        left = moocore.hypervolume(rest, ref=reference) if len(rest) else 0.0
        assert share == pytest.approx((whole - left) / whole, abs=1e-9)


@settings(max_examples=1000, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=VALUES))
def test_the_distance_to_the_front_is_what_the_best_rival_has(points: Floats) -> None:
    below, cheapest = shortfall(points[:, 0], points[:, 1])
    known = np.asarray(~np.isnan(points).any(axis=1))
    for place, (accuracy, cost) in enumerate(points):
        if not known[place]:
            assert math.isnan(below[place])
            assert math.isnan(cheapest[place])
            continue
        rivals = points[known]
        assert below[place] == accuracy - rivals[rivals[:, 1] <= cost, 0].min()
        assert cheapest[place] == rivals[rivals[:, 0] <= accuracy, 1].min()


def test_equal_points_share_the_front_and_add_nothing_alone() -> None:
    points = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 2.0], [1.0, 3.0]])
    assert nondominated(points).tolist() == [True, True, True, False]
    shares = contributions(points)
    assert shares[:2].tolist() == [0, 0]
    assert shares[2] > 0


def test_what_is_to_be_maximised_is_turned_round() -> None:
    points = lower_is_better(np.array([[0.9, 100.0], [0.8, 200.0], [0.7, 150.0]]), ["max", "max"])
    assert nondominated(points).tolist() == [True, True, False]
