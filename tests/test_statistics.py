"""Intervals, tests and probabilities agree with the libraries, the papers and the definition."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import cohen_kappa_score

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from significance import simulate

from multirun_analysis.analysis.claims import claims_along, correct
from multirun_analysis.analysis.crossed import Answered, Components, accuracy_interval, components, draw
from multirun_analysis.analysis.families import compare_families
from multirun_analysis.analysis.pareto import nondominated
from multirun_analysis.analysis.statistics import (
    agreement,
    agreement_interval,
    holm,
    mcnemar,
    of_the_uneven,
    on_front,
)
from multirun_analysis.findings import Candidate


def interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """That of one candidate with these answers [runs, images]."""
    low, high = of([right]).interval()[0].tolist()
    return low, high


def of(answers: Sequence[NDArray[np.bool_]], split: str = "s") -> Components:
    return components([Answered(right.mean(axis=1), right, split, float(right.shape[1])) for right in answers])


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (10, 10), (1465, 1890)])
def test_the_interval_of_one_run_is_wilson_s(right: int, count: int) -> None:
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    answers = np.arange(count)[None] < right
    assert interval(answers) == pytest.approx((expected.low, expected.high), rel=0.06)  # n - 1 for n in the variance


def test_the_interval_of_runs_that_agree_on_every_image_is_that_of_one() -> None:
    one = np.random.default_rng(0).random((1, 500)) < 0.8
    assert interval(np.repeat(one, 3, axis=0)) == pytest.approx(interval(one), abs=1e-3)


def test_the_interval_of_a_share_stays_within_it_and_of_what_is_none_is_student_s() -> None:
    runs = np.array([0.99, 0.70])
    low, high = of_accuracies(runs, whole=1.0)
    assert 0 <= low < 0.70
    assert 0.99 < high <= 1
    expected = stats.t.interval(0.95, 1, runs.mean(), stats.sem(runs))
    assert of_accuracies(runs, whole=None) == pytest.approx(expected)
    assert np.isnan(of_accuracies(runs[:1], whole=1.0)).all()


def of_accuracies(runs: NDArray[np.float64], whole: float | None) -> tuple[float, float]:
    one = np.ones(1)
    of_runs = one * (runs.var(ddof=1) / len(runs) if len(runs) > 1 else 0)
    low, high = accuracy_interval(one * runs.mean(), 0 * one, np.nan * one, of_runs, 0 * one, len(runs) * one, whole)[0]
    return float(low), float(high)


def test_the_variance_of_a_difference_is_that_of_a_two_way_table() -> None:
    """Against the sums of squares of the textbook, for runs nested in two models and crossed with images."""
    random = np.random.default_rng(4)
    a, b = simulate(random, [0.0, 0.03], 3, 300)
    found = of([a, b])
    variance, freedom = found.difference(np.array(0), np.array(1))
    gaps = a.mean(axis=0) - b.mean(axis=0)
    of_images = gaps.var(ddof=1) / 300
    of_runs = sum(x.mean(axis=1).var(ddof=1) / 3 for x in (a, b))
    noise = sum(
        ((x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()) ** 2).sum() / (299 * 2) / (300 * 3)
        for x in (a, b)
    )
    assert float(variance) == pytest.approx(max(of_images, of_images + of_runs - noise))
    assert 1 < float(freedom) < 300


def test_false_alarms_and_coverage_are_those_of_the_level_at_two_three_and_five_runs() -> None:
    random = np.random.default_rng(5)
    for runs in (2, 3, 5):
        for effect in (0.0, 0.02):
            missed, alarms, draws = 0, 0, 300
            for _ in range(draws):
                found = of(simulate(random, [0.02, 0.0], runs, 400, effect))
                variance, freedom = found.difference(np.array(0), np.array(1))
                half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
                missed += abs(found.mean[0] - found.mean[1] - 0.02) > half
                found = of(simulate(random, [0.0, 0.0], runs, 400, effect))
                variance, freedom = found.difference(np.array(0), np.array(1))
                alarms += 2 * stats.t.sf(abs(found.mean[0] - found.mean[1]) / np.sqrt(variance), freedom) < 0.05
            assert missed / draws < 0.095  # 5 % and three and a half standard errors of the simulation
            assert alarms / draws < 0.095


def test_more_seeds_find_more() -> None:
    """What made a rule bad that took the larger p of two tests: three trainings found less than one."""
    random = np.random.default_rng(6)
    shares = []
    for runs in (2, 3, 5):
        hits = 0
        for _ in range(150):
            found = of(simulate(random, [0.03, 0.0], runs, 1000))
            variance, freedom = found.difference(np.array(0), np.array(1))
            hits += 2 * stats.t.sf(abs(found.mean[0] - found.mean[1]) / np.sqrt(variance), freedom) < 0.05
        shares.append(hits / 150)
    assert shares[0] < shares[1] < shares[2]
    assert shares[1] > 0.6


def test_a_report_of_equal_models_rarely_claims_that_one_is_better() -> None:
    random = np.random.default_rng(7)
    costs, false = np.arange(8.0), 0
    for _ in range(120):
        found = of(simulate(random, [0.0] * 8, 3, 400, 0.02))
        claims = claims_along(-found.mean, costs)
        first, second = (np.array([claim[i] for claim in claims]) for i in (0, 1))
        variance, freedom = found.difference(first, second)
        p = 2 * stats.t.sf((found.mean[first] - found.mean[second]) / np.sqrt(variance), freedom)
        corrected, critical = correct(found, [costs], p)
        assert (corrected < 0.05).tolist() == (p < critical).tolist()
        false += bool((corrected < 0.05).any())
    assert false / 120 < 0.12  # Holm's correction for these seven claims has 0.13 and more


def test_of_families_of_equal_models_rarely_one_is_better_whatever_the_cost_they_are_compared_by() -> None:
    random = np.random.default_rng(3)
    candidates = [Candidate(name, (), (), family=name) for name in ["a"] * 8 + ["b"] * 2]
    false = alone = 0
    for _ in range(120):
        found = of(simulate(random, [0.0] * 10, 3, 400, 0.02))
        costs = [random.permutation(np.arange(10.0)) for _ in range(6)]
        made = [pair for pairs in compare_families(candidates, range(10), found, costs, 1.0) for pair in pairs]
        assert all((pair.p_corrected < 0.05) == (pair.low * pair.high > 0) for pair in made)
        false += any(pair.p_corrected < 0.05 for pair in made)
        alone += any(pair.p < 0.05 for pair in made)
    assert false / 120 < 0.1 < alone / 120


def test_what_was_made_of_the_same_trainings_makes_no_other_claim_harder() -> None:
    random = np.random.default_rng(11)
    better, worse = simulate(random, [0.05, 0.0], 3, 400)
    made = [better.copy() for _ in range(3)]
    for place, variant in enumerate(made):
        variant[:, place] ^= True  # of 400 images one is judged otherwise
    found, costs = of([worse, better, *made]), np.arange(5.0)
    variance, freedom = found.difference(np.array(1), np.array(0))
    p = np.repeat(2 * stats.t.sf((found.mean[1] - found.mean[0]) / np.sqrt(variance), freedom), 2)
    apart, below_apart = correct(found, [costs], p)
    kin, below_kin = correct(found, [costs], p, np.array([0, 1, 1, 1, 1]))
    assert p[0] <= kin[0] < 0.9 * apart[0]
    assert below_kin > below_apart


def test_what_is_claimed_of_a_front_are_its_steps_and_who_is_dominated_by_whom() -> None:
    accuracy = np.array([0.5, 0.7, 0.6, np.nan, 0.9, 0.8])
    cost = np.array([1.0, 2.0, 2.0, 1.0, 5.0, 9.0])
    assert claims_along(-accuracy, cost) == [(1, 0, True), (1, 2, False), (4, 1, True), (4, 5, False)]
    assert claims_along(-np.array([0.5, 0.5]), np.array([1.0, 2.0])) == []


def test_more_images_or_runs_show_what_was_not_certain() -> None:
    random = np.random.default_rng(8)
    found = of(simulate(random, [0.02, 0.0], 3, 400))
    images, _ = found.needed(0, 1, 0.95)
    gap = abs(found.mean[0] - found.mean[1])
    larger = replace(found, covariance=found.covariance * 400 / images, noise=found.noise * 400 / images)
    larger = replace(larger, of_runs=found.of_training + larger.noise)
    variance, freedom = larger.difference(np.array(0), np.array(1))
    wanted = stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)
    assert gap / np.sqrt(variance) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("gap", [0.04, 0.03, 0.025, 0.015])
def test_as_many_runs_as_are_said_show_a_difference_four_times_of_five(gap: float) -> None:
    """Runs alone, of a seed effect of one point: the fewer they are, the longer are the tails of Student's t."""
    apart = np.array([-1.0, 0.0, 1.0]) * 0.01
    known = components([Answered(0.8 + shift + apart, None, "", np.nan) for shift in (gap, 0.0)])
    runs = known.needed(0, 1, 0.95)[1]
    assert runs == int(runs) >= 2
    draws = np.random.default_rng(12).normal(0, 0.01, (2, 4000, int(runs)))
    p = stats.ttest_ind(draws[0] + gap, draws[1], axis=1, equal_var=False).pvalue
    assert (p < 0.05).mean() > 0.75
    if runs > 2:
        p = stats.ttest_ind(draws[0, :, :-1] + gap, draws[1, :, :-1], axis=1, equal_var=False).pvalue
        assert (p < 0.05).mean() < 0.82


