"""What the figures share: a candidate's style, text that stays text, axes with units, labels that do not overlap."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ft2font import LoadFlags
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from har_sweep.units import quantity as prefixed
from multirun_analysis.findings import Analysis, Block, Candidate
from multirun_analysis.quantities import Quantity

Floats = NDArray[np.float64]

COLUMN_WIDTH = 3.3  # inches: a column of a two-column paper
SMALL, TINY = 6.0, 5.0  # points: notes and legends; the numbers in a matrix
GREY, FAINT = "0.35", "0.88"
MANY = 1000  # candidates
MOST_OF_A_NAME = 36  # characters of a candidate's, as on the page: what stands in brackets tells it from others

# The font comes with matplotlib, so a figure looks the same wherever it is drawn. A PDF carries it as TrueType: its
# text can be searched and edited. An SVG draws the letters as shapes, as what a viewer takes for a missing font is too
# wide or too narrow for its place; its title and description have the names as text.
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "axes.labelpad": 2,
    "lines.linewidth": 1,
    "lines.markersize": 4.5,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
    "legend.borderaxespad": 0.3,
    "figure.dpi": 300,
    "savefig.dpi": 300,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
    "text.parse_math": False,
    "text.hinting": "no_hinting",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,  # Matplotlib 3.11 takes a PDF's limit of letters from it: † would be a font of its own
    "svg.fonttype": "path",
    "svg.hashsalt": "multirun_analysis",
}

# Okabe & Ito (2008), without the yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "p", ">", "h")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
TINTS = (0.0, 0.4, -0.45, 0.65)  # towards white above 0, towards black below


@dataclass(frozen=True, slots=True)
class Style:
    """How a candidate, or a family, appears in every figure; ``name`` is its short name, unlike any other's."""

    name: str
    colour: str
    marker: str
    line: Any = "-"


NONE = Style("", "0.6", ".")


@dataclass(frozen=True)
class Styles:
    """By label, and by family where colours tell families apart (else empty). Of very many candidates only those that
    are drawn one by one have a style of their own; the others have their family's, or none."""

    candidates: Mapping[str, Style]
    families: Mapping[str, Style]

    def of(self, block: Block, candidate: int) -> Style:
        asked = block.candidates[candidate]
        if asked.label in self.candidates:
            return self.candidates[asked.label]
        return replace(self.families.get(asked.family, NONE), name=clean(asked.label, MOST_OF_A_NAME))


def styles_of(analysis: Analysis) -> Styles:
    """The styles of the candidates of all blocks.

    With two to seven families, a family has a colour and a marker, and its members a tint and a line style, so that
    either tells in grey; else every candidate has a colour, a marker and a line style of its own.
    """
    members = {candidate.label: candidate.family for block in analysis.blocks for candidate in _drawn(block)}
    names = short_names(members, MOST_OF_A_NAME)
    families = list(dict.fromkeys(candidate.family for block in analysis.blocks for candidate in block.candidates))
    if not 2 <= len(families) <= len(COLOURS):
        return Styles({label: _style(name, at, 0, at) for at, (label, name) in enumerate(names.items())}, {})
    found, seen = {}, dict.fromkeys(families, 0)
    for label, family in members.items():
        found[label] = _style(names[label], families.index(family), seen[family], seen[family])
        seen[family] += 1
    short = short_names(families)
    return Styles(found, {family: _style(short[family] or "other", at, 0, at) for at, family in enumerate(families)})


def _drawn(block: Block) -> Sequence[Candidate]:
    """Those that figures may draw one by one."""
    if len(block.candidates) <= MANY:
        return block.candidates
    on = (np.flatnonzero(front.on).tolist() for front in block.fronts.values())
    return [block.candidates[place] for place in sorted(set(block.compared).union(*on))]


def _style(name: str, colour: int, tint: int, line: int) -> Style:
    tinted = _tinted(COLOURS[colour % len(COLOURS)], TINTS[tint % len(TINTS)])
    return Style(name, tinted, MARKERS[colour % len(MARKERS)], LINES[line % len(LINES)])


@functools.cache
def _tinted(colour: str, share: float) -> str:
    """Nearer to white by a share, or to black by a negative one."""
    rgb = np.array(to_rgb(colour))
    return to_hex(tuple(rgb + (1 - rgb) * share if share > 0 else rgb * (1 + share)))


