"""``import multirun_analysis`` in a notebook or a script: read runs, ask of them, and see what was found."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from har_sweep.errors import InputError, nearest
from multirun_analysis import findings
from multirun_analysis.analysis.analysis import analyse as find
from multirun_analysis.analysis.question import Question
from multirun_analysis.figures.figures import Plan, cost_name, plan_figures
from multirun_analysis.findings import Block
from multirun_analysis.outputs.formats import choose_formats
from multirun_analysis.outputs.write import write
from multirun_analysis.quantities import unlike
from multirun_analysis.sources.choice import choose
from multirun_analysis.sources.read import read_runs
from multirun_analysis.sources.runs import Runs
from multirun_analysis.tables.table import Table
from multirun_analysis.tables.tables import front_table, tables

Source: TypeAlias = str | Path | pd.DataFrame
T = TypeVar("T")


def read(
    *sources: Source, cache: str | Path = "cache", sweep: str | Sequence[str] = (), where: str | Sequence[str] = ()
) -> Runs:
    """Read runs into one table: ``.frame`` has a row a run, its columns are the record's paths joined by ``/``.

    Parameters
    ----------
    sources
        folders of runs (``runs`` if none is given; ``runs?sweep=NAME&status=done`` for some of them),
        ``wandb://ENTITY/PROJECT?group=SWEEP`` with any of W&B's filters, ``.csv`` or ``.parquet`` files, or DataFrames.
        A run that comes twice is taken once.
    cache
        keeps what was pulled from W&B.
    sweep, where
        only runs of any of these sweeps, and those for which all of these hold: ``lr<0.01``, ``model in a,b``.

    Raises
    ------
    InputError
        if a source cannot be read, or there is no run in them, or none is left.
    """
    given = [source if isinstance(source, pd.DataFrame) else str(source) for source in sources or ("runs",)]
    return choose(read_runs(given, Path(cache), _quiet), _listed(sweep), _listed(where))


def analyse(
    runs: Runs | Source | Sequence[Source] = "runs",
    *,
    sweep: str | Sequence[str] = (),
    where: str | Sequence[str] = (),
    accuracy: str | None = None,
    costs: str | Sequence[str] = (),
    budget: str | Sequence[str] = (),
    by: str | Sequence[str] = (),
    label: str | Sequence[str] = (),
    family: str | None = None,
    images: str | Path | None = None,
    cache: str | Path = "cache",
) -> Analysis:
    """Ask what the command ``python -m multirun_analysis`` asks, in the same words.

    Parameters
    ----------
    runs
        what ``read`` gave, or a source or several, which are read.
    sweep, where
        as of ``read``.
    accuracy
        ``test`` (the default), ``val``, or any metric's column, such as ``error_rate:min``, or ``top1:max:%`` for one
        in percent.
    costs
        what fronts are drawn for, such as ``latency`` or ``images_per_second:max``, or ``latency_ms:min:ms`` for a
        column of a table in milliseconds; several also give the front of all together. None means one for each thing
        that people pay with.
    budget
        limits such as ``latency_p50<5ms`` and ``memory<2GB``, for a recommendation.
    by, label, family
        columns: a front for each value (default: each dataset), what names a candidate (default: the model), and what
        families are compared by (default: the architecture).
    images
        the folder of the images, if they are not where they were.

    Raises
    ------
    InputError
        if something is asked for that no run has.
    """
    if not isinstance(runs, Runs):
        sources = [runs] if isinstance(runs, (str, Path, pd.DataFrame)) else list(runs)
        runs = read(*sources, cache=cache)
    runs = choose(runs, _listed(sweep), _listed(where))
    words = {"sweep": sweep, "where": where, "accuracy": accuracy, "costs": costs, "budget": budget}
    words |= {"by": by, "label": label, "family": family}
    said = "".join(f", {name}={value!r}" for name, value in words.items() if value)
    command = f"multirun_analysis.analyse({runs.sources[0] if len(runs.sources) == 1 else runs.sources!r}{said})"
    question = Question(
        accuracy,
        _listed(costs),
        _listed(label),
        _listed(by),
        _listed(budget),
        Path(images) if images else None,
        family,
    )
    return Analysis(find(runs, question, command, _quiet))


def _listed(words: str | Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def _quiet(what: str, done: int, total: int | None) -> None:
    """Progress that is not shown."""


class Named(dict[str, T]):
    """A dictionary that knows what was meant by a name that it does not have."""

    def __missing__(self, name: str) -> T:
        raise InputError(f"There is no '{name}' here.", nearest(name, self) or f"There are {', '.join(self)}.")


class Picture:
    """A figure that shows itself in a notebook; ``figure`` is matplotlib's own."""

    def __init__(self, plan: Plan, figure: Figure) -> None:
        self.figure = figure
        self._plan = plan

    def save(self, path: str | Path) -> None:
        """Write it as .png, .svg or .pdf."""
        kind = choose_formats([Path(path).suffix.removeprefix(".")])
        with Path(path).open("wb") as file:
            self._plan.save(self.figure, file, *kind)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self._plan.save(self.figure, file, "png")
        return file.getvalue()

    def __repr__(self) -> str:
        return f"<figure: {self._plan.title}>"


