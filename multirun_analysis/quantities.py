"""The numbers of a run that can be accuracies or costs: columns, names for people, units and which way is better."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from har_sweep.errors import InputError

Goal = Literal["min", "max"]
Kind = Literal["share", "percent", "seconds", "bytes", "count", "rate", "joules", "money", "plain"]


@dataclass(frozen=True)
class Quantity:
    """A column of the table of runs. ``kind`` says what its numbers are: shares are 0..1 and shown as percent, percent
    is 0..100, seconds and bytes are SI."""

    column: str
    goal: Goal
    label: str
    kind: Kind = "plain"

    @property
    def depends_on_machine(self) -> bool:
        """Whether another machine would give another number."""
        timed = self.kind in ("seconds", "bytes", "rate", "joules", "money") or self.column == "cost/device_hours"
        return timed and self.column != "cost/disk_bytes"

    @property
    def points(self) -> float:
        """What turns a difference into percentage points; 1 for what is not a share."""
        return 100.0 if self.kind == "share" else 1.0

    @property
    def axis(self) -> str:
        """Label and unit of ``scaled`` values, for an axis or a column's head."""
        unit = {"share": "%", "percent": "%", "seconds": "s", "bytes": "MiB", "joules": "J"}.get(self.kind)
        return f"{self.label} ({unit})" if unit else self.label

    @property
    def scale(self) -> float:
        """What turns a value into the unit that ``axis`` names."""
        return {"share": 100.0, "bytes": 2.0**-20}.get(self.kind, 1.0)

    def text(self, value: float | None) -> str:
        """A value for people, with its unit: ``76.10 %``, ``1.41 ms``, ``327 MiB``, ``5.53 M``; ``-`` for none."""
        if value is None or math.isnan(value):
            return "-"
        if self.kind in ("share", "percent"):
            return f"{value * self.points:.2f} %"
        if self.kind == "seconds":
            return prefixed(value, ("s",)) if value >= 1 or value == 0 else prefixed(value * 1e6, ("µs", "ms", "s"))
        if self.kind == "bytes":
            return prefixed(value, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)
        if self.kind == "joules":
            return prefixed(value, ("J", "kJ", "MJ", "GJ"))
        if self.kind == "rate":
            return prefixed(value, ("/s", "k/s", "M/s"))
        if self.kind == "count":
            return prefixed(value, ("", "k", "M", "G", "T"))
        return f"{value:.2f}" if self.kind == "money" else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """A difference between two values, signed: ``+14.1 points`` where the quantity is a share."""
        if self.kind in ("share", "percent"):
            return f"{value * self.points:+.1f} points"
        return f"{value:+.3g}"


def prefixed(value: float, units: Sequence[str], base: float = 1000) -> str:
    """Three digits and the unit that keeps them short: ``11184207`` -> ``11.2 M``."""
    step = 0
    while abs(value) >= base - 0.5 and step < len(units) - 1:
        value, step = value / base, step + 1
    digits = f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    return f"{digits} {units[step]}".strip()


_METRICS: tuple[tuple[str, str, Goal, Kind], ...] = (
    ("accuracy", "accuracy", "max", "share"),
    ("top5_accuracy", "top-5 accuracy", "max", "share"),
    ("recall_macro", "macro recall (balanced accuracy)", "max", "share"),
    ("precision_macro", "macro precision", "max", "share"),
    ("f1_macro", "macro F1", "max", "share"),
    ("precision_weighted", "weighted precision", "max", "share"),
    ("recall_weighted", "weighted recall", "max", "share"),
    ("f1_weighted", "weighted F1", "max", "share"),
    ("nll", "negative log likelihood", "min", "plain"),
    ("ece", "calibration error (ECE)", "min", "share"),
)

METRICS: dict[str, Quantity] = {
    f"metrics/{split}/{name}": Quantity(f"metrics/{split}/{name}", goal, f"{split} {label}", kind)
    for split in ("test", "val")
    for name, label, goal, kind in _METRICS
}

