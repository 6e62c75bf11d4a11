"""The wish that a run should end, as a signal brings it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from har_sweep.errors import Interrupted


class Stop:
    """Whether the run was asked to end; training puts it off to the end of a step, for a checkpoint.

    ``explain`` may know better than the first signal's name what it means; it is asked when there is time.
    """

    def __init__(self, explain: Callable[[signal.Signals], str] = lambda number: number.name) -> None:
        self.requested = False
        self._explain = explain
        self._first: signal.Signals | None = None
        self._can_wait = False

    def __call__(self, number: int = signal.SIGTERM, *_: object) -> None:
        """As a signal handler."""
        if self.requested:
            return  # a second signal must not break off what the first began: the closing of the record
        self._first, self.requested = signal.Signals(number), True
        if not self._can_wait:
            raise Interrupted

    def take(self, *numbers: signal.Signals) -> None:
        """Handle these signals from now on, but those that are ignored, as SIGINT is in a script's background."""
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self)

    @property
    def reason(self) -> str:
        """Why, for the record."""
        return self._explain(self._first or signal.SIGINT)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a request only sets ``requested``."""
        self._can_wait = True
        try:
            yield
        finally:
            self._can_wait = False
