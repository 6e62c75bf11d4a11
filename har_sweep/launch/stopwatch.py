"""How long a computation takes, of a time that it may take, beside others that compute on the same cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from har_sweep.cost.disturbance import waited_seconds
from har_sweep.device.compute import synchronise

PATIENCE = 6.0  # times the seconds asked for, for one thread while others compute


def budget(seconds: float, patience: float = PATIENCE) -> Callable[[], float]:
    """Tells how many of the seconds are left, of computing with all threads; a longer wait for cores counts as well,
    once it is ``patience`` times as long."""
    threads, wall, cpu = torch.get_num_threads(), time.monotonic(), time.process_time()

    def left() -> float:
        return seconds - max((time.process_time() - cpu) / threads, (time.monotonic() - wall) / patience)

    return left


@dataclass
class Watch:
    seconds: float = 0.0


@contextmanager
def undisturbed(device: torch.device) -> Iterator[Watch]:
    """How long it takes what is done inside; on a CPU, without the time for which others had the cores that it wanted.

    That is the time that passed less what its threads waited for a core, and no less than what they computed if all
    did so at once. (Threads wait for each other at the same time, so their waiting adds up to more than was lost.)
    """
    watch, wall, cpu, waited = Watch(), time.monotonic(), time.process_time(), waited_seconds() or 0.0
    yield watch
    synchronise(device)
    watch.seconds = time.monotonic() - wall
    if device.type == "cpu":
        lost = (waited_seconds() or 0.0) - waited
        watch.seconds = max((time.process_time() - cpu) / torch.get_num_threads(), watch.seconds - lost)
