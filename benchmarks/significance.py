"""Significance: how often the report's rule finds what is there, and claims what is not; by simulation.

    python benchmarks/significance.py [--draws 1000]

Models of an accuracy of 75 % are trained and tested: two trainings of one disagree on 11 % of the images, two models on
18 %, and trainings differ by a seed effect (0.5 points, 1 SD, unless said). The peer is the rule that takes the larger
of two p, the seeds' McNemar tests combined so that most agree and Welch's over the seeds, and corrects it for all pairs
(Holm). The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from turns import result, table

from multirun_analysis.analysis.claims import claims_along, correct
from multirun_analysis.analysis.crossed import Answered, Components, components, draw, judge
from multirun_analysis.analysis.families import compare_families
from multirun_analysis.analysis.statistics import holm, mcnemar, of_the_uneven, on_front
from multirun_analysis.findings import Candidate

ACCURACY, SEED_EFFECT = 0.75, 0.005
SHARED, OWN = 0.754, 0.907  # correlations of latent scores that make two models, and two trainings, disagree so often

Answers = list[NDArray[np.bool_]]  # of each model, [runs, images]


def simulate(
    random: np.random.Generator, shifts: Sequence[float], runs: int, images: int, seed_effect: float = SEED_EFFECT
) -> Answers:
    """Models whose accuracies are ``ACCURACY`` and so much more, each trained ``runs`` times."""
    image = np.sqrt(SHARED) * random.standard_normal(images)
    found = []
    for shift in shifts:
        suits = image + np.sqrt(OWN - SHARED) * random.standard_normal(images)
        chance = np.sqrt(1 - OWN) * random.standard_normal((runs, images))
        skill = ACCURACY + shift + seed_effect * random.standard_normal((runs, 1))
        found.append(suits + chance + stats.norm.ppf(np.clip(skill, 0.001, 0.999)) > 0)
    return found


def measured(answers: Answers) -> Components:
    return components([Answered(right.mean(axis=1), right, "s", float(right.shape[1])) for right in answers])


class Pair(NamedTuple):
    """A test of two models: difference, p, and the interval."""

    gap: float
    p: float
    low: float
    high: float


def new(found: Components, answers: Answers, first: int, second: int, level: float = 0.95) -> Pair:
    """The report's."""
    gap = float(found.mean[first] - found.mean[second])
    if len(answers[first]) == 1:
        a, b = answers[first][0], answers[second][0]
        only = int((a & ~b).sum()), int((b & ~a).sum())
        return Pair(gap, mcnemar(*only), *of_the_uneven(*only, len(a), level))
    variance, freedom = (float(x) for x in found.difference(np.array(first), np.array(second)))
    return Pair(gap, *judge(gap, variance, freedom, level))


def old(answers: Answers, first: int, second: int) -> float:
    """The peer's p."""
    pairs = list(zip(answers[first], answers[second], strict=True))
    p_values = sorted(mcnemar(int((a & ~b).sum()), int((b & ~a).sum())) for a, b in pairs)
    most = len(p_values) // 2 + 1  # Rueger 1978
    of_images = min(1.0, len(p_values) / most * p_values[most - 1])
    if len(pairs) == 1:
        return of_images
    runs = [answers[i].mean(axis=1) for i in (first, second)]
    return max(of_images, float(stats.ttest_ind(*runs, equal_var=False).pvalue))


def claimed(found: Components, answers: Answers) -> list[tuple[int, int, float, float, float]]:
    """A report's claims, the dearer model always the later: better, worse, p corrected for the claims, p corrected for
    all pairs, and the peer's."""
    costs = np.arange(float(len(answers)))
    claims = [(c.first, c.second) for c in claims_along(-found.mean, costs)]
    pairs = list(itertools.combinations(range(len(answers)), 2))
    p_new = np.array([new(found, answers, *pair).p for pair in pairs])
    p_old = dict(zip(pairs, holm([old(answers, *pair) for pair in pairs]), strict=True))
    p_all, own = dict(zip(pairs, holm(p_new.tolist()), strict=True)), dict(zip(pairs, p_new, strict=True))
    ordered = [(min(claim), max(claim)) for claim in claims]
    corrected, _ = correct(found, [costs], np.array([own[pair] for pair in ordered]))
    return [
        (*claim, float(p), float(p_all[pair]), float(p_old[pair]))
        for claim, pair, p in zip(claims, ordered, corrected, strict=True)
    ]


def said(number: int, of: int, began: float, what: str) -> None:
    left = (time.monotonic() - began) / number * (of - number)
    print(f"  {what}: {number} of {of}, {left:.0f} s left", file=sys.stderr, flush=True)


def share(values: Iterator[bool] | Sequence[bool]) -> str:
    return f"{mean(map(float, values)):.3f}"


