"""What can be seen of a run from outside: its record, its claim, its job, put into one word and one line of a table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from har_sweep.files import from_here
from har_sweep.launch.board import Standing
from har_sweep.launch.journal import Submission, submission
from har_sweep.launch.slurm.queue import Queued, queued_jobs
from har_sweep.record.claim import Owner, living_owner
from har_sweep.record.folder import RunPaths, find_record
from har_sweep.record.record import Record
from har_sweep.units import duration

OVER = ("done", "failed", "interrupted", "new", "lost")  # states in which nobody works on the run


@dataclass(frozen=True)
class RunState:
    """A run as it stands.

    ``state`` is ``new`` (nothing is known of it), ``queued``, ``starting``, ``running``, ``ending``, ``done``,
    ``failed``, ``interrupted``, or ``lost``: it was begun or submitted, and nobody has it any more.
    """

    paths: RunPaths
    state: str
    record: Record | None
    owner: Owner | None
    submission: Submission | None
    queued: Queued | None

    def standing(self, label: str) -> Standing:
        """For a table, under the sweep's name for the run."""
        progress, record = (self.owner.progress if self.owner else None) or {}, self.record
        epochs = record.config["trainer"]["epochs"] if record else None
        epoch = progress.get("epoch") or (len(record.epochs) if record else None)
        accuracy = record.epochs[-1].val_accuracy if record and record.epochs else None
        if record and self.state == "done" and "val" in record.metrics:
            accuracy = record.metrics["val"].accuracy  # the selected epoch's, as in the sweep's own table
        left = progress.get("seconds_left")
        why = str(progress["phase"]) if "phase" in progress else ""
        if self.state == "queued" and self.queued:
            why = self.queued.reason
        last = record.attempts[-1] if record and record.attempts else None
        host = self.owner.host if self.owner else last.host if last else "-"
        return Standing(
            label=label,
            log=from_here(self.log) if self.log else self.paths.folder.name,
            word=self.state,
            state=f"{self.state} ({why})" if why else self.state,
            epoch=f"{epoch}/{epochs}" if epoch else "-",
            accuracy=f"{100 * accuracy:.2f}" if accuracy is not None else "-",
            left=duration(float(left)) if left is not None else "-",
            node=host if self.state in ("running", "done", "failed", "interrupted") else "-",
            job=self.job or "-",
        )

    @property
    def job(self) -> str:
        """The batch job that was last submitted for it; empty if there was none."""
        return self.submission.job if self.submission else ""

    @property
    def log(self) -> Path | None:
        """Where to read on: the run's own log, or its job's where it never began."""
        job_log = Path(self.submission.log) if self.submission and self.record is None else self.paths.log
        return job_log if os.access(job_log, os.R_OK) else None  # a job's log is for its user alone


def run_states(all_paths: list[RunPaths], rerun: bool = False, ask_slurm: bool = True) -> list[RunState]:
    """Look at each run once, and at the queue once if any has a job there; with ``rerun``, past what is done.

    Raises
    ------
    Unreachable
        if there are jobs and the controller does not answer.
    """
    submissions = [submission(paths) for paths in all_paths]
    queued = queued_jobs([s.job for s in submissions if s]) if ask_slurm else {}
    return [
        _run_state(paths, s, queued.get(s.job) if s else None, rerun)
        for paths, s in zip(all_paths, submissions, strict=True)
    ]


def _run_state(paths: RunPaths, submitted: Submission | None, queued: Queued | None, rerun: bool) -> RunState:
    record = find_record(paths)
    if record and record.status == "done" and not rerun:
        return RunState(paths, "done", record, None, submitted, queued)  # an owner would only be leaving
    owner = living_owner(paths.folder)
    if queued and queued.state == "PENDING" and (owner is None or (submitted and owner.job == submitted.job)):
        state = "queued"  # whatever an owner that SLURM has given up says
    elif owner:
        state = "running"
    elif queued:
        state = "starting" if queued.state in ("RUNNING", "CONFIGURING") else "ending"
    elif record is None:
        state = "lost" if submitted else "new"
    else:
        state = "lost" if record.status == "running" else record.status
    return RunState(paths, state, record, owner, submitted, queued)
