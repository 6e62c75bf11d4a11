"""What goes wrong, said once, where it is known: what, where, and what to do about it."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Something the user gave cannot be used: a key, a file, a row. Exit status 2; nothing was started.

    ``message`` names what and where; ``hint`` says what to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(hint)  # where nobody catches it, as in a notebook, the traceback ends with what to do

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class RunFailure(Exception):
    """A run that cannot go on. ``kind`` is a stable word (``non_finite_loss``, ``out_of_memory``, ...)."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class Failed(Exception):
    """Work that a command could not do; why has been said."""


class Damaged(Exception):
    """A file of ours that is not what was once written: cut, emptied, or other bytes."""


class ClaimLost(Exception):
    """Another process owns the run now; this one must not write another byte of it."""


class Interrupted(Exception):
    """The run was asked to stop (SIGINT, SIGTERM) and has saved a checkpoint; the same command goes on from it."""


def check_platform() -> None:
    """Raise InputError where there can be no sweeps."""
    if sys.platform == "win32":
        raise InputError(
            "Sweeps need processes and files as Linux and macOS have them; this is Windows.",
            "Give the same command inside WSL 2 (`wsl --install`, once). `python -m multirun_analysis` works here too.",
        )


FREE_SOME = "Free some disk and give the same command again; it goes on from here."
ELSEWHERE = "Give a folder that can be used, with paths.runs=, paths.cache= or paths.data=."
REMEDIES = {
    errno.ENOSPC: FREE_SOME, errno.EDQUOT: FREE_SOME,
    errno.EACCES: ELSEWHERE, errno.EPERM: ELSEWHERE, errno.EROFS: ELSEWHERE,
    errno.ENAMETOOLONG: "Give a shorter name.",
}  # fmt: skip


@contextmanager
def system_errors_told(elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Inside, what the system refuses (a full disk, a missing permission, a share that is away) is an InputError.

    ``elsewhere`` says how the command is told to write to another place.
    """
    try:
        yield
    except OSError as e:
        if e.errno is None or isinstance(e, BrokenPipeError):  # there is nobody left to tell
            raise
        message = f"{e.strerror}: {e.filename}." if e.filename else f"{e.strerror}."
        again = "Give the same command again when that is mended; it goes on from here."
        remedy = REMEDIES.get(e.errno, again)
        raise InputError(message, elsewhere if remedy == ELSEWHERE else remedy) from e


def is_disk_full(error: Exception) -> bool:
    """Whether the disk, or a quota on it, is what was missing; some libraries keep only the system's words."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or any(os.strerror(number) in str(error) for number in full)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean ...?`` for the closest known word, or an empty string."""
    known = list(known)
    # A key is often given right but in the wrong section, so its last part alone is tried too.
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6) or [
        k for k in known if k.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]
    ]
    if not close:
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        close = [tails[t] for t in difflib.get_close_matches(word.rsplit(".", 1)[-1], tails, n=1, cutoff=0.75)]
    return f"Did you mean '{close[0]}'?" if close else ""
