"""How long a CUDA device needs for a step of training when it never waits for the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FASTEST_CLOCK = 2e9  # ticks a second of today's GPUs: a slower one is held for longer
_AHEAD, _LONGEST_SECONDS = 2.0, 0.1  # times as long as the host took to give a step before, but no longer


class HeldStep:
    """A step whose work the device gets while it is held, and then does in one go."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._ahead = device, False
        self._began, self._freed, self._done = (torch.cuda.Event(enable_timing=True) for _ in range(3))

    @contextmanager
    def around(self, host_seconds: float) -> Iterator[None]:
        """Around a step that the host gives in about so many seconds; it is computed as ever, only later."""
        stream = torch.cuda.current_stream(self._device)
        self._began.record(stream)
        hold = getattr(torch.cuda, "_sleep", lambda ticks: None)  # no public part of torch: without it nothing is known
        hold(int(min(_AHEAD * host_seconds, _LONGEST_SECONDS) * _FASTEST_CLOCK))
        self._freed.record(stream)
        yield
        self._ahead = not self._freed.query()  # else there was a wait in the step, or more work than the queue holds
        self._done.record(stream)

    def seconds(self) -> tuple[float, float | None]:
        """For which the device was held, and which it then took for the step, None if the host was not ahead of it;
        once the device has finished."""
        took = self._freed.elapsed_time(self._done) / 1e3 if self._ahead else None
        return self._began.elapsed_time(self._freed) / 1e3, took
