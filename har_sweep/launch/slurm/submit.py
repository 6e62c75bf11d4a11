"""SLURM, by its own commands and submitit: what to ask for, submitting it, and what has become of it."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from har_sweep.errors import InputError
from har_sweep.files import PACKAGE
from har_sweep.launch.journal import Submission, note_submission
from har_sweep.launch.slurm.node import Job
from har_sweep.launch.slurm.options import remedy, resource_shapes
from har_sweep.launch.slurm.queue import run_command
from har_sweep.record.record import utc_now
from har_sweep.spec.run_spec import RunSpec


def submit_arrays(specs: list[RunSpec]) -> dict[str, str]:
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
    for asked, group in resource_shapes(specs):
        slurm = group[0].slurm
        assert slurm is not None
        python = slurm.python or shlex.quote(sys.executable)
        executor = SlurmExecutor(runs / ".slurm", max_num_timeout=10**6, python=python)
        executor.update_parameters(
            setup=[*slurm.setup, *_environment(code, runs)],
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
                jobs[spec.run_id] = job.job_id
                log = str(job.paths.stdout)
                note_submission(spec.paths, Submission(job.job_id, spec.sweep, utc_now(), log))
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
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    folder = runs / ".code" / digest.hexdigest()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
        shutil.copytree(PACKAGE, temporary / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:  # somebody else made the same copy at this moment
            shutil.rmtree(temporary)
    return folder


def _largest_array() -> int:
    limit = re.search(r"MaxArraySize\s*=\s*(\d+)", run_command("scontrol", "show", "config").stdout)
    return int(limit[1]) - 1 if limit else 1000
