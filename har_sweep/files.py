"""Files that are whole or not there at all, and texts without secrets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PACKAGE = Path(__file__).parent


def from_here(file: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


@contextmanager
def atomic(path: Path, mode: str = "wb", check: Callable[[], None] = lambda: None) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on leaving, sync it and rename it over ``path``. Errors change nothing.

    ``check`` may raise, just before the renaming.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with _becoming(path, Path(name), check), os.fdopen(handle, mode) as file:
        yield file


def atomic_file(path: Path, save: Callable[[Path], object], check: Callable[[], None] = lambda: None) -> None:
    """As ``atomic``, for libraries that want a file's name: ``save`` writes to the path it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with _becoming(path, temporary, check):
        save(temporary)


@contextmanager
def _becoming(path: Path, temporary: Path, check: Callable[[], None]) -> Iterator[None]:
    """Inside, ``temporary`` is written; it becomes ``path`` on leaving, or goes with an error."""
    try:
        yield
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # some libraries, and mkstemp, write for their user alone
        check()
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot sync a folder; the rename itself still stands
        pass
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def redact(tree: Any) -> Any:
    """The same tree with this user's home folder written as ``~``: records travel, homes do not."""
    if isinstance(tree, dict):
        return {k: redact(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [redact(v) for v in tree]
    return redact_text(tree) if isinstance(tree, str) else tree


def redact_text(text: str) -> str:
    """``text`` with this user's home folder written as ``~``."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
