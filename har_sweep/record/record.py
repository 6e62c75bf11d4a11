"""The record of a run: the one contract between ``har_sweep`` and ``multirun_analysis``.

SI units: bytes and seconds, unless a name says otherwise. This module alone knows the file's layout; it imports nothing
of ``har_sweep``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 2  # 1 had whole confusion matrices
ROUNDING = 0.005  # share of images that another device or kernel may see otherwise
DISTURBED = 0.1  # share of a measurement's time that others took: more, and it is not to be compared
Status = Literal["running", "done", "failed", "interrupted"]


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
    """What really ran: never ``auto``. ``device_name`` is ``A then B`` where ``B`` went on with what ``A`` began.
    ``unaccelerated`` is the precision, where the device has no instructions for it: other devices may be faster.

    ``kernels`` are ``torch``'s or ``har_sweep``'s; with ``cuda_graph`` whole batches' steps were repeated as one. Where
    the precision was chosen by measuring, ``chosen`` says why, and ``images_per_second`` what each could train on the
    device, in batches of ``measured_batch_size`` at the most.
    """

    device: str
    device_name: str
    device_count: int
    precision: str
    cpu_threads: int | None = None
    kernels: str | None = None
    cuda_graph: bool = False
    chosen: str = ""
    images_per_second: dict[str, float] = field(default_factory=dict)
    measured_batch_size: int | None = None
    unaccelerated: str = ""


@dataclass
class DatasetInfo:
    """``root`` is the folder that the paths in ``predictions.parquet`` start from, where the run was computed. With
    ``test_is_val`` val and test are the same images, which were watched while training."""

    name: str
    fingerprint: str
    split_fingerprint: str
    classes: list[str]
    counts: dict[str, int]
    synthetic: bool = False
    skipped_images: int = 0
    root: str = ""
    test_is_val: bool = False


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
    """Of one split; an unknown float is nan. ``confusion`` has how many images of each truth got each answer, in that
    order, where any did; both are places in the dataset's classes."""

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
    confusion: list[tuple[int, int, int]]


@dataclass
class TrainingCost:
    """``seconds`` is the time in training steps, computing and waiting for data, without validation and checkpoints;
    ``seconds_with_validation`` is that of whole epochs (None in records from before it was noted).

    ``compile_seconds`` are not in it: what the first step of each batch size took longer than others, for choosing
    kernels and compiling (None where there were no others). ``host_wait_share`` is the share of its time in which a
    CUDA device had nothing to do but to wait for the next work from Python (None if that is not known).
    ``teacher_seconds``, a part of ``seconds``, are those in which a teacher answered (None where nobody taught).

    ``disturbed_share`` is the share of it that others took (other processes, the host of a virtual machine, a limit,
    heat; None if that is not known); ``images_disturbed_share`` that of the time that ``images_per_second`` is of:
    undisturbed seconds where there were any.
    """

    seconds: float = 0.0
    compute_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    data_wait_share: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    energy_joules: float | None = None
    disturbed_share: float | None = None
    images_disturbed_share: float | None = None
    compile_seconds: float | None = None
    host_wait_share: float | None = None
    seconds_with_validation: float | None = None
    teacher_seconds: float | None = None


@dataclass
class InferenceCost:
    """``seconds`` is one pass over the whole val split at ``batch_size``.

    Times are those of undisturbed moments where there were any; ``disturbed_share`` of them others took all the same
    (None if that is not known).
    """

    batch_size: int
    seconds: float
    peak_memory_bytes: int | None
    images_per_second: float | None
    latency_seconds: dict[str, dict[str, float]]
    energy_joules: float | None
    disturbed_share: float | None = None


@dataclass
class Measurement:
    """What inference cost, and what some training steps did, when that was measured: with the run, or again later.
    ``training`` is None where steps were not measured again."""

    measured_at: str
    device_name: str
    precision: str
    cpu_threads: int | None
    inference: InferenceCost
    training: TrainingCost | None


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
    """``variant`` is the way in which a finished run, ``parent`` by its id, was made smaller or faster; both are None
    for a run that was trained."""

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
    measurements: list[Measurement] = field(default_factory=list)  # once any was made again: the run's own first
    parent: str | None = None
    variant: str | None = None
    schema_version: int = SCHEMA_VERSION


