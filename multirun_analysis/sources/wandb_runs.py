"""Runs from Weights & Biases: what its API knows of them, in the words of their records.

First a light list of the runs that fit, then all that is known of those that are new or have changed, a few hundred at
a time; the others come from the cache. Nothing is asked for run by run, but for what only compared runs need.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints
from urllib.parse import quote, urlencode

import msgspec
import numpy as np
import pandas as pd

from har_sweep.errors import InputError
from har_sweep.files import atomic
from har_sweep.record.record import (
    CLASS_NUMBERS,
    EPOCH_KEYS,
    ClassMetrics,
    Cost,
    Epoch,
    InferenceCost,
    Metrics,
    TrainingCost,
    leaves,
)
from multirun_analysis.findings import RunInfo
from multirun_analysis.quantities import plural
from multirun_analysis.sources.runs import PREDICTION_COLUMNS, Found, Progress
from multirun_analysis.sources.wandb_client import EXAMPLE, PICTURES, Client, parse_address

if TYPE_CHECKING:
    from wandb.apis.public import Run


T = TypeVar("T")

PAGE = 500  # runs at a time
LINES = 10_000  # of a run's history: one an epoch

_CACHE_VERSION = 3
_NOT_FINITE = {"NaN", "Infinity", "-Infinity"}  # how W&B writes them


@dataclass
class _Known:
    """What is known of a run, as of ``stamp``; ``table`` is where its predictions are, and ``images`` their number."""

    stamp: str
    row: dict[str, Any]
    table: str | None = None
    images: int | None = None


def pull(address: str, cache: Path, progress: Progress) -> Found:
    """Read the runs that ``address`` names; ``cache`` keeps what was read, also of a pull that failed.

    Raises
    ------
    InputError
        if the address is none, no run fits it, or the server cannot be read.
    """
    wanted = parse_address(address)
    client = Client()
    try:
        entity, project = client.where(wanted.entity, wanted.project)
        return _pull(client, entity, project, wanted.filters, cache, progress)
    except BaseException:
        client.close()
        raise


def _pull(client: Client, entity: str, project: str, filters: dict[str, Any], cache: Path, progress: Progress) -> Found:
    place = f"{entity}/{project}"
    folder = cache / "wandb" / _name(client.url, entity, project)
    listed = _list(client, place, filters, progress)
    if not listed:
        raise _nothing(client, place, filters)
    known = _read_cache(folder / "runs.json")
    missing = [id for id, run in listed.items() if id not in known or known[id].stamp != _stamp(run)]
    read = len(listed) - len(missing)

    def so_far() -> str:
        return f"{read} of {len(listed)} runs have been read; the next pull goes on from there."

    progress(f"Reading runs of {place}", read, len(listed))
    try:
        for start in range(0, len(missing), PAGE):
            some = {"name": {"$in": missing[start : start + PAGE]}}
            with client.explained(place, so_far):
                page = client.api().runs(place, filters=some, per_page=PAGE, lazy=False)
                known |= {run.id: _know(run) for run in page}
            client.api().flush()  # it would keep every run that it ever read
            read = min(read + PAGE, len(listed))
            progress(f"Reading runs of {place}", read, len(listed))
    finally:
        if missing:
            _write_cache(folder / "runs.json", known)
    gone = [id for id in listed if id not in known]
    deleted = plural(len(gone), "run was", "runs were")
    notes = [f"{place}: {deleted} deleted while being read: {_some(gone)}."] if gone else []
    # Sorted as folders of runs are, so that what depends on the order is the same from either.
    runs = [WandbRun(client, run, place, folder, known[id]) for id, run in sorted(listed.items()) if id in known]
    if running := [run.info.run_id for run in runs if run.info.status == "running"]:
        notes.append(f"{place}: {plural(len(running), 'run is', 'runs are')} still running: {_some(running)}.")
    return Found([run.known.row for run in runs], [run.info for run in runs], runs, notes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _list(client: Client, place: str, filters: dict[str, Any], progress: Progress) -> dict[str, Run]:
    """The runs that fit, by their ids, without what makes them heavy."""
    listed: dict[str, Run] = {}
    api = client.api()
    with client.explained(place):
        runs = api.runs(place, filters=filters, per_page=PAGE)
        for number, run in enumerate(runs, 1):
            listed[run.id] = run
            if number % PAGE == 0 or number == len(runs):
                progress(f"Listing runs of {place}", number, len(runs))
        api.flush()
    return {id: run for id, run in listed.items() if run.group != PICTURES}


def _nothing(client: Client, place: str, filters: dict[str, Any]) -> InputError:
    """Why there is no run: none at all, or none that fits."""
    with client.explained(place):
        there = client.api().runs(place, per_page=50, order="-created_at") if filters else []
        groups = {run.group or "" for _, run in zip(range(50), there, strict=False)}
    if not groups:
        return InputError(f"{place} has no runs.", "`python -m har_sweep tracking=wandb_online` logs some.")
    names = _some(sorted(groups - {""}))
    return InputError(
        f"No run of {place} fits {json.dumps(filters)}.", f"Its latest groups are {names}." if names else EXAMPLE
    )


def _stamp(run: Run) -> str:
    """What changes when a run does, as far as the light list tells."""
    names = ("state", "heartbeat_at", "history_line_count", "display_name", "group", "tags", "notes")
    return json.dumps([getattr(run, name, None) for name in names])


def _know(run: Run) -> _Known:
    """A run's config and summary as ``har_sweep.record.flatten`` gives them for its record."""
    summary = {key: value for key, value in run.summary_metrics.items() if not key.startswith("_")}
    table = summary.get("predictions")
    media = {key for key, value in summary.items() if isinstance(value, dict) and "_type" in value}
    config = dict(run.config)
    facts = dict(config.pop("record")) if _is_ours(config.get("record")) else {}
    ours = bool(facts) or "schema_version" in summary
    row = dict(leaves({key: summary[key] for key in summary if key not in media and not (ours and key in _LOGGED)}))
    for split, lines in facts.pop("per_class", {}).items():
        row |= _per_class(f"metrics/{split}/per_class", lines)
    if facts:  # a W&B sweep repeats what it chose, as optimizer.lr
        config = {key: value for key, value in config.items() if "." not in key}
    row |= leaves(config, "config/") | leaves(facts)
    row = {key: _value(key, value) for key, value in row.items()}
    row = {"run_id": run.id, "name": run.name or run.id, "seed": row.get("config/seed")} | row
    if run.group:  # har_sweep's sweeps are W&B's groups; its own runs say so themselves
        row.setdefault("sweeps", [run.group])
    row["status"] = _status(row.get("status") if ours else None, run.state)
    known = _Known(_stamp(run), row)
    if isinstance(table, dict) and table.get("_type") == "table-file":
        known.table, known.images = table.get("path"), table.get("nrows")
    return known


