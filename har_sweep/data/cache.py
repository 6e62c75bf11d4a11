"""Decoded once: for each listing of files a table of what is in them, and a ``uint8 [N, size, size, 3]`` map a size.

``<cache>/images/<name>-<signature>/`` holds ``files.json`` (each file's content hash, or why it is broken; sealed),
``<size>.u8`` and ``<size>.xxh3``, a uint64 hash of each of its rows; row i belongs to the i-th path in sorted order.
The signature is made of what ``stat`` tells, so that a sweep finds its cache without reading an image. Imports no
torch: the worker processes must start quickly.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import xxhash
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from har_sweep.data.decode import DecodeError, content_hash, decode, read, resize
from har_sweep.data.sources.listing import file_name
from har_sweep.errors import Damaged, InputError
from har_sweep.events import Progress
from har_sweep.files import Sealed, atomic, read_sealed, sync_folder
from har_sweep.processes import SPAWN, take_signals
from har_sweep.spec.hardware import logical_cores
from har_sweep.stop import die_with_parent
from har_sweep.units import byte_size

_CHUNK = 16
_BYTES_WORTH_A_PROCESS = 4 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_Decoded = tuple[str, str, dict[int, int]]


@dataclass(frozen=True)
class Files:
    """Of each file, in the sorted order of their paths: a hash of its bytes ('' if unread), and an error or ''."""

    hashes: list[str]
    errors: list[str]


def ensure(
    name: str, root: Path, paths: Sequence[str], sizes: Sequence[int], max_pixels: int, cache: Path, progress: Progress
) -> tuple[Files, dict[int, Path]]:
    """Read each of the sorted ``paths`` once and write the maps that are not there yet; without sizes, only check them.

    Broken files are not an error here: their row is zero. A second process that asks for the same waits for the first.

    Returns
    -------
    What is in the files, and the map of each size.

    Raises
    ------
    InputError
        if the disk is too small, before or while writing, or the files change meanwhile; no half map is left.
    """
    signature, total_bytes = _signature(root, paths, max_pixels)
    folder = cache / "images" / f"{file_name(name)}-{signature[:12]}"
    maps = {size: folder / f"{size}.u8" for size in sorted(set(sizes))}

    def missing() -> dict[int, Path]:
        return {s: f for s, f in maps.items() if not _is_whole(f, len(paths), s)}

    table = folder / "files.json"
    files = _known(table)
    if files is None or missing():
        folder.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder, len(paths), progress):
            _clean(cache / "images", folder)
            files, todo = _known(table), missing()
            if files is None or todo:
                with _no_disk_full(cache):
                    files, rows = _build(folder, root, paths, todo, max_pixels, total_bytes, progress)
                    if _signature(root, paths, max_pixels)[0] != signature:
                        raise InputError(f"{root}: images changed while they were read.", "Run the same command again.")
                    for size, file in todo.items():
                        with atomic(_row_hashes(file)) as handle:
                            handle.write(rows[size].tobytes())
                        _building(folder, size).replace(file)
                    with atomic(table) as handle:
                        sealed = Sealed(handle)
                        sealed.write(msgspec.json.encode(files))
                        sealed.seal()
    assert files is not None
    return files, maps


def _known(table: Path) -> Files | None:
    """What is in the files, if that was written down and is as it was."""
    try:
        return msgspec.json.decode(read_sealed(table), type=Files)
    except (FileNotFoundError, Damaged, msgspec.MsgspecError):
        return None


def _row_hashes(map_: Path) -> Path:
    return map_.with_suffix(".xxh3")


def _is_whole(map_: Path, count: int, size: int) -> bool:
    """Whether a map and its hashes are there, and long enough."""
    lengths = {map_: count * size * size * 3, _row_hashes(map_): count * 8}
    return all(file.is_file() and file.stat().st_size == length for file, length in lengths.items())


class ImageMap:
    """Decoded images of a size on disk: ``pixels`` uint8 [count, size, size, 3], in memory as far as there is room.

    Raises
    ------
    InputError
        if the file or that of its hashes is gone or too short.
    """

    def __init__(self, file: Path, count: int, size: int) -> None:
        try:
            with file.open("rb") as handle:
                self._memory = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            flat = np.frombuffer(self._memory, np.uint8, count * size * size * 3)
            self._hashes = np.frombuffer(_row_hashes(file).read_bytes(), np.uint64, count)
        except (OSError, ValueError) as e:
            message = f"The decoded images {file} are gone or cut off: {e}."
            raise InputError(message, "The same command makes them again.") from e
        self._file, self.pixels = file, flat.reshape(count, size, size, 3)
        self._memory.madvise(mmap.MADV_RANDOM)  # what lies around an image is not read with it, only to be dropped

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy some images. The disk is asked for all of them at once; else each page would be waited for in turn.

        Raises
        ------
        InputError
            if one is not what was decoded; the map's hashes are removed, so that both are made again.
        """
        image_bytes = self.pixels[0].nbytes
        for begin in (rows * image_bytes).tolist():
            page = begin - begin % mmap.PAGESIZE
            self._memory.madvise(mmap.MADV_WILLNEED, page, begin + image_bytes - page)
        np.take(self.pixels, rows, axis=0, out=out, mode="clip")  # "raise" would copy twice
        for row, expected, image in zip(rows.tolist(), self._hashes[rows].tolist(), out, strict=True):
            if xxhash.xxh3_64_intdigest(image) != expected:
                _row_hashes(self._file).unlink(missing_ok=True)
                raise InputError(
                    f"The decoded images {self._file} are damaged: image {row + 1} is not what was decoded.",
                    "They were marked as such; the same command makes them again, and goes on from the checkpoint.",
                )