def test_more_runs_are_needed_than_those_that_did_not_show_it() -> None:
    random = np.random.default_rng(13)
    for _ in range(100):
        found = of(simulate(random, [0.02, 0.0], 2, 400))
        variance, freedom = found.difference(np.array(0), np.array(1))
        p = 2 * stats.t.sf(abs(found.mean[0] - found.mean[1]) / np.sqrt(variance), freedom)
        assert found.needed(0, 1, 0.95)[1] > (2 if p > 0.05 else 1)


def test_no_number_shows_a_difference_of_nothing() -> None:
    answers = np.random.default_rng(14).random((3, 200)) < 0.8
    assert of([answers, answers[:, ::-1]]).needed(0, 1, 0.95) == (np.inf, np.inf)


def test_one_training_beats_another_as_often_as_it_is_said() -> None:
    random = np.random.default_rng(9)
    said, did = [], []
    for _ in range(300):
        shift = random.normal(0, 0.02)
        said.append(of(simulate(random, [shift, 0.0], 3, 2000, 0.02)).beats(0, 1, 1.0))
        did.append(shift + random.normal(0, 0.02) > random.normal(0, 0.02))
    sure = np.array(said) > 0.8
    assert np.mean(np.array(did)[sure]) > 0.75
    assert np.mean(said) == pytest.approx(np.mean(did), abs=0.08)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (7, 1), (6, 0), (3, 9), (25, 17), (60, 30), (5, 1)])
