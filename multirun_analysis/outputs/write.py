"""The report's files. Each is whole or not there; the page comes last, when all that it stands beside is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from har_sweep.errors import InputError
from har_sweep.files import atomic, atomic_file
from multirun_analysis.findings import Analysis
from multirun_analysis.quantities import plural
from multirun_analysis.sources.runs import Progress
from multirun_analysis.tables.table import PART, Table

FIGURES, TABLES = ("png", "svg", "pdf"), ("csv", "md", "tex")


def write(
    analysis: Analysis, tables: list[Table], folder: Path, formats: Sequence[str], progress: Progress
) -> list[str]:
    """Write a report in some formats; returns what was written, for people.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    said = []
    try:
        if "parquet" in formats:
            frame = storable(analysis.frame)
            atomic_file(folder / "data.parquet", lambda path: frame.to_parquet(path, index=False, row_group_size=PART))
            said.append(f"{folder / 'data.parquet'} ({plural(len(analysis.frame), 'run', 'runs')})")
        wanted = [f for f in TABLES if f in formats]
        for done, table in enumerate(tables if wanted else [], 1):
            progress("Writing tables", done, len(tables))
            for form in wanted:
                with atomic(folder / "tables" / f"{table.name}.{form}") as file:
                    file.writelines(part.encode() for part in _parts(table, form))
        if wanted:
            said.append(f"{folder / 'tables'} ({plural(len(tables), 'table', 'tables')})")
        if drawn := [f for f in FIGURES if f in formats]:
            from multirun_analysis.figures.figures import figures

            made = figures(analysis, folder / "figures", drawn, progress)
            said.append(f"{folder / 'figures'} ({plural(len(made) // len(drawn), 'figure', 'figures')})")
        if "html" in formats:
            progress("Writing the page", 0, None)
            from multirun_analysis.report.page import page

            with atomic(folder / "index.html") as file:
                file.write(page(analysis, tables).encode())
            said.append(str(folder / "index.html"))
    except OSError as e:
        raise InputError(
            f"{e.filename or folder} cannot be written: {e.strerror}.", "Give another folder: --out FOLDER."
        ) from e
    return said


def _parts(table: Table, form: str) -> Iterator[str]:
    if form == "csv":
        yield from table.csv_parts()
    else:
        yield table.markdown() if form == "md" else table.tex()


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table; columns of several types at once, which parquet has not, as JSON text."""

    def types(column: pd.Series) -> set[type]:
        return (
            {type(value) for value in column if value is not None and value == value}
            if column.dtype == object
            else set()
        )

    mixed = [name for name, column in frame.items() if len(kinds := types(column)) > 1 and not kinds <= {int, float}]
    changed = {
        name: frame[name].map(lambda v: v if v is None or isinstance(v, str) else json.dumps(v, default=str))
        for name in mixed
    }
    return frame.assign(**changed) if changed else frame