def _signature(root: Path, paths: Sequence[str], max_pixels: int) -> tuple[str, int]:
    """A hash that changes when a file may have changed, and the bytes of all files.

    The change time is in it because tools that copy keep sizes and modification times; a moved folder keeps it.
    """
    digest, total = hashlib.blake2b(f"{max_pixels}".encode()), 0
    for path in paths:
        try:
            stat = os.stat(root / path)
            facts = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
            total += stat.st_size
        except OSError:
            facts = "missing"
        digest.update(f"\n{path}\0{facts}".encode())
    return digest.hexdigest(), total


@contextmanager
def _only_builder(folder: Path, count: int, progress: Progress) -> Iterator[None]:
    lock = _lock(folder)
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            progress("Waiting for another process, which decodes these images", 0, count)
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _building(folder: Path, size: int) -> Path:
    return folder / f"{size}.u8.building"


def _clean(images: Path, own: Path) -> None:
    """Remove what killed builders left; a folder whose lock is held has a live one."""
    for leftover in images.glob("*/*.u8.building"):
        if leftover.parent == own:
            leftover.unlink()
            continue
        try:
            with _lock(leftover.parent).acquire(timeout=0):
                leftover.unlink(missing_ok=True)
        except Timeout:
            pass


@contextmanager
def _no_disk_full(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno not in _FULL:
            raise
        raise InputError(
            f"The disk of {cache} became full while images were decoded.",
            "Free some, point paths.cache at another disk, or set data.cache=stream.",
        ) from e


def _build(
    folder: Path, root: Path, paths: Sequence[str], maps: dict[int, Path], max_pixels: int, total_bytes: int,
    progress: Progress,
) -> tuple[Files, dict[int, NDArray[np.uint64]]]:  # fmt: skip
    needed, free = len(paths) * sum(s * s * 3 for s in maps), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"Decoding {len(paths):,} images at {_px(maps)} takes {byte_size(needed)} of disk; {folder.parent} has"
            f" {byte_size(free)} left.",
            "Free some, point paths.cache at another disk, or set data.cache=stream.",
        )
    what = f"Checking {len(paths):,} images"
    if maps:
        what = f"Decoding {len(paths):,} images at {_px(maps)} ({byte_size(needed)} in {os.path.relpath(folder)})"
    progress(what, 0, len(paths))
    hashes, errors = [""] * len(paths), [""] * len(paths)
    rows = {size: np.zeros(len(paths), np.uint64) for size in maps}
    targets = {size: _building(folder, size) for size in maps}
    try:
        for size, file in targets.items():
            with file.open("xb") as handle:
                handle.truncate(len(paths) * size * size * 3)
        chunks = [(start, paths[start : start + _CHUNK]) for start in range(0, len(paths), _CHUNK)]
        workers = min(logical_cores(), len(chunks), 1 + total_bytes // _BYTES_WORTH_A_PROCESS)
        done = 0
        for start, found in _run(chunks, workers, root, targets, max_pixels):
            for row, (content, error, pixels) in enumerate(found, start):
                hashes[row], errors[row] = content, error
                for size, pixel_hash in pixels.items():
                    rows[size][row] = pixel_hash
            done += len(found)
            progress(what, done, len(paths))
        for file in targets.values():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        sync_folder(folder)
    except BaseException:
        for file in targets.values():
            file.unlink(missing_ok=True)
        raise
    return Files(hashes, errors), rows


def _px(sizes: Sequence[int] | dict[int, Path]) -> str:
    return " and ".join(map(str, sizes)) + " px"


def _run(
    chunks: list[tuple[int, Sequence[str]]], workers: int, root: Path, targets: dict[int, Path], max_pixels: int
) -> Iterator[tuple[int, list[_Decoded]]]:
    if workers <= 1:  # starting processes would take longer
        for start, paths in chunks:
            yield start, _decode_rows(root, paths, start, targets, max_pixels)
        return
    # spawn, not forkserver: the launcher's fork server is preloaded with torch and must stay so.
    pool = ProcessPoolExecutor(workers, mp_context=SPAWN, initializer=_start_worker)
    try:
        futures: dict[Future[list[_Decoded]], int] = {
            pool.submit(_decode_rows, root, paths, start, targets, max_pixels): start for start, paths in chunks
        }
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as e:
        raise InputError(
            "A process that decodes images was killed.",
            "Most likely memory ran out: lower data.max_megapixels, or give the job more memory.",
        ) from e
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the workers
    take_signals()
    die_with_parent()  # a killed parent would else leave workers waiting for ever


def _decode_rows(
    root: Path, paths: Sequence[str], first_row: int, targets: dict[int, Path], max_pixels: int
) -> list[_Decoded]:
    """Decode files into their rows of the maps; returns for each its content hash, its error or '', and the hash of its
    row in each map."""
    found: list[_Decoded] = []
    handles = {size: os.open(file, os.O_WRONLY) for size, file in targets.items()}
    try:
        for row, path in enumerate(paths, first_row):
            content = ""
            try:
                data = read(root / path)
                content = content_hash(data)
                image = decode(data, max_pixels)
            except DecodeError as e:
                found.append((content, str(e), {}))
                continue
            pixel_hashes = {}
            for size, handle in handles.items():
                pixels = resize(image, size).tobytes()
                pixel_hashes[size] = xxhash.xxh3_64_intdigest(pixels)
                _write(handle, pixels, row * size * size * 3)
            found.append((content, "", pixel_hashes))
    finally:
        for handle in handles.values():
            os.close(handle)
    return found


def _write(handle: int, data: bytes, offset: int) -> None:
    # Not through a memory map: there a full disk is a SIGBUS, here an error.
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written
