"""Accuracy against costs: the Pareto fronts, and scaling within families."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multirun_analysis.figures.labels import Label, few_a_pixel, place_labels
from multirun_analysis.figures.style import (
    LINES,
    NONE,
    Floats,
    Styles,
    clean,
    fix_layout,
    legend,
    sheet,
    spread,
    stretch,
    ticks,
    unit,
)
from multirun_analysis.findings import Block, Family, Front
from multirun_analysis.quantities import Quantity

CROWD = 60  # from more candidates than this on, those off the front are a cloud without bars and labels
MOST_NOTES, MOST_NAMES = 4, 4


def pareto(block: Block, front: Front, styles: Styles) -> Figure | None:
    """Accuracy against the one cost of ``front``; None without a candidate that has both.

    Bars are 95 % of the accuracy and one standard deviation of the cost; the front is a step line, what it dominates
    shaded; who is off it is smaller and paler. Hollow: a mark spoils the point; a cross: its run is unfinished.
    """
    (cost,) = front.costs
    x, y = (block.means[quantity.column].to_numpy(float) for quantity in (cost, block.accuracy))
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist()
    if not shown:
        return None
    on = front.on & np.isfinite(x) & np.isfinite(y)
    crowd = len(shown) > CROWD
    marked: dict[int, list[str]] = {}
    for c in sorted(block.doubtful.intersection(shown)):
        candidate = block.candidates[c]
        spoilt = [m.cause for m in candidate.marks if m.spoils(cost.column) or m.spoils(block.accuracy.column)]
        if spoilt or not candidate.rows:
            marked[c] = spoilt or ["unfinished"]
    single = [c for c in shown if on[c] or not crowd]  # drawn one by one, the others as a cloud
    (x_label, x_scale), (y_label, y_scale) = unit(cost, x[shown]), unit(block.accuracy, y[shown])
    x, y = x * x_scale, y * y_scale
    intervals = block.interval * y_scale
    deviations = block.deviations[cost.column].to_numpy(float) * x_scale

    arrows = ["Arrows lead from a run to what was made of it."] * bool(block.variants)
    figure = sheet(2.45, _bar_notes(block, single, deviations) + arrows + _mark_notes(block, shown, marked, styles))
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    reach = np.array([x[single] - deviations[single], x[single] + deviations[single]])
    frame(axes, x[shown], y[shown], reach, intervals[single].T)
    obstacles = [_step(axes, x[on], y[on], cost, block.accuracy)] if on.any() else []
    if crowd:
        off = [c for c in shown if not on[c]]
        crowded: dict[str, list[int]] = {}
        for c in off:  # colours that do not tell families apart would only be confetti
            crowded.setdefault(block.candidates[c].family if styles.families else "", []).append(c)
        for family, mine in crowded.items():
            look, points = styles.families.get(family, NONE), np.column_stack([x[mine], y[mine]])
            points = points[few_a_pixel(axes.transData.transform(points), most=4)]  # four are as dark as a hundred
            axes.scatter(
                points[:, 0], points[:, 1], 3, look.colour, marker=look.marker, alpha=0.5, linewidths=0, rasterized=True
            )
    drawn = [change for change in block.variants if {change.variant, change.parent} <= set(single)]
    for change in drawn:
        ends = (x[change.parent], y[change.parent]), (x[change.variant], y[change.variant])
        obstacles.append(_arrow(axes, *ends, styles.of(block, change.variant).colour))
    for c in single:
        style, strength = styles.of(block, c), 1.0 if on[c] else 0.5
        obstacles.append(_bars(axes, x[c], y[c], deviations[c], intervals[c], style.colour, strength))
        axes.plot(
            x[c],
            y[c],
            marker=style.marker if block.candidates[c].rows else "x",
            markersize=3.5 if crowd else 5 if on[c] else 4,
            color=style.colour,
            markerfacecolor="white" if c in marked else style.colour,
            alpha=strength if c not in marked else None,
            zorder=4 if on[c] else 3,
        )
    labels = [
        Label(styles.of(block, c).name + f" {_sign(block, c)}" * (c in marked), x[c], y[c], bool(on[c])) for c in single
    ]
    if styles.families and len(styles.families) < len(styles.candidates):
        legend(figure, list(styles.families.values()), columns=4, lines=False)
    fix_layout(figure)
    place_labels(axes, labels, np.column_stack([x, y])[shown], np.concatenate([np.empty((0, 4)), *obstacles]))
    return figure


def scaling(block: Block, quantities: Sequence[Quantity], styles: Styles) -> Figure | None:
    """Accuracy against each of ``quantities``, a line for each family through its members by size; None without a
    family of two."""
    panels = []
    for quantity in quantities:
        lines = [(family, _by_size(block, family, quantity)) for family in block.families]
        if any(len(members) > 1 for _, members in lines):
            panels.append((quantity, [(family, members) for family, members in lines if members]))
    if not panels:
        return None
    y = block.means[block.accuracy.column].to_numpy(float)
    y_label, y_scale = unit(block.accuracy, y)
    y, intervals = y * y_scale, block.interval * y_scale
    every = sorted({c for _, lines in panels for _, members in lines for c in members})
    figure = sheet(0.2 + 2.2 * len(panels), _bar_notes(block, every, np.full(len(y), np.nan)))
    placing = []
    for place, (quantity, lines) in enumerate(panels):
        every = [c for _, members in lines for c in members]
        values = block.means[quantity.column].to_numpy(float)
        x_label, x_scale = unit(quantity, values[every])
        x = values * x_scale
        axes = figure.add_subplot(len(panels), 1, place + 1, xlabel=x_label, ylabel=y_label)
        frame(axes, x[every], y[every], np.empty((2, 0)), intervals[every].T)
        obstacles = []
        for at, (family, members) in enumerate(lines):
            style = styles.families.get(family.name, styles.of(block, members[0]))
            slope = family.slopes.get(quantity.column, math.nan)
            gain = "" if math.isnan(slope) else f": {block.accuracy.difference(slope)} a doubling"
            axes.plot(x[members], y[members], color=style.colour, linestyle=LINES[at % len(LINES)], zorder=2)
            axes.plot(
                [],
                [],
                color=style.colour,
                linestyle=LINES[at % len(LINES)],
                marker=style.marker,
                markersize=4,
                label=clean(family.name) + gain,
            )  # the legend's line has a marker; the family's own get theirs below
            obstacles.append(np.column_stack([x[members][:-1], y[members][:-1], x[members][1:], y[members][1:]]))
            for c in members:
                own = styles.of(block, c)
                obstacles.append(_bars(axes, x[c], y[c], math.nan, intervals[c], own.colour, 1.0))
                axes.plot(x[c], y[c], marker=own.marker, color=own.colour, zorder=4)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=1)
        labels = [Label(styles.of(block, c).name, x[c], y[c], True) for c in every]
        placing.append((axes, labels, np.column_stack([x, y])[every], np.concatenate(obstacles)))
    fix_layout(figure)
    for axes, labels, points, segments in placing:
        place_labels(axes, labels, points, segments)
    return figure


def frame(axes: Axes, x: Floats, y: Floats, x_reach: Floats, y_reach: Floats) -> None:
    """Scales, limits and ticks for points and the ends [2, n] of their bars; x is logarithmic where it spans a lot."""
    log = spread(x)
    if log:
        axes.set_xscale("log")
    limits = stretch(x, x_reach[0], x_reach[1], log), stretch(y, y_reach[0], y_reach[1], False)
    axes.set(xlim=limits[0], ylim=limits[1])
    ticks(axes.xaxis, limits[0], log)
    ticks(axes.yaxis, limits[1], False)


def _by_size(block: Block, family: Family, quantity: Quantity) -> list[int]:
    """The members of whom accuracy and quantity are known."""
    if quantity.column not in block.means:
        return []
    sizes, accuracy = (block.means[column].to_numpy(float) for column in (quantity.column, block.accuracy.column))
    members = [c for c in family.members if np.isfinite(sizes[c]) and np.isfinite(accuracy[c])]
    return sorted(members, key=lambda c: sizes[c])


def _step(axes: Axes, x: Floats, y: Floats, cost: Quantity, accuracy: Quantity) -> Floats:
    """Draw the front through its members, from the edge where cost is worst to the one where accuracy is; shade what
    it dominates. Its segments [n, 4]."""
    order = np.lexsort((y, x if cost.goal == "min" else -x))
    worst_x = axes.get_xlim()[1 if cost.goal == "min" else 0]
    worst_y = axes.get_ylim()[0 if accuracy.goal == "max" else 1]
    px = np.concatenate([np.repeat(x[order], 2), [worst_x]])
    py = np.concatenate([[worst_y], np.repeat(y[order], 2)])
    axes.fill([*px, worst_x], [*py, worst_y], color="0.955", linewidth=0, zorder=0)
    axes.plot(px, py, color="0.3", linewidth=0.8, zorder=2, gid="front")
    return np.column_stack([px[:-1], py[:-1], px[1:], py[1:]])


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> Floats:
    """Draw an arrow between two points, short of both; its segment [1, 4]."""
    look = {"arrowstyle": "-|>", "color": colour, "alpha": 0.6, "linewidth": 0.8, "shrinkA": 4, "shrinkB": 4}
    axes.annotate("", xy=end, xytext=start, arrowprops={**look, "mutation_scale": 7}, zorder=2.2)
    return np.array([[*start, *end]])


def _bars(axes: Axes, x: float, y: float, deviation: float, interval: Floats, colour: str, strength: float) -> Floats:
    """Draw the bars that are known; their segments [n, 4], cut off at the limits."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    segments = []
    if deviation > 0:
        segments.append((max(x - deviation, left), y, min(x + deviation, right), y))
    if np.isfinite(interval).all():
        segments.append((x, max(interval[0], low), x, min(interval[1], high)))
    for x0, y0, x1, y1 in segments:
        axes.plot([x0, x1], [y0, y1], color=colour, alpha=strength, linewidth=1.0, solid_capstyle="butt", zorder=2.5)
    return np.array(segments).reshape(-1, 4)


