"""Runs from Weights & Biases: what its API knows of them, in the words of their records.

First a light list of the runs that fit, then all that is known of those that are new or have changed, a few hundred at
a time; the others come from the cache. Nothing is asked for run by run, but for what only compared runs need.
"""

from __future__ import annotations

import atexit
import difflib
import hashlib
import json
import math
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode

import msgspec
import pandas as pd

from har_sweep.errors import InputError
from har_sweep.record import ClassMetrics, Cost, Epoch, InferenceCost, Metrics, TrainingCost, atomic, leaves
from multirun_analysis.findings import RunInfo
from multirun_analysis.sources import PREDICTION_COLUMNS, Progress

if TYPE_CHECKING:
    import wandb
    from wandb.apis.public import Run

T = TypeVar("T")

EXAMPLE = "For example wandb://ENTITY/PROJECT?group=SWEEP&state=finished&config.model.name=resnet18"
KEYS = (
    "group", "sweep", "name", "display_name", "state", "tags", "job_type", "username", "host", "commit",
    "created_at", "updated_at", "heartbeat_at", "description", "notes", "filters",
)  # fmt: skip
NESTED = ("config.", "summary_metrics.")

PAGE = 500  # runs at a time
PATIENCE_SECONDS = 75  # for one answer: a limit on requests may ask to wait for a minute
LINES = 10_000  # of a run's history: one an epoch

_CACHE_VERSION = 1
_NOT_FINITE = {"NaN", "Infinity", "-Infinity"}  # how W&B writes them


@dataclass(frozen=True)
class Address:
    """Which runs: ``filters`` is a query in W&B's own language; ``entity`` is None for the user's own."""

    entity: str | None
    project: str
    filters: dict[str, Any]


@dataclass(frozen=True)
class Pulled:
    """Row i is described by ``info[i]``, and ``origins[i]`` knows more of it. ``notes`` say what was left out or is not
    final, and why."""

    rows: list[dict[str, Any]]
    info: list[RunInfo]
    origins: list[WandbRun]
    notes: list[str]


@dataclass
class _Known:
    """What is known of a run, as of ``stamp``; ``table`` is where its predictions are, and ``images`` their number."""

    stamp: str
    row: dict[str, Any]
    table: str | None = None
    images: int | None = None


