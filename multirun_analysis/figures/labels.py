"""Names beside points that cover neither points nor each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multirun_analysis.figures.style import GREY, SMALL, Floats, text_size

LONG = 24  # characters; what stands in brackets at the end of more goes below the rest


@dataclass(frozen=True)
class Label:
    """What stands beside a point, in data coordinates; a ``needed`` one is placed first, and from further away."""

    text: str
    x: float
    y: float
    needed: bool

    @property
    def lines(self) -> list[str]:
        name, bracket, rest = self.text.partition(" (")
        return [name, f"({rest}"] if bracket and len(self.text) > LONG else [self.text]


def place_labels(axes: Axes, labels: Sequence[Label], points: Floats, segments: Floats) -> None:
    """Write each label where it covers no point [n, 2] and no other label, rather not a segment [n, 4] (of lines and
    bars) either; one that finds no place is left out. From a label far away a thin line leads to its point.

    The nearest free place wins, so that the same figure always comes out the same.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    pixel = figure.dpi / 72
    to_pixels = axes.transData.transform
    box = axes.get_window_extent().padded(-pixel)
    centres, size = to_pixels(points), 3.2 * pixel
    centres = centres[few_a_pixel(centres)]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    ends = np.clip(segments.reshape(-1, 2), (left, low), (right, high))
    starts, stops = to_pixels(ends).reshape(-1, 2, 2).transpose(1, 0, 2)
    along = np.linspace(0, 1, 60)[:, None, None]
    lines = _boxes((starts + along * (stops - starts)).reshape(-1, 2), 0.5 * pixel)
    taken = np.empty((0, 4))
    for label in sorted(labels, key=lambda label: not label.needed):
        sizes = np.array([text_size(line, SMALL) for line in label.lines])
        half = np.array([sizes[:, 0].max(), sizes[:, 1].sum()]) * pixel / 2
        at = to_pixels((label.x, label.y))
        best: tuple[float, Floats, Floats, Floats] | None = None
        steps = (3.5, 6, 10, 15, 21, 28, 36) if label.needed else (3.5, 6, 10)
        reach = steps[-1] * pixel + 2 * half + size
        marks = _boxes(centres[(np.abs(centres - at) <= reach).all(axis=1)], size)  # of a crowd what it can cover
        for far in steps:
            for turn in range(16):
                way = np.array([math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)])
                way /= np.abs(way).max()  # along a square, so that the nearest edge is always that far away
                centre = at + way * (far * pixel + half)
                place = np.concatenate([centre - half, centre + half])
                if place[0] < box.x0 or place[1] < box.y0 or place[2] > box.x1 or place[3] > box.y1:
                    continue
                leader = _boxes(at + np.linspace(0.3, 0.9, 12)[:, None] * (centre - at), 0) if far > 6 else taken[:0]
                if _hits(place, marks) or _hits(place, taken) or any(_hits(spot, taken) for spot in leader):
                    continue
                cost = far + 1.5 * min(_hits(place, lines), 10)
                if best is None or cost < best[0]:
                    best = cost, centre, place, leader
        if best is None:
            continue
        _, centre, place, leader = best
        lines = np.vstack([lines, leader])
        taken = np.vstack([taken, place + np.array([-1, -1, 1, 1]) * 0.7 * pixel])
        axes.annotate(
            "\n".join(label.lines),
            (label.x, label.y),
            xytext=tuple((centre - at) / pixel),
            textcoords="offset points",
            ha="center",
            va="center",
            multialignment="center",
            linespacing=1.0,
            fontsize=SMALL,
            color="black" if label.needed else GREY,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
            if len(leader)
            else None,
            annotation_clip=False,
            zorder=5,
        )


def few_a_pixel(centres: Floats, most: int = 1) -> NDArray[np.int64]:
    """The places among ``centres`` [n, 2] in pixels of those that can be seen: of those in one pixel only ``most``."""
    cells = np.rint(centres).astype(np.int64) @ np.array([1 << 32, 1])
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    return np.asarray(order[np.append(np.ones(min(most, len(order)), bool), cells[most:] != cells[:-most])])


def _boxes(centres: Floats, half: float) -> Floats:
    return np.column_stack([centres - half, centres + half])


def _hits(box: Floats, others: Floats) -> int:
    """How many of ``others`` [n, 4] overlap ``box``."""
    apart = (others[:, 0] > box[2]) | (others[:, 2] < box[0]) | (others[:, 1] > box[3]) | (others[:, 3] < box[1])
    return len(apart) - int(np.count_nonzero(apart))
