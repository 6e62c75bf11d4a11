"""From runs, on disk or in Weights & Biases, to a decision: which backbone, for how much accuracy and how much cost.

import multirun_analysis

analysis = multirun_analysis.analyse("runs", costs=["latency", "macs"], budget=["latency_p50<5ms"])
analysis                                   # in a notebook: sentences, tables and the first front
analysis.fronts["latency"]                 # a front, with its figure
analysis.tables["table1"].to_frame()       # a DataFrame
analysis.figures["pareto-latency"].figure  # matplotlib's own
analysis.save("report")                    # what `python -m multirun_analysis` writes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multirun_analysis.api import Analysis, Runs, analyse, read

__all__ = ["Analysis", "Runs", "analyse", "read"]


def __getattr__(name: str) -> Any:
    """What ``api`` has, imported when it is first asked for: pandas takes a second."""
    if name in __all__:
        from multirun_analysis import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *globals()]
