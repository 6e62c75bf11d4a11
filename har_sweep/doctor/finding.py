"""What one check found, and the remedy. In this room only what Python itself brings is imported at the top of a file:
a missing package must be reported, not met."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
OK = "ok"
NOTE = "note"  # something optional is not there
PROBLEM = "problem"  # a sweep could not run


@dataclass(frozen=True)
class Check:
    """One row of the table. ``status`` is ``ok``, ``note`` or ``problem``; a problem always has a remedy."""

    subject: str
    status: str
    finding: str
    remedy: str = ""


def distinct(values: Iterable[T]) -> list[T]:
    """In order, each once; configs compare but do not hash."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