def _bar_notes(block: Block, shown: Sequence[int], deviations: Floats) -> list[str]:
    """What the bars are."""
    known = [c for c in shown if np.isfinite(block.interval[c]).all()]
    once = {len(block.candidates[c].rows) == 1 for c in known}
    over = (
        "other images"
        if once == {True}
        else "other images and trainings" + "; of one run images alone" * (True in once)
    )
    told = [f"95 % interval of the accuracy for {over}"] if known else []
    told += ["1 SD of the cost over seeds"] if bool((deviations[list(shown)] > 0).any()) else []
    return [f"Bars: {'; '.join(told)}."] if told else []


def _mark_notes(block: Block, shown: Sequence[int], marked: dict[int, list[str]], styles: Styles) -> list[str]:
    """Who is marked and why, and who is missing."""
    why: dict[tuple[str, str], list[int]] = {}  # by what stands before and after the names
    for candidate, texts in marked.items():
        for text in texts:
            why.setdefault((f"{_sign(block, candidate)} ", f": {clean(text, 90)}"), []).append(candidate)
    missing = sorted(set(range(len(block.candidates))) - set(shown))
    if missing:
        why["Without a value: ", ""] = missing
    notes = [f"{before}{_names(block, cs, styles)}{after}." for (before, after), cs in list(why.items())[:MOST_NOTES]]
    return notes + ([f"And {len(why) - MOST_NOTES} more: see the table."] if len(why) > MOST_NOTES else [])


def _sign(block: Block, candidate: int) -> str:
    return "†" if block.candidates[candidate].rows else "×"


def _names(block: Block, candidates: Sequence[int], styles: Styles) -> str:
    names = [styles.of(block, c).name for c in candidates[:MOST_NAMES]]
    more = len(candidates) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
