"""Runs, from folders, tables and Weights & Biases, as one table with a row a run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from har_sweep.errors import InputError
from multirun_analysis.quantities import plural
from multirun_analysis.sources.choice import choose_found, parse_address
from multirun_analysis.sources.folder import RunFolder, read_folder
from multirun_analysis.sources.runs import Found, Progress, Runs, some
from multirun_analysis.sources.table import read_table, rows_of, sheet_of


def read_runs(sources: Sequence[str | pd.DataFrame], cache: Path, progress: Progress) -> Runs:
    """Read all sources into one table. A run that comes twice is taken once: from its record where there is one, else
    where it got furthest. ``cache`` keeps what W&B was asked for.

    Raises
    ------
    InputError
        if a source cannot be read at all, or none of them has a run.
    """
    found = [read_source(source, cache, progress) for source in sources]
    sweeps = [name for source in sources if isinstance(source, str) for name in _sweeps(source)]
    names = ["a DataFrame" if isinstance(source, pd.DataFrame) else source for source in sources]
    if not any(one.info for one in found):
        raise InputError(
            f"There is no run in {', '.join(names)}." + "".join(f"\n{note}" for one in found for note in one.notes),
            "`python -m har_sweep -m model=...` makes runs.",
        )
    return replace(take_once(put_together(found, names)), sweeps=tuple(sweeps))


def _sweeps(source: str) -> Iterable[str]:
    """Those that an address chooses; in W&B they are groups."""
    _, conditions = parse_address(source)
    return [name for condition in conditions if condition.name in ("sweep", "group") for name in condition.values]


def read_source(source: str | pd.DataFrame, cache: Path, progress: Progress) -> Found:
    """The runs of one source; what it is, its name tells, and which of its runs, what follows a ``?``."""
    if isinstance(source, pd.DataFrame):
        return rows_of(sheet_of(source, "a DataFrame"), "a DataFrame")
    if source.startswith("wandb:"):
        from multirun_analysis.sources.wandb_runs import pull

        return pull(source, cache, progress)
    source, conditions = parse_address(source)
    return choose_found(_read(source, progress), conditions)


def _read(source: str, progress: Progress) -> Found:
    if source.lower().endswith((".csv", ".tsv", ".parquet")):
        return rows_of(read_table(Path(source)), source)
    if Path(source).is_dir():
        return read_folder(Path(source), progress)
    raise InputError(
        f"{source} is neither a folder of runs, nor a .csv or .parquet file, nor wandb://ENTITY/PROJECT.",
        "Without any source, 'runs' is read; `python -m har_sweep -m model=...` makes it."
        if source == "runs"
        else "Look at the spelling; a folder of runs holds <run>/record.json.",
    )


def put_together(found: Sequence[Found], sources: list[str]) -> Runs:
    """One table of what all sources have; those that were tables come last, as they were."""
    tables = [one for one in found if isinstance(one.rows, pd.DataFrame)]
    others = [one for one in found if not isinstance(one.rows, pd.DataFrame)]
    rows = [row for one in others for row in one.rows]
    parts = [pd.DataFrame(rows)] * bool(rows) + [one.rows for one in tables]
    ordered = [*others, *tables]
    return Runs(
        frame=pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0],
        info=list(itertools.chain.from_iterable(one.info for one in ordered)),
        origins=list(itertools.chain.from_iterable(one.origins for one in ordered)),
        notes=list(itertools.chain.from_iterable(one.notes for one in found)),
        sources=sources,
        units=_of_all(found, parts),
        unclear={column: why for one in found for column, why in one.unclear.items()},
        written={table: read for one in found for table, read in one.written.items()},
    )


def _of_all(found: Sequence[Found], parts: Sequence[pd.DataFrame]) -> dict[str, str]:
    """The units of columns.

    Raises
    ------
    InputError
        if a column has one in one table, and none in another.
    """
    units = {column: unit for one in found for column, unit in one.units.items()}
    for column, unit in units.items():
        if sum(column in part.columns for part in parts) > sum(column in one.units for one in found):
            raise InputError(
                f"{column} is in {unit} in one source, and without a unit in another.", "Write it in one way."
            )
    return units


def take_once(runs: Runs) -> Runs:
    """Each run id once, and each row of a file; a record beats W&B, then what is done beats what is not, then the later
    beats the earlier, then the first. Those whose numbers differ are named."""
    has_id = runs.column("run_id").notna().tolist()
    files = {info.at: os.path.realpath(info.at) for info in runs.info if info.row} if len(runs.sources) > 1 else {}
    files = {table: file for table, file in files.items() if os.path.isfile(file)}
    keys: list[object] = [
        info.run_id if known else (files[info.at], info.row) if info.at in files else place
        for place, (info, known) in enumerate(zip(runs.info, has_id, strict=True))
    ]
    if len(set(keys)) == len(keys):
        return runs
    url = {info.run_id: info.url for info in runs.info if info.url}
    begun = runs.column("started_at").fillna("").tolist()
    best: dict[object, tuple[tuple[bool, bool, str], int]] = {}
    for place, (key, info, started) in enumerate(zip(keys, runs.info, begun, strict=True)):
        rank = (isinstance(runs.origins[place], RunFolder), info.status == "done", started)
        if key not in best or rank > best[key][0]:
            best[key] = (rank, place)
    kept = sorted(place for _, place in best.values())
    pairs = [(best[key][1], place) for place, key in enumerate(keys) if best[key][1] != place]
    infos = [runs.info[place] for place in kept]
    return replace(
        runs,
        frame=runs.frame.iloc[kept].dropna(axis="columns", how="all").reset_index(drop=True),
        info=[replace(info, url=info.url or url.get(info.run_id)) for info in infos],
        origins=[runs.origins[place] for place in kept],
        notes=[
            *runs.notes,
            f"{plural(len(runs.info) - len(kept), 'run came twice and is', 'runs came twice and are')} taken once.",
            *_contradicting(runs, pairs),
        ],
    )


def _contradicting(runs: Runs, pairs: list[tuple[int, int]]) -> list[str]:
    """What is to be said of rows of one run id, the kept one first, whose numbers are not the same."""
    numbers = runs.frame.select_dtypes("number").astype(float)
    one, other = (numbers.iloc[list(places)].to_numpy() for places in zip(*pairs, strict=True))
    differ = ~np.isnan(one) & ~np.isnan(other) & ~np.isclose(one, other, rtol=1e-6, atol=0)
    said = []
    for number in np.flatnonzero(differ.any(axis=1)):
        (kept, left), column = pairs[number], int(np.flatnonzero(differ[number])[0])
        said.append(
            f"{runs.info[kept].run_id} has {numbers.columns[column]} {one[number, column]:.6g} in "
            f"{runs.info[kept].source}, which is kept, and {other[number, column]:.6g} in {runs.info[left].source}"
        )
    return [f"{plural(len(said), 'run', 'runs')} came twice with different numbers: {some(said)}."] if said else []
