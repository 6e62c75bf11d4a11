"""How candidates err: confusions, and the images on which they disagree."""

from __future__ import annotations

import base64
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multirun_analysis.analysis.comparison import Accuracies
from multirun_analysis.analysis.crossed import Answered, accuracy_interval, components
from multirun_analysis.analysis.predictions import Answers, typical_run
from multirun_analysis.findings import PICTURED, Candidate, Disputed, Errors, Front, Reliability
from multirun_analysis.sources.runs import Progress, Runs

BINS = 15  # of confidence, as the record's calibration error has them
MAX_DISPUTED = 3  # pairs whose disputed images are shown
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # those of runs: PIL's others may start programs
THUMBNAIL_PIXELS = 112

Disputes = dict[tuple[int, int], list[Disputed]]


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
    intervals: dict[int, NDArray[np.float64]] = {}
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
        truth = known.get_indexer(mine[0].truth)
        if all(run.same_images(mine[0]) for run in mine):
            intervals[place] = recall_interval(np.stack([run.right for run in mine]), truth, len(known))
    return Errors(classes, matrices, disputes, intervals) if matrices else None


def recall_interval(right: NDArray[np.bool_], truth: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """The 95 % interval [classes, 2] of each class's recall, from ``right`` [runs, images]; nan without images."""
    found = np.full((classes, 2), np.nan)
    order = np.argsort(truth, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(truth[order])) + 1):
        own = right[:, members]
        of = components([Answered(own.mean(axis=1), own, "", len(members))])
        found[truth[members[0]]] = of.interval()[0]
    return found


def find_reliability(
    candidates: Sequence[Candidate], compared: Sequence[int], answers: dict[int, Answers]
) -> dict[int, Reliability]:
    """How right the compared candidates are where they are so sure, where all their runs' confidences are known; bins
    as those of the calibration error."""
    found = {}
    for place in compared:
        mine = [answers[row] for row in candidates[place].rows if row in answers]
        known = [run.confidence for run in mine if run.confidence is not None]
        if not known or len(known) < len(mine):
            continue
        sure, right = np.concatenate(known), np.concatenate([run.right for run in mine])
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        count = np.bincount(bins, minlength=BINS)
        with np.errstate(invalid="ignore", divide="ignore"):
            confidence, accuracy = (np.bincount(bins, x, minlength=BINS) / count for x in (sure, right.astype(float)))
            images = np.where(count > 0, count / len(mine), np.nan)
            spread = accuracy * (1 - accuracy) / images
        none = np.zeros(BINS)
        interval = accuracy_interval(accuracy, spread, images, none, none, none + 1, 1.0)
        found[place] = Reliability(confidence, accuracy, count, interval)
    return found


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
    for a, b in pairs_that_matter(candidates, compared, fronts)[:MAX_DISPUTED]:
        progress("Looking at disputed images", len(disputes), MAX_DISPUTED)
        first, second = (answers.get(typical_run(candidates[place].rows, accuracies[place])) for place in (a, b))
        if first and second and first.same_images(second):
            disputes[a, b] = find_disputed(first, second, images or _images(runs, candidates[a]))
    return disputes


def pairs_that_matter(
    candidates: Sequence[Candidate], compared: Sequence[int], fronts: dict[str, Front]
) -> list[tuple[int, int]]:
    """Neighbours on the first front, from the most accurate down, those of two families first, for one model at two
    sizes mostly errs alike; then the most accurate."""
    front = next(iter(fronts.values()), None)
    on = [place for place in compared if front is not None and front.on[place]]  # most accurate first
    steps = sorted(itertools.pairwise(on), key=lambda pair: candidates[pair[0]].family == candidates[pair[1]].family)
    return list(dict.fromkeys([*steps, *itertools.pairwise(compared)]))


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
