"""What NVML counts of the GPU that this process computes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

# Bits of the reasons for lower clocks that are no rule of the card's own: a brake, heat; not its usual limit of power.
_SLOWED = 0x08 | 0x20 | 0x40 | 0x80


def gpu_handle(device: torch.device) -> Any:
    """NVML's own name for a CUDA device; None of a slice of one (MIG), whose counters are those of the whole, and where
    NVML does not answer."""
    import pynvml

    properties = torch.cuda.get_device_properties(device)
    if " MIG " in properties.name:
        return None
    try:
        # By its UUID, for NVML's own numbering knows nothing of CUDA_VISIBLE_DEVICES.
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
    except pynvml.NVMLError:
        return None


class GpuCounters:
    """Seconds that others than this process and the helpers that it has now used of a GPU (None if that is not known),
    and in which it was slowed, up to now: as sampled at each call."""

    def __init__(self, handle: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._handle, self._now = handle, now
        self._ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        self._last, self._sampled_at = now(), time.time_ns() // 1000  # NVML's samples have microseconds since 1970
        self._others: float | None = None if handle is None else 0.0
        self._slowed = 0.0

    def __call__(self) -> tuple[float | None, float]:
        now = self._now()
        seconds, self._last = now - self._last, now
        if self._others is not None:
            share = self._others_share()
            self._others = None if share is None else self._others + share * seconds
            self._slowed += seconds * self._is_slowed()
        return self._others, self._slowed

    def _others_share(self) -> float | None:
        import pynvml

        try:
            there = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
            if len(there - self._ours) <= (not there & self._ours):  # none, or only we, under our number outside
                return 0.0
            if not there & self._ours:  # in a container: who is who is not known
                return None
            samples = pynvml.nvmlDeviceGetProcessUtilization(self._handle, self._sampled_at)
        except pynvml.NVMLError_NotFound:  # nobody did anything since the last sample
            return 0.0
        except pynvml.NVMLError:
            return None
        self._sampled_at = max((sample.timeStamp for sample in samples), default=self._sampled_at)
        return min(1.0, sum(sample.smUtil for sample in samples if sample.pid not in self._ours) / 100)

    def _is_slowed(self) -> bool:
        import pynvml

        try:
            return bool(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle) & _SLOWED)
        except pynvml.NVMLError:
            return False
