"""Addresses of W&B runs, and asking for them with patience."""

from __future__ import annotations

import atexit
import difflib
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from har_sweep.errors import InputError

if TYPE_CHECKING:
    import wandb


EXAMPLE = "For example wandb://ENTITY/PROJECT?group=SWEEP&state=finished&config.model.name=resnet18"
KEYS = (
    "group", "sweep", "name", "display_name", "state", "tags", "job_type", "username", "host", "commit",
    "created_at", "updated_at", "heartbeat_at", "description", "notes", "filters",
)  # fmt: skip
NESTED = ("config.", "summary_metrics.")
PICTURES = "multirun_analysis"  # the group of runs that only hold pictures for reports; nobody reads them as runs
PATIENCE_SECONDS = 75  # for one answer: a limit on requests may ask to wait for a minute


@dataclass(frozen=True)
class Address:
    """Which runs: ``filters`` is a query in W&B's own language; ``entity`` is None for the user's own."""

    entity: str | None
    project: str
    filters: dict[str, Any]


def parse_address(address: str) -> Address:
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
        self._environment: dict[str, str | None] = {}  # as it was
        self._environment_lock, self._users = threading.Lock(), 0
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

    @property
    def runs_folder(self) -> Path:
        """For what a run of its own writes."""
        (folder := self.folder / "runs").mkdir(exist_ok=True)
        return folder

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
        (self.folder / "none").touch()
        self._lead_here()
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
        self._api = self._folder = None

    def _lead_here(self) -> None:
        """Have the environment lead to this client's folder, where it has one."""
        if self._folder:
            paths = {"DIR": self.folder / "none", "DATA_DIR": self.folder, "CACHE_DIR": self.folder}
            self._environment = {name: os.environ.get(name) for name in (f"WANDB_{part}" for part in paths)}
            os.environ.update({f"WANDB_{part}": str(path) for part, path in paths.items()})

    @contextmanager
    def _with_environment(self) -> Iterator[None]:
        """Inside, in whatever thread, the environment leads to this client's folder; outside it is as it was, for
        whoever logs runs from this process too."""
        with self._environment_lock:
            self._users += 1
            if self._users == 1:
                self._lead_here()
        try:
            yield
        finally:
            with self._environment_lock:
                self._users -= 1
                if self._users == 0:
                    for name, value in self._environment.items():
                        os.environ.pop(name, None)
                        os.environ.update({name: value} if value is not None else {})
                    self._environment = {}

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
            with self._with_environment():
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
