"""Questions to torch, which planning does not import: a process of its own answers them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from har_sweep.errors import first_line
from har_sweep.processes import SPAWN, take_signals
from har_sweep.stop import die_with_parent

Ask = Callable[..., Any]
"""Calls a function of ``calibrate``, given its name and its arguments."""


class Unanswered(Exception):
    """Torch could not do what it was asked for."""


@contextmanager
def asking_torch() -> Iterator[Ask]:
    """Inside, questions are answered by a process with torch; it is started by the first of them."""
    pool: ProcessPoolExecutor | None = None

    def ask(name: str, *args: Any) -> Any:
        nonlocal pool
        pool = pool or ProcessPoolExecutor(1, SPAWN, _begin_silently)
        try:
            return pool.submit(_answer, name, *args).result()
        except BrokenProcessPool as e:
            pool = None
            raise Unanswered("the process that tried it died; `python -m har_sweep.doctor` checks torch") from e

    try:
        yield ask
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _begin_silently() -> None:
    """The process: nothing that it prints is shown, and it does not outlive whoever asks."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as the runs will have it
    die_with_parent()
    take_signals()


def _answer(name: str, *args: Any) -> Any:
    """In the process: call a function of ``calibrate``."""
    try:
        import har_sweep.launch.preload  # noqa: F401 - no garbage is looked for in it; threads wait as a run's
        from har_sweep.launch import calibrate

        return getattr(calibrate, name)(*args)
    except Exception as e:
        raise Unanswered(first_line(e)) from None
