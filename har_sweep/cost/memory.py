"""Memory: what is in use now, and the most that was in use during a phase."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import psutil
import torch

from har_sweep.device.compute import release

_SAMPLE_SECONDS = 0.01


def memory_now(device: torch.device) -> int:
    """Bytes in use by this process: a GPU's tensors; for the CPU, resident memory, without what was freed.

    On Linux pages of files are left out: mapped images are dropped from memory at will, and are not the model's.
    """
    release(device)
    return _in_use(device)


def _in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    if sys.platform == "linux":
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return psutil.Process().memory_info().rss


class Peak:
    """The most memory in use during a phase, above the baseline; may be read while it goes on."""

    def __init__(self, read: Callable[[], int], forget: Callable[[], None] | None = None) -> None:
        self._read: Callable[[], int] | None = read
        self._forget = forget
        self._most, self._left_out, self._counted = 0, 0, 0

    @property
    def bytes(self) -> int:
        self.sample()
        return self._most if self._counted else max(self._most, self._left_out)

    @contextmanager
    def step(self, first: bool = False) -> Iterator[None]:
        """Around a step of the phase. The ``first`` of its shape counts only if there is no other: on CUDA its peak is
        that of the kernels that are tried, of which some want more memory than the one that is chosen."""
        if not first or self._forget is None:
            yield
            self._counted += 1
            return
        self.sample()
        yield
        if self._read is not None:
            self._left_out = max(self._left_out, self._read())
            self._forget()

    def sample(self) -> None:
        if self._read is not None:
            self._most = max(self._most, self._read())

    def close(self) -> None:
        """The phase is over: what comes later is not in it."""
        self.sample()
        self._read = None


@contextmanager
def peak_memory(device: torch.device, baseline: int) -> Iterator[Peak]:
    """Measure the most memory in use during the phase, above ``baseline`` (``memory_now`` before there was a model).

    On CUDA it is the allocator's own count, reset here; elsewhere memory is sampled every 10 ms.
    """
    release(device)
    if device.type == "cuda":
        forget = partial(torch.cuda.reset_peak_memory_stats, device)
        forget()
        peak = Peak(lambda: torch.cuda.max_memory_allocated(device) - baseline, forget)
    else:
        peak = Peak(lambda: _in_use(device) - baseline)
    try:
        with nullcontext() if device.type == "cuda" else repeatedly(peak.sample, _SAMPLE_SECONDS):
            yield peak
    finally:
        peak.close()


@contextmanager
def repeatedly(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do ``action`` in a thread: now, and every so many seconds until the end."""
    action()
    over = threading.Event()

    def loop() -> None:
        while not over.wait(seconds):
            action()

    thread = threading.Thread(target=loop, name="sampling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
