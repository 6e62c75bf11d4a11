"""The numbers of a run that can be accuracies or costs: columns, names for people, units and which way is better."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from har_sweep.errors import InputError
from har_sweep.units import quantity as prefixed

Goal = Literal["min", "max"]
Split = Literal["", "val", "test"]
Phase = Literal["", "training", "inference"]
Kind = Literal["share", "percent", "seconds", "bytes", "count", "rate", "joules", "money", "plain"]


@dataclass(frozen=True)
class Quantity:
    """A column of the table of runs. ``kind`` says what its numbers are: shares are 0..1 and shown as percent, percent
    is 0..100, seconds and bytes are SI. ``size`` is what 1 in the column is in that unit: 0.001 for milliseconds.

    ``split`` and ``metric`` say which of a record's metrics it is, if it is one. ``measured_in`` is the phase of a run
    in which a cost was measured, if another machine would give another number.
    """

    column: str
    goal: Goal
    label: str
    kind: Kind = "plain"
    split: Split = ""
    metric: str = ""
    measured_in: Phase = ""
    size: float = 1.0

    def on(self, split: Split) -> Quantity:
        """The same metric on another split; what is no metric of a record is itself."""
        if not self.metric:
            return self
        column = f"metrics/{split}/{self.metric}"
        return METRICS.get(column) or replace(self, column=column, label=column, split=split)

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is."""
        return 1.0 if self.goal == "max" else -1.0

    @property
    def is_share(self) -> bool:
        """Whether differences are percentage points."""
        return self.kind in ("share", "percent")

    @property
    def whole(self) -> float | None:
        """The largest share, in the quantity's own unit; None for what is none."""
        return 100 / self.points if self.is_share else None

    @property
    def points(self) -> float:
        """What turns a difference into percentage points; 1 for what is not a share."""
        return 100.0 if self.kind == "share" else 1.0

    @property
    def axis(self) -> str:
        """Label and unit of values times ``scale``, for an axis or a column's head."""
        return self.named_in(self.unit()[0])

    def named_in(self, unit: str) -> str:
        """Label and unit, if it has one."""
        return f"{self.label} ({unit})" if unit else self.label

    @property
    def scale(self) -> float:
        """What turns a value into the unit that ``axis`` names."""
        return self.unit()[1]

    def unit(self, largest: float = 0.0, steps: Steps | None = None) -> tuple[str, float]:
        """A unit, and what turns values into it: the first of ``steps`` that values up to ``largest`` reach, else the
        usual one."""
        found = ((name, 1 / size) for least, size, name in (steps or {}).get(self.kind, ()) if largest >= least)
        return next(found, _UNITS.get(self.kind, ("", 1.0)))

    def axis_unit(self, largest: float) -> tuple[str, float]:
        """The unit of an axis whose values are up to ``largest``, and what turns values into it."""
        return self.unit(largest, _AXIS_STEPS if largest else {})

    def text(self, value: float | None) -> str:
        """A value for people, with its unit: ``76.10 %``, ``1.41 ms``, ``327 MiB``, ``5.53 M``; ``-`` for none."""
        if value is None or math.isnan(value):
            return "-"
        if self.is_share:
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
            return prefixed(value)
        return f"{value:.2f}" if self.kind == "money" else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """A difference between two values, signed: ``+14.1 points`` where the quantity is a share."""
        return self.signed(value) + " points" * self.is_share

    def signed(self, value: float) -> str:
        """A difference without its unit: ``+14.1``; with another digit where it would read as none though it is one."""
        if not self.is_share:
            return f"{value:+.3g}"
        points = value * self.points
        return f"{points:+.2f}" if 0 < abs(points) < 0.05 else f"{points:+.1f}"


Steps = dict[Kind, tuple[tuple[float, float, str], ...]]  # from this value on, in units of so much, which are called so

_AXIS_STEPS: Steps = {
    "seconds": ((7200, 3600, "h"), (0.5, 1, "s"), (0, 1e-3, "ms")),
    "count": ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")),
    "bytes": ((2.0**31, 2.0**30, "GiB"),),
    "joules": ((1e6, 1e6, "MJ"), (1e4, 1e3, "kJ")),
}

_UNITS: dict[Kind, tuple[str, float]] = {
    "share": ("%", 100.0),
    "percent": ("%", 1.0),
    "seconds": ("s", 1.0),
    "bytes": ("MiB", 2.0**-20),
    "joules": ("J", 1.0),
}


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

_SPLITS: tuple[Split, ...] = ("test", "val")

METRICS: dict[str, Quantity] = {
    f"metrics/{split}/{name}": Quantity(f"metrics/{split}/{name}", goal, f"{split} {label}", kind, split, name)
    for split in _SPLITS
    for name, label, goal, kind in _METRICS
}


def metric_of(column: str) -> tuple[Split, str]:
    """The split and the metric of a column of a record's metrics; both empty for any other column."""
    for split in _SPLITS:
        if column.startswith(f"metrics/{split}/"):
            return split, column.removeprefix(f"metrics/{split}/")
    return "", ""