class Pictures(Mapping[str, Picture]):
    """The figures of an analysis, by the names of their files; each is drawn when it is asked for, all when they are
    listed."""

    def __init__(self, analysis: findings.Analysis) -> None:
        self._plans = Named({plan.name: plan for plan in plan_figures(analysis)})
        self._drawn: dict[str, Picture | None] = {}

    def _draw(self, name: str) -> Picture | None:
        plan = self._plans[name]
        if name not in self._drawn:
            figure = plan.draw()
            self._drawn[name] = Picture(plan, figure) if figure else None
        return self._drawn[name]

    def __getitem__(self, name: str) -> Picture:
        if picture := self._draw(name):
            return picture
        raise InputError(f"There is nothing to draw in '{name}'.", f"There are {', '.join(self)}.")

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._plans if self._draw(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._plans and self._draw(str(name)) is not None

    def of(self, front: findings.Front) -> Picture | None:
        """The figure of a front, if it has one."""
        return next((self._draw(name) for name, plan in self._plans.items() if plan.front is front), None)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._plans)

    def __repr__(self) -> str:
        return f"<figures, drawn when asked for: {', '.join(self._plans)}>"


class Front:
    """A Pareto front: ``members`` are the models on it, the most accurate first; ``found`` has all that is known of it,
    with an entry for each of the block's candidates."""

    def __init__(self, block: Block, key: str, pictures: Pictures) -> None:
        self.found = block.fronts[key]
        self.table = front_table(block, key, self.found)
        self.members = [label for label, on in zip(block.labels, self.found.on, strict=True) if on]
        self._pictures = pictures

    @property
    def picture(self) -> Picture | None:
        """Its figure; a front of several costs has none."""
        return self._pictures.of(self.found)

    def to_frame(self) -> pd.DataFrame:
        """A row a candidate, those on the front first."""
        return self.table.to_frame()

    def _repr_html_(self) -> str:
        return _image(self.picture) + self.table._repr_html_()

    def __repr__(self) -> str:
        return f"<{self.table.title}: {', '.join(self.members)}>"


class Analysis:
    """What was found, as it shows itself; ``findings`` has it as plain data, ``repr`` in sentences."""

    def __init__(self, found: findings.Analysis) -> None:
        self.findings = found

    @cached_property
    def tables(self) -> Named[Table]:
        """By the names of their files: ``table1``, ``table2``, ``fronts``, ``trials``, ...; with several datasets, each
        with its number: ``table1-2``."""
        return Named({table.name: table for table in tables(self.findings)})

    @cached_property
    def figures(self) -> Pictures:
        """By the names of their files: ``pareto-latency``, ``learning-curves``, ..."""
        return Pictures(self.findings)

    @cached_property
    def fronts(self) -> Named[Front]:
        """By the cost, as on the command line (``latency``), and ``all`` for that of all costs together; with several
        datasets, each with its number."""
        several, taken = len(self.findings.blocks) > 1, set[str]()

        def name(key: str, front: findings.Front, number: int) -> str:
            return unlike((key if front.is_joint else cost_name(key)) + f"-{number}" * several, taken)

        return Named(
            {
                name(key, front, number): Front(block, key, self.figures)
                for number, block in enumerate(self.findings.blocks, 1)
                for key, front in block.fronts.items()
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """The table of runs, with a column for each front: whether the run's model is on it."""
        return self.findings.frame

    def save(self, folder: str | Path = "report", formats: str | Sequence[str] = ()) -> Path:
        """Write what the command writes into ``folder``: the page, figures, tables and data, or some of ``html``,
        ``png``, ``svg``, ``pdf``, ``csv``, ``md``, ``tex`` and ``parquet``.

        Raises
        ------
        InputError
            if there is no such format, or the folder cannot be written to.
        """
        made = list(self.tables.values())
        write(self.findings, made, Path(folder), choose_formats(_listed(formats)), _quiet)
        return Path(folder)

    def __repr__(self) -> str:
        parts = [[block.name, *_said(block), *block.notes] for block in self.findings.blocks]
        return "\n".join(line for part in [*parts, self.findings.notes] for line in part if line)

    def _repr_html_(self) -> str:
        several = len(self.findings.blocks) > 1
        parts = []
        for number, block in enumerate(self.findings.blocks, 1):
            parts += [f"<h3>{html.escape(block.name)}</h3>", _list(_said(block)), _list(block.notes)]
            own = [table for table in self.tables.values() if table.block == (number if several else None)]
            parts += [table._repr_html_() for table in own if table.kind in ("table1", "table2", "fronts")]
            parts += [_image(self.figures.of(front)) for front in list(block.fronts.values())[:1]]
        return "".join([*parts, _list(self.findings.notes)])


def _said(block: Block) -> list[str]:
    advice = block.recommendation.sentences if block.recommendation else ()
    return [*filter(None, [block.headline]), *advice, *block.sentences]


def _list(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _image(picture: Picture | None) -> str:
    if picture is None:
        return ""
    data = base64.b64encode(picture._repr_png_()).decode()
    return f'<img src="data:image/png;base64,{data}" style="max-width: 480px; background: white">'
