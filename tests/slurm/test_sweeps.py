"""Sweeps on a real SLURM, cut off in every way there is: no run is lost, none is computed twice, and the bits are the
same as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pwd import getpwnam
from typing import Any

import psutil
import pytest
from people import GROUP, User, shared_folder
from small import ALONE, command, har_sweep, learned, runs

from har_sweep.record.folder import read_record
from har_sweep.record.record import Record
from slurm.cluster import Cluster

ROOT = Path(__file__).parents[2]
EPOCHS = 16
pytestmark = pytest.mark.timeout(600)
TRAINING = [*(o for o in ALONE if o != "hardware=cpu"), f"trainer.epochs={EPOCHS}", "hardware.precision=fp32"]
ASKED = [
    "hardware=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=3", "hydra.launcher.timeout_min=5",
    "hydra.launcher.signal_delay_s=30", "launch.heartbeat_seconds=1",
]  # fmt: skip
SWEEP = ["-m", *TRAINING, *ASKED]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """What runs of seeds 0 and 1 learn when nothing happens to them, on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = har_sweep("-m", *TRAINING, "hardware=cpu", "hardware.cpu_threads=1", "seed=0,1", cwd=folder)
    assert done.returncode == 0, done.stdout
    return learned(folder)


def sweep(cluster: Cluster, folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The main command where jobs are submitted, to its end."""
    done = cluster.run(*command(*overrides), cwd=folder, **environment)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


@contextmanager
def sweeping(cluster: Cluster, folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """The main command at work; killed on leaving, if it is not over."""
    process = subprocess.Popen(
        cluster.command(*command(*overrides)), cwd=folder, env=cluster.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    """The output of a sweep that ends with a status."""
    output = process.communicate(timeout=480)[0]
    assert process.returncode == status, output
    assert "Traceback" not in output
    return output


def at_work(folder: Path, process: subprocess.Popen[str], epochs: int = 1) -> Callable[[], Record | None]:
    """A run of the sweep that has done so many epochs and is not over."""

    def found() -> Record | None:
        assert process.poll() is None, process.communicate()[0]
        return next((r for r in runs(folder).values() if r.status == "running" and len(r.epochs) >= epochs), None)

    return found


def outcomes(folder: Path) -> list[list[str | None]]:
    return [[attempt.outcome for attempt in record.attempts] for record in runs(folder).values()]


def only(folder: Path) -> Record:
    (record,) = runs(folder).values()
    return record


def same(folder: Path, undisturbed: dict[str, tuple[Any, ...]], count: int = 1) -> None:
    """All runs are done, and learned what they would have learned undisturbed."""
    assert {record.status for record in runs(folder).values()} == {"done"}
    found = learned(folder)
    assert len(found) == count
    assert found.items() <= undisturbed.items()
    assert not list((folder / "runs").glob("*/checkpoint.pt"))


def trainers(cluster: Cluster, node: str) -> list[psutil.Process]:
    """The Python processes of jobs on a node."""
    return [
        p
        for p in cluster.processes_on(node)
        if "submitit.core._submit" in " ".join(p.cmdline()) and "srun" not in p.name()
    ]


def test_three_models_run_to_the_end_as_here_and_the_same_command_submits_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    models = "model.timm_name=test_resnet,test_vit,test_efficientnet"
    training = [
        *(o for o in TRAINING if not o.startswith(("model.timm_name", "trainer.epochs"))),
        "trainer.epochs=2",
        models,
    ]
    done = sweep(cluster, there, "-m", *training, *ASKED, "hydra.launcher.gpus_per_node=1")
    assert done.returncode == 0, done.stdout
    assert "3 to do" in done.stdout
    assert "Each of 3 asks SLURM for 1 GPU, 1 CPUs, 3072M and 5 minutes" in done.stdout
    assert har_sweep("-m", *training, "hardware=cpu", "hardware.cpu_threads=1", cwd=here).returncode == 0
    same(there, learned(here), 3)
    jobs = {record.attempts[0].job for record in runs(there).values()}
    assert len({job.split("_")[0] for job in jobs}) == 1  # one array
    assert len(jobs) == 3
    assert {record.environment.slurm_job_id for record in runs(there).values()} == jobs
    before = learned(there)
    again = sweep(cluster, there, "-m", *training, *ASKED, "hydra.launcher.gpus_per_node=1")
    assert again.returncode == 0
    assert "3 done already" in again.stdout
    assert "Submitted" not in again.stdout
    assert learned(there) == before


def test_a_preempted_run_goes_on_by_itself(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(cluster, tmp_path, *SWEEP, "+hydra.launcher.additional_parameters.nodelist=node1") as process:
        cluster.wait(at_work(tmp_path, process), 120)
        cluster.ask(
            "sbatch",
            "--partition=high",
            "--nodelist=node1",
            "--exclusive",
            "--mem=0",
            "--wrap=true",
            f"--output={tmp_path}/high",
        )
        ended(process)
    same(tmp_path, undisturbed)
    first, second = only(tmp_path).attempts
    assert first.outcome == "interrupted"
    assert first.error == "Preempted (SIGUSR2)."
    assert second.outcome == "done"
    assert first.job == second.job
    waited = records_seconds(first.ended_at, second.started_at)
    assert waited > 1  # in the queue, which costs nothing
    hours = only(tmp_path).cost.device_hours
    assert hours is not None
    assert 3600 * hours == pytest.approx(
        sum(records_seconds(a.started_at, a.ended_at) for a in (first, second)), abs=0.01
    )


def records_seconds(start: str | None, end: str | None) -> float:
    from datetime import datetime

    assert start
    assert end
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def test_an_administrators_requeue_loses_nothing(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(cluster, tmp_path, *SWEEP) as process:
        record = cluster.wait(at_work(tmp_path, process), 120)
        assert record
        cluster.ask("scontrol", "requeue", record.attempts[-1].job)
        ended(process)
    same(tmp_path, undisturbed)
    assert len(only(tmp_path).attempts) == 2


def test_a_student_s_job_that_is_requeued_learns_what_it_would_have_learned_here(
    cluster: Cluster, tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    taught = sweep(cluster, there, *SWEEP, "trainer.epochs=1", "seed=5")
    assert taught.returncode == 0, taught.stdout
    shutil.copytree(there, here)
    by = ["objective=distill", f"teacher={only(there).run_id}"]
    with sweeping(cluster, there, *SWEEP, *by) as process:
        record = cluster.wait(at_work(there, process), 120)
        assert record
        cluster.ask("scontrol", "requeue", record.attempts[-1].job)
        ended(process)
    student = runs(there)[record.run_id]
    assert len(student.attempts) == 2
    assert student.cost.training.teacher_seconds
    done = har_sweep("-m", *TRAINING, *by, "hardware=cpu", "hardware.cpu_threads=1", cwd=here)
    assert done.returncode == 0, done.stdout
    same(there, learned(here), 2)


# Longer than a job may take, on a processor of any speed, until it was put back into the queue.
PACED = """
import os
import time

def paced(images):
    time.sleep(2 if os.environ.get("SLURM_RESTART_COUNT", "0" if "SLURM_JOB_ID" in os.environ else "-") == "0" else 0)
    return images
"""

# The end of the time limit, in the middle of loading what a run needs.
WARNED_AT_LOADING = """
import os
import signal
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "har_sweep.run.execute":
            os.kill(os.getpid(), signal.SIGUSR2)

sys.meta_path.insert(0, Finder())
"""


def test_a_run_longer_than_its_time_limit_goes_on_in_another_job(cluster: Cluster, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for folder in (tmp_path, here):
        (folder / "paced.py").write_text(PACED)
    # The first job has 70 seconds, of which 60 for a slow node to load Python, and its 40 steps wait for 80.
    longer = ["trainer.epochs=10", "augmentation._target_=paced.paced"]
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=50"]
    done = sweep(cluster, tmp_path, *SWEEP, *longer, *limits)
    assert done.returncode == 0, done.stdout
    attempts = only(tmp_path).attempts
    assert len(attempts) >= 2
    assert {attempt.outcome for attempt in attempts[:-1]} == {"interrupted"}
    assert all("time limit" in (attempt.error or "") for attempt in attempts[:-1])
    done = har_sweep(*TRAINING, "hardware=cpu", "hardware.cpu_threads=1", *longer, cwd=here)
    assert done.returncode == 0, done.stdout
    same(tmp_path, learned(here))


@pytest.mark.parametrize("retries", [0, 1])
def test_a_job_that_is_killed_before_its_run_began_counts_as_a_try(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]], retries: int
) -> None:
    once = f"test -e {tmp_path}/killed || {{ touch {tmp_path}/killed; kill -9 $$; }}"
    given = [*SWEEP, f"hydra.launcher.setup=['{once}']", f"launch.retries={retries}"]
    done = sweep(cluster, tmp_path, *given)
    if retries:
        assert done.returncode == 0, done.stdout
        same(tmp_path, undisturbed)
    else:
        assert done.returncode == 2, done.stdout
        assert "before the run began" in done.stdout
        assert sweep(cluster, tmp_path, *given).returncode == 0


def test_a_job_that_is_slower_to_start_than_its_time_limit_names_that_cause(cluster: Cluster, tmp_path: Path) -> None:
    slow = [*SWEEP, "hydra.launcher.setup=[sleep infinity]"]
    with sweeping(cluster, tmp_path, *slow) as process:
        cluster.wait(lambda: [entry for entry in cluster.queue() if entry.state == "RUNNING"], 60)
        (job,) = {entry.job for entry in cluster.queue()}
        cluster.ask("scontrol", "update", f"jobid={job}", "endtime=now")  # or it would be a minute at least
        output = " ".join(ended(process, 2).split())
    assert "came to the end of its time limit before the run began" in output
    assert "Raise hydra.launcher.timeout_min" in output
    assert not runs(tmp_path)


def test_a_job_whose_time_is_up_while_it_loads_names_that_cause(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WARNED_AT_LOADING)
    warned = [
        f"hydra.launcher.setup=['export PYTHONPATH={tmp_path}']",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=40",
    ]
    done = sweep(cluster, tmp_path, *SWEEP, *warned)
    output = " ".join(done.stdout.split())
    assert done.returncode == 2, output
    assert "Within its time limit, 1 min, the job did not come to anything" in output
    assert "Give it more with hydra.launcher.timeout_min" in output


def test_two_people_share_runs_each_by_jobs_of_their_own(
    cluster: Cluster, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with shared_folder() as shared:
        ada, bob = (User(getpwnam(name).pw_uid, GROUP, shared) for name in ("games", "backup"))  # SLURM wants names
        given = [*SWEEP[1:], f"hydra.launcher.python={python_for_others(shared.parent)}"]
        there: Any = {"inside": tuple(cluster.command()), **cluster.environment}
        process = ada.start(*given, **there)
        cluster.wait(at_work(shared, process), 120)
        (victim,) = trainers(cluster, "node2")
        victim.kill()
        output = ended(process, 1)
        assert "SIGKILL" in output
        status, output = bob.run(*given, "seed=0,1", **there)
        assert status == 0, output
        assert "1 failed before, to go on, 1 to do" in output
        same(shared, undisturbed, 2)
        assert sorted(outcomes(shared)) == [["done"], ["killed", "done"]]
        assert {path.stat().st_uid for path in (shared / "runs").glob("*/record.json")} == {bob.number}
        status, output = ada.run(*given, "seed=0,1", **there)
        assert status == 0, output
        assert "2 done already" in output


def python_for_others(folder: Path) -> str:
    """A Python with this one's packages that jobs of every user may run: this one may lie in a home of root's."""
    home, python = folder / "python", folder / "python.sh"
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, home / "lib" / library.name, ignore=shutil.ignore_patterns("site-packages", "test"))
    (home / "bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), home / "bin")
    for shared in library.parent.glob("libpython*.so*"):
        shutil.copy(shared, home / "lib")
    packages = f"export PYTHONHOME={home} LD_LIBRARY_PATH={home}/lib PYTHONPATH=$PYTHONPATH:"
    packages += sysconfig.get_path("purelib")
    python.write_text(f'#!/bin/sh\n{packages}\nexec {home}/bin/{Path(sys.executable).resolve().name} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_killed_run_is_named_and_goes_on_from_its_checkpoint(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]], retries: int
) -> None:
    given = [*SWEEP, "+hydra.launcher.additional_parameters.nodelist=node1", f"launch.retries={retries}"]
    with sweeping(cluster, tmp_path, *given) as process:
        cluster.wait(at_work(tmp_path, process), 120)
        (victim,) = trainers(cluster, "node1")
        victim.kill()
        output = ended(process, 0 if retries else 1)
    if not retries:
        assert "SIGKILL" in output
        assert only(tmp_path).status == "failed"
        assert sweep(cluster, tmp_path, *given).returncode == 0
    same(tmp_path, undisturbed)
    assert outcomes(tmp_path) == [["killed", "done"]]


def test_a_run_that_takes_more_memory_than_it_asked_for_is_told_so(cluster: Cluster, tmp_path: Path) -> None:
    done = sweep(cluster, tmp_path, *SWEEP, "hydra.launcher.mem_gb=0.5")
    if runs(tmp_path):  # SLURM looks at memory now and then: the run may have begun
        assert done.returncode == 1
        assert "out of memory" in done.stdout
        assert outcomes(tmp_path) == [["out_of_memory"]]
    else:
        assert done.returncode == 2
        assert "took more memory than it asked for" in done.stdout


def test_a_run_on_a_lost_node_goes_on_on_another(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(
        cluster,
        tmp_path,
        *SWEEP,
    ) as process:
        record = cluster.wait(at_work(tmp_path, process), 120)
        assert record
        cluster.kill_node("node2")
        ended(process)
    same(tmp_path, undisturbed)
    first, second = only(tmp_path).attempts
    assert (first.host, second.host) == ("node2", "node1")
    assert first.outcome == "killed"


def test_an_old_copy_behind_a_cut_link_stops_before_it_writes(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(cluster, tmp_path, *SWEEP) as process:
        record = cluster.wait(at_work(tmp_path, process), 120)
        assert record
        (old,) = trainers(cluster, "node2")
        old.suspend()  # so that it is still at work when the new copy is, however fast this machine is
        cluster.cut_link()
        cluster.wait(lambda: len(only(tmp_path).attempts) == 2, 90)
        old.resume()
        cluster.wait(lambda: not old.is_running() or old.status() == psutil.STATUS_ZOMBIE, 60)
        assert only(tmp_path).attempts[-1].host == "node1"
        ended(process)
    same(tmp_path, undisturbed)
    assert [attempt.host for attempt in only(tmp_path).attempts] == ["node2", "node1"]
    logs = "".join(log.read_text() for log in (tmp_path / "runs").glob("*/run.log"))
    assert "was taken over" in logs


def test_a_run_on_two_devices_is_one_task_and_survives_a_requeue(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    two = ["hardware.device_count=2", "hydra.launcher.cpus_per_task=2", "hydra.launcher.mem_gb=6"]
    with sweeping(cluster, tmp_path, *SWEEP, *two) as process:
        record = cluster.wait(at_work(tmp_path, process), 120)
        assert record
        cluster.ask("scancel", "--signal=USR2", record.attempts[0].job)
        ended(process)
    record = only(tmp_path)
    assert outcomes(tmp_path) == [["interrupted", "done"]]
    assert record.hardware.device_count == 2
    ours = [epoch.train_loss for epoch in record.epochs]
    assert any(
        ours == pytest.approx([epoch.train_loss for epoch in alone], abs=1e-3) for _, _, alone in undisturbed.values()
    )


def test_a_run_that_fails_is_tried_as_often_as_asked_and_told(cluster: Cluster, tmp_path: Path) -> None:
    given = [*SWEEP, "optimizer=sgd", "optimizer.lr=1e30,1e-3", "launch.retries=1", "trainer.epochs=2"]
    done = sweep(cluster, tmp_path, *given)
    assert done.returncode == 1, done.stdout
    assert "The loss became" in done.stdout
    assert "Try a smaller optimizer.lr" in done.stdout
    assert sorted(outcomes(tmp_path)) == [["done"], ["failed", "failed"]]
    failed = cluster.run(sys.executable, "-m", "har_sweep.status", "--failed", cwd=tmp_path).stdout
    assert "The loss became" in failed
    assert "run.log" in failed


def test_a_cancelled_sweep_says_so_and_the_same_command_goes_on(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(cluster, tmp_path, *SWEEP, "sweep.name=mine") as process:
        cluster.wait(at_work(tmp_path, process), 120)
        cancelled = cluster.run(sys.executable, "-m", "har_sweep.cancel", "mine", cwd=tmp_path)
        assert cancelled.returncode == 0, cancelled.stdout
        assert "cancelled 1 job of SLURM" in cancelled.stdout
        output = ended(process, 1)
    assert "interrupted" in output
    cluster.wait(lambda: not cluster.queue())
    assert "interrupted" in cluster.run(sys.executable, "-m", "har_sweep.status", "mine", cwd=tmp_path).stdout
    (attempt,) = only(tmp_path).attempts
    assert attempt.error == "Cancelled or requeued (SIGTERM)."
    assert sweep(cluster, tmp_path, *SWEEP).returncode == 0
    same(tmp_path, undisturbed)
    assert outcomes(tmp_path) == [["interrupted", "done"]]


def test_a_controller_that_is_away_stops_nothing(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(cluster, tmp_path, *SWEEP) as process:
        cluster.wait(at_work(tmp_path, process), 120)
        cluster.stop_controller()
        reached = len(only(tmp_path).epochs)
        cluster.wait(lambda: len(only(tmp_path).epochs) > reached)
        cluster.start_controller()
        ended(process)
    same(tmp_path, undisturbed)
    assert outcomes(tmp_path) == [["done"]]


def test_ctrl_c_stops_the_watching_alone_and_the_same_command_attaches(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(cluster, tmp_path, *SWEEP, "seed=0,1") as process:
        cluster.wait(at_work(tmp_path, process), 120)
        os.killpg(process.pid, signal.SIGINT)
        output = ended(process, 130)
    assert "the jobs go on" in output
    assert "har_sweep.status" in output
    assert len(cluster.queue()) == 2
    again = sweep(cluster, tmp_path, *SWEEP, "seed=0,1")
    assert again.returncode == 0, again.stdout
    assert "already" in again.stdout
    assert "Submitted" not in again.stdout
    same(tmp_path, undisturbed, 2)
    assert outcomes(tmp_path) == [["done"], ["done"]]


def test_overlapping_sweeps_share_their_runs(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    with sweeping(cluster, tmp_path, *SWEEP, "seed=0,1") as one, sweeping(cluster, tmp_path, *SWEEP, "seed=1,0") as two:
        outputs = [ended(one), ended(two)]
    assert sum(int(n) for output in outputs for n in re.findall(r"Submitted (\d+) run", output)) == 2
    same(tmp_path, undisturbed, 2)
    assert outcomes(tmp_path) == [["done"], ["done"]]


def test_a_dry_run_shows_all_and_submits_nothing(cluster: Cluster, tmp_path: Path) -> None:
    done = sweep(cluster, tmp_path, *SWEEP, "seed=0,1,2", "launch.dry_run=true", "hardware.price_per_device_hour=2")
    assert done.returncode == 0, done.stdout
    assert "sbatch --job-name=har_sweep --nodes=1" in done.stdout
    assert "--array=0-2%3" in done.stdout
    assert re.search(r"In all .* device .* in money", done.stdout)
    assert not cluster.queue()
    assert not runs(tmp_path)


def test_a_hundred_runs_are_one_array_submitted_without_torch(cluster: Cluster, tmp_path: Path) -> None:
    check = (
        "import sys; from har_sweep.__main__ import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    many = ["seed=range(0,100)", "launch.wait=false", "+hydra.launcher.additional_parameters.hold=true"]
    done = cluster.run(sys.executable, "-c", check, *SWEEP, *many, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Submitted 100 runs" in done.stdout
    queued = cluster.queue()
    assert len(queued) == 100
    assert len({entry.job.split("_")[0] for entry in queued}) == 1
    status = cluster.run(sys.executable, "-m", "har_sweep.status", cwd=tmp_path).stdout
    assert "100 queued" in status
    again = sweep(cluster, tmp_path, *SWEEP, *many)
    assert "100 queued already" in again.stdout
    assert len(cluster.queue()) == 100


def test_jobs_run_the_code_and_config_of_their_submission(cluster: Cluster, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for part in ("har_sweep", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    for argv in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", *argv], cwd=checkout, check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True
    ).stdout.strip()
    given = [*SWEEP, "trainer.epochs=1", "+hydra.launcher.additional_parameters.hold=true", "launch.wait=false"]
    environment = {"PYTHONPATH": str(checkout)}
    assert sweep(cluster, checkout, *given, **environment).returncode == 0
    (checkout / "har_sweep" / "run" / "execute.py").write_text("raise SystemExit('edited')")
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "second"], cwd=checkout, check=True
    )
    (job,) = {entry.job for entry in cluster.queue()}
    cluster.ask("scontrol", "release", job)
    cluster.wait(lambda: runs(checkout) and only(checkout).status != "running", 90)
    record = only(checkout)
    assert record.status == "done", record.error
    assert record.environment.git_commit == commit
    assert record.environment.git_dirty is False


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["hydra.launcher.partition=lo"], "Did you mean 'low'?"),
        (["hydra.launcher.timeout_min=0"], "hydra.launcher.timeout_min=0 is out of range"),
        (["hydra.launcher.gpus_per_node=3"], "gpu:2"),
        (["hydra.launcher.cpus_per_task=64"], "hydra.launcher."),
        (["hardware.device=auto"], "hardware.device=auto cannot be told"),
        (["paths.runs=/proc/runs"], "cannot be written"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_submitted(
    cluster: Cluster, tmp_path: Path, wrong: list[str], said: str
) -> None:
    done = sweep(cluster, tmp_path, *SWEEP, *wrong)
    assert done.returncode == 2, done.stdout
    assert said in done.stdout
    assert not cluster.queue()


def test_no_sbatch_is_said(tmp_path: Path) -> None:
    done = har_sweep(*SWEEP, cwd=tmp_path, PATH=str(Path(sys.executable).parent))
    assert done.returncode == 2
    assert "There is no sbatch on this machine" in done.stdout


def test_a_folder_that_the_node_does_not_see_and_a_python_it_lacks_are_named(cluster: Cluster, tmp_path: Path) -> None:
    lacking = sweep(cluster, tmp_path, *SWEEP, "hydra.launcher.python=/no/such/python")
    assert lacking.returncode == 2, lacking.stdout
    assert "hydra.launcher.python" in lacking.stdout
    cluster.hide("node2", tmp_path)
    hidden = sweep(cluster, tmp_path, *SWEEP, "seed=1", "+hydra.launcher.additional_parameters.nodelist=node2")
    assert hidden.returncode == 2, hidden.stdout
    assert "does not see" in hidden.stdout
    assert not runs(tmp_path)


def test_status_is_told_in_any_shell_while_a_run_is_at_work(cluster: Cluster, tmp_path: Path) -> None:
    with sweeping(cluster, tmp_path, *SWEEP, "sweep.name=mine") as process:
        record = cluster.wait(at_work(tmp_path, process, 2), 120)
        assert record
        shown = cluster.run(sys.executable, "-m", "har_sweep.status", "mine", cwd=tmp_path).stdout
        assert re.search(r"running .* \d+/16 ", shown), shown
        assert record.attempts[0].job in shown
        assert f"runs/{record.run_id}/run.log" in shown
        ended(process)
    unknown = cluster.run(sys.executable, "-m", "har_sweep.status", "mien", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "Did you mean 'mine'?" in unknown.stdout


def test_shared_runs_are_computed_and_hold_no_secret_of_the_environment(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    os.chown(tmp_path / "runs", -1, 54300)
    (tmp_path / "runs").chmod(0o2775)  # as several people share it: what jobs run is in the home folder instead
    home = {"HOME": str(tmp_path), "WANDB_API_KEY": "0123456789" * 4}
    done = sweep(cluster, tmp_path, *SWEEP, "trainer.epochs=1", **home)
    assert done.returncode == 0, done.stdout
    assert list(tmp_path.glob(".har_sweep/*/code/*/har_sweep"))
    assert not (tmp_path / "runs" / ".slurm").exists()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"0123456789" * 4 not in file.read_bytes(), file
    assert json.loads((next((tmp_path / "runs").glob("*/record.json"))).read_text())["status"] == "done"
    assert read_record(next((tmp_path / "runs").glob("*/record.json"))).status == "done"
