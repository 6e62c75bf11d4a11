"""What tuning brought for what it cost: the best trial so far against the device hours of all so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from multirun_analysis.analysis.candidates import as_text, is_setting
from multirun_analysis.findings import Candidate, Tuning
from multirun_analysis.quantities import COSTS, Quantity
from multirun_analysis.sources.runs import Runs, some

MOST_VARIED = 8  # settings, and so axes that one still follows a line over


def find_tuning(
    runs: Runs, candidates: Sequence[Candidate], selecting: Quantity, notes: list[str]
) -> dict[int, Tuning]:
    """The candidates that had several trials, as they got better; whose cost or order is not known, is noted.

    A trial's runs (seeds) count together, when the first of them was started. Runs that did not finish cost what their
    records say, nothing if they say nothing.
    """
    column = COSTS["cost/device_hours"].column
    hours = pd.to_numeric(runs.column(column), errors="coerce").to_numpy(float)
    started = runs.column("started_at").fillna("").astype(str).tolist()
    found: dict[int, Tuning] = {}
    unknown = []
    for place, candidate in enumerate(candidates):
        if len(candidate.trials) < 2:
            continue
        rows = [row for trial in candidate.trials for row in trial.rows]
        if any(not started[row] or (np.isnan(hours[row]) and row not in candidate.unfinished) for row in rows):
            unknown.append(candidate.label)
            continue
        begun = [(min(started[row] for row in trial.rows), trial.settings) for trial in candidate.trials]
        order = sorted(range(len(begun)), key=begun.__getitem__)
        reached = selecting.sign * np.array([candidate.trials[trial].selection for trial in order])
        found[place] = Tuning(
            trials=tuple(order),
            hours=np.cumsum([np.nansum(hours[list(candidate.trials[trial].rows)]) for trial in order]),
            best=selecting.sign * np.fmax.accumulate(reached),
        )
    if unknown:
        notes.append(f"What tuning cost is not known of {some(unknown, 8)}: some run has no device hours, or no start.")
    return found


def find_varied(runs: Runs, candidates: Sequence[Candidate]) -> list[str]:
    """The columns of the config that trials of one candidate differ in, at most ``MOST_VARIED``."""
    rows = [row for c in candidates if len(c.trials) > 1 for trial in c.trials for row in trial.rows]
    columns = [column for column in runs.frame.columns if is_setting(column)]
    text = as_text(runs.frame.iloc[rows], columns)
    return [column for column in columns if text[column].nunique() > 1][:MOST_VARIED]


def find_leads(first: Tuning, second: Tuning, selecting: Quantity) -> list[tuple[float, bool]]:
    """Who of two is better after how much tuning: from so many device hours on, whether the first is; an entry for each
    change. Before both have a finished trial nobody leads, and who is caught up with keeps the lead."""
    hours = np.unique(np.concatenate([first.hours, second.hours]))
    leads: list[tuple[float, bool]] = []
    for at, gap in zip(hours.tolist(), selecting.sign * (first.after(hours) - second.after(hours)), strict=True):
        if gap and not np.isnan(gap) and (not leads or leads[-1][1] != (gap > 0)):
            leads.append((at, bool(gap > 0)))
    return leads