_COSTS: tuple[tuple[str, str, Goal, Kind, Phase], ...] = (
    ("cost/training/seconds", "training time", "min", "seconds", "training"),
    ("cost/inference/latency_seconds/batch_1/p50", "latency (p50, batch 1)", "min", "seconds", "inference"),
    ("cost/macs", "MACs", "min", "count", ""),
    ("cost/parameters", "parameters", "min", "count", ""),
    ("cost/training/peak_memory_bytes", "peak memory in training", "min", "bytes", "training"),
    ("cost/inference/peak_memory_bytes", "peak memory in inference", "min", "bytes", "inference"),
    ("cost/inference/seconds", "inference time over val", "min", "seconds", "inference"),
    ("cost/inference/images_per_second", "inference images/s", "max", "rate", "inference"),
    ("cost/price", "price", "min", "money", "training"),
    ("cost/device_hours", "device hours", "min", "plain", "training"),
    ("cost/training/energy_joules", "energy in training", "min", "joules", "training"),
    ("cost/inference/energy_joules", "energy in inference", "min", "joules", "inference"),
    ("cost/disk_bytes", "size on disk", "min", "bytes", ""),
    ("cost/macs_without_attention_products", "MACs without attention products", "min", "count", ""),
    ("cost/trainable_parameters", "trainable parameters", "min", "count", ""),
    ("cost/inference/latency_seconds/batch_1/p95", "latency (p95, batch 1)", "min", "seconds", "inference"),
    ("cost/training/seconds_with_validation", "training time with validation", "min", "seconds", "training"),
    ("cost/training/compute_seconds", "computing time in training", "min", "seconds", "training"),
    ("cost/training/teacher_seconds", "teacher's time in training", "min", "seconds", "training"),
    ("cost/training/images_per_second", "training images/s", "max", "rate", "training"),
    ("cost/training/data_wait_share", "data wait in training", "min", "share", ""),
)

COSTS = {column: Quantity(column, goal, label, kind, measured_in=phase) for column, label, goal, kind, phase in _COSTS}


def named(column: str) -> Quantity:
    """What is known of a column; at the least its name."""
    return COSTS.get(column) or METRICS.get(column) or Quantity(column, "min", column)


# How much of the time in which a cost was measured others took: a column of its own for images/s, which are those of
# undisturbed seconds where there were any. Where that is known, the best of several measurements counts.
DISTURBED_SHARES: dict[Phase, str] = {
    "training": "cost/training/disturbed_share", "inference": "cost/inference/disturbed_share",
}  # fmt: skip
_IMAGES_PER_SECOND = "cost/training/images_per_second"
_IMAGES_DISTURBED_SHARE = "cost/training/images_disturbed_share"
BEST_COUNTS = (
    _IMAGES_PER_SECOND, "cost/inference/seconds", "cost/inference/images_per_second",
    "cost/inference/latency_seconds/batch_1/p50", "cost/inference/latency_seconds/batch_1/p95",
)  # fmt: skip


def disturbed_share_of(cost: Quantity) -> str:
    """The column with how disturbed a cost was; empty for one that a busy machine does not change."""
    if cost.kind == "bytes" or not cost.measured_in:
        return ""
    return _IMAGES_DISTURBED_SHARE if cost.column == _IMAGES_PER_SECOND else DISTURBED_SHARES[cost.measured_in]


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
    "model": ("model/name",),
    "dataset": ("dataset/name",),
    "sweep": ("sweeps",),
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
    short = [alias for alias, columns in ALIASES.items() if not {*columns}.isdisjoint(known)]
    near = difflib.get_close_matches(name, [*known, *short], n=3, cutoff=0.5)
    numbers = ", ".join(
        near or [column for column in known if not re.search("per_class|config|environment", column)][:12]
    )
    raise InputError(f"No run has a '{name}'.", f"Did you mean {numbers}?")


def plural(number: int, one: str, more: str) -> str:
    """``1 run has``, ``2 runs have``."""
    return f"{number:,} {one if number == 1 else more}"


def unlike(name: str, taken: set[str]) -> str:
    """The name, with a number after it where it is one of those ``taken``, to which it is added; to some file systems
    ``A`` is ``a``."""
    unique, number = name, 1
    while unique.lower() in taken:
        unique = f"{name}-{(number := number + 1)}"
    taken.add(unique.lower())
    return unique


_POWERS = np.array([float(10**place) for place in range(23)])  # all that are exact


def to_digits(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Values to so many significant digits, as near as such numbers come."""
    made = values.copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        places = digits - 1 - np.floor(np.log10(np.abs(made)))  # after the point
    usual = np.abs(places) < len(_POWERS)
    power, finer = _POWERS[np.abs(places[usual]).astype(int)], places[usual] >= 0
    made[usual] = np.where(finer, np.rint(made[usual] * power) / power, np.rint(made[usual] / power) * power)
    return made