def of_pairs(random: np.random.Generator, draws: int) -> dict[str, float]:
    """Two models: false alarms, what is found, and how often the interval has the truth."""
    rows, worst = [], {"false alarms": 0.0, "coverage low": 1.0, "coverage high": 0.0}
    cells = [(n, runs, SEED_EFFECT) for n in (400, 1890) for runs in (1, 2, 3, 5)]
    cells += [(1890, runs, effect) for runs in (2, 3, 5) for effect in (0.0, 0.01, 0.02)]
    began = time.monotonic()
    for number, (images, runs, effect) in enumerate(cells, 1):
        peers, ours, covered = [], [], []
        for gap in (0.0, 0.02, 0.05):
            mine, theirs = [], []
            for _ in range(draws):
                answers = simulate(random, [gap, 0.0], runs, images, effect)
                pair = new(measured(answers), answers, 0, 1)
                mine.append(pair.p < 0.05)
                theirs.append(old(answers, 0, 1) < 0.05)
                covered.append(pair.low <= gap <= pair.high)
            ours.append(share(mine))
            peers.append(share(theirs))
        rows.append([f"{images:,}", str(runs), f"{100 * effect:g}", *ours, *peers, share(covered)])
        if runs > 1:
            worst["false alarms"] = max(worst["false alarms"], float(ours[0]))
            worst["coverage low"] = min(worst["coverage low"], float(rows[-1][-1]))
            worst["coverage high"] = max(worst["coverage high"], float(rows[-1][-1]))
        said(number, len(cells), began, "pairs")
    heads = ["images", "runs each", "seed effect (points)", "no difference", "2 points", "5 points"]
    heads += ["no difference, peer", "2 points, peer", "5 points, peer", "95 % interval holds"]
    table("Share of pairs that are called different at 5 %, before any correction", heads, rows)
    return worst


def of_reports(random: np.random.Generator, draws: int) -> dict[str, float]:
    """Whole reports of equal models: how many claim anything."""
    rows, worst = [], 0.0
    cells = [(runs, effect) for runs in (1, 3, 5) for effect in (0.0, 0.005, 0.01, 0.02)]
    began = time.monotonic()
    for number, (runs, effect) in enumerate(cells, 1):
        false = []
        for _ in range(draws):
            answers = simulate(random, [0.0] * 12, runs, 400, effect)
            p = [claim[2] for claim in claimed(measured(answers), answers)]
            false.append(min(p, default=1.0) < 0.05)
        models = "0 (never of models)" if runs == 1 else share(false)
        worst = max(worst, 0.0 if runs == 1 else float(share(false)))
        rows.append([str(runs), f"{100 * effect:g}", models, share(false) if runs == 1 else "-"])
        said(number, len(cells), began, "reports of equal models")
    heads = ["runs each", "seed effect (points)", "a model is called better", "a trained network is"]
    table("Reports of 12 equal models, 400 images: share in which anything false is claimed", heads, rows)
    return {"false reports": worst}


def of_families(random: np.random.Generator, draws: int) -> dict[str, float]:
    """Families of equal models, six costs: how many reports call one family better for any cost."""
    rows = []
    for sizes, effect in itertools.product(((8, 2), (5, 5)), (0.005, 0.02)):
        names = np.repeat(("cnn", "vit"), sizes)
        ours, alone = [], []
        for _ in range(draws):
            answers = simulate(random, [0.0] * len(names), 3, 400, effect)
            candidates = [Candidate("", (), (), family=str(name)) for name in names]
            costs = [random.permutation(len(names)).astype(float) for _ in range(6)]
            made = compare_families(candidates, range(len(names)), measured(answers), costs, 1.0)
            pairs = [pair for pairs in made for pair in pairs]
            ours.append(any(pair.p_corrected < 0.05 for pair in pairs))
            alone.append(any(pair.p < 0.05 for pair in pairs))
        rows.append([f"{sizes[0]} and {sizes[1]}", f"{100 * effect:g}", share(ours), share(alone)])
    heads = ["models", "seed effect (points)", "corrected", "each pair alone"]
    table("Two families of equal models, 3 runs, 400 images, 6 costs: share that call one better", heads, rows)
    return {"false families": max(float(row[2]) for row in rows)}


