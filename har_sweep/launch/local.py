"""A process of its own for each run, on this machine: one that dies takes no other along, and its memory is its own."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

from filelock import FileLock, Timeout

from har_sweep import record as records
from har_sweep.events import Event, Line, Step, Tell
from har_sweep.launch.plan import is_computed
from har_sweep.launch.screen import SECONDS_BETWEEN_LINES, Screen, describe
from har_sweep.record import Record, RunError
from har_sweep.spec import RunSpec

LOCK_SECONDS = 3.0  # somebody who plans looks at the lock for a moment
GRACE_SECONDS = 120.0  # for a checkpoint after Ctrl-C; a second Ctrl-C does not wait


def run_all(specs: list[RunSpec], screen: Screen) -> None:
    """Run each spec in turn; what became of it stands in its record.

    Raises
    ------
    KeyboardInterrupt
        after SIGINT or SIGTERM, once the run at hand has saved its checkpoint.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["har_sweep.run"])
    with screen.live(), terminable():
        for number, spec in enumerate(specs, 1):
            label = f"[{number}/{len(specs)}] {spec.label}"
            screen.progress(f"{label}  Loading torch and timm" if number == 1 else f"{label}  Starting", 0, 0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=job, args=(spec, theirs), name=spec.run_id)
            process.start()
            theirs.close()
            try:
                follow(ours, label, screen)
                process.join()
            except KeyboardInterrupt:
                screen.warn("Stopping: the run at hand saves a checkpoint first (once more to stop at once).")
                process.terminate()
                process.join(GRACE_SECONDS)
                raise
            finally:
                if process.is_alive():
                    process.kill()
                    process.join()
                try:
                    settle(spec, process.exitcode)
                except OSError as e:  # the disk is full: the other runs may need less
                    screen.warn(f"{label}  Its record could not be closed: {e}")


def follow(connection: Connection, label: str, screen: Screen) -> None:
    """Show what a run tells until its end of the pipe closes."""
    while True:
        wait([connection])
        try:
            event: Event = connection.recv()
        except EOFError:
            return
        screen.show(label, event)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM ends a sweep as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def settle(spec: RunSpec, exit_code: int | None) -> None:
    """Close the record of a run whose process died without doing so, saying how it died."""
    paths = spec.paths
    if not paths.record.exists():
        return
    record = records.read(paths.record)
    if record.status != "running" or is_computed(spec.paths):
        return
    died_of = signal.Signals(-exit_code).name if exit_code and exit_code < 0 else f"exit status {exit_code}"
    hint = "The same command goes on from its last checkpoint."
    if died_of == "SIGKILL":
        hint = f"Somebody killed it, or the system was out of memory: then try a smaller trainer.batch_size. {hint}"
    record.status, record.finished_at = "failed", records.now()
    record.error = RunError("killed", f"The run's process died: {died_of}.", hint, "")
    records.close_attempt(record, "killed", died_of, record.finished_at)
    records.write(record, paths.record)


def job(spec: RunSpec, connection: Connection) -> None:
    """The run's process: its output goes to ``run.log``, its events to ``connection``."""
    _die_with_parent()
    spec.paths.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(spec.paths.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1)
    faulthandler.enable(file=2)
    last_step = 0.0

    def tell(event: Event) -> None:
        nonlocal last_step
        if isinstance(event, Line):
            print(records.now(), records.redact_text(event.text), flush=True)
        elif isinstance(event, Step) and time.monotonic() - last_step >= SECONDS_BETWEEN_LINES:
            last_step = time.monotonic()
            print(records.now(), describe(event), flush=True)
        connection.send(event)

    try:
        from har_sweep.run import execute
        from har_sweep.train import Stop

        stop = Stop()
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        with FileLock(spec.paths.lock, timeout=LOCK_SECONDS):
            record = execute(spec, tell, stop)
            _summarise(record, tell)
    except Timeout:
        tell(Line("Another process is computing this run; it is left to it.", warning=True))
    except Exception as error:
        print(records.redact_text(traceback.format_exc()), flush=True)
        tell(Line(f"The run could not be started or recorded: {error}", warning=True))
    connection.close()


def _summarise(record: Record, tell: Tell) -> None:
    if record.error:
        print(record.error.traceback, flush=True)
        tell(Line(f"{record.error.message} {record.error.hint}", warning=True))
    elif record.status == "done":
        from har_sweep.launch.screen import byte_size, duration

        training = record.cost.training
        memory = byte_size(training.peak_memory_bytes)
        tell(Line(f"Total training time: {duration(training.seconds)}, peak memory: {memory}"))


def _die_with_parent() -> None:
    """A run whose sweep was killed ends too: nobody would see it, and the same command must find it free."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
