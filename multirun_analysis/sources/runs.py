"""Runs as the analysis sees them, wherever they were read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import pandas as pd

from har_sweep.record.record import Epoch
from multirun_analysis.findings import RunInfo

Progress = Callable[[str, int, int | None], None]

PREDICTION_COLUMNS = ["path", "split", "label", "prediction"]


class Origin(Protocol):
    """Where more is known of a run than its row says; read only for the runs that are compared."""

    def epochs(self) -> list[Epoch]:
        """Its learning curve."""

    def predictions(self) -> pd.DataFrame | None:
        """Path, split, label and prediction of each image; None where there are none."""


@dataclass(frozen=True)
class Runs:
    """Row i of ``frame`` is described by ``info[i]``, and ``origins[i]`` knows more of it. ``notes`` say what was left
    out, and why."""

    frame: pd.DataFrame
    info: list[RunInfo]
    origins: list[Origin]
    notes: list[str]

    @property
    def are_records(self) -> bool:
        """Whether har_sweep made them, so that it is known what their columns mean."""
        return {"run_id", "model/name", "status"} <= set(self.frame.columns)

    @cached_property
    def known_columns(self) -> list[str]:
        """The columns in which any run has a value."""
        return list(self.frame.columns[self.frame.notna().any()])
