"""The record of a run: the one contract between ``har_sweep`` and ``multirun_analysis``.

SI units: bytes and seconds, unless a name says otherwise. This module alone knows the file's layout, and ``RunPaths``
alone the names inside a run's folder. It imports no torch, and of ``har_sweep`` only the errors and the claims.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from har_sweep import claim as claims
from har_sweep.errors import InputError

SCHEMA_VERSION = 1
Status = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class RunPaths:
    """Every path inside a run's folder, ``<runs>/<run_id>/``."""

    folder: Path
    claim: int = 0  # the number under which its owner writes; 0 for readers

    def check(self) -> None:
        """For writers, last thing before a write takes effect: ``ClaimLost`` if the run is somebody else's by now."""
        if self.claim:
            claims.check(self.folder, self.claim)

    def last_seen(self) -> float:
        """When the job before this owner was last seen, in seconds since 1970: for all we know, it died then."""
        files = [self.record, self.checkpoint, self.log, claims.path(self.folder, self.claim - 1)]
        return max(file.stat().st_mtime for file in files if file.exists())

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def selected(self) -> Path:
        """The best epoch's weights, while a later epoch may still beat it; then the selected weights."""
        return self.folder / "selected.safetensors"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"

    @property
    def job(self) -> Path:
        """The batch job that was last submitted for the run."""
        return self.folder / "job.json"


@dataclass
class Attempt:
    """One job that worked on the run."""

    job: str
    host: str
    started_at: str
    ended_at: str | None = None
    outcome: str | None = None
    error: str | None = None


@dataclass
class Environment:
    python: str
    packages: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None
    hostname: str
    platform: str
    slurm_job_id: str | None


@dataclass
class Hardware:
    """What really ran: never ``auto``."""

    device: str
    device_name: str
    device_count: int
    precision: str
    cpu_threads: int | None = None


@dataclass
class DatasetInfo:
    """``root`` is the folder that the paths in ``predictions.parquet`` start from, where the run was computed."""

    name: str
    fingerprint: str
    split_fingerprint: str
    classes: list[str]
    counts: dict[str, int]
    synthetic: bool = False
    skipped_images: int = 0
    root: str = ""


@dataclass
class ModelInfo:
    """``weights`` is a pretrained tag, ``sha256:...`` of a file, or ``scratch``."""

    name: str
    timm_name: str
    weights: str
    input_size: list[int]
    weights_requested: str = ""


@dataclass
class Epoch:
    epoch: int
    train_loss: float | None
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclass
class ClassMetrics:
    precision: float
    recall: float
    f1: float
    support: int


@dataclass
class Metrics:
    """Of one split. Rows of ``confusion`` are the truth, columns the prediction."""

    accuracy: float
    top5_accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    precision_weighted: float
    recall_weighted: float
    f1_weighted: float
    nll: float
    ece: float
    per_class: dict[str, ClassMetrics]
    confusion: list[list[int]]


@dataclass
class TrainingCost:
    """``seconds`` is the time in training steps, computing and waiting for data, without validation and checkpoints."""

    seconds: float = 0.0
    compute_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    data_wait_share: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    energy_joules: float | None = None


@dataclass
class InferenceCost:
    """``seconds`` is one pass over the whole val split at ``batch_size``."""

    batch_size: int
    seconds: float
    peak_memory_bytes: int | None
    images_per_second: float | None
    latency_seconds: dict[str, dict[str, float]]
    energy_joules: float | None


@dataclass
class Cost:
    parameters: int | None = None
    trainable_parameters: int | None = None
    disk_bytes: int | None = None
    macs: int | None = None
    macs_without_attention_products: int | None = None
    training: TrainingCost = field(default_factory=TrainingCost)
    inference: InferenceCost | None = None
    device_hours: float | None = None
    price: float | None = None


@dataclass
class RunError:
    kind: str
    message: str
    hint: str
    traceback: str


