"""Where images come from: every source becomes one listing of paths and labels. Nothing is decoded here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


class Item(NamedTuple):
    """One image. ``path`` is relative to the listing's root, with ``/``; ``where`` names a table's row or is empty."""

    path: str
    label: str
    split: Split | None = None
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source holds. ``notes`` are things the user should know, though nothing is wrong."""

    root: Path
    classes: list[str]
    items: list[Item]
    notes: list[str] = field(default_factory=list)


def problems(lines: Sequence[str], one: str, many: str, cap: int = 20) -> str:
    """``lines`` under a count, at most ``cap`` of them, saying how many more there are."""
    shown = "".join(f"\n  {line}" for line in lines[:cap])
    more = f"\n  ... and {len(lines) - cap:,} more" if len(lines) > cap else ""
    return f"{len(lines):,} {one if len(lines) == 1 else many}:{shown}{more}"


def file_name(name: str) -> str:
    """``name`` as one part of a path."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[-60:] or "data"


def _classes(labels: set[str]) -> list[str]:
    def number(label: str) -> float:
        try:
            return float(label)
        except ValueError:
            return math.nan

    if all(math.isfinite(number(label)) for label in labels):
        return sorted(labels, key=lambda label: (number(label), label))
    return sorted(labels)
