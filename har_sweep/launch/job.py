"""What every job does around a run, on this machine or on a node: claim it, compute it, and know what its end means."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from har_sweep.events import Event, Line, Phase, Step, Tell
from har_sweep.files import redact_text
from har_sweep.launch.hydra_job import as_hydra_job
from har_sweep.launch.terminal import SECONDS_BETWEEN_LINES, describe
from har_sweep.record.claim import Owner, take_claim
from har_sweep.record.folder import RunPaths, find_record, is_done, write_record
from har_sweep.record.record import Record, RunError, close_attempt, utc_now
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.units import byte_size, duration, escaped

FAILURES = ("failed", "killed", "out_of_memory")  # outcomes of attempts that count against launch.retries


def do_job(spec: RunSpec, tell: Tell, stop: Stop, job: str = "", restarts: int = 0) -> Record | None:
    """Compute a run in this process under a claim; None if that was somebody else's to do, or is done.

    Raises
    ------
    ClaimLost
        if somebody who thought this process dead has taken the run over.
    """
    claim = take_claim(
        spec.paths.folder, job=job, restarts=restarts, heartbeat_seconds=spec.config.launch.heartbeat_seconds,
        on_lost=lambda: os.kill(os.getpid(), signal.SIGTERM),
    )  # fmt: skip
    if claim is None:
        tell(Line("Another process is computing this run; it is left to it.", warning=True))
        return None
    with claim:
        if is_done(spec.paths) and not spec.config.rerun:
            return None

        def told(event: Event) -> None:
            if isinstance(event, Step):
                fields = ("epoch", "epochs", "step", "steps", "images_per_second", "seconds_left")
                claim.progress({name: getattr(event, name) for name in fields})
            elif isinstance(event, Phase):
                claim.progress({"phase": event.text})
            tell(event)

        from har_sweep.run.execute import execute

        ours = replace(spec, claim=claim.number)
        record = as_hydra_job(spec, lambda: execute(ours, told, stop))
        if record.error:
            print(escaped(record.error.traceback), flush=True)
            tell(Line(f"{record.error.message} {record.error.hint}", warning=True))
        elif record.status == "done":
            training = record.cost.training
            memory = byte_size(training.peak_memory_bytes)
            compiled = " and compiling" if spec.config.hardware.compile else ""
            whole = f"{duration(training.seconds_with_validation or training.seconds)} with validation{compiled}"
            tell(Line(f"Total training time: {duration(training.seconds)} ({whole}), peak memory: {memory}"))
        return record


def with_threads(spec: RunSpec, threads: int | None) -> RunSpec:
    """The spec, told how many threads it has, where that is known and it was not told otherwise."""
    if threads is None or spec.config.hardware.cpu_threads:
        return spec
    hardware = replace(spec.config.hardware, cpu_threads=threads)
    return replace(spec, config=replace(spec.config, hardware=hardware))


def log_to(file: Path) -> Tell:
    """Send this process's output to the end of ``file``; returns what writes events there, steps at a sane rate."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # No link: whoever shares the folder could let it lead to a file that is ours alone, a shell's start file say.
    log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    last_step = 0.0

    def tell(event: Event) -> None:
        nonlocal last_step
        if isinstance(event, Line):
            print(utc_now(), escaped(redact_text(event.text)), flush=True)
        elif isinstance(event, Step) and time.monotonic() - last_step >= SECONDS_BETWEEN_LINES:
            last_step = time.monotonic()
            print(utc_now(), describe(event), flush=True)

    return tell


def failures(record: Record | None) -> int:
    """How many attempts ended by the run's own fault, as far as is known."""
    return sum(attempt.outcome in FAILURES for attempt in record.attempts) if record else 0


def may_try_again(record: Record, spec: RunSpec) -> bool:
    """Whether a failed run gets another attempt without being asked for: while ``launch.retries`` allows, and where
    ``trainer.on_oom=split`` has a smaller piece to try after the system killed it for its memory."""
    if record.status != "failed" or record.error is None:
        return False
    if record.error.kind == "out_of_memory" and record.attempts[-1].outcome == "out_of_memory":
        trainer = spec.config.trainer
        halvings = sum(attempt.outcome == "out_of_memory" for attempt in record.attempts)
        if trainer.on_oom == "split" and trainer.accumulation_steps << (halvings - 1) < trainer.batch_size:
            return True
    return failures(record) <= spec.failures_allowed


def close_record(
    paths: RunPaths,
    outcome: str,
    error: RunError | None,
    is_dead: Callable[[Owner], bool] = lambda owner: False,
    closes: tuple[str, ...] = ("running",),
) -> Record | None:
    """Close the record of a run whose process died without doing so: failed with ``error``, or else interrupted.

    ``closes`` are the states that this may end. Returns the record as it then is; None if there is none, or if somebody
    living has the run.
    """
    record = find_record(paths)
    if record is None or record.status not in closes:
        return record
    claim = take_claim(paths.folder, is_dead=is_dead)
    if claim is None:
        return None
    with claim:
        ours, record = replace(paths, claim=claim.number), find_record(paths)
        if record and record.status in closes:
            record.status, record.error = "failed" if error else "interrupted", error
            record.finished_at = utc_now(ours.last_seen())
            close_attempt(record, outcome, error.message if error else None, record.finished_at)
            write_record(record, ours)
        return record


def death(exit_code: int, out_of_memory: bool) -> tuple[str, RunError]:
    """Outcome and error of a run whose process ended with ``exit_code`` (negative: by that signal) and said nothing."""
    died_of = signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"
    again = "The same command goes on from its last checkpoint."
    if out_of_memory:
        return "out_of_memory", RunError(
            "out_of_memory",
            f"The system was out of memory and killed the run ({died_of}).",
            f"Try a smaller trainer.batch_size, trainer.on_oom=split, or more memory. {again}",
            "",
        )
    hint = f"Somebody killed it, or the system was out of memory. {again}" if died_of == "SIGKILL" else again
    return "killed", RunError("killed", f"The run's process died: {died_of}.", hint, "")
