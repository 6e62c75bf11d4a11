"""Work of a command that needs torch, in a process apart, with the user's errors brought back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from har_sweep.errors import Failed, InputError, RunFailure
from har_sweep.events import Tell
from har_sweep.launch.apart import apart
from har_sweep.launch.terminal import Screen

Value = TypeVar("Value")


def in_process(work: Callable[[Tell], Value], device: str, label: str, screen: Screen) -> Value:
    """What ``work``, which can be pickled, returns.

    Raises
    ------
    InputError
        as it did, or where the device cannot be used.
    Failed
        if it broke off or died, which is said.
    """
    scratch = Path(tempfile.mkdtemp(prefix="har_sweep-"))
    try:
        with screen.live():
            done = apart(partial(_told, work), device, label, scratch / "log", screen)
    except BaseException:
        shutil.rmtree(scratch)
        raise
    if done is None:
        raise Failed  # its log was named
    shutil.rmtree(scratch)
    if isinstance(done.value, InputError):
        raise done.value
    return done.value


def _told(work: Callable[[Tell], Value], tell: Tell) -> Value | InputError:
    try:
        return work(tell)
    except InputError as e:
        return e
    except RunFailure as e:
        return InputError(e.message, e.hint)
