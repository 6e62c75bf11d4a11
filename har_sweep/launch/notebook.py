"""The screen of a notebook: all that is said, and what goes on, in one output that is brought up to date in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.text import Text

from har_sweep.console import Console
from har_sweep.launch.board import Standing, standings
from har_sweep.launch.terminal import PROGRESS_COLUMNS, Screen

WIDTH = 115  # characters, of a cell's output
SECONDS_BETWEEN_DRAWINGS = 0.5
BOARD_RUNS = 20
FORMAT = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


def as_html(console: Console) -> str:
    """What a recording console was given so far, coloured."""
    return console.export_html(clear=False, inline_styles=True, code_format=FORMAT)


class NotebookScreen(Screen):
    """rich's own live displays leave a trail of outputs in a notebook, so this keeps one and draws it anew."""

    def __init__(self) -> None:
        super().__init__(_recorder())
        self._below: Callable[[], RenderableType] | None = None  # what goes on, below what was said
        self._drawn_at, self._drawn_of = 0.0, ""
        self._handle: Any = None

    def _draw(self, of: str = "") -> None:
        from IPython.display import display

        whole = [self.console]
        if self._below:
            whole.append(_recorder())
            whole[1].print(self._below())
        html, text = "".join(map(as_html, whole)), "".join(c.export_text(clear=False) for c in whole)
        shown = {"text/html": html, "text/plain": text}
        if self._handle:
            self._handle.update(shown, raw=True)
        else:
            self._handle = display(shown, raw=True, display_id=True)
        self._drawn_at, self._drawn_of = time.monotonic(), of

    def say(self, text: str, style: str = "") -> None:
        super().say(text, style)
        self._draw()

    def table(self, *args: Any) -> None:
        super().table(*args)
        self._draw()

    def progress(self, what: str, *args: Any, **options: Any) -> None:
        super().progress(what, *args, **options)
        if what != self._drawn_of or time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_DRAWINGS:
            self._draw(what)

    @contextmanager
    def live(self) -> Iterator[None]:
        self._progress = Progress(*PROGRESS_COLUMNS, console=self.console, auto_refresh=False)  # never started
        with self._showing(self._progress.get_renderable):
            yield
        self._progress, self._tasks = None, {}

    @contextmanager
    def board(self) -> Iterator[Callable[[Sequence[Standing], str], None]]:
        def draw(rows: Sequence[Standing], note: str) -> None:
            self._below = lambda: Group(standings(rows, BOARD_RUNS), Text(note, style="bold yellow"))
            self._draw()

        with self._showing(Group):
            yield draw

    @contextmanager
    def _showing(self, below: Callable[[], RenderableType]) -> Iterator[None]:
        self._below = below
        try:
            yield
        finally:
            self._below = None
            self._draw()


def _recorder() -> Console:
    return Console(file=StringIO(), record=True, force_jupyter=False, width=WIDTH)