_COSTS: tuple[tuple[str, str, Goal, Kind], ...] = (
    ("cost/training/seconds", "training time", "min", "seconds"),
    ("cost/inference/latency_seconds/batch_1/p50", "latency (p50, batch 1)", "min", "seconds"),
    ("cost/macs", "MACs", "min", "count"),
    ("cost/parameters", "parameters", "min", "count"),
    ("cost/training/peak_memory_bytes", "peak memory in training", "min", "bytes"),
    ("cost/inference/peak_memory_bytes", "peak memory in inference", "min", "bytes"),
    ("cost/inference/seconds", "inference time over val", "min", "seconds"),
    ("cost/inference/images_per_second", "inference images/s", "max", "rate"),
    ("cost/price", "price", "min", "money"),
    ("cost/device_hours", "device hours", "min", "plain"),
    ("cost/training/energy_joules", "energy in training", "min", "joules"),
    ("cost/inference/energy_joules", "energy in inference", "min", "joules"),
    ("cost/disk_bytes", "size on disk", "min", "bytes"),
    ("cost/macs_without_attention_products", "MACs without attention products", "min", "count"),
    ("cost/trainable_parameters", "trainable parameters", "min", "count"),
    ("cost/inference/latency_seconds/batch_1/p95", "latency (p95, batch 1)", "min", "seconds"),
    ("cost/training/compute_seconds", "computing time in training", "min", "seconds"),
    ("cost/training/images_per_second", "training images/s", "max", "rate"),
    ("cost/training/data_wait_share", "data wait in training", "min", "share"),
)

COSTS = {column: Quantity(column, goal, label, kind) for column, label, goal, kind in _COSTS}


def named(column: str) -> Quantity:
    """What is known of a column; at the least its name."""
    return COSTS.get(column) or METRICS.get(column) or Quantity(column, "min", column)


# The costs that a front is drawn for unless some are named: one for each thing that people pay with.
DEFAULT_COSTS = tuple(COSTS)[:6]

# Short names for the command line; a budget on several columns means all of them.
ALIASES: dict[str, tuple[str, ...]] = {
    "val": ("metrics/val/accuracy",),
    "test": ("metrics/test/accuracy",),
    "training_time": ("cost/training/seconds",),
    "latency": ("cost/inference/latency_seconds/batch_1/p50",),
    "latency_p50": ("cost/inference/latency_seconds/batch_1/p50",),
    "latency_p95": ("cost/inference/latency_seconds/batch_1/p95",),
    "memory": ("cost/training/peak_memory_bytes", "cost/inference/peak_memory_bytes"),
    "training_memory": ("cost/training/peak_memory_bytes",),
    "inference_memory": ("cost/inference/peak_memory_bytes",),
    "parameters": ("cost/parameters",),
    "params": ("cost/parameters",),
    "macs": ("cost/macs",),
    "price": ("cost/price",),
    "disk": ("cost/disk_bytes",),
    "energy": ("cost/training/energy_joules",),
    "throughput": ("cost/inference/images_per_second",),
    "device_hours": ("cost/device_hours",),
}


def columns_of(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The columns that a name of the command line means: itself, or what it is short for.

    Raises
    ------
    InputError
        naming the nearest that there is.
    """
    known = list(known)
    if name in known:
        return (name,)
    meant = tuple(column for column in ALIASES.get(name, ()) if column in known)
    if meant:
        return meant
    if name in ALIASES:
        raise InputError(
            f"No run has {' or '.join(ALIASES[name])} ({name}).",
            "Runs have one when hardware.price_per_device_hour is given." if name == "price" else "Leave it out.",
        )
    tails = [column for column in known if column.endswith(f"/{name}")]
    if len(tails) == 1:
        return (tails[0],)
    if tails:
        raise InputError(f"'{name}' may be {', '.join(tails[:6])}.", "Give the whole name.")
    near = difflib.get_close_matches(name, [*known, *ALIASES], n=3, cutoff=0.5)
    numbers = ", ".join(
        near or [column for column in known if not re.search("per_class|config|environment", column)][:12]
    )
    raise InputError(f"No run has a '{name}'.", f"Did you mean {numbers}?")