@functools.cache
def _drawable() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def clean(text: str, most: int = 24) -> str:
    """One line of characters that the font has, a box for each other; what is too long loses its middle."""
    line = " ".join(text.split())
    if len(line) > most:
        line = f"{line[: most - most // 3 - 1]}…{line[-(most // 3) :]}"
    if line.isascii() and line.isprintable():  # nearly all, and there may be many
        return line
    kept = (c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Mn", "Me"))
    return "".join(c if ord(c) in _drawable() else "□" for c in kept)


def short_names(texts: Iterable[str], most: int = 24) -> dict[str, str]:
    """``clean`` names, numbered where two would look alike."""
    names: dict[str, str] = {}
    taken: dict[str, int] = {}
    for text in texts:
        name = clean(text, most)
        taken[name] = taken.get(name, 0) + 1
        names[text] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return names


LAID_OUT = "laid out"


def sheet(height: float, notes: Sequence[str] = (), width: float = COLUMN_WIDTH) -> Figure:
    """A figure in inches; ``notes`` stand under it, small, and add to its height."""
    lines = [line for note in notes for line in _wrap(note, width)]
    figure = Figure(figsize=(width, height + len(lines) * SMALL * 1.25 / 72))
    FigureCanvasAgg(figure)
    if lines:
        text = "\n".join(lines)
        figure.supxlabel(text, x=0.012, ha="left", fontsize=SMALL, color=GREY, linespacing=1.2)
    return figure


@functools.cache
def text_size(text: str, size: float) -> tuple[float, float]:
    """Width and height in points, at a font size in points."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    font.set_size(size, 72)
    font.set_text(text, flags=LoadFlags.NO_HINTING)
    width = font.get_width_height()[0]
    font.set_text(f"{text}lp", flags=LoadFlags.NO_HINTING)  # matplotlib's lines are at least that high
    return width / 64, font.get_width_height()[1] / 64


def _wrap(text: str, width: float) -> Iterator[str]:
    """Lines that fit into so many inches."""
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}".strip()
        if line and text_size(longer, SMALL)[0] > width * 72 - 8:
            yield line
            line = word
        else:
            line = longer
    yield line


def fix_layout(figure: Figure) -> None:
    """Lay the figure out once and for all. It keeps no engine of its own: with one, every format is drawn twice; and
    the labels of the axes stay where they are now, or each format would look for their place anew."""
    if figure.get_label() == LAID_OUT:
        return
    ConstrainedLayoutEngine().execute(figure)
    for axes in figure.axes:
        axes.apply_aspect()
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_tightbbox()
            place = axis.label.get_transform().transform(axis.label.get_position())
            axis.set_label_coords(*axes.transAxes.inverted().transform(place))
    figure.set_label(LAID_OUT)


def legend(figure: Figure, entries: Sequence[Style], columns: int, lines: bool = True) -> Legend | None:
    """The entries above the axes, where they cover nothing."""
    if not entries:
        return None
    handles = [
        Line2D([], [], color=e.colour, marker=e.marker, linestyle=e.line if lines else "", markersize=4)
        for e in entries
    ]
    room = figure.get_figwidth() * 72
    widths = [text_size(e.name, SMALL)[0] + (4.5 if lines else 4) * SMALL for e in entries]
    # matplotlib fills column by column; each is as wide as its widest entry.
    columns = min(columns, len(entries))
    while columns > 1:
        rows = math.ceil(len(entries) / columns)
        if sum(max(widths[start : start + rows]) for start in range(0, len(entries), rows)) <= room:
            break
        columns -= 1
    return figure.legend(handles, [e.name for e in entries], loc="outside upper center", ncols=columns)


def unit(quantity: Quantity, values: Floats) -> tuple[str, float]:
    """Label and scale for an axis: as the quantity says, with a prefix where the numbers would be long."""
    most = float(np.abs(values[np.isfinite(values)]).max(initial=0))
    name, factor = quantity.axis_unit(most)
    return clean(quantity.label, 40) + f" ({name})" * bool(name), factor


def spread(values: Floats) -> bool:
    """Whether numbers want a logarithmic axis: all positive, the largest more than ten times the smallest."""
    return bool(len(values) and values.min() > 0 and values.max() > 10 * values.min())


def stretch(values: Floats, lows: Floats, highs: Floats, log: bool) -> tuple[float, float]:
    """Limits that show the values, and of their bars as much as leaves the values room."""
    low, high, least, most = (
        np.log10(np.maximum(v, 1e-300)) if log else v
        for v in (values.min(), values.max(), np.nanmin([*lows, values.min()]), np.nanmax([*highs, values.max()]))
    )
    room = (high - low) or (0.1 if log else abs(high) * 0.1 or 1.0)
    low, high = max(least, low - room * 0.75), min(most, high + room * 0.75)
    margin = 0.08 * ((high - low) or room * 4)
    low, high = low - margin, high + margin
    if not log and values.min() >= 0:
        low = max(low, -0.03 * (high - low))  # a bar may reach below nothing, the numbers cannot
    return (10**low, 10**high) if log else (low, high)


def ticks(axis: Axis, limits: tuple[float, float], log: bool) -> None:
    """Few ticks with plain numbers: 1, 2, 5 of each decade where the axis is logarithmic and they fit."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick_text(value)))
    axis.set_minor_locator(NullLocator())
    if not log:
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        return
    decades = range(math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1])) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        places = [s * 10.0**d for d in decades for s in steps if limits[0] <= s * 10.0**d <= limits[1]]
        if len(places) <= 6:
            break
    axis.set_major_locator(FixedLocator(places[:: math.ceil(len(places) / 6)]))


def _tick_text(value: float) -> str:
    return prefixed(value) if abs(value) >= 1e4 else f"{value:.6g}"