def parse(address: str) -> Address:
    """``wandb://[entity/]project?key=value&...``; a key that comes again means any of its values.

    Raises
    ------
    InputError
        if it is none.
    """
    scheme, _, rest = address.partition("://")
    place, _, query = rest.partition("?")
    names = [unquote(name) for name in place.rstrip("/").split("/")]
    if scheme != "wandb" or not all(names) or len(names) > 2:
        raise InputError(f"{address} is no address of runs in Weights & Biases.", EXAMPLE)
    if "#" in address:
        raise InputError(f"{address}: a '#' cannot stand in an address.", "Write it as %23.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as e:
        raise InputError(f"{address}: what follows '?' must be key=value, joined by '&'.", EXAMPLE) from e
    given: dict[str, list[Any]] = {}
    for key, value in pairs:
        if key not in KEYS and not key.startswith(NESTED):
            near = difflib.get_close_matches(key, [*KEYS, *NESTED], n=1)
            hint = (
                f"Did you mean {near[0]}?" if near else f"There are {', '.join([*KEYS, *(n + '*' for n in NESTED)])}."
            )
            raise InputError(f"{address}: W&B has no filter '{key}'.", hint)
        given.setdefault(key, []).append(_scalar(value) if key.startswith(NESTED) else value)
    conditions = [_filters(address, text) for text in given.pop("filters", [])]
    for key, values in given.items():
        wanted = values[0] if len(values) == 1 else {"$in": values}
        # har_sweep's sweeps are W&B's groups; W&B has sweeps of its own, too.
        conditions.append({"$or": [{"group": wanted}, {"sweep": wanted}]} if key == "sweep" else {key: wanted})
    filters = {"$and": conditions} if len(conditions) > 1 else (conditions or [{}])[0]
    return Address(names[0] if len(names) == 2 else None, names[-1], filters)


def _scalar(text: str) -> Any:
    """Numbers, true, false and null are what they look like; in quotes, they are text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, (dict, list)) else value


def _filters(address: str, text: str) -> dict[str, Any]:
    try:
        filters = json.loads(text)
    except ValueError as e:
        raise InputError(f"{address}: filters is not JSON: {e}.", 'As in filters={"state":"finished"}') from e
    if not isinstance(filters, dict):
        raise InputError(f"{address}: filters must be a JSON object.", 'As in filters={"state":"finished"}')
    return filters


class Client:
    """The wandb client of this process, ready when it is first needed; it writes to a temporary folder only.

    It gives up on a server that fails within some 10 seconds, and on one that hangs, after ``PATIENCE_SECONDS``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._api: wandb.Api | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._environment: dict[str, str | None] = {}
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

    @property
    def url(self) -> str:
        """The server's address, as far as it is known."""
        default = os.environ.get("WANDB_BASE_URL", "Weights & Biases")
        return str(self._api.settings["base_url"]) if self._api else default

    @property
    def folder(self) -> Path:
        assert self._folder, "the client has been started"
        return Path(self._folder.name)

    def api(self) -> wandb.Api:
        """Start it, or take what is started.

        Raises
        ------
        InputError
            without a key that the server takes, or without a server.
        """
        with self._lock:
            if self._api is None:
                with self.explained(""):
                    self._api = self._start()
            return self._api

    def _start(self) -> wandb.Api:
        import wandb

        self._folder = tempfile.TemporaryDirectory(prefix="wandb-", ignore_cleanup_errors=True)
        # The client wants a folder for every run that it hears of, without needing it; inside of a file it gets none.
        no_folder = self.folder / "none"
        no_folder.touch()
        for name, path in (("DIR", no_folder), ("DATA_DIR", self.folder), ("CACHE_DIR", self.folder)):
            self._environment[f"WANDB_{name}"] = os.environ.get(f"WANDB_{name}")
            os.environ[f"WANDB_{name}"] = str(path)
        retries = {"retry_max": 3, "retry_wait_min_seconds": 0.5, "retry_wait_max_seconds": 3}
        settings: dict[str, Any] = {
            f"x_{kind}_{name}": value for kind in ("graphql", "file_transfer") for name, value in retries.items()
        }
        wandb.setup(
            wandb.Settings(
                silent=True,  # so that it asks nobody for a key
                x_graphql_timeout_seconds=15,
                x_file_transfer_timeout_seconds=PATIENCE_SECONDS,
                **settings,
            )
        )
        api = wandb.Api(timeout=PATIENCE_SECONDS)
        atexit.register(self.close)  # after wandb's own, so that it comes before it
        return api

    def close(self) -> None:
        """End the client's own process and remove its folder; a second call does nothing."""
        if self._folder is None:
            return
        import wandb

        atexit.unregister(self.close)
        wandb.teardown()
        self._folder.cleanup()
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._api = self._folder = None

    def where(self, entity: str | None, project: str) -> tuple[str, str]:
        """Entity and project; without an entity, that of the client's settings, else the user's own."""
        with self.explained(project):
            entity = entity or self.api().settings["entity"] or self.api().default_entity
        if not entity:
            raise InputError(f"It is not known whose '{project}' is meant.", "Name the entity: wandb://ENTITY/PROJECT.")
        return entity, project

    @contextmanager
    def explained(self, place: str, so_far: Callable[[], str] = lambda: "") -> Iterator[None]:
        """What goes wrong between here and the server, in one sentence. ``place`` is the entity and project asked for;
        ``so_far`` is added: what there is already.

        Raises
        ------
        InputError
            in the place of all that the client raises.
        """
        from wandb.errors import AuthenticationError, Error, UsageError
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError

        try:
            yield
        except (Error, WandbApiFailedError, OSError, ValueError) as e:
            chain = [e, e.__cause__]
            failed = next((error for error in chain if isinstance(error, WandbApiFailedError)), None)
            response = failed.response if failed else None
            named = re.search(r"HTTP (\d{3})", str(e))
            status = (response.http_status if response else 0) or (int(named[1]) if named else 0)
            lines = str(e).splitlines() or [type(e).__name__]
            reason = next((line for line in lines if line.startswith("while retrying: ")), lines[0])
            message, hint = f"{self.url} did not answer as Weights & Biases does ({reason}).", "Try again later."
            if status == 401 or (isinstance(e, AuthenticationError) and not failed):
                message = f"{self.url} does not take the API key that was given."
                hint = f"`wandb login --relogin`, or set WANDB_API_KEY; {self.url}/authorize shows your key."
            elif isinstance(e, UsageError):
                message, hint = f"There is no API key for {self.url}.", "`wandb login`, or set WANDB_API_KEY."
            elif "Could not find project" in str(e):
                message = f"{self.url} has no project {place} that you may read."
                hint = "Look at the spelling of entity and project, and at whose key you use (`wandb login`)."
            elif status in (403, 404):
                message = f"{self.url} does not let you use {place} (HTTP {status})."
                hint = "Look at the spelling of entity and project, and at whose key you use (`wandb login`)."
            elif status == 429:
                message, hint = f"{self.url} has had too many requests (HTTP 429).", "Try again in a few minutes."
            raise InputError(" ".join(filter(None, [message, so_far()])), hint) from e


def pull(address: str, cache: Path, progress: Progress) -> Pulled:
    """Read the runs that ``address`` names; ``cache`` keeps what was read, also of a pull that failed.

    Raises
    ------
    InputError
        if the address is none, no run fits it, or the server cannot be read.
    """
    wanted = parse(address)
    client = Client()
    try:
        entity, project = client.where(wanted.entity, wanted.project)
        return _pull(client, entity, project, wanted.filters, cache, progress)
    except BaseException:
        client.close()
        raise


def _pull(
    client: Client, entity: str, project: str, filters: dict[str, Any], cache: Path, progress: Progress
) -> Pulled:
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
    notes = [f"{place}: {len(gone)} runs were deleted while they were read: {_some(gone)}."] if gone else []
    # Sorted as folders of runs are, so that what depends on the order is the same from either.
    runs = [WandbRun(client, run, place, folder, known[id]) for id, run in sorted(listed.items()) if id in known]
    if running := [run.info.run_id for run in runs if run.info.status == "running"]:
        notes.append(f"{place}: {len(running)} runs are still running: {_some(running)}.")
    return Pulled([run.known.row for run in runs], [run.info for run in runs], runs, notes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _list(client: Client, place: str, filters: dict[str, Any], progress: Progress) -> dict[str, Run]:
    """The runs that fit, by their ids, without what makes them heavy."""
    listed: dict[str, Run] = {}
    api = client.api()
    with client.explained(place):
        runs = api.runs(place, filters=filters, per_page=PAGE)
        for run in runs:
            listed[run.id] = run
            if len(listed) % PAGE == 0 or len(listed) == len(runs):
                progress(f"Listing runs of {place}", len(listed), len(runs))
        api.flush()
    return listed


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
    ours = "schema_version" in summary
    row = dict(leaves({key: summary[key] for key in summary if key not in media and not (ours and key in _LOGGED)}))
    row |= leaves(run.config, "config/")
    row = {key: _value(key, value) for key, value in row.items()}
    row = {"run_id": run.id, "name": run.name or run.id, "seed": row.get("config/seed")} | row
    row["status"] = _status(row.get("status") if ours else None, run.state)
    known = _Known(_stamp(run), row)
    if isinstance(table, dict) and table.get("_type") == "table-file":
        known.table, known.images = table.get("path"), table.get("nrows")
    return known


_LOGGED = {column.name for column in fields(Epoch)}  # an epoch's numbers: W&B keeps the last of each in its summary
_FLOATS = {
    column.name
    for part in (Metrics, ClassMetrics, Cost, TrainingCost, InferenceCost)
    for column in fields(part)
    if str(column.type).startswith("float")
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
        """Path, split, label and prediction (names) of each image; None where the run has no such table, or not all of
        it.

        Raises
        ------
        InputError
            if the server cannot be read.
        """
        if self.known.table is None:
            return None
        columns = self._kept("predictions", dict[str, list[str]], self._read_table)
        return pd.DataFrame(columns) if columns else None

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
        epochs = [{key: _value(key, line.get(key)) for key in _LOGGED} for line in lines]
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
        places = {column: table["columns"].index(column) for column in PREDICTION_COLUMNS}
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
