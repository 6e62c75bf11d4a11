"""What candidates do beside their cost: how they learn, err, differ and were tuned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from multirun_analysis.figures.style import (
    COLUMN_WIDTH,
    FAINT,
    GREY,
    SMALL,
    TINY,
    Styles,
    legend,
    sheet,
    short_names,
    spread,
    text_size,
    ticks,
    unit,
)
from multirun_analysis.findings import Block, Comparison

MOST_CURVES, MOST_MATRICES, MOST_RECALLS, MOST_STRIPS, MOST_COMPARED = 8, 4, 6, 30, 20
MOST_CLASSES, MOST_NUMBERED, MOST_ROWS = 60, 20, 40


def first_ones(block: Block, known: Iterable[int], most: int) -> list[int]:
    """Which candidates a figure has room for: the compared ones if there are any, members of a front first; in the
    block's order."""
    known = set(known)
    pool = [c for c in block.compared if c in known] or sorted(known)
    on = {c for front in block.fronts.values() for c in np.flatnonzero(front.on).tolist()}
    return sorted(sorted(pool, key=lambda c: (c not in on, c))[:most])


def _cut(shown: int, of: int) -> list[str]:
    return [f"{shown} of {of}: first those on a front, then the most accurate."] if shown < of else []


def learning_curves(block: Block, styles: Styles) -> Figure | None:
    """Loss on train and accuracy on val over the epochs: a thin line for each seed, a thick one for their mean over the
    epochs that all of them reached."""
    known = [c for c, runs in block.epochs.items() if any(runs)]
    shown = first_ones(block, known, MOST_CURVES)
    if not shown:
        return None
    several = any(len(block.epochs[c]) > 1 for c in shown)
    notes = ["Thick: mean over seeds; thin: each seed."] if several else []
    figure = sheet(3.1 + 0.12 * math.ceil(len(shown) / 2), notes + _cut(len(shown), len(known)))
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    loss.set_ylabel("train loss")
    accuracy.set(ylabel="val accuracy (%)", xlabel="epoch")
    for c in shown:
        style, runs = styles.of(block, c), [run for run in block.epochs[c] if run]
        line: dict[str, Any] = {"color": style.colour, "linestyle": style.line, "marker": style.marker, "markersize": 3}
        for axes, name, scale in ((loss, "train_loss", 1.0), (accuracy, "val_accuracy", 100.0)):
            curves = [
                np.array([math.nan if (v := getattr(e, name)) is None else v * scale for e in run]) for run in runs
            ]
            epochs = [[e.epoch for e in run] for run in runs]
            if len(runs) > 1:
                for x, y in zip(epochs, curves, strict=True):
                    axes.plot(x, y, color=style.colour, linewidth=0.4, alpha=0.6)
            least = min(len(run) for run in runs)
            mean = np.mean([y[:least] for y in curves], axis=0)
            axes.plot(epochs[0][:least], mean, markevery=max(1, least // 8), **line)
    loss.xaxis.get_major_locator().set_params(integer=True)
    loss.tick_params(labelbottom=False)
    legend(figure, [styles.of(block, c) for c in shown], columns=2)
    return figure


def confusion(block: Block, candidate: int, styles: Styles) -> Figure | None:
    """The share of each class's images that got each answer, percent; none for more classes than can be read."""
    assert block.errors is not None
    classes = block.errors.classes
    if len(classes) > MOST_CLASSES:
        return None
    counts = block.errors.confusion[candidate].astype(float)
    totals = counts.sum(1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    numbered = len(classes) <= MOST_NUMBERED
    names = list(short_names(classes, 18).values())
    label, beside = _longest(names, SMALL if numbered else TINY), 0.35 if numbered else 0.85
    width = max(COLUMN_WIDTH, label + beside + len(classes) * (0.155 if numbered else 0.085))
    figure = sheet(width - beside + 0.55, width=width)
    axes = figure.add_subplot(xlabel="answer", ylabel="truth", aspect="equal")
    axes.set_title(styles.of(block, candidate).name, fontsize=7, y=1)  # above nothing: no tick is at the top
    mesh = axes.pcolormesh(
        shares, cmap="Blues", norm=PowerNorm(0.6, 0, 100), edgecolors="white", linewidth=0.3, rasterized=not numbered
    )
    places = np.arange(len(classes)) + 0.5
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
    axes.tick_params(length=0, labelsize=SMALL if numbered else TINY)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    if numbered:
        for row, column in np.argwhere(counts > 0):
            share = shares[row, column]
            text = f"{share:.0f}" if share >= 0.5 else "<1"
            colour = "white" if share > 45 else "black"
            axes.text(
                column + 0.5, row + 0.52, text, fontsize=TINY, color=colour, ha="center", va="center", in_layout=False
            )
    else:
        figure.colorbar(
            mesh, ax=axes, label="% of the class", shrink=0.6, ticks=[0, 5, 20, 50, 100]
        ).outline.set_visible(False)
    return figure


def recalls(block: Block, styles: Styles) -> Figure | None:
    """Each class's recall by each candidate, the class on which they differ most on top."""
    if block.errors is None:
        return None
    known = list(block.errors.confusion)
    shown = first_ones(block, known, MOST_RECALLS)
    values = np.array([block.errors.recall(c) * 100 for c in shown]).reshape(len(shown), len(block.errors.classes))
    there = np.flatnonzero(np.isfinite(values).all(0))  # a class without images has no recall
    if not shown or not len(there):
        return None
    widths = np.ptp(values[:, there], axis=0)
    order = there[np.lexsort((-values[:, there].mean(0), -widths))]
    rows = order[:MOST_ROWS]
    notes = [f"{len(rows)} of {len(order)} classes: where the models differ most."] if len(rows) < len(order) else []
    legend_rows = math.ceil(len(shown) / 2)
    figure = sheet(0.5 + 0.12 * legend_rows + 0.14 * max(len(rows), 4), notes + _cut(len(shown), len(known)))
    axes = figure.add_subplot(xlabel="recall (%)")
    y = np.arange(len(rows))
    axes.grid(axis="y", visible=False)
    axes.hlines(y, values[:, rows].min(0), values[:, rows].max(0), color="0.75", linewidth=1.2, zorder=1)
    for c, own in zip(shown, values, strict=True):
        style = styles.of(block, c)
        axes.plot(
            own[rows], y, style.marker, color=style.colour, markersize=4, markeredgecolor="white", markeredgewidth=0.3
        )
    names = short_names(block.errors.classes)
    axes.set_yticks(y, [names[block.errors.classes[row]] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    legend(figure, [styles.of(block, c) for c in shown], columns=2, lines=False)
    return figure


def reliability(block: Block, styles: Styles) -> Figure | None:
    """How often answers were right that were given with so much confidence; on the diagonal a model is as right as it
    is sure."""
    shown = first_ones(block, block.reliability, MOST_CURVES)
    if not shown:
        return None
    notes = ["Bars: 95 % intervals. Below the diagonal: too sure.", *_cut(len(shown), len(block.reliability))]
    figure = sheet(COLUMN_WIDTH + 0.12 * math.ceil(len(shown) / 2), notes)
    axes = figure.add_subplot(xlabel="confidence (%)", ylabel="right (%)", aspect="equal", xlim=(0, 100), ylim=(0, 100))
    axes.plot([0, 100], [0, 100], color="0.75", linewidth=0.8, zorder=1)
    for c in shown:
        style, own = styles.of(block, c), block.reliability[c]
        there = own.answers > 0
        x, y, bounds = 100 * own.confidence[there], 100 * own.accuracy[there], 100 * own.interval[there]
        axes.vlines(x, bounds[:, 0], bounds[:, 1], color=style.colour, linewidth=0.6, alpha=0.6)
        axes.plot(x, y, color=style.colour, linestyle=style.line, marker=style.marker, markersize=3)
    legend(figure, [styles.of(block, c) for c in shown], columns=2)
    return figure


def trials(block: Block, styles: Styles) -> Figure | None:
    """The selecting metric of each trial, by candidate, with the number of trials; the chosen one is filled."""
    if not any(len(candidate.trials) > 1 for candidate in block.candidates):
        return None
    known = [
        c for c, candidate in enumerate(block.candidates) if any(math.isfinite(t.selection) for t in candidate.trials)
    ]
    if not known:
        return None
    shown = sorted(sorted(known, key=lambda c: (len(block.candidates[c].trials) < 2, c))[:MOST_STRIPS])
    selections = {c: np.array([trial.selection for trial in block.candidates[c].trials]) for c in shown}
    label, scale = unit(block.selecting, np.concatenate(list(selections.values())))
    left_out = [f"{len(shown)} of {len(known)}: first those with several trials."] if len(shown) < len(known) else []
    figure = sheet(
        0.5 + 0.17 * max(len(shown), 3), ["Filled: the trial that was chosen. Right: trials made.", *left_out]
    )
    axes = figure.add_subplot(xlabel=label)
    for row, c in enumerate(shown):
        style, values = styles.of(block, c), selections[c] * scale
        # Spread evenly, the same way each time, so that equal values do not hide one another.
        offsets = ((np.arange(len(values)) * 0.618) % 1 - 0.5) * 0.5 if len(values) > 1 else np.zeros(1)
        chosen = np.array([trial.chosen for trial in block.candidates[c].trials])
        for which, face, size in ((~chosen, "none", 3), (chosen, style.colour, 5)):
            axes.plot(
                values[which],
                (row + offsets)[which],
                style.marker,
                color=style.colour,
                markerfacecolor=face,
                markersize=size,
                markeredgewidth=0.6,
            )
        axes.text(1.02, row, f"{len(values)}", transform=axes.get_yaxis_transform(), fontsize=SMALL, va="center")
    axes.set_yticks(np.arange(len(shown)), [styles.of(block, c).name for c in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    return figure


def tuning(block: Block, styles: Styles) -> Figure:
    """The best selecting metric of a trial so far, against the device hours of all trials so far; a mark for each
    trial."""
    shown = first_ones(block, block.tuning, MOST_CURVES)
    hours = np.concatenate([block.tuning[c].hours for c in shown])
    label, scale = unit(block.selecting, np.concatenate([block.tuning[c].best for c in shown]))
    log = spread(hours)
    notes = ["A mark for each trial, in the order they were started.", *_cut(len(shown), len(block.tuning))]
    figure = sheet(2.0 + 0.12 * math.ceil(len(shown) / 2), notes)
    axes = figure.add_subplot(
        xlabel="device hours of tuning", ylabel=f"best {label}", xscale="log" if log else "linear"
    )
    for c in shown:
        style, own = styles.of(block, c), block.tuning[c]
        x, y = np.append(own.hours, hours.max()), np.append(own.best, own.best[-1]) * scale
        line: dict[str, Any] = {"color": style.colour, "linestyle": style.line, "drawstyle": "steps-post"}
        axes.plot(x, y, marker=style.marker, markersize=3, markevery=range(len(own.hours)), **line)
    ticks(axes.xaxis, axes.get_xlim(), log)
    legend(figure, [styles.of(block, c) for c in shown], columns=2)
    return figure


def comparisons(block: Block, styles: Styles) -> Figure | None:
    """By how much the row's candidate is more accurate than the column's; shaded and bold where that is certain."""
    pairs = {(c.first, c.second): c for c in block.comparisons}
    if not pairs:
        return None
    involved = {c for pair in pairs for c in pair}
    shown = first_ones(block, involved, MOST_COMPARED)
    detailed = len(shown) <= 8
    rows, columns = shown[:-1], shown[1:]
    label = _longest([styles.of(block, c).name for c in shown], SMALL)
    width = max(COLUMN_WIDTH, label + 0.15 + len(columns) * (0.36 if detailed else 0.26))
    height = label + 0.15 + len(rows) * (0.26 if detailed else 0.17)
    notes = ["Row minus column, points." if block.accuracy.is_share else "The better's lead."]
    notes[0] += " Shaded, bold: p < .05, corrected" + (
        "." if any(p.of_models for p in pairs.values()) else ", of networks trained once."
    )
    notes[0] += " –: not tested." if any(pair.p is None for pair in pairs.values()) else ""
    figure = sheet(height, notes + _cut(len(shown), len(involved)), width=width)
    axes = figure.add_subplot()
    places = [(i, j) for i in range(len(rows)) for j in range(i, len(columns))]
    told = {(i, j): pairs.get((rows[i], columns[j])) or pairs.get((columns[j], rows[i])) for i, j in places}
    cells = {place: pair for place, pair in told.items() if pair is not None}
    faces = ["#BBD7EA" if pair.beyond_chance else "white" for pair in cells.values()]
    squares = [Rectangle((column, row), 1, 1) for row, column in cells]
    axes.add_collection(PatchCollection(squares, facecolors=faces, edgecolors=FAINT, linewidths=0.5))
    for (i, j), pair in cells.items():
        _cell(axes, i, j, pair, block, detailed)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [styles.of(block, c).name for c in columns], rotation=90)
    axes.set_yticks(np.arange(len(rows)) + 0.5, [styles.of(block, c).name for c in rows])
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def _cell(axes: Axes, row: int, column: int, pair: Comparison, block: Block, detailed: bool) -> None:
    difference = block.accuracy.signed(pair.difference)
    weight = "bold" if pair.beyond_chance else "normal"
    corrected = pair.p_corrected
    p = "–" if corrected is None else "p < .001" if corrected < 0.001 else f"p = {corrected:.3f}".replace("0.", ".")
    colour = "black" if pair.beyond_chance else GREY
    style: dict[str, Any] = {
        "in_layout": False,
        "ha": "center",
        "color": colour,
        "fontsize": SMALL if detailed else TINY,
    }
    if detailed:
        axes.text(column + 0.5, row + 0.48, difference, va="bottom", fontweight=weight, **style)
        axes.text(column + 0.5, row + 0.56, p, va="top", **{**style, "fontsize": TINY})
    else:
        axes.text(column + 0.5, row + 0.5, difference + "–" * (pair.p is None), va="center", fontweight=weight, **style)


def _longest(names: Sequence[str], size: float) -> float:
    """Inches that the longest name takes."""
    return max(text_size(name, size)[0] for name in names) / 72
