"""Work that needs torch in a process of its own, while this one shows what it tells."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Generic, TypeVar

from har_sweep.errors import ClaimLost, InputError, RunFailure
from har_sweep.events import Event, Line, Tell
from har_sweep.files import redact_text
from har_sweep.launch.cards import own_cards
from har_sweep.launch.job import log_to
from har_sweep.launch.terminal import Screen
from har_sweep.processes import FORK_SERVER, take_signals
from har_sweep.spec.hardware import find_devices
from har_sweep.stop import die_with_parent

Value = TypeVar("Value")


@dataclass(frozen=True)
class Done(Generic[Value]):
    """What the work returned."""

    value: Value


def apart(work: Callable[[Tell], Value], device: str, label: str, log: Path, screen: Screen) -> Done[Value] | None:
    """Do ``work``, which can be pickled, in a process with torch and timm; None if it failed, which is said.

    ``device`` is the kind that it computes on: of GPUs it has the first to itself. Its output, and what it tells, goes
    to ``log``. Ctrl-C ends it.
    """
    cards = [found for found in find_devices() if found.kind == device == "cuda"][:1]
    with own_cards(cards, lambda why: screen.progress(f"{label}  {why}", 0, 0, of=label)):
        return _apart(work, label, log, screen)


def _apart(work: Callable[[Tell], Value], label: str, log: Path, screen: Screen) -> Done[Value] | None:
    FORK_SERVER.set_forkserver_preload(["har_sweep.launch.preload"])
    screen.progress(f"{label}  Loading torch and timm", 0, 0, of=label)
    ours, theirs = FORK_SERVER.Pipe(duplex=False)
    process = FORK_SERVER.Process(target=_do, args=(work, log, theirs))
    process.start()
    theirs.close()
    done: Done[Value] | None = None
    try:
        while done is None:
            if isinstance(message := ours.recv(), Done):
                done = message
            else:
                screen.show(label, message)
        process.join()
    except EOFError:
        process.join()
    finally:
        process.kill()  # where Ctrl-C came first: nothing is half written
        process.join()
        screen.over(label)
    if process.exitcode is not None and process.exitcode < 0:
        screen.warn(
            f"{label}  Its process died: {signal.Signals(-process.exitcode).name}. What was kept before is as it was."
        )
    return done


def _do(work: Callable[[Tell], object], log: Path, connection: Connection) -> None:
    """The process; it ends with status 1 if the work failed."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that its first is that which the parent holds
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    take_signals()
    keep = log_to(log)

    def tell(event: Event) -> None:
        keep(event)
        connection.send(event)

    try:
        connection.send(Done(work(tell)))
    except (RunFailure, InputError, ClaimLost) as e:
        tell(Line(" ".join([f"It failed: {e}", getattr(e, "hint", "")]).strip(), warning=True))
        sys.exit(1)
    except Exception as e:
        print(redact_text(traceback.format_exc()), flush=True)
        tell(Line(f"It failed: {e} The traceback is in {log}.", warning=True))
        sys.exit(1)
