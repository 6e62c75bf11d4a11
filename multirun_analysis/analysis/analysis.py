"""From the table of runs to everything that a report says; the story, top to bottom."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.files import redact_text
from har_sweep.record.record import Epoch, utc_now
from multirun_analysis.analysis.budget import recommend
from multirun_analysis.analysis.candidates import find_candidates, split_into_blocks
from multirun_analysis.analysis.disagreement import compare, error_profile, find_disputed
from multirun_analysis.analysis.fronts import _resampled, find_families, find_front, resample
from multirun_analysis.analysis.marks import mark_candidates
from multirun_analysis.analysis.pareto import Floats
from multirun_analysis.analysis.predictions import Answers, read_answers, typical_run
from multirun_analysis.analysis.question import Asked, Question, understand
from multirun_analysis.analysis.sentences import sentences
from multirun_analysis.analysis.statistics import student, wilson
from multirun_analysis.findings import JOINT, Analysis, Block, Candidate, Disputed, Front
from multirun_analysis.sources.runs import Progress, Runs
from multirun_analysis.sources.table import TableRow

MAX_COMPARED = 40  # candidates whose predictions are read: 780 pairs, more than anyone reads
MAX_DISPUTED = 3  # pairs whose disputed images are shown


def analyse(runs: Runs, question: Question, sources: Sequence[str], command: str, progress: Progress) -> Analysis:
    """Answer a question from the table of runs.

    Raises
    ------
    InputError
        if the question names what no run has, or no label, accuracy or cost can be told for a table of somebody's.
    """
    frame, notes = runs.frame, list(runs.notes)
    asked = understand(runs, question, notes)
    # Numbers, whatever the source made of missing ones.
    columns = [quantity.column for quantity in (*asked.metrics, *asked.known_costs)]
    numbers = frame[columns].apply(pd.to_numeric, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    blocks = [
        analyse_block(runs, numbers, name, rows, asked, progress)
        for name, rows in split_into_blocks(runs, asked.by).items()
    ]
    fronts = {}
    for key in [*(cost.column for cost in asked.costs), *([JOINT] if asked.joint else [])]:
        fronts[f"front/{key}"] = on = np.zeros(len(frame), dtype=bool)
        for block in blocks:
            for place in np.flatnonzero(block.fronts[key].on):
                on[list(block.candidates[place].rows)] = True
    return Analysis(
        frame=pd.concat([frame, pd.DataFrame(fronts, index=frame.index)], axis=1),
        info=runs.info,
        metrics=asked.metrics,
        costs=asked.known_costs,
        chosen_costs=asked.costs,
        blocks=blocks,
        sources=[redact_text(source) for source in sources],
        command=redact_text(command),
        created_at=utc_now(),
        notes=notes,
    )


def analyse_block(
    runs: Runs, numbers: pd.DataFrame, name: str, rows: NDArray[np.int64], asked: Asked, progress: Progress
) -> Block:
    """Everything about one dataset, or one value of what is asked by: the candidates among ``rows``, and what can be
    said of them."""
    accuracy, costs, notes = asked.accuracy, asked.costs, list[str]()
    selecting = accuracy.column.replace("metrics/test/", "metrics/val/")
    if selecting not in runs.frame.columns:
        selecting = accuracy.column
    found = find_candidates(runs, rows, asked.label, accuracy, selecting)
    means, deviations, counts = summarise(numbers, found)
    sign = -1.0 if accuracy.goal == "min" else 1.0
    order = np.argsort(-sign * means[accuracy.column].fillna(-sign * np.inf).to_numpy(), kind="stable")
    found = [found[place] for place in order]
    means, deviations, counts = (table.iloc[order].reset_index(drop=True) for table in (means, deviations, counts))
    measured = [cost.column for cost in asked.known_costs if cost.depends_on_machine]
    marks = mark_candidates(runs, found, means, deviations, measured, selecting, accuracy.column)
    found = [replace(candidate, marks=tuple(mine)) for candidate, mine in zip(found, marks, strict=True)]

    split = accuracy.column.split("/")[1] if accuracy.column.startswith("metrics/") else ""
    proportion = accuracy.column == f"metrics/{split}/accuracy"  # only then is there a right and wrong for each image
    images = np.full(len(found), np.nan)
    if proportion and f"dataset/counts/{split}" in runs.frame.columns:
        of_rows = runs.frame[f"dataset/counts/{split}"].to_numpy(float)
        images = np.array([of_rows[c.rows[0]] if c.rows else np.nan for c in found])
    value, count = means[accuracy.column].to_numpy(), counts[accuracy.column].to_numpy(float)
    fronts = {cost.column: find_front(means, accuracy, [cost]) for cost in costs}
    if asked.joint:
        fronts[JOINT] = find_front(means, accuracy, costs)

    compared = choose_compared(found, value, fronts, notes)
    read = [row for place in compared for row in found[place].rows] if split else []
    answers, missing = read_answers(runs, read, split, progress)
    if missing:
        notes.append(f"{len(missing)} of {len(read)} runs have no predictions to pair: {next(iter(missing.values()))}.")
    paired = answers if proportion else {}
    unpaired = missing if proportion else dict.fromkeys(read, "the paired test is of accuracy alone")
    of_runs = {place: numbers[accuracy.column].to_numpy()[list(found[place].rows)] for place in compared}
    progress("Resampling", 0, None)
    resampled = [_resampled(found[p], of_runs[p], paired, images[p], numbers, costs) for p in compared]
    fronts, intervals = resample(resampled, compared, fronts, means, accuracy, costs)
    comparisons = compare(found, compared, of_runs, sign, paired, unpaired, lambda row: runs.info[row].seed, intervals)
    disputed: dict[tuple[int, int], list[Disputed]] = {}
    for a, b in _disputed_pairs(fronts, compared)[:MAX_DISPUTED]:
        progress("Looking at disputed images", len(disputed), MAX_DISPUTED)
        first, second = (answers.get(typical_run(found[place].rows, of_runs[place])) for place in (a, b))
        if first and second and first.split == second.split and np.array_equal(first.paths, second.paths):
            disputed[a, b] = find_disputed(first, second, asked.images or _images(runs, found[a]))

    epochs = read_epochs(runs, found, compared, progress)
    for place, curves in epochs.items():
        if not found[place].rows and "metrics/val/accuracy" in means.columns:
            # What an unfinished one has reached so far is shown; it takes no part in the fronts, which stand by now.
            reached = [curve[-1].val_accuracy for curve in curves if curve[-1].val_accuracy is not None]
            means.loc[place, "metrics/val/accuracy"] = float(np.mean(reached)) if reached else np.nan
    block = Block(
        name=name,
        accuracy=accuracy,
        candidates=found,
        means=means,
        deviations=deviations,
        images=images,
        image_interval=wilson(value, images),
        seed_interval=student(value, deviations[accuracy.column].to_numpy(), count),
        fronts=fronts,
        compared=compared,
        comparisons=comparisons,
        errors=error_profile(found, compared, answers, _classes(runs, rows, answers), disputed),
        epochs=epochs,
        families=find_families(found, means, accuracy),
        notes=notes,
    )
    block = replace(block, sentences=sentences(block, costs))
    return replace(block, recommendation=recommend(block, asked.budgets)) if asked.budgets else block


def summarise(
    numbers: pd.DataFrame, candidates: Sequence[Candidate]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mean, standard deviation and count of every quantity over each candidate's runs.

    A candidate without a finished run has what is known of the unfinished ones, but no metrics.
    """
    rows = [candidate.rows or candidate.unfinished for candidate in candidates]
    which = np.repeat(np.arange(len(rows)), [len(mine) for mine in rows])
    groups = numbers.iloc[list(itertools.chain.from_iterable(rows))].groupby(which)
    means, deviations, counts = groups.mean(), groups.std(), groups.count()
    deviations = deviations.where(~(deviations < 1e-12 * means.abs()), 0.0)  # equal numbers, but for their rounding
    unfinished = [not candidate.rows for candidate in candidates]
    means.loc[unfinished, [column for column in means.columns if column.startswith("metrics/")]] = np.nan
    return means, deviations, counts


