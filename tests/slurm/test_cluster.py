"""The cluster that the other tests here stand on does what they take for granted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from slurm.cluster import NODES, Cluster, Queued, Start

# Says which start of the job on which node it is, then beats on, whatever is asked of it.
BEAT = 'trap "" TERM; while :; do echo $SLURM_RESTART_COUNT >> beats.$(hostname); sleep 0.2; done'


def submit(cluster: Cluster, folder: Path, script: str, *options: str) -> str:
    """The id of a job that runs a line of shell in ``folder``."""
    fixed = ("--parsable", f"--chdir={folder}", f"--output={folder}/%j.out", "--open-mode=append")
    return cluster.ask("sbatch", *fixed, *options, f"--wrap={script}").strip()


def beats(folder: Path, node: str) -> int:
    file = folder / f"beats.{node}"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_four_jobs_hold_the_four_gpus_of_the_two_nodes_at_once(cluster: Cluster, tmp_path: Path) -> None:
    script = "touch $(hostname).$CUDA_VISIBLE_DEVICES; while ! test -e go; do sleep 0.1; done"
    jobs = [submit(cluster, tmp_path, script, "--gpus-per-node=1") for _ in range(5)]
    held = {"node1.0", "node1.1", "node2.0", "node2.1"}
    cluster.wait(lambda: held <= {path.name for path in tmp_path.iterdir()})
    assert Queued(jobs[4], "PENDING", "") in cluster.queue()
    (tmp_path / "go").touch()
    cluster.wait(lambda: not cluster.queue())


def test_accounting_tells_how_each_job_ended(cluster: Cluster, tmp_path: Path) -> None:
    fine, bad = (
        submit(cluster, tmp_path, "true", "--nodelist=node1"),
        submit(cluster, tmp_path, "exit 3", "--partition=other"),
    )
    cluster.wait(lambda: cluster.accounting(fine) == [Start("COMPLETED", "0:0", "node1")])
    cluster.wait(lambda: cluster.accounting(bad) == [Start("FAILED", "3:0", "node2")])


def test_a_job_of_high_pushes_out_one_of_low_which_is_warned_and_starts_again(cluster: Cluster, tmp_path: Path) -> None:
    warned = "trap 'touch warned; scontrol requeue $SLURM_JOB_ID; wait' USR2"
    script = f"{warned}; touch start.$SLURM_RESTART_COUNT; sleep 300 & wait"
    low = submit(cluster, tmp_path, script, "--nodelist=node1", "--exclusive", "--signal=B:USR2@30")
    cluster.wait((tmp_path / "start.").exists)
    high = submit(cluster, tmp_path, "true", "--nodelist=node1", "--partition=high")
    cluster.wait((tmp_path / "start.1").exists, 60)
    assert (tmp_path / "warned").exists()
    cluster.wait(lambda: [start.state for start in cluster.accounting(high)] == ["COMPLETED"])
    cluster.wait(lambda: [start.node for start in cluster.accounting(low)] == ["node1", "node1"])


def test_a_job_on_a_lost_node_starts_again_on_the_other(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, BEAT)
    cluster.wait(lambda: beats(tmp_path, "node2"))
    processes = cluster.processes_on("node2")
    assert "slurm_script" in [process.name() for process in processes]
    cluster.kill_node("node2")
    assert not any(process.is_running() for process in processes)
    cluster.wait(lambda: beats(tmp_path, "node1"), 90)
    assert cluster.nodes()["node2"] == "down*"
    states = [("NODE_FAIL", "node2"), ("RUNNING", "node1")]
    cluster.wait(lambda: [(start.state, start.node) for start in cluster.accounting(job)] == states)
    cluster.start_node("node2")
    cluster.wait(lambda: cluster.nodes()["node2"] == "idle")


def test_behind_a_cut_link_the_old_copy_of_a_job_lives_on_beside_the_new_one(cluster: Cluster, tmp_path: Path) -> None:
    submit(cluster, tmp_path, BEAT)
    cluster.wait(lambda: beats(tmp_path, "node2"))
    cluster.cut_link()
    cluster.wait(lambda: beats(tmp_path, "node1"), 90)
    old = beats(tmp_path, "node2")
    cluster.wait(lambda: beats(tmp_path, "node2") > old)
    cluster.join_link()
    cluster.wait(lambda: not cluster.processes_on("node2"), 60)
    assert [(entry.state, entry.node) for entry in cluster.queue()] == [("RUNNING", "node1")]


def test_a_job_outlives_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, BEAT)
    cluster.wait(lambda: beats(tmp_path, "node2"))
    cluster.stop_controller()
    before = beats(tmp_path, "node2")
    cluster.wait(lambda: beats(tmp_path, "node2") > before)
    cluster.start_controller()
    assert cluster.queue() == [Queued(job, "RUNNING", "node2")]


def test_a_hidden_folder_is_empty_on_that_node_only_and_until_it_starts_again(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def seen() -> list[str]:
        return [cluster.ask("srun", f"--nodelist={node}", "ls", str(tmp_path)) for node in NODES]

    cluster.hide("node2", tmp_path)
    assert seen() == ["file\n", ""]
    cluster.reset()
    assert seen() == ["file\n", "file\n"]


def test_a_cluster_is_gone_with_the_process_that_started_it() -> None:
    script = "from slurm.cluster import Cluster\nwith Cluster() as cluster: print(cluster.folder, flush=True); input()"
    python = [sys.executable, "-c", script]
    tests = Path(__file__).parents[1]
    with subprocess.Popen(python, cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        folder = Path(owner.stdout.readline().strip())
        processes = psutil.Process(owner.pid).children(recursive=True)
        names = {process.name() for process in processes}
        owner.kill()
    assert {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd"} <= names
    assert not psutil.wait_procs(processes, timeout=30)[1]
    shutil.rmtree(folder)
