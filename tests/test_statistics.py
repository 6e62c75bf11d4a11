"""Intervals, tests and probabilities agree with the libraries, the papers and the definition."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from multirun_analysis.analysis.pareto import nondominated
from multirun_analysis.analysis.statistics import (
    Resampled,
    agreement,
    bootstrap,
    holm,
    mcnemar,
    most_agree,
    on_front,
    student,
    welch,
    wilson,
)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (1465, 1890)])
def test_the_interval_of_an_accuracy_is_wilson_s(right: int, count: int) -> None:
    low, high = wilson(np.array([right / count]), np.array([float(count)]))[0]
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_over_seeds_is_student_s_and_one_run_has_none() -> None:
    runs = np.array([0.70, 0.72, 0.77])
    mean, deviation = np.array([runs.mean(), 0.7]), np.array([runs.std(ddof=1), np.nan])
    several, one = student(mean, deviation, np.array([3.0, 1.0]))
    expected = stats.t.interval(0.95, 2, runs.mean(), stats.sem(runs))
    assert several.tolist() == pytest.approx(expected)
    assert np.isnan(one).all()


def test_mcnemar_is_exact() -> None:
    # 2 * sum of C(12, k) for k = 0..2, over 2^12
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0


def test_several_tests_of_one_claim_count_when_most_agree() -> None:
    assert most_agree([0.01]) == 0.01
    assert most_agree([0.001, 0.5]) == 0.5
    assert most_agree([0.001, 0.01, 0.9]) == pytest.approx(0.015)
    assert most_agree([0.9, 0.8, 0.7]) == 1.0


def test_no_more_false_alarms_than_promised_when_several_runs_are_paired() -> None:
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        skill = random.random(100)
        first, second = (random.random((3, 100)) < skill for _ in range(2))
        ps = [mcnemar(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in zip(first, second, strict=True)]
        alarms += most_agree(ps) < 0.05
    assert alarms <= 0.05 * 400


def test_holm_s_correction_is_that_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_seeds_are_compared_only_where_there_are_two_on_both_sides() -> None:
    first, second = np.array([0.70, 0.71, 0.72]), np.array([0.60, 0.62, 0.61])
    assert welch(first, second) == pytest.approx(float(stats.ttest_ind(first, second, equal_var=False).pvalue))
    with warnings.catch_warnings(action="error"):  # runs of one model may all have come out the same
        assert welch(np.array([0.7, 0.7]), second) == pytest.approx(stats.ttest_1samp(second, 0.7).pvalue)
    assert welch(first, second[:1]) is None
    assert welch(np.array([0.7, 0.7]), np.array([0.6, 0.6])) is None


def test_agreement_on_errors_is_cohen_s_kappa() -> None:
    random = np.random.default_rng(1)
    first, second = random.random(500) < 0.7, random.random(500) < 0.6
    assert agreement(first, second) == pytest.approx(cohen_kappa_score(first, second))
    assert agreement(first, first) == pytest.approx(1)
    assert np.isnan(agreement(np.ones(5, bool), np.ones(5, bool)))


@pytest.mark.parametrize("costs", [1, 2])
def test_places_on_the_front_are_counted_sample_by_sample(costs: int) -> None:
    random = np.random.default_rng(2)
    accuracies = random.integers(0, 5, (300, 8)).astype(float)
    spent = random.integers(0, 5, (300, 8, costs)).astype(float)
    expected = np.mean(
        [nondominated(np.concatenate([a[:, None], c], axis=1)) for a, c in zip(accuracies, spent, strict=True)], axis=0
    )
    assert on_front(accuracies, spent).tolist() == pytest.approx(expected.tolist())


def test_images_are_drawn_for_all_candidates_at_once() -> None:
    right = np.random.default_rng(3).random((1, 400)) < 0.7
    flipped = right.copy()
    flipped[0, :4] ^= True  # two candidates that differ on four images alone
    none = np.zeros((1, 0))
    same_split = [Resampled(r.mean(axis=1), r, "s", 400, none) for r in (right, flipped)]
    other_split = [same_split[0], Resampled(flipped.mean(axis=1), flipped, "t", 400, none)]
    paired, _ = bootstrap(same_split)
    unpaired, _ = bootstrap(other_split)
    assert np.std(paired[:, 0] - paired[:, 1]) < 0.01
    assert np.std(unpaired[:, 0] - unpaired[:, 1]) == pytest.approx(np.sqrt(2 * 0.7 * 0.3 / 400), rel=0.1)


def test_costs_are_drawn_with_the_runs_that_they_belong_to() -> None:
    accuracies = np.array([0.5, 0.6, 0.7])
    drawn, costs = bootstrap([Resampled(accuracies, None, "", np.nan, 10 * accuracies[:, None])])
    assert costs[:, 0, 0].tolist() == pytest.approx((10 * drawn[:, 0]).tolist())
    assert drawn.std() == pytest.approx(accuracies.std() / np.sqrt(3), rel=0.05)


def test_without_predictions_the_number_of_images_gives_the_spread() -> None:
    drawn, _ = bootstrap([Resampled(np.array([0.8]), None, "", 100.0, np.zeros((1, 0)))])
    assert drawn.std() == pytest.approx(np.sqrt(0.8 * 0.2 / 100), rel=0.05)
