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

_STEPS = (3.5, 6, 10, 15, 21, 28, 36)  # points from a point to its label
_TURNS = np.arange(16) * math.pi / 8
_WAYS = np.column_stack([np.cos(_TURNS), np.sin(_TURNS)])
_WAYS /= np.abs(_WAYS).max(axis=1, keepdims=True)  # along a square, so that the nearest edge is always that far away
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
        far = np.repeat(_STEPS if label.needed else _STEPS[:3], len(_TURNS))
        ways = np.resize(_WAYS, (len(far), 2)) * (far[:, None] * pixel + half)
        inside = ((at + ways - half >= box.min) & (at + ways + half <= box.max)).all(axis=1)
        far, ways = far[inside], ways[inside]
        places = np.hstack([at + ways - half, at + ways + half])
        leaders = at + np.linspace(0.3, 0.9, 12)[:, None] * ways[:, None]
        reach = _STEPS[-1] * pixel + 2 * half + size
        marks = _boxes(centres[(np.abs(centres - at) <= reach).all(axis=1)], size)  # of a crowd what it can cover
        crossed = _hits(_boxes(leaders.reshape(-1, 2), 0), taken).reshape(-1, 12).any(axis=1) & (far > 6)
        free = np.flatnonzero((_hits(places, marks) + _hits(places, taken) == 0) & ~crossed)
        if not len(free):
            continue
        best = free[np.argmin(far[free] + 1.5 * np.minimum(_hits(places[free], lines), 10))]
        leader = leaders[best] if far[best] > 6 else leaders[0, :0]
        lines = np.vstack([lines, _boxes(leader, 0)])
        taken = np.vstack([taken, places[best] + np.array([-1, -1, 1, 1]) * 0.7 * pixel])
        axes.annotate(
            "\n".join(label.lines),
            (label.x, label.y),
            xytext=tuple(ways[best] / pixel),
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


def _hits(boxes: Floats, others: Floats) -> NDArray[np.int64]:
    """How many of ``others`` [n, 4] overlap each of ``boxes`` [m, 4]."""
    least, most = boxes.min(0, initial=np.inf)[:2], boxes.max(0, initial=-np.inf)[2:]
    near = others[(others[:, :2] <= most).all(axis=1) & (others[:, 2:] >= least).all(axis=1)]
    left, low, right, high = boxes.T[:, :, None]
    hit = (near[:, 0] <= right) & (near[:, 2] >= left) & (near[:, 1] <= high) & (near[:, 3] >= low)
    return np.count_nonzero(hit, axis=1)
