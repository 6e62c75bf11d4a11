"""Runs as the analysis sees them, wherever they were read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import pandas as pd

from har_sweep.record.record import Epoch
from multirun_analysis.findings import RunInfo
from multirun_analysis.quantities import plural

# Hears what is done, how much of it, and of how much, where that is known.
Progress = Callable[[str, int, int | None], None]

PREDICTION_COLUMNS = ["path", "split", "label", "prediction"]


class Origin(Protocol):
    """Where more is known of a run than its row says; read only for the runs that are compared."""

    def epochs(self) -> list[Epoch]:
        """Its learning curve."""

    def predictions(self) -> pd.DataFrame | None:
        """Path, split, label and prediction of each image; None where there are none."""


@dataclass(frozen=True)
class Found:
    """What one source has: a row a run, as dictionaries or as a table; row i is described by ``info[i]``, and
    ``origins[i]`` knows more of it. ``notes`` say what was left out, assumed or is not final, and why. ``units`` has
    the unit of a column whose cells tell it, ``unclear`` why the numbers of a column cannot be told. ``written`` reads
    a column of the table of that name again, as texts."""

    rows: list[dict[str, Any]] | pd.DataFrame
    info: list[RunInfo]
    origins: Sequence[Origin]
    notes: Sequence[str] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    unclear: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, Callable[[str], pd.Series]] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Runs:
    """The runs of all ``sources``, as one table: see ``Found``. ``sweeps`` are those that were chosen, if any were."""

    frame: pd.DataFrame
    info: list[RunInfo]
    origins: list[Origin]
    notes: list[str]
    sources: list[str]
    sweeps: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    unclear: Mapping[str, str] = field(default_factory=dict)
    written: Mapping[str, Callable[[str], pd.Series]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{plural(len(self.info), 'run', 'runs')} from {', '.join(self.sources)}>"

    def _repr_html_(self) -> str:
        return str(self.frame._repr_html_())

    @property
    def are_records(self) -> bool:
        """Whether har_sweep made them, so that it is known what their columns mean."""
        return {"run_id", "model/name", "status"} <= set(self.frame.columns)

    def column(self, name: str) -> pd.Series:
        """A column of the table; all missing if it has none of that name."""
        return self.frame[name] if name in self.frame.columns else pd.Series(None, self.frame.index, dtype=object)

    def named(self, rows: Iterable[int]) -> str:
        """Some rows as people find them again: runs by their ids, rows of a table by their places in it."""
        infos = [self.info[row] for row in rows]
        return some([info.source if info.run_id.startswith("row ") else info.run_id for info in infos], between="; ")

    def take(self, rows: Sequence[int]) -> Runs:
        """Only some of the rows, in this order."""
        return replace(
            self,
            frame=self.frame.iloc[rows].reset_index(drop=True),
            info=[self.info[row] for row in rows],
            origins=[self.origins[row] for row in rows],
        )

    def as_written(self, columns: Iterable[str]) -> Runs:
        """With the cells of some columns as their tables have them, where they were read as numbers: what is a name is
        no number, and the version 1.10 not 1.1."""
        frame = self.frame
        for table, read in self.written.items():
            mine = {row: info.row - 1 for row, info in enumerate(self.info) if info.at == table and info.row}
            for column in columns:
                if frame[column].iloc[list(mine)].notna().any() and not is_text(frame[column]):
                    cells = frame[column].astype(object)
                    cells.iloc[list(mine)] = read(column).iloc[list(mine.values())].to_numpy(object)
                    frame = frame.assign(**{column: cells.where(cells.notna(), None)})
        return replace(self, frame=frame)

    @cached_property
    def known_columns(self) -> list[str]:
        """The columns in which any run has a value."""
        return list(self.frame.columns[self.frame.notna().any()])


def is_text(values: pd.Series) -> bool:
    """Whether all that is known of a column is text."""
    return pd.api.types.infer_dtype(values, skipna=True) == "string"


def some(names: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """A few of many names, and how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
