"""What runs on a node: one run, its end however it comes, and the batch script's last word if it came without one."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from har_sweep.errors import ClaimLost, Interrupted
from har_sweep.launch.job import close_record, death, do_job, log_to, may_try_again, with_threads
from har_sweep.launch.private import check_private
from har_sweep.launch.slurm.queue import run_command, signal_or_status
from har_sweep.processes import patient_threads
from har_sweep.record.environment import slurm_job_id
from har_sweep.record.record import Record, RunError, utc_now
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Cause, Stop

HOLD_SECONDS = 600.0  # for SLURM to end what it has asked to end
# What the accounting or a step's daemon says when memory was the reason.
OUT_OF_MEMORY = ("OUT_OF_ME", "oom_kill", "oom-kill", "memory limit")
REQUEUE_SECONDS = 5.0  # between attempts, while the controller does not answer


class Job:
    """What submitit pickles: a run, computed where it is called."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec

    def checkpoint(self) -> object:
        """For submitit, in the moments before this job handles signals itself: start again from the files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Compute the run; ends by requeueing the job where SLURM or a failure asks for another."""
        os.environ.update(patient_threads())
        # Not every cluster confines a job to what it asked for.
        spec = with_threads(self.spec, int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) or None)
        stop = _listening(spec)
        job, restarts = _myself()
        print(f"{utc_now()} job {job}, restart {restarts}, run {spec.run_id}", flush=True)
        job_log = os.dup(1)  # where a run that never begins is looked for: it may have no log of its own
        tell = log_to(spec.paths.log)
        faulthandler.enable(file=2)
        before = _version(spec.paths.checkpoint)
        try:
            record = do_job(spec, tell, stop, job, restarts)
        except ClaimLost as lost:
            print(utc_now(), lost, "This process stops.", flush=True)
            sys.exit(1)
        except Interrupted:  # before there was anything to save
            record = None
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if record and record.status == "done":
            return
        if record and record.status == "failed":
            _go_on(record, spec, job)
        elif stop.cause is Cause.TIME_LIMIT and _version(spec.paths.checkpoint) == before:
            error = _too_short(spec)
            if close_record(spec.paths, "failed", error, closes=("running", "interrupted")) is None:
                os.write(job_log, f"{error.message} {error.hint}\n".encode())
            sys.exit(1)
        elif stop.cause in (Cause.TIME_LIMIT, Cause.PREEMPTED):
            requeue(job)
        elif stop.requested:
            time.sleep(HOLD_SECONDS)  # SLURM ends this process, and may start it anew: an exit would look like its own
            sys.exit(1)


def _listening(spec: RunSpec) -> Stop:
    """What takes SLURM's signals from now on: SIGUSR2 warns, of the time limit or of another job; SIGTERM ends."""
    assert spec.slurm is not None
    near_limit = time.time() + 60 * spec.slurm.timeout_min - spec.slurm.signal_delay_s - 60

    def cause_of(number: signal.Signals) -> Cause:
        if number != signal.SIGUSR2:
            return Cause.ASKED
        return Cause.TIME_LIMIT if time.time() >= near_limit else Cause.PREEMPTED

    def explain(number: signal.Signals, cause: Cause) -> str:
        return f"{_why_ended() if cause is Cause.ASKED else cause.value} ({number.name})."

    stop = Stop(cause_of, explain)
    stop.take(signal.SIGUSR2, signal.SIGTERM)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    return stop


def _myself() -> tuple[str, int]:
    """This job, and how often SLURM has started it anew."""
    return slurm_job_id() or "", int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _go_on(record: Record, spec: RunSpec, job: str) -> None:
    """Start a failed run again where that is allowed; else let the job fail too."""
    if may_try_again(record, spec):
        print(utc_now(), "Trying again.", flush=True)
        requeue(job)
    sys.exit(1)


def _too_short(spec: RunSpec) -> RunError:
    minutes = spec.slurm.timeout_min if spec.slurm else 0
    return RunError(
        "time_limit",
        f"Within its time limit, {minutes} min, the job did not come to anything that the next could go on from.",
        "Give it more with hydra.launcher.timeout_min; then the same command goes on.",
        "",
    )


def _version(file: Path) -> tuple[int, int] | None:
    """What changes with every write of a file."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _why_ended() -> str:
    """What the controller says of this job that it is ending."""
    shown = run_command("scontrol", "--oneliner", "show", "job", slurm_job_id() or "", seconds=5).stdout
    if (preempted := re.search(r"\bPreemptTime=(\S+)", shown)) and preempted[1] != "None":
        return "Preempted"
    return "Cancelled or requeued"


def requeue(job: str) -> None:
    """Put this job back into the queue and end; waits some minutes for a controller that does not answer."""
    deadline = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < deadline:
        asked = run_command("scontrol", "requeue", job)
        if asked.returncode == 0:
            break
        print(utc_now(), f"scontrol requeue: {asked.stderr.strip()}", flush=True)
        time.sleep(REQUEUE_SECONDS)
    sys.exit(1)


def close(exit_code: int) -> None:
    """In the batch script, after a step that failed: if it died without a word, say what is known, and try again."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    job, restarts = _myself()
    folder = Path(os.environ["HAR_SWEEP_JOBS"])
    check_private(folder)  # what is unpickled is executed
    submitted: Any = DelayedSubmission.load(JobPaths(folder, job_id=job).submitted_pickle).function
    spec: RunSpec = submitted.spec
    listed = run_command("sacct", "--noheader", "--parsable2", "--format=State", "-j", os.environ["SLURM_JOB_ID"])
    said = listed.stdout + JobPaths(folder, job_id=job).stdout.read_text(errors="replace")
    record = close_record(
        spec.paths,
        *death(signal_or_status(exit_code), any(sign in said for sign in OUT_OF_MEMORY)),
        is_dead=lambda owner: owner.job == job and owner.restarts <= restarts,  # not this job's next start
    )
    if record is None or record.attempts[-1].job != job:
        return
    if record.attempts[-1].outcome in ("killed", "out_of_memory") and may_try_again(record, spec):
        requeue(job)


if __name__ == "__main__":
    close(int(sys.argv[1]))
