"""How long an answer takes, and how many images a second are answered, in the moments when nobody disturbs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from har_sweep.cost.disturbance import Disturbance, Meter
from har_sweep.device.compute import synchronise

_WARM_UP, _WINDOWS, _FEWEST = 5, 5, 4
_PASS_SECONDS = 0.25  # of a window in a pass over a split


@dataclass(frozen=True)
class Thoroughness:
    """How long a device is measured: ``warm_up_seconds`` before, in which a GPU's clocks go up; until a window has
    ``most_calls`` or ``window_seconds``; and passes over a split until ``pass_seconds``, since what a GPU counts of its
    energy moves each 20 to 100 ms."""

    warm_up_seconds: float
    window_seconds: float
    most_calls: float
    pass_seconds: float

    @property
    def seconds(self) -> float:
        """Of a run's end, about, for warming up twice, calls and passes over a split."""
        return 2 * self.warm_up_seconds + _WINDOWS * self.window_seconds + self.pass_seconds


_THOROUGH = Thoroughness(1.0, 0.4, math.inf, 2.0)
_BRIEF = Thoroughness(0.0, 0.1, 10, 0.0)


def thoroughness(device: torch.device) -> Thoroughness:
    """That of a device: a CPU is as fast at first, and may take long for a call."""
    return _THOROUGH if device.type == "cuda" else _BRIEF


@dataclass(frozen=True)
class Window:
    """Some moments of measuring: the seconds of each call, on so many ``images`` in all, and who disturbed."""

    seconds: tuple[float, ...]
    images: int
    disturbance: Disturbance


def undisturbed(windows: Sequence[Window]) -> list[Window]:
    """The windows that count: those that nobody disturbed, as far as is known, or all where there is none."""
    return [window for window in windows if not window.disturbance.marked] or list(windows)


def went_through(windows: Sequence[Window]) -> Disturbance:
    """How disturbed some windows were."""
    return sum((window.disturbance for window in windows), Disturbance())


def warm_up(
    forward: Callable[[torch.Tensor], torch.Tensor],
    examples: Sequence[torch.Tensor],
    device: torch.device,
    now: Callable[[], float] = time.perf_counter,
) -> None:
    """Call ``forward`` with each example, for the first call of a shape pays for choosing kernels; then with the first
    until the device is warm."""
    for example in examples:
        forward(example)
    synchronise(device)
    began = now()
    while now() - began < thoroughness(device).warm_up_seconds:
        forward(examples[0])
        synchronise(device)


def time_calls(
    forward: Callable[[torch.Tensor], torch.Tensor],
    example: torch.Tensor,
    device: torch.device,
    meter: Meter,
    now: Callable[[], float] = time.perf_counter,
) -> list[Window]:
    """Seconds from giving ``example`` (a batch of one, on the device) to its finished answer.

    After calls to warm up, 5 and on CUDA for a second, there are 5 windows: in each at least 4 calls are timed, each
    synchronised, and more until there are 10 or 0.1 s are over, on CUDA until 0.4 s are.
    """
    windows, enough = [], thoroughness(device)
    with torch.inference_mode():
        warm_up(forward, [example] * _WARM_UP, device, now)
        for _ in range(_WINDOWS):
            seconds: list[float] = []
            meter.lap()
            while len(seconds) < _FEWEST or (len(seconds) < enough.most_calls and sum(seconds) < enough.window_seconds):
                began = now()
                forward(example)
                synchronise(device)
                seconds.append(now() - began)
            windows.append(Window(tuple(seconds), len(seconds), meter.disturbance()))
    return windows


def latency(windows: Sequence[Window]) -> dict[str, float]:
    """``percentiles`` of the calls in some windows."""
    return percentiles([seconds for window in windows for seconds in window.seconds])


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the 95th percentile, interpolated linearly: ``{"p50": ..., "p95": ...}``."""
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


class Pass:
    """The windows of a pass over a split: call it after each batch, and ``end`` it."""

    def __init__(self, device: torch.device, meter: Meter, now: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._meter, self._now = device, meter, now
        self._windows: list[Window] = []
        self._images = 0
        meter.lap()
        self._began = now()

    def __call__(self, images: int) -> None:
        self._images += images
        if self._now() - self._began >= _PASS_SECONDS:
            self._close()

    def _close(self) -> None:
        synchronise(self._device)
        now = self._now()
        self._windows.append(Window((now - self._began,), self._images, self._meter.disturbance()))
        self._began, self._images = now, 0

    def end(self) -> list[Window]:
        """The last window has what comes after the last batch, too."""
        self._close()
        if len(self._windows) > 1 and not self._windows[-1].images:
            last, rest = self._windows[-2:]
            both = Window(last.seconds + rest.seconds, last.images, last.disturbance + rest.disturbance)
            self._windows[-2:] = [both]
        return self._windows


def images_per_second(windows: Sequence[Window]) -> float:
    """In some windows of a pass."""
    return sum(window.images for window in windows) / sum(sum(window.seconds) for window in windows)
