"""How candidates differ on the same images: paired tests, agreement on errors, confusions, disputed images."""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multirun_analysis.analysis.predictions import Answers, Predictions, typical_run
from multirun_analysis.analysis.statistics import agreement, holm, mcnemar, most_agree, welch
from multirun_analysis.findings import PICTURED, Candidate, Comparison, Disputed, Errors, Front
from multirun_analysis.quantities import Quantity
from multirun_analysis.sources.runs import Progress, Runs

MAX_DISPUTED = 3  # pairs whose disputed images are shown
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # those of runs: PIL's others may start programs
THUMBNAIL_PIXELS = 112

Accuracies = dict[int, NDArray[np.float64]]  # of each compared candidate's runs
Disputes = dict[tuple[int, int], list[Disputed]]


def compare(
    runs: Runs,
    candidates: Sequence[Candidate],
    accuracies: Accuracies,
    accuracy: Quantity,
    predictions: Predictions,
    intervals: dict[tuple[int, int], tuple[float, float]],
) -> list[Comparison]:
    """Every pair of the candidates whose ``accuracies`` are given, the more accurate first, tested and corrected for
    their number. ``intervals`` are of the differences first - second."""
    pairs: list[Comparison] = []
    answers = predictions.found
    typical = {place: typical_run(candidates[place].rows, own) for place, own in accuracies.items()}
    for a, b in itertools.combinations(accuracies, 2):
        if accuracy.sign * (accuracies[b].mean() - accuracies[a].mean()) > 0:
            a, b = b, a
        paired, reason = _pair(runs, candidates[a], candidates[b], predictions)
        of_images = most_agree([mcnemar(*_only(answers[x], answers[y])) for x, y in paired]) if paired else None
        of_seeds = welch(accuracies[a], accuracies[b])
        tests = []
        if of_images is not None:
            count = len(answers[paired[0][0]].paths)
            tests.append(f"McNemar on {count:,} images" + (f", {len(paired)} pairs of runs" if len(paired) > 1 else ""))
        if of_seeds is not None:
            tests.append(f"Welch's t over {len(accuracies[a])} and {len(accuracies[b])} runs")
        p = max((p for p in (of_images, of_seeds) if p is not None), default=None)
        low, high = intervals.get((a, b), (np.nan, np.nan))
        overlap: dict[str, Any] = {}
        first, second = answers.get(typical[a]), answers.get(typical[b])
        if paired and first and second:
            right = first.right, second.right
            only = _only(first, second)
            overlap = {
                "kappa": agreement(*right),
                "only_first": only[0],
                "only_second": only[1],
                "both": int((right[0] & right[1]).sum()),
                "neither": int((~right[0] & ~right[1]).sum()),
                "oracle": float((right[0] | right[1]).mean()),
            }
        difference = float(accuracies[a].mean() - accuracies[b].mean())
        pairs.append(Comparison(a, b, difference, low, high, p, " and ".join(tests), reason, **overlap))
    tested = [pair.p for pair in pairs if pair.p is not None]
    adjusted = iter(holm(tested).tolist())
    return [pair if pair.p is None else replace(pair, p=next(adjusted)) for pair in pairs]


def _only(first: Answers, second: Answers) -> tuple[int, int]:
    a, b = first.right, second.right
    return int((a & ~b).sum()), int((b & ~a).sum())


def _pair(
    runs: Runs, first: Candidate, second: Candidate, predictions: Predictions
) -> tuple[list[tuple[int, int]], str]:
    """Runs of two candidates that can be paired, by seed where they share seeds, or why there are none."""
    answers = predictions.found
    for candidate in (first, second):
        for row in candidate.rows:
            if row in predictions.missing:
                return [], f"{candidate.label}: {predictions.missing[row]}"
            if row not in answers:
                return [], f"{candidate.label}: predictions were not read"
    x, y = answers[first.rows[0]], answers[second.rows[0]]
    if x.split != y.split:
        return [], f"different images or splits ({x.split} and {y.split}) are never paired"
    by_seed = {seed: row for row in second.rows if (seed := runs.info[row].seed) is not None}
    shared = [(row, by_seed[seed]) for row in first.rows if (seed := runs.info[row].seed) in by_seed]
    pairs = shared or list(zip(first.rows, second.rows, strict=False))
    for row, other in pairs:
        if not np.array_equal(answers[row].paths, answers[other].paths) or len(answers[row].paths) == 0:
            return [], "their predictions are of different images"
    return pairs, ""


