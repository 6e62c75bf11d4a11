"""Pairs of candidates, tested: is one better, by how much, and how alike are their errors?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multirun_analysis.analysis.claims import correct
from multirun_analysis.analysis.crossed import LEVEL, Answered, Components, judge
from multirun_analysis.analysis.predictions import OF_A_TABLE, OF_ANOTHER, Answers, Predictions, typical_run
from multirun_analysis.analysis.statistics import agreement, agreement_interval, holm, mcnemar, of_the_uneven
from multirun_analysis.findings import Block, Candidate, Comparison

SAME_TRAININGS = "the same trainings, see the table of variants"
Accuracies = dict[int, NDArray[np.float64]]  # of each compared candidate's runs


def answered(
    candidate: Candidate, accuracies: NDArray[np.float64], answers: Mapping[int, Answers], images: float
) -> Answered:
    """A candidate's runs; ``answers`` are those that are known, by row, ``images`` how many there were."""
    mine = [answers[row] for row in candidate.rows if row in answers]
    whole = len(mine) == len(candidate.rows) and all(run.same_images(mine[0]) for run in mine)
    return Answered(
        accuracies=accuracies,
        right=np.stack([run.right for run in mine]) if whole else None,
        split=mine[0].images if whole else "",
        images=images,
    )


def compare(
    block: Block,
    accuracies: Accuracies,
    predictions: Predictions,
    found: Components,
    claimed: Collection[tuple[int, int]],
    costs: Sequence[NDArray[np.float64]],
) -> list[Comparison]:
    """Every pair of the block's candidates whose ``accuracies`` are given, the better first, tested; not those of the
    same trainings, whose change is in the table of variants.

    ``found`` has them in that order. ``claimed`` are the pairs, better first, that the report makes claims of along the
    fronts of ``costs`` (each [those candidates], lower is better): they are corrected as claims, all others for the
    number of all pairs.
    """
    candidates, accuracy, trainings = block.candidates, block.accuracy, block.trainings
    places = {candidate: number for number, candidate in enumerate(accuracies)}
    pairs = []
    for a, b in itertools.combinations(accuracies, 2):
        if accuracy.sign * (accuracies[b].mean() - accuracies[a].mean()) > 0:
            a, b = b, a
        pair = Comparison(
            first=a,
            second=b,
            difference=float(found.mean[places[a]] - found.mean[places[b]]),
            of_models=min(len(accuracies[a]), len(accuracies[b])) > 1,
            reason=_unpaired(candidates[a], candidates[b], predictions),
            beats=found.beats(places[a], places[b], accuracy.sign),
        )
        typical = [predictions.found.get(typical_run(candidates[place].rows, accuracies[place])) for place in (a, b)]
        if found.paired(places[a], places[b]) and typical[0] and typical[1]:
            pair = replace(pair, **_overlap(typical[0].right, typical[1].right))
        if trainings[a] == trainings[b]:
            pairs.append(replace(pair, reason=SAME_TRAININGS, beats=math.nan))
            continue
        pairs.append(_tested(pair, found, places[a], places[b], LEVEL, accuracy.whole))
    tested = [number for number, pair in enumerate(pairs) if pair.p is not None]
    for number, p in zip(tested, holm([pairs[number].p or 0.0 for number in tested]), strict=True):
        pairs[number] = replace(pairs[number], p_of_all=float(p), p_corrected=float(p))
    claims = [number for number in tested if (pairs[number].first, pairs[number].second) in claimed]
    of_claims = np.array([pairs[number].p or 0.0 for number in claims])
    corrected, critical = correct(found, costs, of_claims, _numbered([trainings[place] for place in accuracies]))
    for number, p in zip(claims, corrected, strict=True):
        pair = pairs[number]
        wider = _tested(pair, found, places[pair.first], places[pair.second], 1 - critical, accuracy.whole)
        pairs[number] = replace(
            pair,
            p_corrected=float(p),
            claimed=True,
            claim_low=wider.low,
            claim_high=wider.high,
            images_needed=wider.images_needed,
            runs_needed=wider.runs_needed,
        )
    return pairs


def _numbered(trainings: Sequence[int]) -> NDArray[np.int64]:
    """For each of some candidates the first of them that comes from the same trainings."""
    return np.array([trainings.index(one) for one in trainings], int)


def _tested(
    pair: Comparison, found: Components, first: int, second: int, level: float, whole: float | None
) -> Comparison:
    """A pair with its test, its interval of this level, and what would show it; as it was if it cannot be tested. No
    difference is larger than ``whole``, None where there is no such bound."""
    gap, paired, runs = pair.difference, found.paired(first, second), [int(found.runs[i]) for i in (first, second)]
    if pair.of_models or (paired and max(runs) > 1):
        variance, freedom = (float(x) for x in found.difference(np.array(first), np.array(second)))
        if variance == 0 and gap:
            return pair  # runs that all came out the same, and nothing known of the images
        p, low, high = judge(gap, variance, freedom, level)
        if whole is not None:
            low, high = max(low, -whole), min(high, whole)
        known = found.known[first] and found.known[second]
        over = (
            f"{found.images[first]:,.0f} images crossed with " if paired else "different images and " if known else ""
        )
        test = f"t over {over}{runs[0]} and {runs[1]} runs"
    elif paired and pair.only_first is not None and pair.only_second is not None:
        only = pair.only_first, pair.only_second
        p, (low, high) = mcnemar(*only), of_the_uneven(*only, int(found.images[first]), level)
        test = f"McNemar on {found.images[first]:,.0f} images"
    else:
        return pair
    images_needed, runs_needed = found.needed(first, second, level)
    return replace(pair, p=p, low=low, high=high, test=test, images_needed=images_needed, runs_needed=runs_needed)


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Which images two runs got right, and how far they fail on the same ones."""
    counts = [int(x.sum()) for x in (first & second, first & ~second, second & ~first, ~first & ~second)]
    low, high = agreement_interval(counts)
    names = ("both", "only_first", "only_second", "neither")
    return {
        **dict(zip(names, counts, strict=True)),
        "kappa": float(agreement(*np.array(counts, float))),
        "kappa_low": low,
        "kappa_high": high,
        "oracle": sum(counts[:3]) / sum(counts),
    }


def _unpaired(first: Candidate, second: Candidate, predictions: Predictions) -> str:
    """Why two candidates' answers cannot be paired; empty if they can."""
    answers = predictions.found
    for candidate in (first, second):
        for row in candidate.rows:
            if why := predictions.missing.get(row):
                return why if why in (OF_A_TABLE, OF_ANOTHER) else f"{candidate.label}: {why}"
    x, y = answers[first.rows[0]], answers[second.rows[0]]
    if x.split != y.split:
        return f"different images or splits ({x.split} and {y.split}) are never paired"
    every = [answers[row] for candidate in (first, second) for row in candidate.rows]
    if any(not run.same_images(x) for run in every) or not len(x.paths):
        return "their predictions are of different images"
    return ""
