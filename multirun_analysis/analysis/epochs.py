"""Learning curves, who was trained too little, and what unfinished runs have reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.errors import InputError
from har_sweep.record.record import Epoch
from multirun_analysis.analysis.distributions import student_quantile
from multirun_analysis.analysis.ranking import MAX_COMPARED
from multirun_analysis.findings import Candidate, Mark
from multirun_analysis.quantities import METRICS, Quantity
from multirun_analysis.sources.runs import Progress, Runs
from multirun_analysis.sources.table import TableRow

LEAST_EPOCHS = 6  # in which a rise can be told from noise
RISK = 0.01  # of a flat curve whose epochs vary by chance; a few times that where neighbouring epochs vary together
LEAST_RISE = 0.005  # half a point: less is not worth another training

Curves = dict[int, list[list[Epoch]]]  # of each candidate's runs


def read_epochs(
    runs: Runs, candidates: Sequence[Candidate], compared: Sequence[int], notes: list[str], progress: Progress
) -> Curves:
    """The learning curves of the compared candidates, and of those that have nothing but unfinished runs; those that
    cannot be read are noted."""
    unfinished = [place for place, candidate in enumerate(candidates) if not candidate.rows][:MAX_COMPARED]
    places = [
        (place, row)
        for place in sorted({*compared, *unfinished})
        for row in candidates[place].rows or candidates[place].unfinished
        if not isinstance(runs.origins[row], TableRow)
    ]
    curves: Curves = {}
    missing: list[str] = []

    def read(pair: tuple[int, int]) -> list[Epoch]:
        try:
            return runs.origins[pair[1]].epochs()
        except InputError as e:
            missing.append(e.message)
            return []

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(read, places)
        for done, ((place, _), epochs) in enumerate(zip(places, found, strict=True), 1):
            progress("Reading learning curves", done, len(places))
            if epochs:
                curves.setdefault(place, []).append(epochs)
    if missing:
        notes.append(f"{len(missing)} of {len(places)} learning curves cannot be read: {min(missing)}")
    return curves


def mark_undertrained(candidates: Sequence[Candidate], epochs: Curves, *spoilt: Quantity) -> list[Candidate]:
    """The candidates, with a mark on those whose val accuracy, in the mean of their runs, still rises at the end."""
    marked = list(candidates)
    for place, curves in epochs.items():
        known = [[epoch.val_accuracy for epoch in curve] for curve in curves]
        whole = [np.array(curve, float) for curve in known if None not in curve]
        if not candidates[place].rows or not whole:
            continue
        length = min(map(len, whole))
        if found := still_rising(np.mean([curve[:length] for curve in whole], axis=0)):
            rise, count = found
            text = f"its val accuracy still rose by {100 * rise:.1f} points over the last {count} epochs"
            mark = Mark("undertrained", frozenset(quantity.column for quantity in spoilt), text)
            marked[place] = replace(marked[place], marks=(*marked[place].marks, mark))
    return marked


def still_rising(accuracies: NDArray[np.float64]) -> tuple[float, int] | None:
    """By how much a curve (shares, one an epoch) rose over its last epochs, and over how many; None if it did not, or
    is too short to tell.

    The last third is looked at, and no fewer than ``LEAST_EPOCHS``, which must be no more than half of all. There the
    line of least squares must rise by more than ``LEAST_RISE``, be steeper than none by Student's t at ``RISK``, and
    the last epochs be better than those before them: a curve that has levelled off within the third is through.
    """
    count = max(LEAST_EPOCHS, len(accuracies) // 3)
    if len(accuracies) < 2 * LEAST_EPOCHS:
        return None
    last, part = accuracies[-count:], count // 3
    (slope, _), covariance = np.polyfit(np.arange(count), last, 1, cov=True)
    rise = float(slope) * (count - 1)
    steep = slope > student_quantile(1 - RISK, count - 2) * math.sqrt(covariance[0, 0])
    goes_on = last[-part:].mean() > last[-2 * part : -part].mean()
    return (rise, count) if rise > LEAST_RISE and steep and goes_on else None


def with_reached(means: pd.DataFrame, candidates: Sequence[Candidate], epochs: Curves) -> pd.DataFrame:
    """``means`` with the accuracy on val that unfinished candidates have reached so far: to be shown, not compared."""
    column = METRICS["metrics/val/accuracy"].column
    if column not in means.columns:
        return means
    reached = means[column].copy()
    for place, curves in epochs.items():
        if not candidates[place].rows:
            last = [curve[-1].val_accuracy for curve in curves if curve[-1].val_accuracy is not None]
            reached[place] = float(np.mean(last)) if last else np.nan
    return means.assign(**{column: reached})
