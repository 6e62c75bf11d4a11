"""The wish that a run should end, as a signal brings it, and the end of a process whose parent is gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from multiprocessing import parent_process
from multiprocessing.connection import wait

from har_sweep.errors import Interrupted


class Cause(Enum):
    """Why a run is asked to end, as far as the moment of asking tells."""

    ASKED = "It was asked to end"
    PREEMPTED = "Preempted"
    TIME_LIMIT = "The time limit is near"


class Stop:
    """Whether the run was asked to end; training puts it off to the end of a step, for a checkpoint.

    ``cause_of`` tells what a signal means at the moment when it arrives; ``explain`` puts that into words, when there
    is time.
    """

    def __init__(
        self,
        cause_of: Callable[[signal.Signals], Cause] = lambda number: Cause.ASKED,
        explain: Callable[[signal.Signals, Cause], str] = lambda number, cause: number.name,
    ) -> None:
        self.cause: Cause | None = None
        self._signal = signal.SIGINT
        self._cause_of, self._explain = cause_of, explain
        self._can_wait = False

    @property
    def requested(self) -> bool:
        return self.cause is not None

    def __call__(self, number: int = signal.SIGTERM, *_: object) -> None:
        """As a signal handler."""
        if self.requested:
            return  # a second signal must not break off what the first began: the closing of the record
        asked_by = signal.Signals(number)
        self._signal, self.cause = asked_by, self._cause_of(asked_by)
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
        return self._explain(self._signal, self.cause or Cause.ASKED)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a request only sets ``requested``."""
        self._can_wait = True
        try:
            yield
        finally:
            self._can_wait = False


def die_with_parent() -> None:
    """End this process when its parent has ended, even if that was killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
