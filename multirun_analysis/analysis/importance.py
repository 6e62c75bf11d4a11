"""Which of the settings that a search tried mattered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from multirun_analysis.findings import Candidate, Importance
from multirun_analysis.sources.runs import Runs

FEWEST_TRIALS = 10  # fewer tell a forest nothing
FEWEST_TREES = 40
DRAWS = 4000  # trees times trials: from one forest to another a share then differs by some 0.02 (standard deviation)


def find_importances(runs: Runs, candidates: Sequence[Candidate], settings: Sequence[str]) -> dict[int, Importance]:
    """For each candidate with enough finished trials, how much of the selecting metric each of some ``settings``
    (columns) explains."""
    found = {}
    for place, candidate in enumerate(candidates):
        if len(candidate.trials) < FEWEST_TRIALS:
            continue
        trials = [trial for trial in candidate.trials if not math.isnan(trial.selection)]
        if len(trials) < FEWEST_TRIALS:
            continue
        tried = runs.frame[list(settings)].iloc[[trial.rows[0] for trial in trials]]
        tried = tried.loc[:, tried.astype(str).nunique() > 1]
        if len(tried.columns):
            found[place] = _importance(tried, np.array([trial.selection for trial in trials]))
    return found


def _importance(tried: pd.DataFrame, reached: np.ndarray) -> Importance:
    """A random forest's shares of the variance that its splits explain (Breiman 2001), as W&B's panel has them, and
    what it explains of trials that each tree has not seen."""
    from sklearn.ensemble import RandomForestRegressor

    numbers = {column: pd.to_numeric(values, errors="coerce") for column, values in tried.items()}
    ordered = {column: bool(values.notna().all()) for column, values in numbers.items()}
    coded = [numbers[c] if ordered[c] else pd.factorize(tried[c].astype(str), sort=True)[0] for c in tried]
    trees = max(FEWEST_TREES, DRAWS // len(reached))
    forest = RandomForestRegressor(trees, oob_score=True, random_state=0).fit(np.stack(coded, axis=1), reached)
    varied, ranks = np.ptp(reached) > 0, pd.Series(reached, tried.index).rank()
    return Importance(
        trials=len(reached),
        explained=float(forest.oob_score_) if varied else 0.0,
        shares=dict(zip(tried.columns, forest.feature_importances_.tolist(), strict=True)),
        correlations={c: float(numbers[c].rank().corr(ranks)) for c in tried if ordered[c] and varied},  # Spearman's
    )