def _is_ours(facts: Any) -> bool:
    return isinstance(facts, dict) and "schema_version" in facts


def _per_class(prefix: str, lines: Iterable[Any]) -> dict[str, Any]:
    """A class's numbers under their paths."""
    found: dict[str, Any] = {}
    for name, *own in lines:
        found |= {f"{prefix}/{name}/{key}": value for key, value in zip(CLASS_NUMBERS, own, strict=True)}
    return found


# An epoch's numbers, by the names of today and those of before: W&B keeps the last of each in its summary.
_LOGGED = {*EPOCH_KEYS, *EPOCH_KEYS.values()}
_FLOATS = {
    name
    for part in (Metrics, ClassMetrics, Cost, TrainingCost, InferenceCost)
    for name, kind in get_type_hints(part).items()
    if float in (kind, *get_args(kind))
}


def _value(key: str, value: Any) -> Any:
    """As in a record: null for what is not finite, and a float where one is whole (W&B makes an int of it)."""
    if (isinstance(value, str) and value in _NOT_FINITE) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    path = key.split("/")
    if isinstance(value, int) and path[0] in ("metrics", "cost") and (path[-1] in _FLOATS or "latency_seconds" in path):
        return float(value)
    return value


def _status(said: str | None, state: str) -> str:
    """The record's word, unless the run ended without leaving one. ``state`` is W&B's."""
    alive = state in ("running", "pending", "preempting")
    if said is None:
        return {"finished": "done", "preempted": "interrupted"}.get(state, "running" if alive else "failed")
    return "interrupted" if said == "running" and not alive else said


def _name(*parts: str) -> str:
    """A folder's name that a person recognises and no other project shares."""
    readable = re.sub(r"[^\w.-]+", "-", "-".join(parts[1:]))[:60]
    return f"{readable}-{_hash(*parts)}"


