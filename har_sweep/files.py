"""Files that are whole or not there at all, and what they were when they were written; texts without secrets."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec
import xxhash

from har_sweep.errors import Damaged

_SEAL_BYTES = 16

Found = TypeVar("Found")

PACKAGE = Path(__file__).parent

_UMASK = os.umask(0o077)  # it is told only by setting it, which other threads must not see
os.umask(_UMASK)


def from_here(file: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


@contextmanager
def atomic(path: Path, mode: str = "wb", staging: Path | None = None) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on leaving, sync it and rename it over ``path``. Errors change nothing.
    Text is UTF-8, whatever the locale.

    With a ``staging`` folder on the same file system it is made there; neither folder is made.
    """
    if staging is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=staging or path.parent)
    encoding = None if "b" in mode else "utf-8"
    with _becoming(path, Path(name)), os.fdopen(handle, mode, encoding=encoding) as file:
        yield file


def atomic_file(path: Path, save: Callable[[Path], object], staging: Path | None = None) -> None:
    """As ``atomic``, for libraries that want a file's name: ``save`` writes to the path it is given."""
    if staging is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (staging or path.parent) / f".{path.stem}.{os.getpid()}-{os.urandom(4).hex()}{path.suffix}"
    with _becoming(path, temporary):
        save(temporary)


@contextmanager
def _becoming(path: Path, temporary: Path) -> Iterator[None]:
    """Inside, ``temporary`` is written; it becomes ``path`` on leaving, or goes with an error."""
    try:
        yield
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        with suppress(OSError):  # a drive may have no modes
            temporary.chmod(0o666 & ~_UMASK)  # some libraries, and mkstemp, write for their user alone
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as e:
        if isinstance(e, OSError) and e.errno and not e.filename:
            e.filename = str(path)
        with suppress(OSError):
            temporary.unlink()
        raise


class Sealed:
    """A file to write to whose last bytes will be a hash of all before them, once ``seal`` was called."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, xxhash.xxh3_128()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        self._file.write(self._hash.digest())


def check_seal(file: Path) -> None:
    """Raise Damaged unless the file is whole and as it was sealed; a piece of it at a time is in memory."""
    content = xxhash.xxh3_128()
    with file.open("rb") as handle:
        left = os.fstat(handle.fileno()).st_size - _SEAL_BYTES
        while left > 0 and (piece := handle.read(min(left, 1 << 20))):
            content.update(piece)
            left -= len(piece)
        if handle.read() != content.digest():
            raise Damaged(f"{file} is damaged")


def read_sealed(file: Path) -> bytes:
    """What was written before the seal.

    Raises
    ------
    Damaged
        if that is not what stands there now.
    FileNotFoundError
        if there is no such file.
    """
    data = file.read_bytes()
    content, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if xxhash.xxh3_128_digest(content) != seal:
        raise Damaged(f"{file} is damaged")
    return content


def digest(file: Path) -> bytes:
    """A hash of a file's content, of 16 bytes, and not against those who mean harm."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, xxhash.xxh3_128).digest()


def short_hash(plain: Any) -> str:
    """16 hex digits for plain values: what is kept of a setting is filed under them."""
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def keep(folder: Path, setting: dict[str, Any], found: Any) -> None:
    """Keep what was found of a setting of plain values, a file of ``folder`` each, for ``kept``."""
    tree = {"setting": setting, "found": msgspec.to_builtins(found)}
    with atomic(_kept_file(folder, setting)) as out:
        out.write(msgspec.json.format(msgspec.json.encode({**tree, "hash": short_hash(tree)}), indent=1))


def kept(folder: Path, setting: dict[str, Any], kind: type[Found]) -> Found | None:
    """What is kept of a setting; None if it is not there, not what was written or of another."""
    with suppress(OSError, msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        tree = msgspec.json.decode(_kept_file(folder, setting).read_bytes())
        if tree.pop("hash") == short_hash(tree) and tree["setting"] == setting:
            return msgspec.convert(tree["found"], kind)
    return None


def _kept_file(folder: Path, setting: dict[str, Any]) -> Path:
    return folder / f"{short_hash(setting)}.json"


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut, where the file system can."""
    with suppress(OSError):  # Windows opens no folder, some network drives sync none; the rename itself still stands
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


SECRET = "<secret>"
_NAME = (
    r"(?:password|passwd|passphrase|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?)"
    r"(?![a-z])[\w-]{0,40}"
)
# One of these is in whatever holds a secret; looking for them first is ten times as fast.
_SIGNS = (
    *("://", "pass", "pwd", "secret", "token", "key", "credential", "authorization", "bearer"),
    *("hf_", "gh", "glpat-", "sk-", "xox", "wandb_v", "akia", "eyj"),
)
_NAMED = re.compile(rf"{_NAME}$", re.IGNORECASE)
_SECRETS = [
    (re.compile(pattern, re.IGNORECASE), told)
    for pattern, told in (
        (r"(://[^\s/:@]{0,200}):[^\s/]{1,500}@", rf"\1:{SECRET}@"),  # scheme://user:password@host
        (r"(?<=ttp://|tps://)[^\s/:@]{1,500}@", f"{SECRET}@"),
        (r"((?:authorization[\"']?[ \t]?[:=][ \t]?(?:\w{1,20}[ \t])?|bearer[ \t]))[^\s\"',]{8,}", rf"\1{SECRET}"),
        # name=value, name: value, --name value; but not where the value is a switch, a number of tokens or a variable.
        (
            rf"({_NAME}[\"']?[ \t]{{0,3}}[:=][ \t]{{0,3}}|(?<=--)[\w-]{{0,40}}{_NAME}[ \t]{{1,3}})"
            rf"(?!(?:true|false|none|null)\b|\$[{{(a-z_]|(?<=token[:=])[\d.]+\b|{SECRET})"
            r"(?:\"[^\"]*\"|'[^']*'|[^\s,;&\]})\"']+)",
            rf"\1{SECRET}",
        ),
        # What well-known services give out, wherever it stands.
        (
            r"\b(?:hf_\w{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{32,}|xox[a-z]-[\w-]{10,}"
            r"|wandb_v\d_\w{20,}|AKIA[A-Z0-9]{16}\b|eyJ[\w-]{10,999}\.[\w-]{10,}\.[\w-]*)",
            SECRET,
        ),
    )
]


def redact(tree: Any, name: str = "") -> Any:
    """The same tree without secrets, and with this user's home folder written as ``~``: records travel.

    A text is a secret by the last part of its ``name``, as ``api_key``, or by its form (``redact_text``).
    """
    if isinstance(tree, dict):
        return {k: redact(v, str(k)) for k, v in tree.items()}
    if isinstance(tree, list):
        return [redact(v, name) for v in tree]
    if not isinstance(tree, str):
        return tree
    return SECRET if tree and _NAMED.search(name) else redact_text(tree)


def redact_text(text: str) -> str:
    """``text`` with this user's home folder written as ``~``, and without what looks like a secret.

    That is: a password in an address, the value of what is named like one (``HF_TOKEN=...``, ``--password ...``), and
    what well-known services give out.
    """
    lower = text.lower()
    if any(sign in lower for sign in _SIGNS):
        for pattern, told in _SECRETS:
            text = pattern.sub(told, text)
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