def test_the_interval_of_two_runs_contains_no_difference_where_mcnemar_finds_none(first: int, second: int) -> None:
    for level in (0.95, 0.995):
        low, high = of_the_uneven(first, second, 400, level)
        assert low <= (first - second) / 400 <= high
        assert (low <= 0 <= high) == (mcnemar(first, second) > 1 - level)


def test_mcnemar_is_exact() -> None:
    # 2 * sum of C(12, k) for k = 0..2, over 2^12
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0


def test_holm_s_correction_is_that_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_without_predictions_runs_are_compared_by_welch_s_test() -> None:
    runs = [np.array([0.70, 0.71, 0.72]), np.array([0.60, 0.62, 0.61, 0.66])]
    found = components([Answered(own, None, "", 1000.0) for own in runs])
    variance, freedom = found.difference(np.array(0), np.array(1))
    expected = stats.ttest_ind(*runs, equal_var=False)
    assert (runs[0].mean() - runs[1].mean()) / np.sqrt(variance) == pytest.approx(expected.statistic)
    assert float(freedom) == pytest.approx(expected.df)


def test_agreement_on_errors_is_cohen_s_kappa_with_its_interval() -> None:
    random = np.random.default_rng(1)
    first = random.random(500) < 0.7
    second = np.where(random.random(500) < 0.6, first, random.random(500) < 0.6)
    counts = [int(x.sum()) for x in (first & second, first & ~second, second & ~first, ~first & ~second)]
    kappa = float(agreement(*np.array(counts, float)))
    assert kappa == pytest.approx(cohen_kappa_score(first, second))
    resampled = [cohen_kappa_score(first[i], second[i]) for i in random.integers(500, size=(400, 500))]
    assert agreement_interval(counts) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.02)
    assert np.isnan(agreement(*np.array([5.0, 0, 0, 0])))
    assert np.isnan(agreement_interval([5, 0, 0, 0])).all()


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
    pair = [Answered(r.mean(axis=1), r, "s", 400) for r in (right, flipped)]
    random = np.random.default_rng(0)
    paired = draw(components(pair), 2000, random)
    unpaired = draw(components([pair[0], replace(pair[1], split="t")]), 2000, random)
    assert np.std(paired[:, 0] - paired[:, 1]) < 0.01
    assert np.std(unpaired[:, 0] - unpaired[:, 1]) == pytest.approx(np.sqrt(2 * 0.7 * 0.3 / 400), rel=0.1)


def test_without_predictions_the_number_of_images_gives_the_spread() -> None:
    found = components([Answered(np.array([0.8]), None, "", 100.0)])
    assert draw(found, 2000, np.random.default_rng(0)).std() == pytest.approx(np.sqrt(0.8 * 0.2 / 100), rel=0.05)
