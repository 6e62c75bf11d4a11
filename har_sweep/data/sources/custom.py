"""A function of the user's own that lists the images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.config.targets import WANTED, called, make
from har_sweep.data.sources.folder import existing_folder
from har_sweep.data.sources.listing import Listing, class_order, problems
from har_sweep.data.sources.table import items_of
from har_sweep.errors import InputError
from har_sweep.events import Progress


def list_custom(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    """What ``data._target_`` lists: (path, label) or (path, label, split), each path absolute or below ``data.root``.

    Without ``data.root`` paths are absolute, and it is the folder above them all.

    Raises
    ------
    InputError
        naming everything that is wrong with the list.
    """
    target = str(data._target_)
    rows = called("data", target, lambda: list(make("data", target, data.arguments)))
    if not rows:
        raise InputError(f"data._target_={target} listed no images.", WANTED["data"])
    if wrong := [f"entry {n}: {row!r:.80}" for n, row in enumerate(rows, 1) if not _is_entry(row)]:
        raise InputError(
            f"data._target_={target}: {problems(wrong, 'entry is of another form', 'entries are of another form')}",
            WANTED["data"],
        )
    entries = [(f"entry {n}", [str(cell) for cell in row if cell is not None]) for n, row in enumerate(rows, 1)]
    if len({len(cells) for _, cells in entries}) > 1:
        raise InputError(
            f"data._target_={target} gives a split for some images alone.", "Give it for all, or for none."
        )
    if data.root:
        root = existing_folder(data.root, "")
    elif relative := [cells[0] for _, cells in entries if not os.path.isabs(cells[0])]:
        raise InputError(
            f"data._target_={target} lists {relative[0]}, a path relative to data.root.", "Add data.root=FOLDER."
        )
    else:
        root = Path(os.path.commonpath([os.path.dirname(cells[0]) for _, cells in entries])).resolve()
    errors = list[str]()
    items = items_of(target, entries, root, root, data.on_error == "fail", errors)
    if errors:
        raise InputError(
            f"data._target_={target}: {problems(errors, 'problem', 'problems')}",
            "Correct it; paths are relative to data.root.",
        )
    return Listing(root, class_order({item.label for item in items}), items)


def _is_entry(row: Any) -> bool:
    return isinstance(row, (tuple, list)) and len(row) in (2, 3) and None not in row[:2]
