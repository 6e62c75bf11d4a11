"""Comparable training, honest costs: which backbone gives how much accuracy for how much cost, on your images."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from har_sweep.api import Sweep, runs, sweep
    from har_sweep.errors import InputError

__all__ = ["InputError", "Sweep", "runs", "sweep"]


def __getattr__(name: str) -> Any:
    """What a notebook or a script uses, imported when it is first asked for: each process of a run begins here."""
    if name not in __all__:
        raise AttributeError(f"module 'har_sweep' has no attribute '{name}'")
    from har_sweep import api

    return getattr(api, name)