def of_studies(random: np.random.Generator, draws: int) -> dict[str, float]:
    """Reports of models that differ by 3 points (1 SD): how many of the true sentences are called certain."""
    rows, found = [], {}
    cells = [(12, 3), (12, 5), (40, 3)]
    began = time.monotonic()
    for number, (models, runs) in enumerate(cells, 1):
        true, false = [], [0, 0, 0]
        for _ in range(max(5, draws * 12 // models**2)):
            shifts = random.normal(0, 0.03, models)
            answers = simulate(random, shifts.tolist(), runs, 1890)
            for better, worse, *p in claimed(measured(answers), answers):
                sure = [value < 0.05 for value in p]
                if shifts[better] > shifts[worse]:
                    true.append(sure)
                else:
                    false = [old + one for old, one in zip(false, sure, strict=True)]
        shares = [share(column) for column in zip(*true, strict=True)]
        wrong = ", ".join(map(str, false))
        rows.append([str(models), str(runs), *shares, wrong])
        found[f"certain of {models} models, {runs} runs"] = float(shares[0]) / max(float(shares[2]), 1e-3)
        said(number, len(cells), began, "studies")
    heads = ["models", "runs each", "corrected for claims", "for all pairs", "peer", "false ones called certain"]
    table("Share of the true sentences that are called certain, 1,890 images", heads, rows)
    return found


def of_claims(random: np.random.Generator, draws: int) -> dict[str, float]:
    """Reports of models that differ by 3 points (1 SD): how many have the truth in the intervals of all their claims,
    as they are widened for them, and as they would be of each pair alone."""
    rows, costs = [], np.arange(12.0)
    for images, runs in ((400, 3), (1890, 3)):
        held = []
        for _ in range(draws):
            shifts = random.normal(0, 0.03, len(costs))
            answers = simulate(random, shifts.tolist(), runs, images)
            found = measured(answers)
            pairs = [(c.first, c.second) for c in claims_along(-found.mean, costs)]
            _, critical = correct(found, [costs], np.array([new(found, answers, *pair).p for pair in pairs]))
            held.append(
                [
                    all(pair.low <= shifts[one] - shifts[other] <= pair.high
                        for one, other in pairs if (pair := new(found, answers, one, other, level)))
                    for level in (1 - critical, 0.95)
                ]
            )  # fmt: skip
        rows.append([f"{images:,}", str(runs), *map(share, zip(*held, strict=True))])
    heads = ["images", "runs each", "widened", "of each pair alone"]
    table("Reports of 12 models: share in which the intervals of all claims hold", heads, rows)
    return {"claims coverage low": min(float(row[2]) for row in rows)}


def of_intervals(random: np.random.Generator, draws: int) -> dict[str, float]:
    """How often the interval of an accuracy has the model's own; of one run the trained network's."""
    rows = []
    for images, runs in itertools.product((50, 400, 1890), (1, 2, 3, 5)):
        held = []
        for _ in range(draws):
            effect = 0.0 if runs == 1 else SEED_EFFECT
            found = measured(simulate(random, [0.0], runs, images, effect))
            low, high = found.interval()[0]
            held.append(bool(low <= ACCURACY <= high))
        rows.append([f"{images:,}", str(runs), share(held)])
    table("How often the 95 % interval of an accuracy holds", ["images", "runs", "holds"], rows)
    shares = [float(row[-1]) for row in rows]
    return {"accuracy coverage low": min(shares), "accuracy coverage high": max(shares)}


def of_fronts(random: np.random.Generator, draws: int) -> dict[str, float]:
    """Whether a probability to be on the front is one."""
    told, true = [], []
    costs = np.arange(6.0)
    for _ in range(draws):
        shifts = random.normal(0, 0.02, len(costs))
        found = measured(simulate(random, shifts.tolist(), 3, 400))
        accuracies = found.mean + draw(found, 500, random)
        told += on_front(-accuracies, np.broadcast_to(costs[:, None], (500, len(costs), 1))).tolist()
        true += [bool(c == 0 or shifts[c] > shifts[:c].max()) for c in range(len(costs))]
    edges = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.01]
    told_of, true_of = np.array(told), np.array(true)
    rows, errors = [], []
    for low, high in itertools.pairwise(edges):
        mine = (told_of >= low) & (told_of < high)
        rows.append(
            [
                f"{low:g} to {min(high, 1):g}",
                f"{told_of[mine].mean():.2f}",
                f"{true_of[mine].mean():.2f}",
                str(mine.sum()),
            ]
        )
        errors.append(abs(told_of[mine].mean() - true_of[mine].mean()))
    table("The probability to be on the front, 3 runs, 400 images", ["said", "mean", "was on it", "times"], rows)
    return {"front error": round(float(max(errors)), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--draws", type=int, default=1000, help="of each pair; half as many reports, a quarter of studies"
    )
    draws = parser.parse_args().draws
    random = np.random.default_rng(0)
    found = of_pairs(random, draws) | of_intervals(random, draws) | of_fronts(random, draws // 2)
    found |= of_reports(random, draws // 2) | of_studies(random, draws // 4) | of_claims(random, draws // 2)
    found |= of_families(random, draws // 2)
    result(**found)


if __name__ == "__main__":
    main()
