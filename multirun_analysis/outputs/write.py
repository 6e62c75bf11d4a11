"""The report's files. Each is whole or not there; the page comes last, when all that it stands beside is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import pandas as pd

from har_sweep.errors import InputError
from har_sweep.files import atomic, atomic_file, digest
from multirun_analysis.findings import Analysis
from multirun_analysis.quantities import plural
from multirun_analysis.sources.runs import Progress
from multirun_analysis.tables.table import PART, Table

FIGURES, TABLES = ("png", "svg", "pdf"), ("csv", "md", "tex")
LIST = ".written.json"  # what earlier reports wrote, and the next one may remove


def write(
    analysis: Analysis, tables: list[Table], folder: Path, formats: Sequence[str], progress: Progress
) -> list[str]:
    """Write a report in some formats; returns what was written, for people. Tables and figures of an earlier report in
    this folder, in these formats, go when all is written, so that none is left of what is not in this one.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    said: list[str] = []
    made: list[Path] = []
    earlier = _listed(folder)
    try:
        if "parquet" in formats:
            frame = storable(analysis.frame)
            atomic_file(folder / "data.parquet", lambda path: frame.to_parquet(path, index=False, row_group_size=PART))
            said.append(f"{folder / 'data.parquet'} ({plural(len(analysis.frame), 'run', 'runs')})")
        wanted = [f for f in TABLES if f in formats]
        for done, table in enumerate(tables if wanted else [], 1):
            progress("Writing tables", done, len(tables))
            for form in wanted:
                path = folder / "tables" / f"{table.name}.{form}"
                with atomic(path) as file:
                    file.writelines(part.encode() for part in _parts(table, form))
                made.append(path)
        if wanted:
            said.append(f"{folder / 'tables'} ({plural(len(tables), 'table', 'tables')})")
        if drawn := [f for f in FIGURES if f in formats]:
            from multirun_analysis.figures.figures import figures

            before = len(made)
            made.extend(figures(analysis, folder / "figures", drawn, progress))
            count = (len(made) - before) // len(drawn)
            said.append(f"{folder / 'figures'} ({plural(count, 'figure', 'figures')})")
        if "html" in formats:
            progress("Writing the page", 0, None)
            from multirun_analysis.report.page import page

            with atomic(folder / "index.html") as file:
                file.write(page(analysis, tables).encode())
            said.append(str(folder / "index.html"))
        for path in {*folder.glob("tables/*"), *folder.glob("figures/*")} - {*made}:
            if path.suffix[1:] in formats and (known := earlier.pop(_name(path), None)) and known == digest(path).hex():
                path.unlink()
    except OSError as e:
        raise InputError(
            f"{e.filename or folder} cannot be written: {e.strerror}.", "Give another folder: --out FOLDER."
        ) from e
    finally:
        if made:
            with suppress(OSError), atomic(folder / LIST, "w") as file:
                json.dump(earlier | {_name(path): digest(path).hex() for path in made}, file, indent=0, sort_keys=True)
    return said


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _listed(folder: Path) -> dict[str, str]:
    """The tables and figures that earlier reports wrote here, and what was in them: a file that is another by now is
    its user's own."""
    with suppress(OSError, ValueError):  # it is not there, or no such list
        return msgspec.json.decode((folder / LIST).read_bytes(), type=dict[str, str])
    return {}


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