def profile_errors(
    runs: Runs,
    rows: NDArray[np.int64],
    candidates: Sequence[Candidate],
    compared: Sequence[int],
    answers: dict[int, Answers],
    disputes: Disputes,
) -> Errors | None:
    """Confusion matrices of the candidates whose predictions are there, in the order of the classes of ``rows``."""
    matrices: dict[int, NDArray[np.int64]] = {}
    classes = _classes(runs, rows, answers)
    known = pd.Index(classes)
    for place in compared:
        mine = [answers[row] for row in candidates[place].rows if row in answers]
        if not mine:
            continue
        matrix = np.zeros((len(known), len(known)), dtype=np.int64)
        for run in mine:
            np.add.at(matrix, (known.get_indexer(run.truth), known.get_indexer(run.answer)), 1)
        matrices[place] = matrix
    return Errors(classes, matrices, disputes) if matrices else None


def _classes(runs: Runs, rows: NDArray[np.int64], answers: dict[int, Answers]) -> list[str]:
    """The classes in the order of the records, and whatever else the predictions name."""
    listed = runs.column("dataset/classes").iat[rows[0]]
    known = dict.fromkeys(listed if isinstance(listed, (list, np.ndarray)) else [])
    for run in answers.values():
        known |= dict.fromkeys([*np.unique(run.truth), *np.unique(run.answer)])
    return list(known)


def find_disputes(
    runs: Runs,
    candidates: Sequence[Candidate],
    compared: Sequence[int],
    accuracies: Accuracies,
    answers: dict[int, Answers],
    fronts: dict[str, Front],
    images: Path | None,
    progress: Progress,
) -> Disputes:
    """The images on which those candidates disagree whose differences matter most; their pictures are looked for in
    ``images``, or where they were."""
    disputes: Disputes = {}
    for a, b in _disputing_pairs(fronts, compared)[:MAX_DISPUTED]:
        progress("Looking at disputed images", len(disputes), MAX_DISPUTED)
        first, second = (answers.get(typical_run(candidates[place].rows, accuracies[place])) for place in (a, b))
        if first and second and first.split == second.split and np.array_equal(first.paths, second.paths):
            disputes[a, b] = find_disputed(first, second, images or _images(runs, candidates[a]))
    return disputes


def _disputing_pairs(fronts: dict[str, Front], compared: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours on the first front, then the most accurate."""
    pairs = []
    if fronts:
        on = np.flatnonzero(next(iter(fronts.values())).on)  # most accurate first
        pairs = [(int(a), int(b)) for a, b in itertools.pairwise(on) if a in compared and b in compared]
    return list(dict.fromkeys([*pairs, *itertools.pairwise(compared)]))


def _images(runs: Runs, candidate: Candidate) -> Path | None:
    for column in ("dataset/root", "config/data/root"):
        root = runs.column(column).iat[candidate.rows[0]]
        if isinstance(root, str) and root and (folder := Path(root).expanduser()).is_dir():
            return folder
    return None


def find_disputed(first: Answers, second: Answers, folder: Path | None) -> list[Disputed]:
    """The images that only one of two runs got right: first some of each run's, spread over the classes, then all
    others. The first ``PICTURED`` have their pictures, if they are in ``folder``."""
    some: list[int] = []
    others: list[int] = []
    for wanted in (first.right & ~second.right, second.right & ~first.right):
        places = np.flatnonzero(wanted).tolist()
        rank = pd.Series(first.truth[places]).groupby(first.truth[places]).cumcount()  # the first of each class first
        ordered = [places[i] for i in np.argsort(rank, kind="stable")]
        some += ordered[: PICTURED // 2]
        others += ordered[PICTURED // 2 :]
    return [
        Disputed(
            path=str(first.paths[place]),
            truth=str(first.truth[place]),
            answers=(str(first.answer[place]), str(second.answer[place])),
            thumbnail=thumbnail(folder, str(first.paths[place])) if folder and number < PICTURED else None,
        )
        for number, place in enumerate([*some, *others])
    ]


def thumbnail(folder: Path, path: str) -> str | None:
    """A small JPEG of an image as a ``data:`` address, or None if the image is not there any more or is broken.

    Nor does one get a file outside of ``folder``: whoever wrote the run's predictions could name any.
    """
    from PIL import Image, ImageOps

    if os.path.isabs(path) or ".." in Path(path).parts:
        return None
    try:
        with Image.open(folder / path, formats=FORMATS) as image:
            image.draft("RGB", (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
            data = io.BytesIO()
            small.save(data, "JPEG", quality=75)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
