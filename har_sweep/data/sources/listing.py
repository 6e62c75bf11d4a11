"""Where images come from: every source becomes one listing of paths and labels. Nothing is decoded here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from har_sweep.errors import first_line

NOT_UTF8 = "its name is not UTF-8"
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

    def told(self, reason: str) -> str:
        """What is wrong with it, and in which row."""
        return f"{self.where}: {reason}" if self.where else reason


@dataclass(frozen=True)
class Listing:
    """What a source holds. ``notes`` are things the user should know, though nothing is wrong.

    ``unspeakable`` are further images, whose names are not UTF-8, with escapes: broken, as their files cannot be noted.
    """

    root: Path
    classes: list[str]
    items: list[Item]
    notes: list[str] = field(default_factory=list)
    unspeakable: list[str] = field(default_factory=list)

    def broken(self) -> list[tuple[str, str]]:
        """Path and reason of what needs no reading to be known as broken."""
        found = [(path, NOT_UTF8) for path in self.unspeakable]
        for item in self.items:
            if not (file := self.root / item.path).is_file():
                found.append((item.path, item.told("not a regular file" if file.exists() else "no such file")))
        return found


def problems(lines: Sequence[str], one: str, many: str, cap: int = 20) -> str:
    """``lines`` under a count, at most ``cap`` of them, saying how many more there are."""
    shown = "".join(f"\n  {line}" for line in lines[:cap])
    more = f"\n  ... and {len(lines) - cap:,} more" if len(lines) > cap else ""
    return f"{len(lines):,} {one if len(lines) == 1 else many}:{shown}{more}"


def reason(error: Exception) -> str:
    """Why a path cannot be used, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def file_name(name: str) -> str:
    """``name`` as one part of a path."""
    part = re.sub(r"[^\w.-]+", "_", name).strip("._")
    return part.encode()[-60:].decode(errors="ignore") or "data"  # bytes are what file systems count


def class_order(labels: set[str]) -> list[str]:
    """The classes that labels name, as they are numbered: by number where all are numbers, else by name."""

    def number(label: str) -> float:
        try:
            return float(label)
        except ValueError:
            return math.nan

    if all(math.isfinite(number(label)) for label in labels):
        return sorted(labels, key=lambda label: (number(label), label))
    return sorted(labels)
