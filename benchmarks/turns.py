"""What all benchmarks share: rivals that take turns, medians of pairs, a table, and JSON in the last line."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from types import MappingProxyType
from typing import Any
from unittest import mock

PAIRS = 5
Answer = Callable[[Any], None]
"""Given to a rival: sends a measurement off, and returns when the next one is asked for."""


@contextmanager
def rivals(
    *works: tuple[Any, ...], environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[list[Callable[[], Any]]]:
    """Each ``(work, *args)`` in a process of its own that starts now: ``work(answer, *args)``, a function of a module.

    Each call of what this gives is one measurement; between them the process rests. ``environment`` is what they have
    beside this process's.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        asks: list[Callable[[], Any]] = []
        for work, *args in works:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, *args))
            with mock.patch.dict(os.environ, environment):
                process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(ours.close)

            def ask(connection: Connection = ours) -> Any:
                connection.send(None)
                return connection.recv()

            asks.append(ask)
        yield asks


def _serve(connection: Connection, work: Callable[..., None], *args: Any) -> None:
    def answer(value: Any) -> None:
        connection.send(value)
        connection.recv()

    # Else what the rival starts would be spawned too, and a DataLoader's workers import torch anew in every epoch.
    multiprocessing.set_start_method(None, force=True)
    try:
        connection.recv()
        work(answer, *args)
    except EOFError:  # enough was measured
        pass


@dataclass(frozen=True)
class Pairs:
    """Measurements of two rivals that took turns; element i of both were taken one after the other."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        """Theirs by ours, of each pair: how many times as fast ours is, where both are seconds."""
        return [their / our for our, their in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    def texts(self, unit: str = "s") -> list[str]:
        """Medians of both, the ratio, and between which values it lay."""
        our, their = median(self.ours), median(self.theirs)
        return [f"{our:.3g} {unit}", f"{their:.3g} {unit}", f"{self.ratio:.2f}", _span(self.ratios)]


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def take_turns(*asks: Callable[[], Any], pairs: int = PAIRS) -> list[list[Any]]:
    """What each of ``asks`` gave in each of ``pairs`` rounds; who begins changes with every round."""
    found: list[list[Any]] = [[] for _ in asks]
    began = time.monotonic()
    for number in range(pairs):
        for rival in range(len(asks))[:: -1 if number % 2 else 1]:
            found[rival].append(asks[rival]())
        left = (time.monotonic() - began) / (number + 1) * (pairs - number - 1)
        print(f"  round {number + 1} of {pairs} is over, {left:.0f} s left", file=sys.stderr, flush=True)
    return found


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that a Markdown page can hold as it is."""
    print(f"\n{title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def result(**values: Any) -> None:
    """The last line."""
    print(json.dumps(values))
