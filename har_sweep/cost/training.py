"""The time that training takes, and the share of it spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from har_sweep.device.compute import synchronise
from har_sweep.record.record import TrainingCost

_WARM_UP_STEPS = 3


class TrainingClock:
    """Times the training loop, over as many epochs and resumed processes as it takes.

    ``waiting()`` goes around getting a batch, ``step(images)`` after each optimizer step, ``pause()`` before
    validation, a checkpoint and the end; the next ``waiting()`` starts the clock again. A CUDA device is synchronised
    in ``pause``, and once when warm, but not in every step.

    Waiting for data is the time for which computing stood still: on CUDA, a wait that the device filled with work
    given to it before is not counted.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._now = now
        self._seconds = 0.0
        self._wait_seconds = 0.0
        self._warm_seconds = 0.0
        self._warm_images = 0
        self._steps = 0  # of this process
        self._started: float | None = None
        self._warm_since: float | None = None
        self._waits: list[tuple[float, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around getting a batch; starts the clock where it is paused."""
        began = self._now()
        if self._started is None:
            self._started = began
            self._warm_since = began if self._steps >= _WARM_UP_STEPS else None
        done = self._mark()
        try:
            yield
        finally:
            waited = self._now() - began
            ready = self._mark()
            if done is None or ready is None:
                self._wait_seconds += waited
            else:
                self._waits.append((waited, done, ready))

    def step(self, images: int) -> None:
        """After an optimizer step on so many images. The first three of a process are in no throughput."""
        self._steps += 1
        if self._steps == _WARM_UP_STEPS:
            synchronise(self._device)
            self._warm_since = self._now()
        elif self._warm_since is not None:
            self._warm_images += images

    def pause(self) -> None:
        """Stop the clock, once the device has finished. Does nothing while paused."""
        if self._started is None:
            return
        synchronise(self._device)
        now = self._now()
        self._seconds += now - self._started
        self._warm_seconds += 0.0 if self._warm_since is None else now - self._warm_since
        # From the end of the work before to the batch's arrival as the device saw it: nothing, where it was still busy.
        self._wait_seconds += sum(min(waited, done.elapsed_time(ready) / 1e3) for waited, done, ready in self._waits)
        self._waits.clear()
        self._started = self._warm_since = None

    def _mark(self) -> torch.cuda.Event | None:
        """A place in the device's queue whose time can be told later."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; pauses the clock."""
        self.pause()
        return {
            "seconds": self._seconds,
            "wait_seconds": self._wait_seconds,
            "warm_seconds": self._warm_seconds,
            "warm_images": self._warm_images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's ``state_dict()``; this process warms up anew."""
        self._seconds, self._wait_seconds = state["seconds"], state["wait_seconds"]
        self._warm_seconds, self._warm_images = state["warm_seconds"], state["warm_images"]

    def cost(self) -> TrainingCost:
        """The times so far, memory and energy left None; pauses the clock. No throughput before a fourth step."""
        self.pause()
        return TrainingCost(
            seconds=self._seconds,
            compute_seconds=self._seconds - self._wait_seconds,
            data_wait_seconds=self._wait_seconds,
            data_wait_share=self._wait_seconds / self._seconds if self._seconds else None,
            images_per_second=self._warm_images / self._warm_seconds if self._warm_images else None,
        )
