"""What must not be compared without a word, and why."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from multirun_analysis.analysis.candidates import as_text
from multirun_analysis.findings import Candidate, Mark
from multirun_analysis.quantities import Quantity
from multirun_analysis.sources.runs import Runs

SHAKY = 0.25  # standard deviation over runs, as a share of the mean: more is no measurement any more
WAITED = 0.1  # share of the training: more, and it was the data loader that was timed

Marks = list[list[Mark]]  # of each candidate


def mark_candidates(
    runs: Runs,
    candidates: Sequence[Candidate],
    means: pd.DataFrame,
    deviations: pd.DataFrame,
    costs: Sequence[Quantity],
    selecting: Quantity,
    reported: Quantity,
) -> list[Candidate]:
    """The candidates with why some numbers of each must not be compared with the others'.

    ``means`` and ``deviations`` (over runs) have a row for each candidate. ``reported`` is the accuracy.
    """
    found = [_unfinished(runs, candidates), _tuned(candidates, selecting, reported)]
    if runs.are_records:
        measured = [cost for cost in costs if cost.measured_in]
        found.append(_learned(runs, candidates, measured, selecting, reported))
        found.append(_varied(means, deviations, measured))
        found += _unlike(runs, candidates, measured)
    return [
        replace(candidate, marks=tuple(itertools.chain.from_iterable(own)))
        for candidate, *own in zip(candidates, *found, strict=True)
    ]


def _columns(measured: Sequence[Quantity], *phases: str) -> frozenset[str]:
    return frozenset(cost.column for cost in measured if cost.measured_in in phases)


def _unfinished(runs: Runs, candidates: Sequence[Candidate]) -> Marks:
    marks: Marks = []
    for candidate in candidates:
        states = Counter(runs.info[row].status for row in candidate.unfinished)
        said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        whole = Mark(f"runs left out: {said}", frozenset()) if candidate.rows else Mark(f"unfinished: {said}")
        marks.append([whole] if said else [])
    return marks


def _tuned(candidates: Sequence[Candidate], selecting: Quantity, reported: Quantity) -> Marks:
    counts = sorted({len(candidate.trials) for candidate in candidates})
    spoilt = frozenset([reported.column])
    marks: Marks = []
    for candidate in candidates:
        mine, count = list[Mark](), len(candidate.trials)
        if len(counts) > 1:
            others = ", ".join(str(other) for other in counts if other != count)
            mine.append(Mark(f"{count} trials where others had {others}: tuned more or less", spoilt))
        if count > 1 and selecting == reported:
            mine.append(Mark(f"best of {count} trials, chosen on the images it is reported on", spoilt))
        marks.append(mine)
    return marks


def _learned(
    runs: Runs, candidates: Sequence[Candidate], measured: Sequence[Quantity], selecting: Quantity, reported: Quantity
) -> Marks:
    """From what, on what, and how its epoch was chosen."""
    columns = ("model/weights", "dataset/synthetic", "selection")
    weights, synthetic, selection = (runs.column(column).tolist() for column in columns)
    waited = pd.to_numeric(runs.column("cost/training/data_wait_share")).to_numpy(float)
    marks: Marks = []
    for candidate in candidates:
        mine, shown = list[Mark](), list(candidate.rows or candidate.unfinished)
        if any(weights[row] == "scratch" for row in shown):
            mine.append(Mark("weights from scratch", frozenset([reported.column, selecting.column])))
        if reported.split == "val" and any(selection[row] == "best" for row in candidate.rows):
            mine.append(Mark("its epoch was chosen on the images it is reported on", frozenset([reported.column])))
        if any(synthetic[row] is True for row in shown):
            mine.append(Mark("synthetic data"))
        if (wait := np.nanmax(waited[shown], initial=0.0)) > WAITED:
            mine.append(Mark(f"waited for data in {100 * wait:.0f} % of training", _columns(measured, "training")))
        marks.append(mine)
    return marks


def _varied(means: pd.DataFrame, deviations: pd.DataFrame, measured: Sequence[Quantity]) -> Marks:
    """Costs that differ between a candidate's runs by more than measuring explains."""
    columns = [cost.column for cost in measured]
    shares = (deviations[columns] / means[columns]).to_numpy(float)
    marks: Marks = [[] for _ in range(len(shares))]
    for place, which in np.argwhere(shares > SHAKY).tolist():
        text = f"{measured[which].label} differed by {100 * shares[place, which]:.0f} % between its runs"
        marks[place].append(Mark(text, frozenset([columns[which]])))
    return marks


def _unlike(runs: Runs, candidates: Sequence[Candidate], measured: Sequence[Quantity]) -> list[Marks]:
    """For each thing that costs depend on, who has another value of it than most candidates have, or several."""
    everything = _columns(measured, "training", "inference")
    packages = [column for column in runs.frame.columns if column.startswith("environment/packages/")]
    found = []
    for column, what, affected in [
        ("hardware/device_name", "device", everything),
        ("hardware/device_count", "devices", everything),
        ("hardware/precision", "precision", everything),
        ("hardware/cpu_threads", "CPU threads", everything),
        ("config/trainer/batch_size", "training batch size", _columns(measured, "training")),
        ("cost/inference/batch_size", "inference batch size", _columns(measured, "inference")),
        *((package, package.removeprefix("environment/packages/"), everything) for package in packages),
    ]:
        if column in runs.frame.columns:
            text = as_text(runs.frame, [column])[column].tolist()
            values = [sorted({text[row] for row in c.rows or c.unfinished} - {"-"}) for c in candidates]
            counts = Counter(own[0] for own in values if len(own) == 1)
            usual = [value for value, count in counts.items() if count == max(counts.values())]
            found.append([[Mark(said, affected)] if (said := _odd(what, own, usual)) else [] for own in values])
    return found


def _odd(what: str, own: Sequence[str], usual: Sequence[str]) -> str:
    """How a candidate's values of something differ from the usual one, if they do."""
    if len(own) > 1:
        return f"its runs had different {what}: {' and '.join(own)}"
    if not own or list(own) == list(usual):
        return ""
    return f"{what} {own[0]} where " + ("others had another" if len(usual) > 1 else f"most had {usual[0]}")
