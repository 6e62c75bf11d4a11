"""Processes that begin as their parent stands at that moment, be it a command, a plain script or a notebook."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import ClassVar

if sys.platform != "win32":
    from multiprocessing.context import ForkServerContext, ForkServerProcess


class _Here(BaseProcess):
    """Begins in the parent's folder and environment, and does not run its ``__main__`` again.

    By itself, multiprocessing takes the folder in which it was imported, and a fork server the environment in which
    that was started; and in each process a script without ``if __name__ == "__main__"`` would start itself anew.
    """

    _variables: ClassVar[set[str]] = set()  # of the environment, at whichever start: a fork server may have them still

    def start(self) -> None:
        self._folder, self._environment = os.getcwd(), dict(os.environ)
        self._variables.update(os.environ)
        self._gone = self._variables - os.environ.keys()
        with _without_main():
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
