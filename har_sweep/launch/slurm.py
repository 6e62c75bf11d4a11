"""SLURM, by its own commands and submitit: what to ask for, submitting it, and what has become of it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_sweep import record as records
from har_sweep.errors import InputError
from har_sweep.launch.node import Job
from har_sweep.launch.notes import Submission, note_submission
from har_sweep.schema import HardwareConfig, nearest
from har_sweep.spec import RunSpec

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


def options(hardware: HardwareConfig) -> dict[str, Any]:
    """What a run asks sbatch for, by sbatch's long names with underscores: its resource shape."""
    slurm, tasks = hardware.slurm, hardware.device_count
    gpus = slurm.gpus if slurm.gpus is not None else tasks if hardware.device == "cuda" else 0
    asked: dict[str, Any] = {
        "job_name": "har_sweep",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "nodes": 1,
        "ntasks_per_node": tasks,
        "cpus_per_task": slurm.cpus // tasks,
        "mem": f"{round(1024 * slurm.memory_gib)}M",
        "gpus_per_node": None if not gpus else f"{slurm.gpu_type}:{gpus}" if slurm.gpu_type else gpus,
        "time": slurm.time_minutes,
        "requeue": True,
    }
    asked |= {name.replace("-", "_"): value for name, value in slurm.extra.items()}
    return {name: value for name, value in asked.items() if value is not None and value is not False}


def flags(asked: dict[str, Any]) -> list[str]:
    """``options`` as they stand on a command line."""
    names = {name: "--" + name.replace("_", "-") for name in asked}
    return [names[name] if value is True else f"{names[name]}={value}" for name, value in asked.items()]


def shapes(specs: list[RunSpec]) -> list[tuple[dict[str, Any], list[RunSpec]]]:
    """The runs by what they ask for; each group is one job array."""
    groups: dict[str, tuple[dict[str, Any], list[RunSpec]]] = {}
    for spec in specs:
        slurm = spec.config.hardware.slurm
        asked = options(spec.config.hardware)
        key = str((asked, slurm.setup, slurm.python, slurm.signal_seconds, slurm.array_parallelism))
        groups.setdefault(key, (asked, []))[1].append(spec)
    return list(groups.values())


def check(hardware: list[HardwareConfig]) -> None:
    """Ask the controller whether it could ever run what is asked for.

    Raises
    ------
    InputError
        with the controller's words and what there is instead; nothing was submitted.
    """
    if not hardware:
        return
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise InputError(
            "There is no sbatch on this machine.",
            "Give this command where jobs are submitted (the cluster's login node), or run here with hardware=auto.",
        )
    for asked in {str(asked): asked for asked in map(options, hardware)}.values():
        test = _run("sbatch", "--test-only", *flags(asked), "--wrap=true")
        if test.returncode:
            words = re.sub(r"^(sbatch|allocation failure|error|Batch job submission failed): ", "", _said(test))
            given = " ".join(flag for flag in flags(asked) if not flag.startswith("--job-name"))
            raise InputError(f"SLURM would not take the runs: {words} (asked for: {given}).", _remedy(words, asked))


def _remedy(words: str, asked: dict[str, Any]) -> str:
    """What to do about a refusal."""
    listed = _run("sinfo", "--noheader", "--format=%R|%l|%c|%m|%G|%D")
    partitions = [line.split("|") for line in listed.stdout.splitlines()]
    known = ", ".join(
        f"{name} ({nodes} nodes of {cpus} CPUs, {memory} MB, {gres}, at most {limit})".replace(", (null)", "")
        for name, limit, cpus, memory, gres, nodes in partitions
    )
    if "ontact" in words or not partitions:
        return "Is the SLURM controller up (scontrol ping)? Give the same command again when it answers."
    if "partition" in words:
        near = nearest(str(asked.get("partition")), [name for name, *_ in partitions])
        return f"{near} Set hardware.slurm.partition; there are: {known}.".strip()
    for word in ("account", "qos", "license", "time limit"):
        if word in words.lower():
            return (
                f"Set hardware.slurm.{word.replace(' limit', '_minutes')}; sacctmgr and your site's pages know which."
            )
    return f"Ask for less, or for another partition (hardware.slurm.*); there are: {known}."


