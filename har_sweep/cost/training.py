"""The time that training takes, and the share of it spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from har_sweep.cost.disturbance import Counters, Disturbance, Meter, disturbance
from har_sweep.cost.host_wait import HeldStep
from har_sweep.device.compute import synchronise
from har_sweep.record.record import TrainingCost

_WARM_UP_STEPS = 3
_WINDOW_SECONDS = 1.0  # of one judgement whether training was disturbed


@dataclass(frozen=True)
class Paced:
    """Images trained on in some seconds, the warm-up left out, and how disturbed these were."""

    images: int = 0
    seconds: float = 0.0
    disturbed: Disturbance = field(default_factory=Disturbance)

    def __add__(self, other: Paced) -> Paced:
        return Paced(self.images + other.images, self.seconds + other.seconds, self.disturbed + other.disturbed)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Paced:
        return cls(state["images"], state["seconds"], Disturbance(**state["disturbed"]))


@dataclass(frozen=True)
class Taught:
    """Seconds of a teacher's answers: on so many ``images``, and in steps that were the first of their size."""

    images: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0

    def seconds_in_all(self, first_images: int) -> float | None:
        """Those that count: of first steps no more than others took for as many images; None if nobody taught."""
        usual = self.seconds / self.images * first_images if self.images else self.first_seconds
        return self.seconds + min(self.first_seconds, usual) or None


