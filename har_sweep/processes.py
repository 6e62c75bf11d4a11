"""Processes that begin as their parent stands at that moment, be it a command, a plain script or a notebook."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import ClassVar

if sys.platform != "win32":
    from multiprocessing.context import ForkServerContext, ForkServerProcess


class _Here(BaseProcess):
    """Begins in the parent's folder and environment, does not run its ``__main__`` again, and takes no signal before
    ``take_signals``.

    By itself, multiprocessing takes the folder in which it was imported, and a fork server the environment in which
    that was started; and in each process a script without ``if __name__ == "__main__"`` would start itself anew. What a
    terminal or a batch system sends to all processes would break off what is being imported; and a fork server that it
    ends can tell nobody any more whether a run has ended.
    """

    _variables: ClassVar[set[str]] = set()  # of the environment, at whichever start: a fork server may have them still

    def start(self) -> None:
        self._folder, self._environment = os.getcwd(), dict(os.environ)
        self._variables.update(os.environ)
        self._gone = self._variables - os.environ.keys()
        with _without_main(), held_back():
            super().start()

    def run(self) -> None:
        os.chdir(self._folder)
        for name in self._gone:
            os.environ.pop(name, None)
        os.environ.update(self._environment)
        super().run()


class _Spawned(_Here, SpawnProcess):
    pass


class _Spawning(SpawnContext):
    Process = _Spawned


SPAWN = _Spawning()

if sys.platform != "win32":

    class _Forked(_Here, ForkServerProcess):
        pass

    class _Forking(ForkServerContext):
        Process = _Forked

    FORK_SERVER = _Forking()
    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, signals wait, here until its end and in each process that is started until that takes them."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # or starting the first process starts it, and lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_signals() -> None:
    """Let come what was sent to this process so far, now that it can take it."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def patient_threads() -> dict[str, str]:
    """Variables for a process that will import torch: its threads wait busily for each other for microseconds only.

    GNU's OpenMP, which torch brings on Linux, lets them spin for milliseconds, which beside other processes takes the
    core from the very thread that is waited for. Empty where the user has said how they shall wait.
    """
    said = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    return {} if said else {"GOMP_SPINCOUNT": "2000"}


@contextmanager
def _without_main() -> Iterator[None]:
    """Inside, multiprocessing finds no file or module that a new process would have to run as its ``__main__``."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