def _hash(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@dataclass
class _Cache:
    version: int
    runs: dict[str, _Known] = field(default_factory=dict)


def _read_cache(path: Path) -> dict[str, _Known]:
    """What was read earlier; nothing where there is no such file, or none that this version wrote."""
    try:
        cache = msgspec.json.decode(path.read_bytes(), type=_Cache)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return cache.runs if cache.version == _CACHE_VERSION else {}


def _write_cache(path: Path, known: dict[str, _Known]) -> None:
    with atomic(path) as file:
        file.write(msgspec.json.encode(_Cache(_CACHE_VERSION, known)))


@dataclass
class _Detail:
    """More of a run, as of ``stamp``."""

    version: int
    stamp: str
    value: Any


class WandbRun:
    """A run in W&B; what only compared runs need is read when it is asked for, and kept. Threads may share it."""

    def __init__(self, client: Client, run: Run, place: str, folder: Path, known: _Known) -> None:
        self.client, self.known = client, known
        self._run, self._place, self._folder = run, place, folder
        row = known.row
        entity, project = place.split("/", 1)
        source = f"wandb://{quote(entity)}/{quote(project)}?{urlencode({'name': run.id})}"
        self.info = RunInfo(str(row["run_id"]), str(row["name"]), row["seed"], row["status"], source, run.url)

    def epochs(self) -> list[Epoch]:
        """The learning curve: each epoch once, as it was logged last.

        Raises
        ------
        InputError
            if the server cannot be read.
        """
        lines = self._kept("epochs", list[dict[str, Any]], self._read_history)
        by_number = {line["epoch"]: line for line in lines}
        return [_epoch(by_number[number]) for number in sorted(by_number)]

    def predictions(self) -> pd.DataFrame | None:
        """Path, split, label, prediction (names) and confidence of each image; None where the run has no such table, or
        not all of it.

        Raises
        ------
        InputError
            if the server cannot be read.
        """
        if self.known.table is None:
            return None
        columns = self._kept("predictions", dict[str, list[str]], self._read_table)
        frame = pd.DataFrame(columns)
        if "confidence" in frame:
            frame["confidence"] = frame["confidence"].astype(np.float32)  # as it was in the run
        return frame if columns else None

    def _kept(self, what: str, kind: type[T], read: Callable[[], T]) -> T:
        """From the cache, if it is of the run as it is now; else from the server."""
        path = self._folder / f"{_hash(self._run.id)}.{what}.json"
        try:
            detail = msgspec.json.decode(path.read_bytes(), type=_Detail)
            if (detail.version, detail.stamp) == (_CACHE_VERSION, self.known.stamp):
                return msgspec.convert(detail.value, kind)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            pass
        with self.client.explained(f"{self._place}/{self._run.id}"):
            value = read()
        with atomic(path) as file:
            file.write(msgspec.json.encode(_Detail(_CACHE_VERSION, self.known.stamp, value)))
        return value

    def _read_history(self) -> list[dict[str, Any]]:
        lines = self._run.history(samples=LINES, pandas=False)
        epochs = [{key: _value(key, line.get(now, line.get(key))) for key, now in EPOCH_KEYS.items()} for line in lines]
        return [epoch for epoch in epochs if isinstance(epoch["epoch"], int)]

    def _read_table(self) -> dict[str, list[str]]:
        """The predictions by column; empty if they are not what was promised."""
        assert self.known.table
        api, name = self.client.api(), f"{self._place}/run-{self._run.id}-predictions:latest"
        table = self._download(self._run.files([self.known.table]))
        if table and len(table["data"]) != self.known.images and api.artifact_exists(name):
            # The file has the first 10,000 rows only; the artifact beside it has all.
            table = self._download(api.artifact(name).files(["predictions.table.json"]))
        if not table or len(table["data"]) != self.known.images or not set(PREDICTION_COLUMNS) <= set(table["columns"]):
            return {}
        known = [*PREDICTION_COLUMNS, *(["confidence"] * ("confidence" in table["columns"]))]
        places = {column: table["columns"].index(column) for column in known}
        return {column: [str(row[place]) for row in table["data"]] for column, place in places.items()}

    def _download(self, files: Iterable[Any]) -> Any:
        """What is in the one file of ``files``; None where there is none."""
        with tempfile.TemporaryDirectory(dir=self.client.folder) as folder:
            for file in files:
                with file.download(root=folder, replace=True) as opened:
                    return json.load(opened)
        return None


def _epoch(line: dict[str, Any]) -> Epoch:
    number = {name: float("nan") if line[name] is None else line[name] for name in ("learning_rate", "seconds")}
    losses = {name: line[name] for name in ("train_loss", "val_loss", "val_accuracy")}
    return Epoch(epoch=line["epoch"], **losses, **number)
