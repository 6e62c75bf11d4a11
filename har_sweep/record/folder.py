"""A run's folder: the only place that knows the paths in it, and how a record is read and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from har_sweep.errors import InputError
from har_sweep.files import atomic, redact
from har_sweep.record.claim import check_claim, claim_path
from har_sweep.record.record import SCHEMA_VERSION, Record


def find_record(paths: RunPaths) -> Record | None:
    """A run's record, if it has one."""
    return read_record(paths.record) if paths.record.exists() else None


def is_done(paths: RunPaths) -> bool:
    """Whether nothing is left to compute."""
    record = find_record(paths)
    return record is not None and record.status == "done"


class _Inside:
    """A path inside a run's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, paths: RunPaths, owner: object) -> Path:
        return paths.folder / self._name


@dataclass(frozen=True)
class RunPaths:
    """Every path inside a run's folder, ``<runs>/<run_id>/``."""

    folder: Path
    claim: int = 0  # the number under which its owner writes; 0 for readers

    def check(self) -> None:
        """Raise ClaimLost if the run is somebody else's by now; the last thing before a write takes effect."""
        if self.claim:
            check_claim(self.folder, self.claim)

    def last_seen(self) -> float:
        """When the job before this owner was last seen, in seconds since 1970: for all we know, it died then."""
        files = [self.record, self.checkpoint, self.log, claim_path(self.folder, self.claim - 1)]
        return max(file.stat().st_mtime for file in files if file.exists())

    record = _Inside("record.json")
    config = _Inside("config.yaml")
    predictions = _Inside("predictions.parquet")
    log = _Inside("run.log")
    checkpoint = _Inside("checkpoint.pt")
    model = _Inside("model.safetensors")
    selected = _Inside("selected.safetensors")  # the best epoch's weights, while a later may beat it; then the selected
    wandb = _Inside("wandb")
    job = _Inside("job.json")  # the batch job that was last submitted for the run


def read_record(path: Path) -> Record:
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


def write_record(record: Record, paths: RunPaths) -> None:
    """Write a record so that a reader sees the old one or the new one, whole. What is not finite becomes null.

    Raises
    ------
    ClaimLost
        as every writer of a run's files.
    """
    data = msgspec.json.format(msgspec.json.encode(redact(msgspec.to_builtins(record))), indent=1)
    with atomic(paths.record, check=paths.check) as file:
        file.write(data)