@dataclass
class Record:
    run_id: str
    status: Status
    name: str
    sweeps: list[str]
    seed: int
    config: dict[str, Any]
    overrides: list[str]
    started_at: str
    environment: Environment
    hardware: Hardware
    dataset: DatasetInfo
    model: ModelInfo
    finished_at: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    selected_epoch: int | None = None
    selection: str = "best"
    cost: Cost = field(default_factory=Cost)
    error: RunError | None = None
    warnings: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION


def now(timestamp: float | None = None) -> str:
    """The time (of ``timestamp``, seconds since 1970), ISO 8601 in UTC."""
    moment = datetime.now(UTC) if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def close_attempt(record: Record, outcome: str, error: str | None, ended_at: str) -> None:
    """Close the latest attempt if it is open, and add up the device hours of all, and their price where it is known."""
    if not record.attempts or record.attempts[-1].ended_at:
        return
    last = record.attempts[-1]
    last.ended_at, last.outcome, last.error = ended_at, outcome, error
    seconds = sum(
        (datetime.fromisoformat(a.ended_at or ended_at) - datetime.fromisoformat(a.started_at)).total_seconds()
        for a in record.attempts
    )
    record.cost.device_hours = hours = seconds * record.hardware.device_count / 3600
    rate = record.config["hardware"]["price_per_device_hour"]
    record.cost.price = None if rate is None else hours * rate


def read(path: Path) -> Record:
    """Read a ``record.json``.

    Raises
    ------
    InputError
        if it is not a record, or one of a newer schema.
    FileNotFoundError
        if there is none.
    """
    data = path.read_bytes()
    try:
        record = msgspec.json.decode(data, type=Record)
        version: Any = record.schema_version
        if version == SCHEMA_VERSION:
            return record
    except msgspec.MsgspecError as e:
        version = _version(data)
        if version == SCHEMA_VERSION:
            raise InputError(f"{path} is not a run's record: {e}.", "Move its folder away and run again.") from e
    raise InputError(
        f"{path} has schema_version {version}; this version of har_sweep reads {SCHEMA_VERSION}.", "Update har_sweep."
    )


def _version(data: bytes) -> Any:
    """The schema version of what is no record of this one; of what is not even JSON, this one's."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any]).get("schema_version")
    except msgspec.MsgspecError:
        return SCHEMA_VERSION


def write(record: Record, paths: RunPaths) -> None:
    """Write a record so that a reader sees the old one or the new one, whole. What is not finite becomes null.

    Raises
    ------
    ClaimLost
        as every writer of a run's files.
    """
    data = msgspec.json.format(msgspec.json.encode(redact(msgspec.to_builtins(record))), indent=1)
    with atomic(paths.record, check=paths.check) as file:
        file.write(data)


def flatten(record: Record) -> dict[str, Any]:
    """The record under its paths joined by ``/``, as in W&B: ``cost/training/seconds``; the config as ``config/...``.

    What is itself a table is left out: epochs, attempts and confusion matrices.
    """
    return leaves(msgspec.to_builtins(record))


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of nested dictionaries under its path joined by ``/``; tables within a record are left out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= leaves(value, f"{prefix}{key}/")
        elif key not in _TABLES or not isinstance(value, list):
            flat[prefix + key] = value
    return flat


_TABLES = {"epochs", "attempts", "confusion"}


@contextmanager
def atomic(path: Path, mode: str = "wb", check: Callable[[], None] = lambda: None) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on leaving, sync it and rename it over ``path``. Errors change nothing.

    ``check`` may raise, just before the renaming.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        check()
        os.replace(name, path)
        sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def atomic_file(path: Path, save: Callable[[Path], object], check: Callable[[], None] = lambda: None) -> None:
    """As ``atomic``, for libraries that want a file's name: ``save`` writes to the path it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        save(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # some libraries write for their user alone
        check()
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot sync a folder; the rename itself still stands
        pass
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def redact(tree: Any) -> Any:
    """The same tree with this user's home folder written as ``~``: records travel, homes do not."""
    if isinstance(tree, dict):
        return {k: redact(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [redact(v) for v in tree]
    return redact_text(tree) if isinstance(tree, str) else tree


def redact_text(text: str) -> str:
    """``text`` with this user's home folder written as ``~``."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
