"""How long an answer takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from har_sweep.device.compute import synchronise

_WARM_UP, _FEWEST, _MOST, _ENOUGH_SECONDS = 5, 20, 50, 0.5


def measure_latency(
    forward: Callable[[torch.Tensor], torch.Tensor],
    example: torch.Tensor,
    device: torch.device,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds from giving ``example`` (a batch of one, on the device) to its finished answer: ``percentiles`` of them.

    After 5 calls to warm up, at least 20 are timed, each synchronised, and more until there are 50 or 0.5 s are over.
    """
    seconds: list[float] = []
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            forward(example)
        synchronise(device)
        while len(seconds) < _FEWEST or (len(seconds) < _MOST and sum(seconds) < _ENOUGH_SECONDS):
            began = now()
            forward(example)
            synchronise(device)
            seconds.append(now() - began)
    return percentiles(seconds)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the 95th percentile, interpolated linearly: ``{"p50": ..., "p95": ...}``."""
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}
