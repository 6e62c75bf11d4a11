"""Comparable training, honest costs: which backbone gives how much accuracy for how much cost, on your images."""

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from har_sweep.api import Sweep, runs, sweep
    from har_sweep.errors import InputError

__all__ = ["InputError", "Sweep", "runs", "sweep"]


def __getattr__(name: str) -> Any:
    """What a notebook or a script uses, imported when it is first asked for: each process of a run begins here."""
    if name not in __all__:
        raise AttributeError(f"module 'har_sweep' has no attribute '{name}'")
    from har_sweep import api

    return getattr(api, name)


def _end(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """How a command ends that nobody there has ended: by Ctrl-C, with a line."""
    if issubclass(kind, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(130)
    sys.__excepthook__(kind, error, trace)


# Here, before its modules are imported: that is when Ctrl-C comes early.
if any(flag == "-m" and word.split(".")[0] == "har_sweep" for flag, word in pairwise(sys.orig_argv)):
    sys.excepthook = _end
