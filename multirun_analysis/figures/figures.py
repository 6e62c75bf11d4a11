"""The figures of an analysis, fit for a paper: a column wide, readable in grey and by the colour-blind."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from fontTools.ttLib import TTFont
from matplotlib import font_manager, style
from matplotlib.figure import Figure
from matplotlib.text import Text

from har_sweep.files import atomic
from multirun_analysis.figures import models
from multirun_analysis.figures.pareto import pareto, scaling
from multirun_analysis.figures.style import STYLE, Styles, clean, fix_layout, styles_of
from multirun_analysis.findings import Analysis, Block, Front
from multirun_analysis.quantities import ALIASES, unlike
from multirun_analysis.sources.runs import Progress

USUAL = (*range(0x20, 0x7F), *map(ord, "±×–…†"))  # characters of most figures
SIZES = ("cost/parameters", "cost/macs")  # what families are scaled by


@dataclass(frozen=True)
class Plan:
    """A figure that can be drawn: the name of its files, and what they say of themselves. ``make`` gives None where the
    analysis has not the numbers for it; ``front`` is the one that it shows, if it shows one."""

    name: str
    title: str
    make: Callable[[], Figure | None]
    description: str = ""
    front: Front | None = None

    def draw(self) -> Figure | None:
        """The figure, laid out."""
        with style.context(["default", STYLE]):  # whatever the user's own style is
            figure = self.make()
            if figure is None:
                return None
            fix_layout(figure)
            for text in figure.findobj(Text):
                # A PDF keeps ligatures in a font of their own, and cutting a font down is most of the work for it.
                if hasattr(text, "set_fontfeatures"):  # not before Matplotlib 3.11
                    text.set_fontfeatures(("-liga",))
            return figure

    def save(self, figure: Figure, file: IO[bytes], kind: str) -> None:
        """Write the drawn figure as png, svg or pdf."""
        with style.context(["default", STYLE]), _cut_once():
            metadata = _metadata(kind, self.title, self.description)
            # Packed so, a PNG is done a third sooner and 5 % larger.
            packing: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
            figure.savefig(file, format=kind, metadata=metadata, **packing)


def plan_figures(analysis: Analysis) -> list[Plan]:
    """The figures that an analysis may have: ``pareto-<cost>``, ``scaling``, ``trials``, ``tuning``,
    ``learning-curves``, ``comparisons``, ``recall`` and ``confusion-<model>``; with several blocks after the block's
    name."""
    taken: set[str] = set()
    plans = []
    styles = styles_of(analysis)
    for block in analysis.blocks:
        prefix = f"{_unique(block.name, taken)}-" if len(analysis.blocks) > 1 else ""
        names = clean(", ".join(block.labels[:50]), 2000)
        for plan in _of_block(block, analysis, styles):
            name, title = _unique(prefix + plan.name, taken), clean(plan.title, 300)
            plans.append(replace(plan, name=name, title=title, description=names))
    return plans


def figures(analysis: Analysis, folder: Path, formats: Sequence[str], progress: Progress) -> Iterator[Path]:
    """Draw what ``plan_figures`` has into ``folder``, each once, in every one of ``formats`` (png, svg, pdf).
    ``progress`` hears how many of how many are done. Yields the files; each appears whole or not at all."""
    plans = plan_figures(analysis)
    for done, plan in enumerate(plans):
        progress("Drawing figures", done, len(plans))
        if figure := plan.draw():
            for kind in formats:
                path = folder / f"{plan.name}.{kind}"
                with atomic(path) as file:
                    plan.save(figure, file, kind)
                yield path
    progress("Drawing figures", len(plans), len(plans))


@contextmanager
def _cut_once() -> Iterator[None]:
    """Let Matplotlib cut a font down once for all PDFs for which the usual letters, or the same ones, do: it is a third
    of the work of a PDF, and Matplotlib has no option for that."""
    fonts = _fonts()
    if not hasattr(fonts, "SubsetResults"):  # not before Matplotlib 3.11
        yield
        return
    cut = fonts.get_glyphs_subset

    def cut_once(fontfile: Any, glyphs: set[int]) -> AbstractContextManager[Any]:
        usual = _usual(fontfile)
        places, font = _cut(cut, fontfile, usual if usual.issuperset(glyphs) else frozenset(glyphs))
        return nullcontext(fonts.SubsetResults(TTFont(BytesIO(font), recalcTimestamp=False), places))

    fonts.get_glyphs_subset = cut_once
    try:
        yield
    finally:
        fonts.get_glyphs_subset = cut


@functools.cache
def _fonts() -> Any:
    """Matplotlib's own module for them, which no version has promised to keep."""
    try:
        return import_module("matplotlib.backends._backend_pdf_ps")
    except ImportError:
        return None


@functools.cache
def _usual(file: Any) -> frozenset[int]:
    """The glyphs of the usual letters."""
    return frozenset(map(font_manager.get_font(file).get_char_index, USUAL))


@functools.lru_cache(32)
def _cut(cut: Callable[..., Any], file: Any, glyphs: frozenset[int]) -> tuple[dict[int, int], bytes]:
    """The places of glyphs in the font that has no others, and that font."""
    with cut(file, glyphs) as found:
        return found.glyph_index_map, _fonts().font_as_file(found.font).getvalue()


def _metadata(kind: str, title: str, description: str) -> dict[str, str | None]:
    """What the file says of itself, in its format's words; no date, so that the same analysis gives the same bytes."""
    if kind == "svg":
        return {"Date": None, "Title": title, "Description": description}
    if kind == "pdf":
        return {"CreationDate": None, "Title": title, "Subject": description}
    return {"Software": None, "Title": title, "Description": description}


def _of_block(block: Block, analysis: Analysis, styles: Styles) -> Iterator[Plan]:
    """Each figure that the block may have."""
    for front in block.fronts.values():
        if len(front.costs) == 1:
            (cost,) = front.costs
            title, make = f"{block.accuracy.label} against {cost.label}", partial(pareto, block, front, styles)
            yield Plan(f"pareto-{cost_name(cost.column)}", title, make, front=front)
    sizes = [cost for cost in analysis.costs if cost.column in SIZES]
    yield Plan("scaling", f"{block.accuracy.label} by size", partial(scaling, block, sizes, styles))
    yield Plan("trials", "trials", partial(models.trials, block, styles))
    if block.tuning:
        yield Plan("tuning", "best so far by the cost of tuning", partial(models.tuning, block, styles))
    yield Plan("learning-curves", "learning curves", partial(models.learning_curves, block, styles))
    yield Plan("comparisons", "differences between candidates", partial(models.comparisons, block, styles))
    yield Plan("recall", "recall of each class", partial(models.recalls, block, styles))
    yield Plan("reliability", "how right answers of so much confidence are", partial(models.reliability, block, styles))
    if block.errors is not None:
        for candidate in models.first_ones(block, block.errors.confusion, models.MOST_MATRICES):
            label = block.candidates[candidate].label
            yield Plan(
                f"confusion-{label}", f"confusions of {label}", partial(models.confusion, block, candidate, styles)
            )


def cost_name(column: str) -> str:
    """A short name for a column: as on the command line (``latency``), else its end (``inference-seconds``)."""
    aliases = [alias for alias, columns in ALIASES.items() if columns == (column,)]
    return aliases[0] if aliases else "-".join(column.removeprefix("cost/").split("/"))


def _unique(name: str, taken: set[str]) -> str:
    """A file name that any system takes, for any text, and unlike those in ``taken``, to which it is added."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "unnamed"
    return unlike(safe, taken)