def utc_now(timestamp: float | None = None) -> str:
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


def contradictions(record: Record) -> list[str]:
    """What cannot be true together in the record of a run that is done; empty for one that can be believed."""
    found = []
    if [epoch.epoch for epoch in record.epochs] != list(range(1, len(record.epochs) + 1)):
        found.append("its epochs are not 1, 2, 3 and so on")
    elif record.selected_epoch and record.selected_epoch > len(record.epochs):
        found.append(f"epoch {record.selected_epoch} is selected of {len(record.epochs)}")
    elif record.selected_epoch and "val" in record.metrics:
        now, then = record.metrics["val"].accuracy, record.epochs[record.selected_epoch - 1].val_accuracy
        if then is not None and not math.isnan(now) and not same_accuracy(now, then, record.dataset.counts["val"]):
            found.append(f"its val accuracy is {now:.4f}, and {then:.4f} in the epoch that was selected")
    for split, metrics in record.metrics.items():
        images = sum(count for _, _, count in metrics.confusion)
        right = sum(count for truth, answer, count in metrics.confusion if truth == answer)
        known = images and not math.isnan(metrics.accuracy)
        if known and not same_accuracy(metrics.accuracy, right / images, images):
            found.append(f"its {split} accuracy is {metrics.accuracy:.4f}, and {right / images:.4f} by its confusions")
    outcomes = [attempt.outcome for attempt in record.attempts]
    if outcomes and (outcomes[-1] != "done" or None in outcomes):
        found.append(f"its attempts ended as {', '.join(map(str, outcomes))}")
    return found


def confusions(matrix: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """What a confusion matrix [truth, answer] says: of a thousand classes nearly all of a million numbers are zero."""
    return [(truth, answer, count) for truth, row in enumerate(matrix) for answer, count in enumerate(row) if count]


def upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    """A record of schema version 1 as this version has it."""
    splits = tree.get("metrics", {}).items()
    metrics = {split: {**found, "confusion": confusions(found["confusion"])} for split, found in splits}
    return {**tree, "metrics": metrics, "schema_version": SCHEMA_VERSION}


def same_accuracy(one: float, another: float, images: int) -> bool:
    """Whether two accuracies over so many images differ by no more than another device's rounding explains."""
    return abs(one - another) * images <= max(1.5, ROUNDING * images)


def flatten(record: Record) -> dict[str, Any]:
    """The record under its paths joined by ``/``, as in W&B: ``cost/training/seconds``; the config as ``config/...``.

    What is itself a table is left out: epochs, attempts, measurements and confusion matrices.
    """
    return leaves(msgspec.to_builtins(record))


CLASS_NUMBERS = tuple(column.name for column in fields(ClassMetrics))
EPOCH_KEYS = {
    "epoch": "epoch", "train_loss": "train/loss", "val_loss": "val/loss", "val_accuracy": "val/accuracy",
    "learning_rate": "train/learning_rate", "seconds": "train/epoch_seconds",
}  # fmt: skip
"""What W&B calls an epoch's numbers: it makes a section of what stands before the slash."""
FACTS = (
    "schema_version", "run_id", "name", "sweeps", "seed", "overrides", "selection", "finished_at", "environment",
    "hardware", "dataset", "model", "warnings", "parent", "variant",
)  # fmt: skip
"""What W&B has in a run's config, under ``record``, as it is no result; all else of a record is in its summary."""


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of nested dictionaries under its path joined by ``/``; tables within a record are left out."""
    flat: dict[str, Any] = {}
    _add_leaves(flat, tree, prefix)
    return flat


def _add_leaves(flat: dict[str, Any], tree: dict[str, Any], prefix: str) -> None:
    paths = _PATHS[prefix]
    for key, value in tree.items():
        path = paths.get(key) or paths.setdefault(key, prefix + key)
        if isinstance(value, dict):
            _add_leaves(flat, value, path + "/")
        elif key not in _TABLES or not isinstance(value, list):
            flat[path] = value


_PATHS = defaultdict[str, dict[str, str]](dict)  # what is before a key, the key, both: many records have the same
_TABLES = {"epochs", "attempts", "confusion", "measurements"}
