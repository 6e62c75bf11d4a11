"""Tables of how models differ, pair by pair and class by class."""

from __future__ import annotations

import math
import re

import numpy as np

from multirun_analysis.findings import Block
from multirun_analysis.quantities import plural
from multirun_analysis.sources.runs import some
from multirun_analysis.tables.columns import Cell
from multirun_analysis.tables.table import Table, interval_cell, name_cell, plain_cell


def slug(column: str) -> str:
    """A column as a part of a file's name: ``cost/training/seconds`` -> ``training-seconds``."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", column.removeprefix("cost/")).strip("-").lower()[:60] or "cost"


def comparisons_table(block: Block) -> Table:
    """Every pair that was compared."""
    points, labels = block.accuracy.points, block.labels
    rows = []
    for pair in block.comparisons:
        if pair.p is None:
            verdict = "not tested"
        else:
            verdict = ("yes" if pair.beyond_chance else "no") + ", of these networks" * (not pair.of_models)
        rows.append(
            [
                name_cell(labels[pair.first]),
                name_cell(labels[pair.second]),
                plain_cell(pair.difference * points, "{:+.2f}"),
                interval_cell(pair.low * points, pair.high * points, "{:+.2f}"),
                plain_cell(pair.p, "{:.3g}"),
                plain_cell(pair.p_corrected, "{:.3g}"),
                name_cell("-" if pair.p is None else "claims" if pair.claimed else "all pairs"),
                name_cell(verdict),
                plain_cell(100 * pair.beats, "{:.0f}"),
                plain_cell(_reachable(pair.images_needed), "{:,.0f}"),
                plain_cell(_reachable(pair.runs_needed), "{:,.0f}"),
                plain_cell(pair.kappa, "{:.2f}"),
                interval_cell(pair.kappa_low, pair.kappa_high, "{:.2f}"),
                plain_cell(pair.only_first),
                plain_cell(pair.only_second),
                plain_cell(None if pair.oracle is None else 100 * pair.oracle, "{:.2f}"),
                name_cell("; ".join(filter(None, (pair.test, pair.reason)))),
            ]
        )
    heads = [
        "more accurate", "than", "difference (points)" if block.accuracy.is_share else "difference",
        "95 % interval", "p", "p corrected", "corrected for", "certain", "one training beats one (%)",
        "images to show it", "runs to show it", "kappa of errors", "kappa 95 % interval",
        "only the first right", "only the second right", "oracle of both (%)", "test",
    ]  # fmt: skip
    claims, tested = (
        sum(map(bool, of))
        for of in ([c.claimed for c in block.comparisons], [c.p is not None for c in block.comparisons])
    )
    note = (
        f"p is of the pair alone, and so is its 95 % interval; corrected, for "
        f"{plural(claims, 'claim', 'claims')} of the report where it is one of them, else for "
        f"{plural(tested, 'pair', 'pairs')} in all. Certain: below 0.05; of models only where both were trained more "
        "than once."
    )
    return Table("comparisons", "Comparisons in pairs", heads, rows, note)


def _reachable(needed: float) -> float | None:
    """None for what no number would show."""
    return math.ceil(needed) if math.isfinite(needed) else None


def recall_table(block: Block) -> Table:
    """How much of each class each candidate finds."""
    assert block.errors
    places = list(block.errors.confusion)
    recalls = np.stack([block.errors.recall(place) for place in places])
    images = block.errors.confusion[places[0]].sum(1) // max(1, len(block.candidates[places[0]].rows))
    rows = []
    for number, name in enumerate(block.errors.classes):
        column = recalls[:, number]
        best = np.nanmax(column) if len(places) > 1 and not np.isnan(column).all() else np.nan
        cells = []
        for place, recall in zip(places, column.tolist(), strict=True):
            bounds = block.errors.recall_interval.get(place)
            low, high = (None, None) if bounds is None or np.isnan(recall) else (100 * bounds[number]).tolist()
            parts = {"": None if np.isnan(recall) else 100 * recall, "lower": low, "upper": high}
            cells.append(
                Cell(None, "-", parts=parts)
                if np.isnan(recall)
                else Cell(100 * recall, f"{100 * recall:.1f}", best=bool(recall == best), parts=parts)
            )
        rows.append([name_cell(name), plain_cell(int(images[number])), *cells])
    return Table("recall", "Recall by class (%)", ["class", "images", *(block.labels[place] for place in places)], rows)


def reliability_table(block: Block) -> Table:
    """How often answers of so much confidence were right."""
    rows = []
    for place, own in block.reliability.items():
        for number in np.flatnonzero(own.answers):
            low, high = own.interval[number]
            sure, right = float(own.confidence[number]), float(own.accuracy[number])
            cells = [plain_cell(100 * share, "{:.1f}") for share in (sure, right, sure - right)]
            cells.insert(2, interval_cell(100 * low, 100 * high, "{:.1f}"))
            rows.append([name_cell(block.labels[place]), plain_cell(int(own.answers[number])), *cells])
    heads = ["model", "answers", "confidence (%)", "right (%)", "95 % interval", "too sure by (points)"]
    note = "Answers of all runs, in 15 bins of confidence; those of the calibration error (ECE)."
    return Table("reliability", "Calibration", heads, rows, note)


def confusions_table(block: Block) -> Table:
    """Each candidate's most frequent mistakes, and who shares them."""
    assert block.errors
    tops = {place: block.errors.confusions(place) for place in block.errors.confusion}
    rows = []
    for place, found in tops.items():
        for truth, answer, share in found:
            others = [
                block.labels[o]
                for o, theirs in tops.items()
                if o != place and (truth, answer) in {t[:2] for t in theirs}
            ]
            rows.append(
                [
                    name_cell(block.labels[place]),
                    name_cell(truth),
                    name_cell(answer),
                    plain_cell(100 * share, "{:.1f}"),
                    name_cell(some(others, 4) or "nobody"),
                ]
            )
    heads = ["model", "truth", "taken for", "of the class (%)", "also among the most frequent of"]
    return Table("confusions", "Most frequent confusions", heads, rows)


def disputed_table(block: Block) -> Table:
    """Every image that only one of two models got right, for the pairs whose differences matter most."""
    assert block.errors
    labels = block.labels
    rows = [
        [name_cell(text) for text in (labels[first], labels[second], image.path, image.truth, *image.answers)]
        for (first, second), images in block.errors.disputed.items()
        for image in images
    ]
    heads = ["first", "second", "image", "truth", "first's answer", "second's answer"]
    return Table("disputed", "Images that only one of two gets right", heads, rows)


def confusion_table(block: Block, place: int) -> Table:
    """One confusion matrix, counted over the candidate's runs; rows are the truth."""
    assert block.errors
    classes = block.errors.classes
    rows = [
        [name_cell(name), *(plain_cell(int(n)) for n in line)]
        for name, line in zip(classes, block.errors.confusion[place], strict=True)
    ]
    return Table(
        "confusion",
        f"Confusion matrix of {block.labels[place]}",
        ["truth", *classes],
        rows,
        part=f"{place + 1}-{slug(block.labels[place])}",
    )
