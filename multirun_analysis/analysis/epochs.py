"""Learning curves, and what unfinished runs have reached."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from har_sweep.errors import InputError
from har_sweep.record.record import Epoch
from multirun_analysis.analysis.ranking import MAX_COMPARED
from multirun_analysis.findings import Candidate
from multirun_analysis.quantities import METRICS
from multirun_analysis.sources.runs import Progress, Runs
from multirun_analysis.sources.table import TableRow

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
