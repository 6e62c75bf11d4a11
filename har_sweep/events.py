"""What a run tells whoever watches it: small, picklable, sent from the run's process to the screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A training step is done. ``images_per_second`` and ``seconds_left`` (of the training) are None at first."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    images_per_second: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class Phase:
    """What the run is busy with when it is not training."""

    text: str


@dataclass(frozen=True)
class Counted:
    """So many of ``total`` things are done."""

    text: str
    done: int
    total: int


@dataclass(frozen=True)
class Line:
    """A line worth keeping: it goes to the screen and into ``run.log``."""

    text: str
    warning: bool = False


Event = Step | Phase | Counted | Line
Tell = Callable[[Event], None]
Progress = Callable[[str, int, int], None]
"""``(what, done, total)``, in bytes for a download; 0 of 1 where there is nothing to count."""


def tell_nobody(event: Event) -> None:
    """For a run that nobody watches."""


def no_progress(what: str, done: int, total: int) -> None:
    """For work that nobody watches."""
