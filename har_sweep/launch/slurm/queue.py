"""What SLURM says of its jobs, by its own commands."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

COMMAND_SECONDS = 60  # a controller that is down takes squeue 9 s to notice


class Unreachable(Exception):
    """The controller, or the accounting, does not answer now."""


@dataclass(frozen=True)
class Queued:
    """A job in the queue: ``state`` in SLURM's words (PENDING, RUNNING, COMPLETING...), and why it waits."""

    state: str
    node: str
    reason: str


@dataclass(frozen=True)
class Ended:
    """A job that is over, in the accounting's words: CANCELLED, FAILED, NODE_FAIL, OUT_OF_MEMORY, TIMEOUT..."""

    state: str
    exit_code: int  # negative: by that signal


def queued_jobs(jobs: list[str]) -> dict[str, Queued]:
    """Those of the jobs that SLURM still has in its queue.

    Raises
    ------
    Unreachable
        if the controller does not answer.
    """
    if not jobs:
        return {}
    ids = ",".join(sorted({job.split("_")[0] for job in jobs}))
    listed = run_command("squeue", "--noheader", "--array", "--format=%i|%T|%N|%r", f"--jobs={ids}")
    if listed.returncode and "Invalid job id" not in listed.stderr:
        raise Unreachable(words_of(listed))
    found = {}
    for line in listed.stdout.splitlines():
        job, state, node, reason = line.split("|")
        found[job] = Queued(state, node, "" if reason == "None" else reason)
    return {job: found[job] for job in jobs if job in found}


def ended_jobs(jobs: list[str]) -> dict[str, Ended]:
    """How jobs that left the queue came to their end, as far as SLURM can tell: by its accounting, else its memory."""
    if not jobs:
        return {}
    listed = run_command(
        "sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,ExitCode", "-j", ",".join(jobs)
    )
    found = {job: (state, code) for job, state, code in (line.split("|") for line in listed.stdout.splitlines())}
    for job in set(jobs) - set(found):
        shown = run_command("scontrol", "--oneliner", "show", "job", job).stdout
        state, code = re.search(r"\bJobState=(\S+)", shown), re.search(r"\bExitCode=(\S+)", shown)
        if state and code:
            found[job] = state[1], code[1]
    return {job: Ended(state.split()[0], _exit_code(code)) for job, (state, code) in found.items()}


def _exit_code(pair: str) -> int:
    """Of SLURM's ``code:signal``."""
    code, number = (int(part) for part in pair.split(":"))
    return -number if number else signal_or_status(code)


def signal_or_status(code: int) -> int:
    """An exit status; negative where it is a signal that a shell has added 128 to."""
    return 128 - code if 128 < code < 160 else code


def cancel_jobs(jobs: list[str]) -> None:
    """Take jobs out of the queue and end those that run.

    Raises
    ------
    Unreachable
        if SLURM did not do it.
    """
    cancelled = run_command("scancel", *jobs)
    if cancelled.returncode:
        raise Unreachable(words_of(cancelled))


def run_command(*command: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
    """One of SLURM's commands; what keeps it from answering counts as its failure."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} did not answer in {seconds:g} s")
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"there is no {command[0]} on this machine")
    except OSError as e:
        return subprocess.CompletedProcess(command, 126, "", f"{command[0]} cannot be run now: {e.strerror}")


def words_of(process: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (process.stderr or process.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"{process.args[0]} ended with status {process.returncode}"
