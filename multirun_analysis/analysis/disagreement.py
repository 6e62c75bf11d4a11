"""How candidates differ on the same images: paired tests, agreement on errors, confusions, disputed images."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multirun_analysis.analysis.predictions import Answers, typical_run
from multirun_analysis.analysis.statistics import agreement, holm, mcnemar, most_agree, welch
from multirun_analysis.findings import PICTURED, Candidate, Comparison, Disputed, Errors

THUMBNAIL_PIXELS = 112


def compare(
    candidates: Sequence[Candidate],
    compared: Sequence[int],
    accuracies: dict[int, NDArray[np.float64]],
    sign: float,
    answers: dict[int, Answers],
    missing: dict[int, str],
    seeds: Callable[[int], object],
    intervals: dict[tuple[int, int], tuple[float, float]],
) -> list[Comparison]:
    """Every pair of the ``compared`` candidates, the more accurate first, tested and corrected for their number.

    ``accuracies`` are each candidate's runs'; ``sign`` is -1 where lower is better; ``answers`` and ``missing`` are by
    row, ``seeds`` gives a row's seed; ``intervals`` are of the differences first - second.
    """
    pairs: list[Comparison] = []
    typical = {place: typical_run(candidates[place].rows, accuracies[place]) for place in compared}
    for a, b in itertools.combinations(compared, 2):
        if sign * (accuracies[b].mean() - accuracies[a].mean()) > 0:
            a, b = b, a
        paired, reason = _pair(candidates[a], candidates[b], answers, missing, seeds)
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
    first: Candidate,
    second: Candidate,
    answers: dict[int, Answers],
    missing: dict[int, str],
    seeds: Callable[[int], object],
) -> tuple[list[tuple[int, int]], str]:
    """Runs of two candidates that can be paired, by seed where they share seeds, or why there are none."""
    for candidate in (first, second):
        for row in candidate.rows:
            if row in missing:
                return [], f"{candidate.label}: {missing[row]}"
            if row not in answers:
                return [], f"{candidate.label}: predictions were not read"
    x, y = answers[first.rows[0]], answers[second.rows[0]]
    if x.split != y.split:
        return [], f"different images or splits ({x.split} and {y.split}) are never paired"
    by_seed = {seeds(row): row for row in second.rows if seeds(row) is not None}
    shared = [(row, by_seed[seeds(row)]) for row in first.rows if seeds(row) in by_seed]
    pairs = shared or list(zip(first.rows, second.rows, strict=False))
    for row, other in pairs:
        if not np.array_equal(answers[row].paths, answers[other].paths) or len(answers[row].paths) == 0:
            return [], "their predictions are of different images"
    return pairs, ""


def error_profile(
    candidates: Sequence[Candidate],
    compared: Sequence[int],
    answers: dict[int, Answers],
    classes: Sequence[str],
    disputed: dict[tuple[int, int], list[Disputed]],
) -> Errors | None:
    """Confusion matrices of the candidates whose predictions are there, in the order of ``classes``."""
    matrices: dict[int, NDArray[np.int64]] = {}
    known = pd.Index(classes)
    for place in compared:
        mine = [answers[row] for row in candidates[place].rows if row in answers]
        if not mine:
            continue
        matrix = np.zeros((len(known), len(known)), dtype=np.int64)
        for run in mine:
            np.add.at(matrix, (known.get_indexer(run.truth), known.get_indexer(run.answer)), 1)
        matrices[place] = matrix
    return Errors(list(classes), matrices, disputed) if matrices else None


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
            thumbnail=thumbnail(folder / str(first.paths[place])) if folder and number < PICTURED else None,
        )
        for number, place in enumerate([*some, *others])
    ]


def thumbnail(file: Path) -> str | None:
    """A small JPEG of an image as a ``data:`` address, or None if the image is not there any more or is broken."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            image.draft("RGB", (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
            data = io.BytesIO()
            small.save(data, "JPEG", quality=75)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
