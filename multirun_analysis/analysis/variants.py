"""Variants of finished runs beside the runs that they were made from: the same training, the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multirun_analysis.analysis.crossed import LEVEL, judge, paired_change
from multirun_analysis.analysis.predictions import Answers
from multirun_analysis.analysis.statistics import holm, mcnemar, of_the_uneven
from multirun_analysis.findings import Block, Candidate, VariantChange
from multirun_analysis.quantities import COSTS, Quantity
from multirun_analysis.sources.runs import Runs, some

LATENCY = "cost/inference/latency_seconds/batch_1/p50"
RATE, DISK = "cost/inference/images_per_second", "cost/disk_bytes"
MOST = 4  # in sentences; the table has all


def find_variants(
    runs: Runs,
    candidates: Sequence[Candidate],
    means: pd.DataFrame,
    answers: Mapping[int, Answers],
    accuracy: Quantity,
    notes: list[str],
) -> list[VariantChange]:
    """What changed in each variant, in the order of the candidates. Whose parent is no candidate's run is noted."""
    if not any(candidate.variant for candidate in candidates):
        return []
    ids = {info.run_id: row for row, info in enumerate(runs.info)}
    place = {row: number for number, candidate in enumerate(candidates) for row in candidate.rows}
    parents, lacking = (runs.column(column).tolist() for column in ("parent", "hardware/unaccelerated"))
    found, alone = list[VariantChange](), list[str]()
    for number, candidate in enumerate(candidates):
        pairs = [(row, ids[parents[row]]) for row in candidate.rows if candidate.variant and parents[row] in ids]
        theirs = {place.get(parent) for _, parent in pairs}
        if len(theirs) != 1 or (parent := theirs.pop()) is None:
            alone += [candidate.label] * bool(candidate.variant and candidate.rows)
            continue
        known = [(answers[row], answers[other]) for row, other in pairs if row in answers and other in answers]
        precision, ratios = lacking[candidate.rows[0]], _ratios(candidates, means, number, parent)
        change = VariantChange(
            number, parent, candidate.variant, ratios, precision if isinstance(precision, str) else ""
        )
        if accuracy.column in means:
            change = replace(change, difference=float(np.subtract(*means[accuracy.column].iloc[[number, parent]])))
        if known and all(one.same_images(other) for one, other in known) and accuracy.metric == "accuracy":
            change = _tested(change, [(one.right, other.right) for one, other in known])
        found.append(change)
    if alone:
        notes.append(
            "Not tied to what they were made from, which is not among the runs compared here (another trial was "
            f"chosen, or they were not read): {some(alone, MOST)}."
        )
    corrected = iter(holm([change.p for change in found if change.p is not None]))
    return [c if c.p is None else replace(c, p_corrected=float(next(corrected))) for c in found]


def _ratios(candidates: Sequence[Candidate], means: pd.DataFrame, variant: int, parent: int) -> dict[str, float]:
    """How many times as good as the parent's the variant's cost is, by column; nan where a mark says that it is not to
    be compared."""
    ratios = {}
    for column in (LATENCY, RATE, DISK):
        spoilt = any(m.spoils(column) and m.affects is not None for i in (variant, parent) for m in candidates[i].marks)
        values = means[column].iloc[[parent, variant]].to_numpy(float) if column in means else np.full(2, np.nan)
        less, more = values if COSTS[column].goal == "max" else values[::-1]
        ratios[column] = math.nan if spoilt or not less else float(more / less)
    return ratios


def _tested(change: VariantChange, right: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> VariantChange:
    """With a test of images and trainings, both paired; of one training the exact one of images."""
    ours, theirs = (np.stack(each) for each in zip(*right, strict=True))
    difference, images = float(ours.mean() - theirs.mean()), ours.shape[1]
    if bool((ours == theirs).all()):  # of so many images none: Clopper and Pearson (1934)
        bound = 1 - ((1 - LEVEL) / 2) ** (1 / images)
        p, low, high = 1.0, -bound, bound
    elif len(ours) > 1:
        p, low, high = judge(difference, *paired_change(ours, theirs), LEVEL)
    else:
        only = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        p, (low, high) = mcnemar(*only), of_the_uneven(*only, images, LEVEL)
    other = float((ours != theirs).mean())
    return replace(change, difference=difference, p=p, low=low, high=high, runs=len(ours), otherwise=other)


def variant_sentences(block: Block) -> list[str]:
    """What each variant brings and costs, the fastest first."""
    order = sorted(block.variants, key=lambda change: -np.nan_to_num(change.ratios[LATENCY]))
    said = [_sentence(block, change) for change in order[:MOST]]
    return said + ([f"Only in the table: {len(order) - MOST} more."] if len(order) > MOST else [])


def _sentence(block: Block, change: VariantChange) -> str:
    parts, lacking = list[str](), change.unaccelerated
    if not math.isnan(fast := change.ratios[LATENCY]):
        times = f"{fast:.2g} times as fast" if fast >= 1 else f"{1 / fast:.2g} times as slow"
        parts.append(f"{times} at batch 1{f' without instructions for {lacking}' if lacking else ''}")
    if not math.isnan(small := change.ratios[DISK]) and abs(small - 1) > 0.1:
        parts.append(f"{small:.2g} times smaller" if small > 1 else f"{1 / small:.2g} times larger")
    if not math.isnan(change.difference):
        gap = block.accuracy.difference(change.difference)
        if change.p_corrected is not None:
            low, high = map(block.accuracy.signed, (change.low, change.high))
            chance = "more than chance" if change.p_corrected < 0.05 else "within chance"
            gap += f" ({low} to {high}), {chance}"
        parts.append(gap)
    times = "; its times are not to be compared" * math.isnan(fast)
    return f"{block.labels[change.parent]} as {change.name}: {', '.join(parts)}{times}."


def variant_costs(block: Block) -> list[Quantity]:
    """The costs that a table of variants has."""
    return [COSTS[column] for column in (DISK, LATENCY, RATE) if column in block.means]
