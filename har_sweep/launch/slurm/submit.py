"""SLURM, by its own commands and submitit: what to ask for, submitting it, and what has become of it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from har_sweep.errors import InputError
from har_sweep.files import PACKAGE
from har_sweep.launch.journal import Submission, note_submission
from har_sweep.launch.private import owner, private_folder
from har_sweep.launch.slurm.node import Job
from har_sweep.launch.slurm.options import remedy, resource_shapes
from har_sweep.launch.slurm.queue import run_command
from har_sweep.record.record import utc_now
from har_sweep.spec.run_spec import RunSpec


def submit_arrays(specs: list[RunSpec]) -> dict[str, str]:
    """Submit each resource shape as one job array and note every run's job; returns run id -> job.

    Jobs run the code as it is now, from a copy, whatever is edited while they wait. It lies with what submitit pickles
    and the job's script, which may hold secrets, in a folder that is this user's alone.

    Raises
    ------
    InputError
        if sbatch refuses, or there is no place that others could not write to.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder = private_folder(Path(specs[0].config.paths.runs))
    code, largest = snapshot(folder), _largest_array()
    jobs: dict[str, str] = {}
    for asked, group in resource_shapes(specs):
        slurm = group[0].slurm
        assert slurm is not None
        python = slurm.python or shlex.quote(sys.executable)
        executor = SlurmExecutor(folder, max_num_timeout=10**6, python=python)
        executor.update_parameters(
            setup=[*slurm.setup, *_environment(code, folder)],
            # A step that died without a word cannot close its record; the script around it can.
            teardown=["code=$?", f"[ $code = 0 ] || {python} -m har_sweep.launch.slurm.node $code", "exit $code"],
            signal_delay_s=slurm.signal_delay_s,
            array_parallelism=slurm.array_parallelism,
            stderr_to_stdout=True,
            wckey=None,
            # srun does not take over the batch job's CPUs; ranks end with rank 0, which has the end to write down.
            srun_args=[f"--cpus-per-task={asked['cpus_per_task']}"],
            time=slurm.timeout_min,
            additional_parameters=asked,
        )
        for start in range(0, len(group), largest):
            part = group[start : start + largest]
            try:
                with executor.batch():
                    submitted = [executor.submit(Job(spec)) for spec in part]
            except (FailedJobError, FailedSubmissionError) as e:
                words = (str(e).strip().splitlines() or ["no reason given"])[-1]
                raise InputError(f"sbatch refused the runs: {words}", remedy(words, asked)) from e
            for spec, job in zip(part, submitted, strict=True):
                for file in (job.paths.submission_file, job.paths.submitted_pickle):
                    file.chmod(0o600)
                jobs[spec.run_id] = job.job_id
                log = str(job.paths.stdout)
                note_submission(spec.paths, Submission(job.job_id, spec.sweep, utc_now(), log))
    return jobs


def _environment(code: Path, folder: Path) -> list[str]:
    at = shlex.quote(str(folder))
    refusal = shlex.quote(f"{folder} is open to others: nothing of it is run.")
    return [
        # What is imported and unpickled next must still be what was put there, by us.
        f'[ "$(stat -c "%u %a" {at})" = "$(id -u) 700" ] || {{ echo {refusal} >&2; exit 1; }}',
        "export PYTHONSAFEPATH=1",  # or the folder of submission, a checkout maybe, would come before the copy
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export HF_HUB_OFFLINE=1",  # weights were fetched while planning
        f"export HAR_SWEEP_JOBS={at}",
    ]


def snapshot(folder: Path) -> Path:
    """A copy of this package in ``folder``, named by its content; returns the folder to import it from.

    Raises
    ------
    InputError
        if there is one that holds anything else.
    """
    digest = _digest(PACKAGE.parent, PACKAGE)
    code = folder / "code" / digest
    if not code.exists():
        code.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=code.parent, prefix="."))
        shutil.copytree(PACKAGE, temporary / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            temporary.rename(code)
        except OSError:  # another command made the same copy at this moment
            shutil.rmtree(temporary)
    foreign = [path for path in (code.parent, code, *code.rglob("*")) if path.lstat().st_uid != os.geteuid()]
    if foreign or _digest(code, code) != digest:
        what = f"{foreign[0]} in it is {owner(foreign[0])}'s" if foreign else "it was changed since it was made"
        raise InputError(
            f"{code} is not run: {what}.",
            f"Remove it once no job of yours runs from it: rm -r {shlex.quote(str(code))}",
        )
    return code


def _digest(top: Path, folder: Path) -> str:
    """Of every file in a folder, and its path from ``top``, but for what Python compiles on importing them."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.rglob("*")):
        if not file.is_dir() and file.parent.name != "__pycache__":
            for part in (str(file.relative_to(top)).encode(), file.read_bytes()):
                digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def _largest_array() -> int:
    limit = re.search(r"MaxArraySize\s*=\s*(\d+)", run_command("scontrol", "show", "config").stdout)
    return int(limit[1]) - 1 if limit else 1000
