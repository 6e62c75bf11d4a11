"""An export's folder: which files are in it, and that it is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from har_sweep.errors import InputError
from har_sweep.files import from_here, sync_folder
from har_sweep.record.description import read_description

ONNX, WEIGHTS, CONFIG, CARD = "model.onnx", "model.safetensors", "config.json", "README.md"


def check_replaceable(target: Path) -> None:
    """Refuse what is there already, unless it is an export and nothing more."""
    if not os.path.lexists(target):
        return
    other = f"{target.name}, no folder"
    if target.is_dir() and not target.is_symlink():
        names = {file.name for file in target.iterdir()}
        foreign = sorted(names - {ONNX, WEIGHTS, CONFIG, CARD})
        if not names or (not foreign and _is_ours(target / WEIGHTS)):
            return
        other = foreign[0] if foreign else f"a {sorted(names)[0]} that is not ours"
    raise InputError(
        f"{from_here(target)} is there, and is not an earlier export alone: it has {other}.",
        "Name another folder with --to, or remove that one.",
    )


def _is_ours(weights: Path) -> bool:
    try:
        return read_description(weights) is not None
    except (OSError, SafetensorError, InputError):
        return False


@contextmanager
def becoming(target: Path) -> Iterator[Path]:
    """Inside, a new folder beside ``target``; on leaving it takes the place of that, or goes with an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging, old = (target.with_name(f".{target.name}.{os.getpid()}{end}") for end in ("", ".old"))
    staging.mkdir()
    try:
        yield staging
        if target.exists():
            target.rename(old)
        try:
            staging.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        sync_folder(target.parent)
    finally:
        for left in (staging, old):
            shutil.rmtree(left, ignore_errors=True)
