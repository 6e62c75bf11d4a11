"""Costs that were measured on a busy machine: which measurements count, and which only where there is nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from har_sweep.record.record import DISTURBED
from multirun_analysis.findings import Candidate, Mark
from multirun_analysis.quantities import BEST_COUNTS, Quantity, disturbed_share_of
from multirun_analysis.sources.runs import Runs

CAUSE = "measured on a busy machine"


def undisturbed(
    runs: Runs, candidates: Sequence[Candidate], numbers: pd.DataFrame, costs: Sequence[Quantity]
) -> pd.DataFrame:
    """The numbers without those that were disturbed, where their candidate has others of the same cost."""
    counted = numbers.copy()
    for column, shares in _disturbed(runs, costs).items():
        values = counted[column].to_numpy(float, copy=True)
        for candidate in candidates:
            rows = np.array(candidate.rows or candidate.unfinished, int)
            disturbed = shares[rows] > DISTURBED
            if (~disturbed & ~np.isnan(values[rows])).any():
                values[rows[disturbed]] = np.nan
        counted[column] = values
    return counted


def best_measured(
    runs: Runs, candidates: Sequence[Candidate], counted: pd.DataFrame, costs: Sequence[Quantity]
) -> pd.DataFrame:
    """``counted`` with nothing but the best that was measured of a candidate, where it is known of all its runs how
    disturbed they were: others can only make such a cost look dearer, so that runs do not differ by chance about a
    mean."""
    best = counted.copy()
    for cost in (cost for cost in costs if cost.column in BEST_COUNTS):
        shares, values = _shares(runs, cost), best[cost.column].to_numpy(float, copy=True)
        if np.isnan(shares).all():
            continue
        for candidate in candidates:
            rows = np.array(candidate.rows or candidate.unfinished, int)
            known = rows[~np.isnan(values[rows])]
            if len(known) > 1 and not np.isnan(shares[rows]).any():
                best_row = known[np.argmax(cost.sign * values[known])]
                values[np.setdiff1d(rows, best_row)] = np.nan
        best[cost.column] = values
    return best


def mark_disturbed(
    runs: Runs, candidates: Sequence[Candidate], counted: pd.DataFrame, costs: Sequence[Quantity]
) -> list[list[Mark]]:
    """Of each candidate, its costs that are of a busy machine, with how much of the time was taken at the most."""
    marks: list[list[Mark]] = []
    # Of each such cost its share of each run, nan where the run's number does not count.
    disturbed = {
        column: np.where(counted[column].notna(), shares, np.nan) for column, shares in _disturbed(runs, costs).items()
    }
    for candidate in candidates:
        rows = np.array(candidate.rows or candidate.unfinished, int)
        worst = dict[str, float]()
        for column, shares in disturbed.items():
            if (share := float(np.nanmax(shares[rows], initial=0.0))) > DISTURBED:
                worst[column] = share
        detail = f"others took {100 * max(worst.values(), default=0.0):.0f} % of the time"
        marks.append([Mark(CAUSE, frozenset(worst), detail, sets_aside=True)] if worst else [])
    return marks


def set_aside(candidates: Sequence[Candidate], means: pd.DataFrame, costs: Sequence[Quantity]) -> dict[str, list[int]]:
    """The candidates that are left out of what is said of a cost, by its column, while there are others."""
    aside = {}
    marked = {column for c in candidates for m in c.marks if m.sets_aside for column in m.affects or ()}
    for cost in (cost for cost in costs if cost.column in marked):
        known = [i for i, c in enumerate(candidates) if c.rows and not np.isnan(means[cost.column].iat[i])]
        out = [i for i in known if any(m.sets_aside and m.spoils(cost.column) for m in candidates[i].marks)]
        if 0 < len(out) < len(known):
            aside[cost.column] = out
    return aside


def without(means: pd.DataFrame, aside: dict[str, list[int]]) -> pd.DataFrame:
    """The means of costs that take part in fronts and sentences."""
    kept = means.copy()
    for column, places in aside.items():
        kept.loc[places, column] = np.nan
    return kept


def _disturbed(runs: Runs, costs: Sequence[Quantity]) -> dict[str, np.ndarray]:
    """``_shares`` of the costs that were disturbed in any run, by column."""
    of_all = {cost.column: _shares(runs, cost) for cost in costs}
    return {column: shares for column, shares in of_all.items() if (shares > DISTURBED).any()}


def _shares(runs: Runs, cost: Quantity) -> np.ndarray:
    """How disturbed a cost was in each run; nan where that is not known, or makes no difference."""
    return pd.to_numeric(runs.column(disturbed_share_of(cost)), errors="coerce").to_numpy(float)
