"""Following runs on a cluster to their end: a live table, and a new job for what SLURM lost."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from har_sweep.files import from_here
from har_sweep.launch.job import close_record, death, may_try_again
from har_sweep.launch.slurm.node import OUT_OF_MEMORY
from har_sweep.launch.slurm.queue import Ended, Unreachable, ended_jobs
from har_sweep.launch.slurm.submit import submit_arrays
from har_sweep.launch.state import OVER, RunState, run_states
from har_sweep.launch.terminal import Screen
from har_sweep.record.record import RunError
from har_sweep.spec.run_spec import RunSpec

POLL_SECONDS = 3.0
GONE_POLLS = 3  # so often in a row a job must be missing: SLURM shows a requeued one as over for a moment
PATIENT_POLLS = 20  # for an accounting that does not know yet
FRUITLESS_JOBS = 3  # in a row, before a run is left
NOT_OVER = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")  # the accounting lags behind the queue
# Ends that are no fault of the run. COMPLETED: the job left the run to another, whose owner has died since.
LOST = ("NODE_FAIL", "PREEMPTED", "TIMEOUT", "BOOT_FAIL", "REVOKED", "COMPLETED")


@dataclass
class Followed:
    """A run that is followed: its state, polls in a row that found it with nobody, and jobs in a row that came to
    nothing. It is left once it is ``over``; ``cause`` is why it never began, where it did not."""

    spec: RunSpec
    state: RunState | None = None
    polls_gone: int = 0
    fruitless_jobs: int = 0
    attempts: int = 0
    over: bool = False
    cause: str = ""

    def see(self, state: RunState) -> None:
        """Take note of how it stands."""
        self.state = state
        gone = state.state in OVER and state.state != "done" and not self.over
        self.polls_gone = self.polls_gone + 1 if gone else 0
        self.over |= state.state == "done"

    def needs_job(self, state: RunState, end: Ended | None) -> bool:
        """Whether it needs another job, its last one having come to this end; if not, it is over."""
        if end and end.state in NOT_OVER and self.polls_gone < PATIENT_POLLS:
            return False
        attempts = len(state.record.attempts) if state.record else 0
        self.fruitless_jobs = self.fruitless_jobs + 1 if self.attempts == attempts else 1
        self.attempts = attempts
        self.cause = _cause(state, end)
        if self.cause:  # before it had a record to count its failures in
            cancelled = end is not None and end.state == "CANCELLED"
            self.over = cancelled or self.fruitless_jobs > self.spec.config.launch.retries
        else:
            self.over = not _wants_another(self.spec, state, end)
        if not self.over and self.fruitless_jobs > FRUITLESS_JOBS:
            self.over, self.cause = True, f"{FRUITLESS_JOBS} jobs in a row came to nothing. {_tail(state)}"
        if not self.over:
            self.polls_gone = 0
        return not self.over


def watch(specs: list[RunSpec], screen: Screen) -> dict[str, str]:
    """Follow runs until each is over; returns why a run never began (run id -> cause), where one did not."""
    runs = [Followed(spec) for spec in specs]
    with screen.board() as show:
        while True:
            note = ""
            try:
                poll(runs)
            except Unreachable as e:
                note = f"SLURM does not answer ({e}); the jobs go on."
            show([run.state.standing(run.spec.label) for run in runs if run.state], note)
            if all(run.over for run in runs):
                return {run.spec.run_id: run.cause for run in runs if run.cause}
            time.sleep(POLL_SECONDS)


def poll(runs: list[Followed]) -> None:
    """See how all stand, and give those a new job that have lost theirs.

    Raises
    ------
    Unreachable
        if the controller does not answer.
    """
    states = run_states([run.spec.paths for run in runs], any(run.spec.config.rerun for run in runs))
    for run, state in zip(runs, states, strict=True):
        run.see(state)
    gone = [(run, state) for run, state in zip(runs, states, strict=True) if run.polls_gone >= GONE_POLLS]
    ends = ended_jobs([state.job for _, state in gone if state.job])
    again = [run.spec for run, state in gone if run.needs_job(state, ends.get(state.job))]
    if again:
        submit_arrays(again)


def _wants_another(spec: RunSpec, state: RunState, end: Ended | None) -> bool:
    """Whether a run that nobody has any more needs a new job; its job's end is put into its record."""
    job = state.job
    if state.state == "failed":
        return False  # its job knew, and has tried again as often as it may
    if end is None or end.state in (*LOST, *NOT_OVER, "CANCELLED"):
        close_record(spec.paths, "interrupted", None, lambda owner: owner.job == job)
        return end is None or end.state != "CANCELLED"
    if state.state == "interrupted":
        return True  # it was asked to end, and could not be put back into the queue
    outcome, error = death(end.exit_code, end.state == "OUT_OF_MEMORY")
    error = RunError(error.kind, f"{error.message} SLURM says of job {job}: {end.state}.", error.hint, "")
    record = close_record(spec.paths, outcome, error, lambda owner: owner.job == job)
    return record is not None and may_try_again(record, spec)


def _cause(state: RunState, end: Ended | None) -> str:
    """Why a run's job came to nothing before it wrote a record, and what to do about it; empty where nothing tells."""
    if state.record or end is None:
        return ""
    job = state.job
    if end.state == "TIMEOUT":
        return (
            f"Job {job} came to the end of its time limit before the run began: the node is slow to load Python and "
            f"its packages, or the limit is too low. Raise hydra.launcher.timeout_min. {_tail(state)}"
        )
    if end.state in LOST:
        return ""
    if end.state == "CANCELLED":
        return f"Job {job} was cancelled before the run began."
    if state.log is None and state.submission:
        log = Path(state.submission.log)
        if not os.access(log.parent, os.X_OK):
            return f"Job {job} ended ({end.state}) before the run began; who submitted it can read why, in {log}."
        return (
            f"Job {job} failed and could not even write its log: the node does not see {log.parent}. "
            "Put paths.runs, paths.cache and the Python environment on a file system that the nodes share."
        )
    text = state.log.read_text(errors="replace") if state.log else ""
    if end.state == "OUT_OF_MEMORY" or any(sign in text for sign in OUT_OF_MEMORY):
        return f"Job {job} took more memory than it asked for: raise hydra.launcher.mem_gb. {_tail(state)}"
    if "execve" in text:
        return f"The node has no such Python: set hydra.launcher.python or hydra.launcher.setup. {_tail(state)}"
    return f"Job {job} ended ({end.state}, exit {end.exit_code}) before the run began. {_tail(state)}"


def _tail(state: RunState) -> str:
    """The end of a log, for a cause that nothing else tells."""
    if state.log is None:
        return ""
    lines = [line for line in state.log.read_text(errors="replace").splitlines() if line.strip()][-3:]
    return f"The end of {from_here(state.log)}: {' / '.join(lines)}"
