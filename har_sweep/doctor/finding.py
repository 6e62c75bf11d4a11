"""What one check found, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


# At the top only what Python itself brings: a missing package must be reported, not met.

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
