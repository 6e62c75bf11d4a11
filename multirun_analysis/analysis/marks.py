"""What must not be compared without a word, and why."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from multirun_analysis.analysis.busy import mark_disturbed
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
    counted: pd.DataFrame,
    means: pd.DataFrame,
    deviations: pd.DataFrame,
    costs: Sequence[Quantity],
    selecting: Quantity,
    reported: Quantity,
) -> list[Candidate]:
    """The candidates with why some numbers of each must not be compared with the others'.

    ``counted`` are the numbers that count of each run; ``means`` and ``deviations`` (over runs) have a row for each
    candidate. ``reported`` is the accuracy.
    """
    found = [_unfinished(runs, candidates), _tuned(candidates, reported)]
    found.append(_chosen(runs, candidates, selecting, reported))
    if runs.are_records:
        measured = [cost for cost in costs if cost.measured_in]
        found.append(_learned(runs, candidates, measured, selecting, reported))
        found.append(mark_disturbed(runs, candidates, counted, measured))
        found.append(_varied(means, deviations, measured))
        found += _unlike(runs, candidates, measured)
    return [
        replace(candidate, marks=tuple(itertools.chain.from_iterable(own))) if any(own) else candidate
        for candidate, *own in zip(candidates, *found, strict=True)
    ]


def _columns(measured: Sequence[Quantity], *phases: str) -> frozenset[str]:
    return frozenset(cost.column for cost in measured if cost.measured_in in phases)


def _unfinished(runs: Runs, candidates: Sequence[Candidate]) -> Marks:
    marks: Marks = [[] for _ in candidates]
    for mine, candidate in zip(marks, candidates, strict=True):
        if candidate.unfinished:
            states = Counter(runs.info[row].status for row in candidate.unfinished)
            said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            mine.append(Mark("runs left out", frozenset(), said) if candidate.rows else Mark("unfinished", None, said))
    return marks


def _tuned(candidates: Sequence[Candidate], reported: Quantity) -> Marks:
    """Who was tuned more or less than others: in how many trials, of which those without a result may count or not."""
    if all(len(candidate.trials) < 2 for candidate in candidates):
        return [[] for _ in candidates]
    finished = [sum(not math.isnan(trial.selection) for trial in candidate.trials) for candidate in candidates]
    spans = [(least, len(candidate.trials)) for least, candidate in zip(finished, candidates, strict=True)]
    known = {span for span, candidate in zip(spans, candidates, strict=True) if candidate.rows}
    marks: Marks = [[] for _ in candidates]
    for mine, (least, most), candidate in zip(marks, spans, candidates, strict=True):
        others = {low for low, high in known if high < least or low > most} if len(known) > 1 else ()
        if others and candidate.rows:
            text = f"{least} trial{'s' * (least > 1)} where others had {', '.join(map(str, sorted(others)))}"
            mine.append(Mark("tuned more or less", frozenset([reported.column]), text))
    return marks


def _chosen(runs: Runs, candidates: Sequence[Candidate], selecting: Quantity, reported: Quantity) -> Marks:
    """Whose trial was chosen on what is reported, and whose might have been another: of several trials, one goes on.
    A trial that failed was tried, and brought nothing."""
    spoilt, watched = frozenset([reported.column]), _watched(runs)
    marks: Marks = [[] for _ in candidates]
    for mine, candidate in zip(marks, candidates, strict=True):
        trials = candidate.trials
        if len(trials) < 2:
            continue
        going_on = {row for row in candidate.unfinished if runs.info[row].status != "failed"}
        count = sum(not going_on.isdisjoint(trial.rows) for trial in trials)
        if candidate.rows and count:
            mine.append(Mark("another trial might be chosen", spoilt, f"{count} of {len(trials)} unfinished"))
        finished = sum(not math.isnan(trial.selection) for trial in trials)
        if finished > 1 and (selecting == reported or (reported.split and watched & set(candidate.rows))):
            mine.append(Mark("chosen on the images it is reported on", spoilt, f"best of {finished} trials"))
    return marks


def _watched(runs: Runs) -> set[int]:
    """The runs whose val and test images are the same."""
    return {row for row, same in enumerate(runs.column("dataset/test_is_val").tolist()) if same is True}


def _learned(
    runs: Runs, candidates: Sequence[Candidate], measured: Sequence[Quantity], selecting: Quantity, reported: Quantity
) -> Marks:
    """From what, on what, and how its epoch was chosen."""
    columns = ("model/weights", "dataset/synthetic", "selection", "hardware/unaccelerated")
    weights, synthetic, selection, unaccelerated = (runs.column(column).tolist() for column in columns)
    waited, watched = pd.to_numeric(runs.column("cost/training/data_wait_share")).to_numpy(float), _watched(runs)
    marks: Marks = []
    for candidate in candidates:
        mine, shown = list[Mark](), list(candidate.rows or candidate.unfinished)
        if any(weights[row] == "scratch" for row in shown):
            mine.append(Mark("weights from scratch", frozenset([reported.column, selecting.column])))
        if seen := reported.split == "test" and bool(watched & set(shown)):
            mine.append(Mark("its test images were watched while training", frozenset([reported.column])))
        if (reported.split == "val" or seen) and any(selection[row] == "best" for row in candidate.rows):
            mine.append(Mark("its epoch was chosen on the images it is reported on", frozenset([reported.column])))
        if any(synthetic[row] is True for row in shown):
            mine.append(Mark("synthetic data"))
        if (wait := np.nanmax(waited[shown], initial=0.0)) > WAITED:
            mine.append(Mark("waited for data", _columns(measured, "training"), f"in {100 * wait:.0f} % of training"))
        if lacking := sorted({word for row in shown if isinstance(word := unaccelerated[row], str) and word}):
            mine.append(Mark(f"no instructions for {' and '.join(lacking)}", frozenset(), "others may be faster"))
        marks.append(mine)
    return marks


def limits(runs: Runs, rows: Sequence[int]) -> list[str]:
    """How far what is found of some runs goes, if their images are all synthetic."""
    if not runs.are_records or not all(value is True for value in runs.column("dataset/synthetic").iloc[rows]):
        return []
    return [
        "The images are drawn, not photographed. What is certain here is so of drawings like these and of models that "
        "were started and trained like these, on few images and for few epochs; how the same models compare on "
        "photographs, or from pretrained weights where these had none, it does not say."
    ]


def _varied(means: pd.DataFrame, deviations: pd.DataFrame, measured: Sequence[Quantity]) -> Marks:
    """Costs that differ between a candidate's runs by more than measuring explains."""
    columns = [cost.column for cost in measured]
    shares = (deviations[columns] / means[columns]).to_numpy(float)
    marks: Marks = [[] for _ in range(len(shares))]
    for place, which in np.argwhere(shares > SHAKY).tolist():
        cause, by = f"{measured[which].label} differed between its runs", f"by {100 * shares[place, which]:.0f} %"
        marks[place].append(Mark(cause, frozenset([columns[which]]), by))
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
            # What is unfinished has none, and a variant's precision is what it is made for.
            own = [() if c.variant and what == "precision" else c.rows for c in candidates]
            values = [sorted({text[row] for row in rows} - {"-"}) for rows in own]
            counts = Counter(own[0] for own in values if len(own) == 1)
            usual = [value for value, count in counts.items() if count == max(counts.values())]
            found.append([_odd(what, own, usual, affected) for own in values])
    return found


def _odd(what: str, own: Sequence[str], usual: Sequence[str], affected: frozenset[str]) -> list[Mark]:
    """How a candidate's values of something differ from the usual one, if they do."""
    if len(own) > 1:
        return [Mark(f"its runs had different {what}", affected, " and ".join(own))]
    if not own or list(own) == list(usual):
        return []
    others = "others had another" if len(usual) > 1 else f"most had {usual[0]}"
    return [Mark(f"{what} unlike others'", affected, f"{own[0]} where {others}")]
