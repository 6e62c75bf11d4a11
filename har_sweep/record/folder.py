"""A run's folder: the only place that knows the paths in it, and how a record is read and written."""

from __future__ import annotations

import errno
import functools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import UnionType
from typing import IO, Any, get_args, get_origin, get_type_hints

import msgspec

from har_sweep.errors import InputError
from har_sweep.files import atomic, atomic_file, redact
from har_sweep.record.claim import CLAIMING, STAGING, check_claim, claim_path, staging_folder
from har_sweep.record.record import SCHEMA_VERSION, Record, upgraded


class DamagedRecord(InputError):
    """A file that is no run's record, though it is where one should be."""


def find_record(paths: RunPaths) -> Record | None:
    """A run's record, if it has one that can be read: of a run with a damaged one nothing is known."""
    try:
        return read_record(paths.record)
    except (FileNotFoundError, DamagedRecord):
        return None


def is_done(paths: RunPaths) -> bool:
    """Whether nothing is left to compute."""
    record = find_record(paths)
    return record is not None and record.status == "done"


def runs_named(name: str, folder: Path) -> list[str]:
    """The ids of the runs in ``folder`` that ``name`` may mean: itself, else all that begin with it."""
    there = sorted(entry.name for entry in folder.glob("[!.]*") if RunPaths(entry).record.exists())
    return [name] if name in there else [run for run in there if run.startswith(name)]


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
        """Raise ClaimLost if the run is somebody else's by now."""
        if self.claim:
            check_claim(self.folder, self.claim)

    @contextmanager
    def writing(self, file: Path, mode: str = "wb") -> Iterator[IO[Any]]:
        """As ``files.atomic``, for a file of the run.

        Raises
        ------
        ClaimLost
            if the run is somebody else's by now; then ``file`` is untouched, and so with all of these.
        """
        with self._owned() as staging, atomic(file, mode, staging) as handle:
            yield handle

    def save(self, file: Path, save: Callable[[Path], object]) -> None:
        """As ``files.atomic_file``, for a file of the run; raises ClaimLost as ``writing``."""
        with self._owned() as staging:
            atomic_file(file, save, staging)

    def link(self, file: Path, another: Path) -> None:
        """Let a file of the run stand under another name too; raises ClaimLost as ``writing``."""
        with self._owned() as staging:
            temporary = (staging or self.folder) / f".{another.name}.link"
            temporary.unlink(missing_ok=True)
            try:
                os.link(file, temporary)
            except OSError:  # not every file system has hard links
                atomic_file(another, lambda copy: shutil.copyfile(file, copy), staging)
                return
            os.replace(temporary, another)
            temporary.unlink(missing_ok=True)  # two names of one file are not renamed over one another

    def remove(self, *files: Path) -> None:
        """Let files of the run be no more; raises ClaimLost as ``writing``."""
        with self._owned() as staging:
            for file in files:
                if file.exists():
                    removed = (staging or self.folder) / f".{file.name}.removed"
                    os.replace(file, removed)
                    removed.unlink()

    def remove_training(self) -> None:
        """Let there be nothing that a training could go on from; raises ClaimLost as ``writing``."""
        self.remove(self.checkpoint, *self.all_selected())

    @contextmanager
    def _owned(self) -> Iterator[Path | None]:
        """The folder to rename from; where that has gone, the run has been taken over, or its folder is away."""
        staging = staging_folder(self.folder, self.claim) if self.claim else None
        try:
            yield staging
        except OSError as e:
            if staging is None or e.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            self.check()  # first: a successor empties the folder a moment before it is gone
            if staging.exists():
                raise
            raise OSError(e.errno, f"the run's folder {self.folder} is gone, or was for a while") from e

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
    onnx = _Inside("model.onnx")  # instead, of a variant that is not PyTorch's
    wandb = _Inside("wandb")
    job = _Inside("job.json")  # the batch job that was last submitted for the run

    def selected(self, epoch: int) -> Path:
        """The weights of the best epoch so far, while a later may beat it; then of the selected one."""
        return self.folder / f"selected-{epoch}.safetensors"

    def unfinished(self) -> bool:
        """Whether there is anything that a run at work has and a finished one has not."""
        with os.scandir(self.folder) as entries:
            return any(entry.name.startswith((STAGING, CLAIMING, "checkpoint", "selected-")) for entry in entries)

    def all_selected(self) -> list[Path]:
        """Those that there are: the one that the checkpoint names, and maybe one that it does not yet, or no more."""
        return list(self.folder.glob("selected-*.safetensors"))


def read_record(path: Path) -> Record:
    """Read a ``record.json``, one of an older schema as if it were of this. A number that was not finite when it was
    written, and so is null, is nan.

    Raises
    ------
    DamagedRecord
        if it is not a record.
    InputError
        if it is one of a schema that is not known, such as a newer one.
    FileNotFoundError
        if there is none.
    """
    data = path.read_bytes()
    try:
        record = msgspec.json.decode(data, type=Record)
        if record.schema_version == SCHEMA_VERSION:
            return record
    except msgspec.MsgspecError:
        pass  # a second look, as long as the first, only at those that need it
    try:
        tree = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as e:
        raise _damaged(path, e) from e
    version = tree.get("schema_version")
    if version not in (1, SCHEMA_VERSION):
        raise InputError(
            f"{path} has schema_version {version}; this version of har_sweep reads 1 and {SCHEMA_VERSION}.",
            "Update har_sweep.",
        )
    try:
        return msgspec.convert(_with_nan(upgraded(tree) if version == 1 else tree, Record), Record)
    except (msgspec.MsgspecError, LookupError, TypeError, AttributeError) as e:
        raise _damaged(path, e) from e


def _damaged(path: Path, why: Exception) -> DamagedRecord:
    return DamagedRecord(f"{path} is not a run's record: {why}.", "The same sweep computes it anew.")


def _with_nan(value: Any, kind: Any) -> Any:
    """What JSON says of something of the type ``kind``, with nan for null where only a float can be."""
    origin, inside = get_origin(kind), get_args(kind)
    if value is None:
        return math.nan if kind is float else None
    if origin is UnionType:
        return _with_nan(value, inside[0])
    if isinstance(value, dict) and isinstance(kind, type) and is_dataclass(kind):
        kinds = _kinds(kind)
        return {key: _with_nan(part, kinds.get(key)) for key, part in value.items()}
    if isinstance(value, dict) and origin is dict:
        return {key: _with_nan(part, inside[1]) for key, part in value.items()}
    if isinstance(value, list) and origin is list:
        return [_with_nan(part, inside[0]) for part in value]
    return value


@functools.cache
def _kinds(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's parts: looked up once, as that takes longer than to read a record."""
    return get_type_hints(kind)


def write_record(record: Record, paths: RunPaths) -> None:
    """Write a record so that a reader sees the old one or the new one, whole. What is not finite becomes null.

    Raises
    ------
    ClaimLost
        as every writer of a run's files.
    """
    data = msgspec.json.format(msgspec.json.encode(redact(msgspec.to_builtins(record))), indent=1)
    with paths.writing(paths.record) as file:
        file.write(data)
