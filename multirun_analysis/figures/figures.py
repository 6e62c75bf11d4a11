"""The figures of an analysis, fit for a paper: a column wide, readable in grey and by the colour-blind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.text import Text

from har_sweep.files import atomic
from multirun_analysis.figures import models
from multirun_analysis.figures.pareto import pareto, scaling
from multirun_analysis.figures.style import STYLE, Styles, clean, fix_layout, styles_of
from multirun_analysis.findings import Analysis, Block
from multirun_analysis.quantities import ALIASES
from multirun_analysis.sources.runs import Progress

SIZES = ("cost/parameters", "cost/macs")  # what families are scaled by


def figures(
    analysis: Analysis, folder: Path, formats: Sequence[str], progress: Progress, processes: int = 1
) -> list[Path]:
    """Draw the figures that the analysis has the numbers for into ``folder``, each once, in every one of ``formats``
    (png, svg, pdf), shared out among ``processes``. ``progress`` hears how many of how many are done.

    Returns
    -------
    the files: ``pareto-<cost>``, ``scaling``, ``trials``, ``learning-curves``, ``comparisons``, ``recall`` and
    ``confusion-<model>``; with several blocks after the block's name. A file appears whole or not at all.
    """
    if processes == 1:
        return draw_share(analysis, folder, formats, 0, 1, progress)
    lean = replace(analysis, frame=analysis.frame.iloc[:0], info=[])  # figures need no single runs
    with ProcessPoolExecutor(processes - 1, get_context("spawn")) as pool:
        others = [pool.submit(draw_share, lean, folder, formats, share, processes) for share in range(1, processes)]
        written = draw_share(lean, folder, formats, 0, processes, progress)
        return written + [path for other in others for path in other.result()]


def draw_share(
    analysis: Analysis,
    folder: Path,
    formats: Sequence[str],
    share: int,
    shares: int,
    progress: Progress = lambda what, done, total: None,
) -> list[Path]:
    """Every ``shares``-th figure, from the ``share``-th on."""
    taken: set[str] = set()
    written: list[Path] = []
    with style.context(["default", STYLE]):  # whatever the user's own style is
        appearance = styles_of(analysis)
        planned = []
        for block in analysis.blocks:
            prefix = f"{_unique(block.name, taken)}-" if len(analysis.blocks) > 1 else ""
            names = clean(", ".join(block.labels[:50]), 2000)
            for name, title, draw in _plan(block, analysis, appearance):
                planned.append((_unique(prefix + name, taken), title, names, draw))
        mine = planned[share::shares]
        for done, (stem, title, names, draw) in enumerate(mine):
            progress("Drawing figures", done * shares, len(planned))
            figure = draw()
            if figure is None:
                continue
            fix_layout(figure)
            for text in figure.findobj(Text):
                # A PDF keeps ligatures in a font of their own, and cutting a font down is most of the work for it.
                text.set_fontfeatures(("-liga",))
            for kind in formats:
                path = folder / f"{stem}.{kind}"
                with atomic(path) as file:
                    figure.savefig(file, format=kind, metadata=_metadata(kind, clean(title, 300), names))
                written.append(path)
        progress("Drawing figures", len(planned), len(planned))
    return written


def _metadata(kind: str, title: str, description: str) -> dict[str, str | None]:
    """What the file says of itself, in its format's words; no date, so that the same analysis gives the same bytes."""
    if kind == "svg":
        return {"Date": None, "Title": title, "Description": description}
    if kind == "pdf":
        return {"CreationDate": None, "Title": title, "Subject": description}
    return {"Software": None, "Title": title, "Description": description}


Plan = tuple[str, str, Callable[[], Figure | None]]  # file name, title, drawing


def _plan(block: Block, analysis: Analysis, styles: Styles) -> Iterator[Plan]:
    """Each figure that the block may have."""
    for front in block.fronts.values():
        if len(front.costs) == 1:
            (cost,) = front.costs
            title = f"{block.accuracy.label} against {cost.label}"
            yield f"pareto-{cost_name(cost.column)}", title, partial(pareto, block, front, styles)
    sizes = [cost for cost in analysis.costs if cost.column in SIZES]
    yield "scaling", f"{block.accuracy.label} by size", partial(scaling, block, sizes, styles)
    yield "trials", "trials", partial(models.trials, block, styles)
    yield "learning-curves", "learning curves", partial(models.learning_curves, block, styles)
    yield "comparisons", "differences between candidates", partial(models.comparisons, block, styles)
    yield "recall", "recall of each class", partial(models.recalls, block, styles)
    if block.errors is not None:
        for candidate in models.first_ones(block, block.errors.confusion, models.MOST_MATRICES):
            label = block.candidates[candidate].label
            yield f"confusion-{label}", f"confusions of {label}", partial(models.confusion, block, candidate, styles)


def cost_name(column: str) -> str:
    """A short name for a column: as on the command line (``latency``), else its end (``inference-seconds``)."""
    short = [alias for alias, columns in ALIASES.items() if columns == (column,)]
    return short[0] if short else "-".join(column.removeprefix("cost/").split("/"))


def _unique(name: str, taken: set[str]) -> str:
    """A file name that any system takes, for any text, and unlike those in ``taken``, to which it is added."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "unnamed"
    unique, number = safe, 1
    while unique.lower() in taken:
        unique = f"{safe}-{(number := number + 1)}"
    taken.add(unique.lower())
    return unique
