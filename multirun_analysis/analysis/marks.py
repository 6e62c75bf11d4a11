"""What must not be compared without a word, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from multirun_analysis.analysis.candidates import _text
from multirun_analysis.findings import Candidate, Mark
from multirun_analysis.quantities import named
from multirun_analysis.sources.runs import Runs

SHAKY = 0.25  # standard deviation over runs, as a share of the mean: more is no measurement any more


def mark_candidates(
    runs: Runs,
    candidates: Sequence[Candidate],
    means: pd.DataFrame,
    deviations: pd.DataFrame,
    measured: Sequence[str],
    selecting: str,
    reported: str,
) -> list[list[Mark]]:
    """Why some numbers of each candidate must not be compared with the others'.

    ``measured`` are the columns of costs that depend on the machine. ``means`` and ``deviations`` (over runs) have a
    row for each candidate.
    """
    frame = runs.frame
    marks: list[list[Mark]] = [[] for _ in candidates]
    all_measured = frozenset(measured)
    of_training = frozenset(c for c in measured if "training" in c or c in ("cost/price", "cost/device_hours"))
    of_inference = frozenset(c for c in measured if "inference" in c)
    trials = Counter(len(candidate.trials) for candidate in candidates)
    for place, candidate in enumerate(candidates):
        if candidate.unfinished:
            states = Counter(runs.info[row].status for row in candidate.unfinished)
            said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            only = not candidate.rows
            marks[place].append(
                Mark(f"unfinished: {said}" if only else f"runs left out: {said}", None if only else frozenset())
            )
        if len(trials) > 1:
            others = ", ".join(str(count) for count in sorted(set(trials) - {len(candidate.trials)}))
            marks[place].append(
                Mark(
                    f"{len(candidate.trials)} trials where others had {others}: tuned more or less",
                    frozenset([reported]),
                )
            )
        if len(candidate.trials) > 1 and selecting == reported:
            marks[place].append(
                Mark(
                    f"best of {len(candidate.trials)} trials, chosen on the images it is reported on",
                    frozenset([reported]),
                )
            )
    if runs.are_records:

        def of_rows(column: str) -> list[Any]:
            return frame[column].tolist() if column in frame.columns else [None] * len(frame)

        weights, synthetic, selection = map(of_rows, ("model/weights", "dataset/synthetic", "selection"))
        waited = pd.to_numeric(pd.Series(of_rows("cost/training/data_wait_share"))).to_numpy(float)
        for place, candidate in enumerate(candidates):
            shown = list(candidate.rows or candidate.unfinished)
            if any(weights[row] == "scratch" for row in shown):
                marks[place].append(Mark("weights from scratch", frozenset([reported, selecting])))
            if reported.startswith("metrics/val/") and any(selection[row] == "best" for row in candidate.rows):
                marks[place].append(Mark("its epoch was chosen on the images it is reported on", frozenset([reported])))
            if any(synthetic[row] is True for row in shown):
                marks[place].append(Mark("synthetic data", None))
            if (wait := np.nanmax(waited[shown], initial=0.0)) > 0.1:
                marks[place].append(Mark(f"waited for data in {100 * wait:.0f} % of training", of_training))
        varied = (deviations[list(measured)] / means[list(measured)]).to_numpy(float)
        for place, which in np.argwhere(varied > SHAKY).tolist():
            text = f"{named(measured[which]).label} differed by {100 * varied[place, which]:.0f} % between its runs"
            marks[place].append(Mark(text, frozenset([measured[which]])))
        packages = [column for column in frame.columns if column.startswith("environment/packages/")]
        for column, what, affected in [
            ("hardware/device_name", "device", all_measured),
            ("hardware/device_count", "devices", all_measured),
            ("hardware/precision", "precision", all_measured),
            ("hardware/cpu_threads", "CPU threads", all_measured),
            ("config/trainer/batch_size", "training batch size", of_training),
            ("cost/inference/batch_size", "inference batch size", of_inference),
            *((package, package.rpartition("/")[2], all_measured) for package in packages),
        ]:
            if column in frame.columns:
                _mark_odd_ones(frame, column, what, affected, candidates, marks)
    return marks


def _mark_odd_ones(
    frame: pd.DataFrame,
    column: str,
    what: str,
    affected: frozenset[str],
    candidates: Sequence[Candidate],
    marks: list[list[Mark]],
) -> None:
    """Mark whoever has another value than most candidates have, or several."""
    text = _text(frame, [column])[column].tolist()
    values = [sorted({text[row] for row in candidate.rows or candidate.unfinished} - {"-"}) for candidate in candidates]
    counts = Counter(own[0] for own in values if len(own) == 1)
    (usual, most), (_, second) = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    for own, mine in zip(values, marks, strict=True):
        if len(own) > 1:
            mine.append(Mark(f"its runs had different {what}: {' and '.join(own)}", affected))
        elif own and most == second:
            mine.append(Mark(f"{what} {own[0]} where others had another", affected))
        elif own and own != [usual]:
            mine.append(Mark(f"{what} {own[0]} where most had {usual}", affected))
