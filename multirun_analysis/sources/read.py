"""Runs, from folders, tables and Weights & Biases, as one table with a row a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from har_sweep.errors import InputError
from har_sweep.files import redact_text
from har_sweep.record.folder import RunPaths
from har_sweep.record.record import flatten
from multirun_analysis.findings import RunInfo
from multirun_analysis.sources.folder import RunFolder, read_records
from multirun_analysis.sources.runs import Origin, Progress, Runs
from multirun_analysis.sources.table import TableRow, read_table, table_info

"""What is done, how much of it, and of how much in all, where that is known."""


def read_runs(sources: Sequence[str], cache: Path, progress: Progress) -> Runs:
    """Read all sources into one table. A run that comes twice is taken once: from its record where there is one, else
    where it got furthest.

    Raises
    ------
    InputError
        if a source cannot be read at all, or none of them has a run.
    """
    rows: list[dict[str, Any]] = []
    info: list[RunInfo] = []
    origins: list[Origin] = []
    notes: list[str] = []
    tables: list[tuple[str, pd.DataFrame]] = []
    for source in sources:
        if source.startswith("wandb:"):
            from multirun_analysis.sources import wandb_runs as wandb_source

            pulled = wandb_source.pull(source, cache, progress)
            rows += pulled.rows
            info += pulled.info
            origins += pulled.origins
            notes += pulled.notes
        elif source.lower().endswith((".csv", ".tsv", ".parquet")):
            tables.append((source, read_table(Path(source))))
        elif Path(source).is_dir():
            for folder, record in read_records(Path(source), progress, notes):
                rows.append(flatten(record))
                where = redact_text(str(folder))
                info.append(RunInfo(record.run_id, record.name, record.seed, record.status, where, None))
                origins.append(RunFolder(RunPaths(folder)))
        else:
            raise InputError(
                f"{source} is neither a folder of runs, nor a .csv or .parquet file, nor wandb://ENTITY/PROJECT.",
                "Without any source, 'runs' is read; `python -m har_sweep -m model=...` makes it."
                if source == "runs"
                else "Look at the spelling; a folder of runs holds <run>/record.json.",
            )
    parts = [pd.DataFrame(rows)] if rows else []
    for source, frame in tables:
        parts.append(frame)
        info += table_info(frame, source)
        origins += [TableRow()] * len(frame)
    if not parts:
        raise InputError(
            f"There is no run in {', '.join(sources)}." + "".join(f"\n{note}" for note in notes),
            "`python -m har_sweep -m model=...` makes runs.",
        )
    frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return _once(Runs(frame, info, origins, notes))


def _once(runs: Runs) -> Runs:
    """Each run id once; a record beats W&B, then what is done beats what is not, then the later beats the earlier."""
    if "run_id" not in runs.frame.columns or not runs.frame["run_id"].duplicated().any():
        return runs
    url = {info.run_id: info.url for info in runs.info if info.url}
    begun = (
        runs.frame["started_at"].fillna("").tolist() if "started_at" in runs.frame.columns else [""] * len(runs.info)
    )
    best: dict[object, tuple[tuple[bool, bool, str], int]] = {}
    for place, (info, started) in enumerate(zip(runs.info, begun, strict=True)):
        key = info.run_id if pd.notna(runs.frame["run_id"].iat[place]) else place
        rank = (isinstance(runs.origins[place], RunFolder), info.status == "done", started)
        if key not in best or rank > best[key][0]:
            best[key] = (rank, place)
    kept = sorted(place for _, place in best.values())
    frame = runs.frame.iloc[kept].dropna(axis="columns", how="all").reset_index(drop=True)
    infos = [runs.info[place] for place in kept]
    infos = [replace(info, url=info.url or url.get(info.run_id)) for info in infos]
    notes = [*runs.notes, f"{len(runs.info) - len(kept)} runs came twice and are taken once."]
    return Runs(frame, infos, [runs.origins[place] for place in kept], notes)
