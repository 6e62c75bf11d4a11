"""From the table of runs to everything that a report says; the story, top to bottom."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.errors import InputError
from har_sweep.record import Epoch, now, redact_text
from multirun_analysis import quantities
from multirun_analysis.budget import Budget, recommend
from multirun_analysis.candidates import find_candidates, mark_candidates, split_into_blocks
from multirun_analysis.errors import Answers, compare, error_profile, find_disputed, read_answers, typical_run
from multirun_analysis.findings import JOINT, Analysis, Block, Candidate, Disputed, Family, Front
from multirun_analysis.pareto import Floats, contributions, lower_is_better, nondominated, shortfall
from multirun_analysis.quantities import COSTS, DEFAULT_COSTS, METRICS, Quantity, columns_of
from multirun_analysis.sentences import sentences
from multirun_analysis.sources import Progress, Runs, TableRow
from multirun_analysis.statistics import Resampled, bootstrap, on_front, student, wilson

MAX_COMPARED = 40  # candidates whose predictions are read: 780 pairs, more than anyone reads
MAX_DISPUTED = 3  # pairs whose disputed images are shown


@dataclass(frozen=True)
class Question:
    """What is asked of the runs, in the words of the command line; empty lists ask for the defaults."""

    accuracy: str | None = None
    costs: Sequence[str] = ()
    label: Sequence[str] = ()
    by: Sequence[str] = ()
    budgets: Sequence[str] = ()
    images: Path | None = None


@dataclass(frozen=True)
class Asked:
    """A question, understood: ``costs`` are what fronts are drawn for, ``known_costs`` all that some run has."""

    accuracy: Quantity
    costs: list[Quantity]
    metrics: list[Quantity]
    known_costs: list[Quantity]
    joint: bool
    label: list[str]
    by: list[str]
    budgets: list[Budget]
    images: Path | None


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
        created_at=now(),
        notes=notes,
    )


def understand(runs: Runs, question: Question, notes: list[str]) -> Asked:
    """What a question means for these runs; what had to be guessed is noted.

    Raises
    ------
    InputError
        as ``analyse``.
    """
    frame = runs.frame
    accuracy, costs = choose_accuracy(runs, question, notes), choose_costs(runs, question, notes)
    label = [column for name in question.label for column in columns_of(name, frame.columns)]
    if not label and not runs.are_records:
        label = [column for column in ("model", "label", "name", "architecture") if column in frame.columns][:1]
        if not label:
            listed = ", ".join(map(str, frame.columns[:20]))
            raise InputError(f"It is not told which column names the models: {listed}.", "Add --label COLUMN.")
    budgets = [Budget.parse(text, runs.known_columns) for text in question.budgets]
    metrics = _distinct([accuracy, *(METRICS[column] for column in METRICS if column in runs.known_columns)])
    of_metrics = {metric.column for metric in metrics}
    budgeted = [_cost(c, notes) for budget in budgets for c in budget.columns if c not in of_metrics]
    known_costs = _distinct([*costs, *budgeted, *(COSTS[column] for column in COSTS if column in runs.known_columns)])
    return Asked(
        accuracy=accuracy,
        costs=costs,
        metrics=metrics,
        known_costs=[cost for cost in known_costs if cost.column not in of_metrics],
        joint=len(question.costs) > 1,
        label=label,
        by=[column for name in question.by for column in columns_of(name, frame.columns)],
        budgets=budgets,
        images=question.images,
    )


def choose_accuracy(runs: Runs, question: Question, notes: list[str]) -> Quantity:
    """The accuracy that is asked for; by default that on the test images."""
    columns = runs.frame.columns
    name, _, goal = (question.accuracy or "").partition(":")
    if not name:
        usual = [
            "metrics/test/accuracy",
            "metrics/val/accuracy",
            "accuracy",
            "top1",
            "acc",
            "test_accuracy",
            "val_accuracy",
        ]
        name = next((column for column in usual if column in runs.known_columns), "")
        if not name:
            if runs.are_records:
                raise InputError(
                    f"None of the {len(runs.info)} runs has been evaluated: "
                    + ", ".join(f"{info.name or info.run_id} is {info.status}" for info in runs.info[:5])
                    + ("." if len(runs.info) <= 5 else ", ..."),
                    "Finish them first: the same har_sweep command goes on with them.",
                )
            raise InputError(
                f"It is not told which column is the accuracy: {', '.join(map(str, columns[:20]))}.",
                "Add --accuracy COLUMN.",
            )
        if name == "metrics/val/accuracy":
            notes.append(
                "No run has a test accuracy: accuracies are those on val, which epochs and settings may be chosen by."
            )
    column = columns_of(name, runs.known_columns)[0]
    if column in METRICS:
        return METRICS[column]
    if not goal:
        goal = "min" if re.search(r"err|loss|nll", column, re.I) else "max"
        if goal == "min":
            notes.append(f"{column}: less is taken for better, by its name; --accuracy {column}:max says otherwise.")
    values = _numbers(runs.frame, column)
    like_shares = re.search(r"acc|top|err|f1|recall|precision|score", column, re.I) and values.min() >= 0
    kind: quantities.Kind = (
        "share" if like_shares and values.max() <= 1 else "percent" if like_shares and values.max() <= 100 else "plain"
    )
    return Quantity(column, _goal(goal, "--accuracy"), column, kind)


def choose_costs(runs: Runs, question: Question, notes: list[str]) -> list[Quantity]:
    """The costs that fronts are drawn for; by default one for each thing that people pay with."""
    columns = runs.frame.columns
    if not question.costs:
        if runs.are_records:
            usual = [*DEFAULT_COSTS, "cost/price"]
            return [COSTS[column] for column in usual if column in runs.known_columns]
        raise InputError(
            f"It is not told which columns are costs: {', '.join(map(str, columns[:20]))}.",
            "Add --cost COLUMN:min (or :max where more is better), once for each.",
        )
    chosen = []
    for given in question.costs:
        name, _, goal = given.partition(":")
        for column in columns_of(name, runs.known_columns):
            _numbers(runs.frame, column)
            cost = _cost(column, notes, quiet=bool(goal))
            chosen.append(replace(cost, goal=_goal(goal, "--cost")) if goal else cost)
    return _distinct(chosen)


def _cost(column: str, notes: list[str], quiet: bool = False) -> Quantity:
    if column in COSTS:
        return COSTS[column]
    more_is_better = re.search(r"per_sec|per_second|throughput|fps", column, re.I)
    if more_is_better and not quiet:
        notes.append(f"{column}: more is taken for better, by its name; --cost {column}:min says otherwise.")
    return Quantity(column, "max" if more_is_better else "min", column)


def _goal(word: str, option: str) -> quantities.Goal:
    if word not in get_args(quantities.Goal):
        hint = "Say :min where less is better, :max where more is."
        raise InputError(f"{option} ...:{word} is neither :min nor :max.", hint)
    return cast(quantities.Goal, word)


def _numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    values = pd.to_numeric(frame[column], errors="coerce")
    if values.isna().all():
        raise InputError(
            f"The column {column} has no number in any row.", "Name another; units in the cells are not read."
        )
    return values


def _distinct(found: Sequence[Quantity]) -> list[Quantity]:
    return list({quantity.column: quantity for quantity in reversed(found)}.values())[::-1]


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


def find_front(means: pd.DataFrame, accuracy: Quantity, costs: Sequence[Quantity]) -> Front:
    """The front of accuracy against one cost or several, on the candidates' means."""
    points = _lower(means, accuracy, costs)
    known = np.asarray(~np.isnan(points).any(axis=1))
    below = ratio = np.full(len(points), np.nan)
    scaled = points.copy()
    for place, cost in enumerate(costs, 1):
        value = means[cost.column].to_numpy()
        if np.nanmin(value, initial=np.inf) > 0:  # costs are compared by ratio, so areas are on their logarithms
            scaled[:, place] = np.log(value) * (-1 if cost.goal == "max" else 1)
    if len(costs) == 1:
        below, cheapest = shortfall(points[:, 0], points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = cheapest / points[:, 1] if costs[0].goal == "max" else points[:, 1] / cheapest
        ratio = np.where(points[:, 1] == cheapest, 1.0, ratio)
    scaled[~known] = np.nan
    return Front(
        costs=tuple(costs),
        on=nondominated(points),
        known=known,
        contribution=contributions(scaled),
        points_below=below,
        cost_ratio=ratio,
        probability=np.full(len(points), np.nan),
    )


def _lower(means: pd.DataFrame, accuracy: Quantity, costs: Sequence[Quantity]) -> Floats:
    quantities_ = [accuracy, *costs]
    return lower_is_better(means[[q.column for q in quantities_]].to_numpy(float), [q.goal for q in quantities_])


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


def resample(
    candidates: Sequence[Resampled],
    compared: Sequence[int],
    fronts: dict[str, Front],
    means: pd.DataFrame,
    accuracy: Quantity,
    costs: Sequence[Quantity],
) -> tuple[dict[str, Front], dict[tuple[int, int], tuple[float, float]]]:
    """The fronts with the compared candidates' probabilities to be on them, and the 95 % interval of each difference;
    both as they were, and none, where there is nothing to resample."""
    if not any(candidate.varies for candidate in candidates):
        return fronts, {}
    accuracies, sampled_costs = bootstrap(candidates)
    intervals = {}
    for (i, a), (j, b) in itertools.permutations(enumerate(compared), 2):
        low, high = np.quantile(accuracies[:, i] - accuracies[:, j], [0.025, 0.975])
        intervals[a, b] = float(low), float(high)
    return {
        key: replace(
            front, probability=_probability(front, compared, accuracies, sampled_costs, means, accuracy, costs)
        )
        for key, front in fronts.items()
    }, intervals


def _resampled(
    candidate: Candidate,
    accuracies: Floats,
    answers: dict[int, Answers],
    images: float,
    numbers: pd.DataFrame,
    costs: Sequence[Quantity],
) -> Resampled:
    mine = [answers[row] for row in candidate.rows if row in answers]
    whole = len(mine) == len(candidate.rows) and all(np.array_equal(run.paths, mine[0].paths) for run in mine)
    rows = numbers[[cost.column for cost in costs]].iloc[list(candidate.rows)]
    return Resampled(
        accuracies=accuracies,
        right=np.stack([run.right for run in mine]) if whole else None,
        split=f"{mine[0].split} {len(mine[0].paths)}" if whole else "",
        images=images,
        costs=rows.fillna(rows.mean()).to_numpy(),
    )


def _probability(
    front: Front,
    compared: Sequence[int],
    accuracies: Floats,
    costs: Floats,
    means: pd.DataFrame,
    accuracy: Quantity,
    all_costs: Sequence[Quantity],
) -> Floats:
    """How often each compared candidate is on the front; the others stay where they are, and only their own front can
    matter."""
    goals = [-1.0 if cost.goal == "max" else 1.0 for cost in front.costs]
    places = [all_costs.index(cost) for cost in front.costs]
    mine = [i for i, place in enumerate(compared) if front.known[place]]
    points = _lower(means, accuracy, front.costs)
    fixed = front.known.copy()
    fixed[list(compared)] = False
    others = points[fixed][nondominated(points[fixed])] if fixed.any() else np.empty((0, points.shape[1]))
    still = np.broadcast_to(others, (len(accuracies), *others.shape))
    of_accuracy = accuracies[:, mine] * (1.0 if accuracy.goal == "min" else -1.0)
    of_costs = costs[:, mine][:, :, places] * np.array(goals)
    shares = on_front(
        np.concatenate([of_accuracy, still[:, :, 0]], axis=1), np.concatenate([of_costs, still[:, :, 1:]], axis=1)
    )
    result = np.full(len(front.on), np.nan)
    result[[compared[i] for i in mine]] = shares[: len(mine)]
    return result


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


def find_families(candidates: Sequence[Candidate], means: pd.DataFrame, accuracy: Quantity) -> list[Family]:
    """Architectures of which there are several sizes, with the points of accuracy that a doubling brought: the slope of
    the least-squares line over the logarithm of the size."""
    members: dict[str, list[int]] = {}
    for place, candidate in enumerate(candidates):
        if candidate.rows and not np.isnan(means[accuracy.column].iat[place]):
            members.setdefault(candidate.family, []).append(place)
    families = []
    for name, places in members.items():
        slopes = {}
        for column in ("cost/parameters", "cost/macs"):
            if column not in means.columns:
                continue
            size, value = means[column].to_numpy()[places], means[accuracy.column].to_numpy()[places]
            usable = size > 0
            if len(set(size[usable])) > 1:
                slopes[column] = float(np.polyfit(np.log2(size[usable]), value[usable], 1)[0])
        if slopes:
            families.append(Family(name, tuple(places), slopes))
    return families
