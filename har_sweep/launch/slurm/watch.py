"""Following runs on a cluster to their end: a live table, and a new job for what SLURM lost."""

from __future__ import annotations

import time
from collections import Counter

from har_sweep.files import from_here
from har_sweep.launch.job import close_record, death, may_try_again
from har_sweep.launch.slurm.node import OUT_OF_MEMORY
from har_sweep.launch.slurm.queue import Ended, Unreachable, ended_jobs
from har_sweep.launch.slurm.submit import submit_arrays
from har_sweep.launch.state import OVER, RunState, run_states
from har_sweep.launch.terminal import Screen
from har_sweep.record.record import RunError
from har_sweep.spec.run_spec import RunSpec

LOOK_SECONDS = 3.0
GONE_LOOKS = 3  # so often in a row a job must be missing: SLURM shows a requeued one as over for a moment
PATIENT_LOOKS = 20  # for an accounting that does not know yet
FRUITLESS_JOBS = 3  # in a row, before a run is left
NOT_OVER = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")  # the accounting lags behind the queue
# Ends that are no fault of the run. COMPLETED: the job left the run to another, whose owner has died since.
LOST = ("NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "REVOKED", "COMPLETED")


def watch(specs: list[RunSpec], screen: Screen) -> dict[str, str]:
    """Follow runs until each is over; returns why a run never began (run id -> cause), where one did not."""
    over, causes = set[str](), dict[str, str]()
    missing, fruitless, attempts = Counter[str](), Counter[str](), Counter[str]()
    looks: list[RunState] = []
    with screen.board() as show:
        while True:
            note = ""
            try:
                looks = run_states([spec.paths for spec in specs], any(spec.config.rerun for spec in specs))
                left = []
                for spec, view in zip(specs, looks, strict=True):
                    gone = view.state in OVER and view.state != "done" and spec.run_id not in over
                    missing[spec.run_id] = missing[spec.run_id] + 1 if gone else 0
                    if missing[spec.run_id] >= GONE_LOOKS:
                        left.append((spec, view))
                ends = ended_jobs([view.submission.job for _, view in left if view.submission])
                again = []
                for spec, view in left:
                    end = ends.get(view.submission.job if view.submission else "")
                    if end and end.state in NOT_OVER and missing[spec.run_id] < PATIENT_LOOKS:
                        continue
                    run_id, tries = spec.run_id, len(view.record.attempts) if view.record else 0
                    fruitless[run_id] = fruitless[run_id] + 1 if attempts[run_id] == tries else 1
                    attempts[run_id] = tries
                    cause = _cause(view, end)
                    if cause is None and not _wants_another(spec, view, end):
                        cause = ""
                    if cause is None and fruitless[run_id] > FRUITLESS_JOBS:
                        cause = f"{FRUITLESS_JOBS} jobs in a row came to nothing. {_tail(view)}"
                    if cause is None:
                        again.append(spec)
                        missing[run_id] = 0
                    else:
                        over.add(run_id)
                        causes |= {run_id: cause} if cause else {}
                if again:
                    submit_arrays(again)
            except Unreachable as e:
                note = f"SLURM does not answer ({e}); the jobs go on."
            show([view.standing(spec.label) for spec, view in zip(specs, looks, strict=False)], note)
            if len(looks) == len(specs) and all(
                v.state == "done" or s.run_id in over for s, v in zip(specs, looks, strict=True)
            ):
                return causes
            time.sleep(LOOK_SECONDS)


def _wants_another(spec: RunSpec, view: RunState, end: Ended | None) -> bool:
    """Whether a run that nobody has any more needs a new job; its job's end is put into its record."""
    job = view.submission.job if view.submission else ""
    if view.state == "failed":
        return False  # its job knew, and has tried again as often as it may
    if end is None or end.state in (*LOST, *NOT_OVER, "CANCELLED"):
        close_record(spec.paths, "interrupted", None, lambda owner: owner.job == job)
        return end is None or end.state != "CANCELLED"
    if view.state == "interrupted":
        return True  # it was asked to end, and could not be put back into the queue
    outcome, error = death(end.exit_code, end.state == "OUT_OF_MEMORY")
    error = RunError(error.kind, f"{error.message} SLURM says of job {job}: {end.state}.", error.hint, "")
    record = close_record(spec.paths, outcome, error, lambda owner: owner.job == job)
    return record is not None and may_try_again(record, spec)


def _cause(view: RunState, end: Ended | None) -> str | None:
    """Why a run's job came to nothing before it wrote a record, if that is known, and what to do about it."""
    if view.record or end is None or end.state in LOST:
        return None
    job = view.submission.job if view.submission else ""
    if end.state == "CANCELLED":
        return f"Job {job} was cancelled before the run began."
    if view.log is None:
        runs = view.paths.folder.parent.absolute()
        return (
            f"Job {job} failed and could not even write its log: the node does not see {runs}. "
            "Put paths.runs, paths.cache and the Python environment on a file system that the nodes share."
        )
    text = view.log.read_text(errors="replace")
    if end.state == "OUT_OF_MEMORY" or any(sign in text for sign in OUT_OF_MEMORY):
        return f"Job {job} took more memory than it asked for: raise hydra.launcher.mem_gb. {_tail(view)}"
    if "execve" in text:
        return f"The node has no such Python: set hydra.launcher.python or hydra.launcher.setup. {_tail(view)}"
    return f"Job {job} ended ({end.state}, exit {end.exit_code}) before the run began. {_tail(view)}"


def _tail(view: RunState) -> str:
    """The end of a log, for a cause that nothing else tells."""
    if view.log is None:
        return ""
    lines = [line for line in view.log.read_text(errors="replace").splitlines() if line.strip()][-3:]
    return f"The end of {from_here(view.log)}: {' / '.join(lines)}"
