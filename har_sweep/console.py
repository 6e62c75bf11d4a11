"""The door to every screen: what others named is shown there, and never obeyed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from har_sweep.units import escaped

BROKEN_PIPE = 128 + 13  # the exit status of what SIGPIPE ends


class Console(rich.console.Console):
    """rich's, for texts that anybody may have written: escaped, and with no markup in them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def on_broken_pipe(self) -> None:
        """Whoever read this (``| head``) has gone: end as a shell's own commands do, and not as after bad input."""
        with suppress(SystemExit):
            super().on_broken_pipe()
        raise SystemExit(BROKEN_PIPE)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            told = segment.control or segment.text.isprintable()  # then there is nothing to escape
            yield segment if told else Segment(escaped(segment.text), segment.style)
