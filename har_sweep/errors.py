"""What goes wrong, said once, where it is known: what, where, and what to do about it."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used: a key, a file, a row. Exit status 2; nothing was started.

    ``message`` names what and where; ``hint`` says what to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class RunFailure(Exception):
    """A run that cannot go on. ``kind`` is a stable word (``non_finite_loss``, ``out_of_memory``, ...)."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class ClaimLost(Exception):
    """Another process owns the run now; this one must not write another byte of it."""


class Interrupted(Exception):
    """The run was asked to stop (SIGINT, SIGTERM) and has saved a checkpoint; the same command goes on from it."""
