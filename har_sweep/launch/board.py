"""The table of runs: where each stands, as status and a followed sweep show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Standing:
    """How a run stands, in words for a table; ``word`` is its state without the reason."""

    label: str
    log: str
    word: str
    state: str
    epoch: str
    accuracy: str
    left: str
    node: str
    job: str


STANDING = ("state", "epoch", "val acc %", "left", "node", "job")
_MOST_TELLING = ("running", "starting", "ending", "lost", "failed", "interrupted", "queued", "new", "done")
_STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "interrupted": "yellow", "lost": "yellow"}


def standings(rows: Sequence[Standing], room: int | None = None) -> Table:
    """A table of how runs stand; with less ``room`` (runs) than there are, what goes on comes first."""
    shown = rows
    if room is not None and len(rows) > room:
        shown = sorted(rows, key=lambda row: _MOST_TELLING.index(row.word))[:room]
    counts = ", ".join(f"{count} {word}" for word, count in Counter(row.word for row in rows).items())
    hidden = f"; {len(rows) - len(shown)} not shown" if len(shown) < len(rows) else ""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=f"{counts}{hidden}", caption_justify="left")
    table.add_column("run and log", overflow="fold")
    for name in STANDING:
        table.add_column(name, justify="left" if name in ("state", "node", "job") else "right")
    for row in shown:
        table.add_row(
            Text.assemble(row.label, "\n", (row.log, "dim")), Text(row.state, style=_STYLES.get(row.word, "")),
            row.epoch, row.accuracy, row.left, row.node, row.job,
        )  # fmt: skip
    return table
