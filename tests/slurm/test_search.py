"""A search on a real SLURM: each batch is a job array, and what it came to proposes the next."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import runs

from slurm.cluster import Cluster
from slurm.test_sweeps import ASKED, TRAINING, sweep

pytestmark = pytest.mark.timeout(600)
SEARCH = [
    "-m", "hydra/sweeper=optuna", *TRAINING, *ASKED, "trainer.epochs=1", "hydra.sweeper.n_trials=3",
    "hydra.sweeper.n_jobs=2", "optimizer.lr=tag(log,interval(1e-4,1e-2))",
]  # fmt: skip


def test_a_search_s_trials_are_jobs_and_given_again_it_submits_none(cluster: Cluster, tmp_path: Path) -> None:
    done = sweep(cluster, tmp_path, *SEARCH)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Submitted 2 runs as job" in done.stdout
    assert "Submitted 1 run as job" in done.stdout
    found = runs(tmp_path)
    assert len(found) == 3
    assert all(record.status == "done" and record.environment.slurm_job_id for record in found.values())
    again = sweep(cluster, tmp_path, *SEARCH)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Submitted" not in again.stdout
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert again.stdout.splitlines()[-1].startswith("Best of 3 trials: ")