def choose_compared(
    candidates: Sequence[Candidate], value: Floats, fronts: dict[str, Front], notes: list[str]
) -> list[int]:
    """Whose predictions to read: those on a front, then the most accurate."""
    known = [place for place, candidate in enumerate(candidates) if candidate.rows and not np.isnan(value[place])]
    on = np.any([front.on for front in fronts.values()], axis=0) if fronts else np.zeros(len(candidates), bool)
    chosen = sorted(sorted(known, key=lambda place: (not on[place], place))[:MAX_COMPARED])
    if len(chosen) < len(known):
        notes.append(
            f"Of {len(known):,} candidates {len(chosen)} are compared in pairs: those on a front and the most accurate."
        )
    return chosen


def _disputed_pairs(fronts: dict[str, Front], compared: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours on the first front, then the two most accurate: whose differences matter most."""
    pairs = []
    if fronts:
        on = np.flatnonzero(next(iter(fronts.values())).on)  # most accurate first
        pairs = [(int(a), int(b)) for a, b in itertools.pairwise(on) if a in compared and b in compared]
    return list(dict.fromkeys([*pairs, *itertools.pairwise(compared)]))


def _images(runs: Runs, candidate: Candidate) -> Path | None:
    for column in ("dataset/root", "config/data/root"):
        root = runs.frame[column].iat[candidate.rows[0]] if column in runs.frame.columns else None
        if isinstance(root, str) and root and (folder := Path(root).expanduser()).is_dir():
            return folder
    return None


def _classes(runs: Runs, rows: NDArray[np.int64], answers: dict[int, Answers]) -> list[str]:
    """The classes in the order of the records, and whatever else the predictions name."""
    known: dict[str, None] = {}
    if "dataset/classes" in runs.frame.columns:
        for row in rows[:1]:
            listed = runs.frame["dataset/classes"].iat[row]
            known |= dict.fromkeys(listed if isinstance(listed, (list, np.ndarray)) else [])
    for run in answers.values():
        known |= dict.fromkeys([*np.unique(run.truth), *np.unique(run.answer)])
    return list(known)


def read_epochs(
    runs: Runs, candidates: Sequence[Candidate], compared: Sequence[int], progress: Progress
) -> dict[int, list[list[Epoch]]]:
    """The learning curves of the compared candidates, and of those that have nothing but unfinished runs."""
    unfinished = [place for place, candidate in enumerate(candidates) if not candidate.rows][:MAX_COMPARED]
    places = [
        (place, row)
        for place in sorted({*compared, *unfinished})
        for row in candidates[place].rows or candidates[place].unfinished
        if not isinstance(runs.origins[row], TableRow)
    ]
    curves: dict[int, list[list[Epoch]]] = {}
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda pair: runs.origins[pair[1]].epochs(), places)
        for done, ((place, _), epochs) in enumerate(zip(places, found, strict=True), 1):
            progress("Reading learning curves", done, len(places))
            if epochs:
                curves.setdefault(place, []).append(epochs)
    return curves