def submit(specs: list[RunSpec]) -> dict[str, str]:
    """Submit each resource shape as one job array and note every run's job; returns run id -> job.

    Jobs run the code as it is now, from a copy, whatever is edited while they wait.

    Raises
    ------
    InputError
        if sbatch refuses.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    runs = Path(specs[0].config.paths.runs).absolute()
    code, largest = snapshot(runs), _largest_array()
    jobs: dict[str, str] = {}
    for asked, group in shapes(specs):
        slurm = group[0].config.hardware.slurm
        python = slurm.python or shlex.quote(sys.executable)
        executor = SlurmExecutor(runs / ".slurm", max_num_timeout=10**6, python=python)
        executor.update_parameters(
            setup=[*slurm.setup, *_environment(code, runs)],
            # A step that died without a word cannot close its record; the script around it can.
            teardown=["code=$?", f"[ $code = 0 ] || {python} -m har_sweep.launch.node $code", "exit $code"],
            signal_delay_s=slurm.signal_seconds,
            array_parallelism=slurm.array_parallelism,
            stderr_to_stdout=True,
            wckey=None,
            # srun does not take over the batch job's CPUs; ranks end with rank 0, which has the end to write down.
            srun_args=[f"--cpus-per-task={asked['cpus_per_task']}"],
            time=slurm.time_minutes,
            additional_parameters=asked,
        )
        for start in range(0, len(group), largest):
            part = group[start : start + largest]
            try:
                with executor.batch():
                    submitted = [executor.submit(Job(spec)) for spec in part]
            except (FailedJobError, FailedSubmissionError) as e:
                words = (str(e).strip().splitlines() or ["no reason given"])[-1]
                raise InputError(f"sbatch refused the runs: {words}", _remedy(words, asked)) from e
            for spec, job in zip(part, submitted, strict=True):
                jobs[spec.run_id] = job.job_id
                log = str(job.paths.stdout)
                note_submission(spec.paths, Submission(job.job_id, spec.sweep, records.now(), log))
    return jobs


def _environment(code: Path, runs: Path) -> list[str]:
    return [
        "export PYTHONSAFEPATH=1",  # or the folder of submission, a checkout maybe, would come before the copy
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export HF_HUB_OFFLINE=1",  # weights were fetched while planning
        f"export HAR_SWEEP_JOBS={shlex.quote(str(runs / '.slurm'))}",
    ]


def snapshot(runs: Path) -> Path:
    """A copy of this package beside the runs, named by its content; returns the folder to import it from."""
    package = Path(__file__).parent.parent
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    folder = runs / ".code" / digest.hexdigest()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
        shutil.copytree(package, temporary / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:  # somebody else made the same copy at this moment
            shutil.rmtree(temporary)
    return folder


def queue(jobs: list[str]) -> dict[str, Queued]:
    """Those of the jobs that SLURM still has in its queue.

    Raises
    ------
    Unreachable
        if the controller does not answer.
    """
    if not jobs:
        return {}
    ids = ",".join(sorted({job.split("_")[0] for job in jobs}))
    listed = _run("squeue", "--noheader", "--array", "--format=%i|%T|%N|%r", f"--jobs={ids}")
    if listed.returncode and "Invalid job id" not in listed.stderr:
        raise Unreachable(_said(listed))
    found = {}
    for line in listed.stdout.splitlines():
        job, state, node, reason = line.split("|")
        found[job] = Queued(state, node, "" if reason == "None" else reason)
    return {job: found[job] for job in jobs if job in found}


def ended(jobs: list[str]) -> dict[str, Ended]:
    """How jobs that left the queue came to their end, as far as SLURM can tell: by its accounting, else its memory."""
    if not jobs:
        return {}
    listed = _run(
        "sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,ExitCode", "-j", ",".join(jobs)
    )
    found = {job: (state, code) for job, state, code in (line.split("|") for line in listed.stdout.splitlines())}
    for job in set(jobs) - set(found):
        shown = _run("scontrol", "--oneliner", "show", "job", job).stdout
        state, code = re.search(r"\bJobState=(\S+)", shown), re.search(r"\bExitCode=(\S+)", shown)
        if state and code:
            found[job] = state[1], code[1]
    return {job: Ended(state.split()[0], _exit_code(code)) for job, (state, code) in found.items()}


def _exit_code(pair: str) -> int:
    """SLURM's ``code:signal``; what a shell adds 128 for is a signal too."""
    code, number = (int(part) for part in pair.split(":"))
    return -number if number else 128 - code if 128 < code < 160 else code


def cancel(jobs: list[str]) -> None:
    """Take jobs out of the queue and end those that run.

    Raises
    ------
    Unreachable
        if SLURM did not do it.
    """
    cancelled = _run("scancel", *jobs)
    if cancelled.returncode:
        raise Unreachable(_said(cancelled))


def _largest_array() -> int:
    limit = re.search(r"MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config").stdout)
    return int(limit[1]) - 1 if limit else 1000


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} did not answer in {COMMAND_SECONDS} s")
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"there is no {command[0]} on this machine")


def _said(process: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (process.stderr or process.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"{process.args[0]} ended with status {process.returncode}"