class TrainingClock:
    """Times the training loop, over as many epochs and resumed processes as it takes.

    ``waiting()`` goes around getting a batch, ``step(images)`` around each optimizer step, ``teaching()`` around a
    teacher's answers within it, ``pause()`` before validation, a checkpoint and the end; the next ``waiting()`` starts
    the clock again. A CUDA device is synchronised in ``pause``, once when warm, and around the first step of each
    number of images, but not in every step.

    In such a first step a device chooses its kernels, and a model is compiled; a CUDA graph is captured in another.
    What these take longer than others is no part of the training's seconds.

    Waiting for data is the time for which computing stood still: on CUDA, a wait that the device filled with work
    given to it before is not counted.

    With a ``meter`` it is known how disturbed training was, second by second: the throughput is that of undisturbed
    seconds where there were any.
    """

    def __init__(
        self, device: torch.device, meter: Meter | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._device, self._meter, self._now = device, meter, now
        self._seconds = 0.0
        self._wait_seconds = 0.0
        self._disturbed = Disturbance()  # all of ``_seconds``, but for the window
        self._all, self._undisturbed = Paced(), Paced()  # warm steps, but for the window's
        self._window, self._window_images, self._window_seconds = Counters(), 0, 0.0
        self._first = Paced()  # steps of their number of images, of any process
        self._steps, self._sizes = 0, set[int]()  # of this process
        self._taught, self._in_first_step = Taught(), False
        self._answers: list[tuple[bool, torch.cuda.Event, torch.cuda.Event]] = []
        self._host_seconds = 0.0  # for which the host was busy with the last step, but for one that compiled
        self._held: HeldStep | None = None
        self._device_seconds: float | None = None  # of an image, if the device never waited for the host
        self._started: float | None = None
        self._warm_since: float | None = None
        self._waits: list[tuple[float, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around getting a batch; starts the clock where it is paused."""
        began = self._now()
        if self._started is None:
            self._started = began
            if self._meter:
                self._meter.lap()  # what was before is not training
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

    @contextmanager
    def step(self, images: int, captures: bool = False) -> Iterator[bool]:
        """Around an optimizer step on so many images; yields whether it is the first of that number in this process, or
        ``captures`` a graph for the next.

        Those are in no throughput, nor are the first three of a process.
        """
        first = captures or images not in self._sizes
        if first:
            synchronise(self._device)
            self._lap()
            self._warm_since = None
        began, self._in_first_step = self._now(), first
        with nullcontext() if first else self._holding():
            yield first
        self._steps += 1
        if captures or not first:
            self._host_seconds = self._now() - began
        if not first:
            self._taught = replace(self._taught, images=self._taught.images + images)
        else:
            synchronise(self._device)
            self._first += Paced(images, self._now() - began)
            self._sizes.add(images)
        if first or self._steps == _WARM_UP_STEPS:
            synchronise(self._device)
            self._lap(close=self._steps == _WARM_UP_STEPS)
            self._warm_since = self._now() if self._steps >= _WARM_UP_STEPS else None
        elif self._warm_since is not None:
            self._window_images += images
            if self._now() - self._warm_since >= _WINDOW_SECONDS:
                self._lap()
        self._note_held(images)

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Around a teacher's answers to a micro-batch; on CUDA they are timed as the device has them, in ``pause``."""
        began, start = self._now(), self._mark()
        yield
        end = self._mark()
        if start is None or end is None:
            self._add_answer(self._in_first_step, self._now() - began)
        else:
            self._answers.append((self._in_first_step, start, end))

    def _add_answer(self, in_first_step: bool, seconds: float) -> None:
        key = "first_seconds" if in_first_step else "seconds"
        self._taught = replace(self._taught, **{key: getattr(self._taught, key) + seconds})

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Around the last step before those that count: on CUDA the device gets all of its work at once."""
        if self._device.type != "cuda" or self._steps != _WARM_UP_STEPS - 1 or not self._host_seconds:
            yield
            return
        self._held = HeldStep(self._device)
        with self._held.around(self._host_seconds):
            yield

    def _note_held(self, images: int) -> None:
        """After that step: the time for which the device was held is no training."""
        if self._held is None:
            return
        held, took = self._held.seconds()
        self._held, self._seconds = None, self._seconds - held
        self._device_seconds = took / images if took else None

    def _lap(self, close: bool = False) -> None:
        """Add what was since the last lap to the window; judge it when it is long enough, or to be closed."""
        now = self._now()
        if self._warm_since is not None:
            self._window_seconds += now - self._warm_since
            self._warm_since = now
        if self._meter:
            self._window += self._meter.lap()
        if close or self._window_seconds >= _WINDOW_SECONDS:
            self._disturbed, self._all, self._undisturbed = self._judged()
            self._window, self._window_images, self._window_seconds = Counters(), 0, 0.0

    def _judged(self) -> tuple[Disturbance, Paced, Paced]:
        """How disturbed training was, its warm steps, and those of undisturbed seconds, with the window."""
        found = disturbance(self._window, self._meter.place) if self._meter else Disturbance(lost=None)
        window = Paced(self._window_images, self._window_seconds, found) if self._window_seconds else Paced()
        undisturbed = Paced() if found.marked else window
        return self._disturbed + found, self._all + window, self._undisturbed + undisturbed

    def pause(self) -> None:
        """Stop the clock, once the device has finished. Does nothing while paused."""
        if self._started is None:
            return
        synchronise(self._device)
        self._lap()
        self._seconds += self._now() - self._started
        # From the end of the work before to the batch's arrival as the device saw it: nothing, where it was still busy.
        self._wait_seconds += sum(min(waited, done.elapsed_time(ready) / 1e3) for waited, done, ready in self._waits)
        self._waits.clear()
        for in_first_step, start, end in self._answers:
            self._add_answer(in_first_step, start.elapsed_time(end) / 1e3)
        self._answers.clear()
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
        disturbed, warm, undisturbed = self._judged()
        return {
            "seconds": self._seconds,
            "wait_seconds": self._wait_seconds,
            "disturbed": asdict(disturbed),
            "warm": asdict(warm),
            "undisturbed": asdict(undisturbed),
            "first": asdict(self._first),
            "taught": asdict(self._taught),
            "device_seconds": self._device_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's ``state_dict()``; this process warms up anew."""
        self._seconds, self._wait_seconds = state["seconds"], state["wait_seconds"]
        self._first = Paced.restore(state["first"]) if "first" in state else Paced()
        self._taught = Taught(**state.get("taught", {}))
        self._device_seconds = state.get("device_seconds")
        if "warm" not in state:  # of before this was measured
            warm = Paced(state["warm_images"], state["warm_seconds"], Disturbance(lost=None))
            self._disturbed, self._all, self._undisturbed = Disturbance(lost=None), warm, warm
            return
        self._disturbed = Disturbance(**state["disturbed"])
        self._all, self._undisturbed = Paced.restore(state["warm"]), Paced.restore(state["undisturbed"])

    def another_device(self) -> None:
        """What training goes on with is not what it was on: throughput is of this device alone, from here on."""
        self._all, self._undisturbed, self._device_seconds = Paced(), Paced(), None

    def cost(self) -> TrainingCost:
        """The times so far, memory and energy left None; pauses the clock. No throughput before a fourth step."""
        self.pause()
        disturbed, warm, undisturbed = self._judged()
        paced = undisturbed if undisturbed.images else warm
        usual = self._first.images * warm.seconds / warm.images if warm.images else self._first.seconds
        compiling = max(0.0, self._first.seconds - usual)
        seconds, waited = self._seconds - compiling, self._wait_seconds
        return TrainingCost(
            seconds=seconds,
            compute_seconds=seconds - waited,
            data_wait_seconds=waited,
            data_wait_share=waited / seconds if seconds else None,
            images_per_second=paced.images / paced.seconds if paced.images else None,
            disturbed_share=disturbed.share,
            images_disturbed_share=paced.disturbed.share,
            compile_seconds=compiling if warm.images else None,
            teacher_seconds=self._taught.seconds_in_all(self._first.images),
            host_wait_share=self._host_wait_share(paced, waited / seconds if seconds else 0.0),
        )

    def _host_wait_share(self, paced: Paced, data_wait_share: float) -> float | None:
        """What is left of the device's time besides computing and waiting for data."""
        if self._device_seconds is None or not paced.images:
            return None
        return max(0.0, 1 - self._device_seconds * paced.images / paced.seconds - data_wait_share)
