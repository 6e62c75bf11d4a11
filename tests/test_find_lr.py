"""A learning rate for each model: the range test, what it suggests, and the command."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import SMALL, small_spec

from har_sweep.events import tell_nobody
from har_sweep.run.range_test import Curve, range_test


def curve(*losses: float) -> Curve:
    return Curve([10.0 ** (n / 10 - 6) for n in range(len(losses))], list(losses))


def test_a_tenth_of_the_rate_of_the_lowest_loss_is_suggested() -> None:
    falling = [2.0] * 20 + [2 - 0.05 * n for n in range(20)]  # until step 39, at 10 ** -2.1
    rising = [1.05 + 0.4 * n for n in range(8)]
    assert curve(*falling, *rising).suggestion == pytest.approx(10**-3.1, rel=0.5)


def test_where_the_loss_does_not_fall_nothing_is_suggested() -> None:
    assert curve(*[2.0, 2.01, 1.99] * 10).suggestion is None
    for seed in range(20):  # of batches that differ
        noise = np.random.default_rng(seed).normal(2.7, 0.2, 40)
        assert curve(*noise).suggestion is None
    assert curve(*np.linspace(2.0, 1.0, 9), *[5.0] * 20).suggestion is None, "nobody has seen a tenth of that rate"


def test_a_model_is_trained_as_its_run_would_be_at_rates_that_grow_evenly(tmp_path: Path) -> None:
    spec = small_spec(tmp_path, "optimizer.head_lr=0.1", "trainer.ema_decay=0.9")
    found = range_test(spec, 12, 1e-5, 1e-2, tell_nobody)
    assert found == range_test(spec, 12, 1e-5, 1e-2, tell_nobody)
    factors = [later / earlier for earlier, later in itertools.pairwise(found.rates)]
    assert factors == pytest.approx([1000 ** (1 / 11)] * 11)
    assert (found.rates[0], found.rates[-1]) == pytest.approx((1e-5, 1e-2))
    assert all(map(math.isfinite, found.losses))
    assert not spec.paths.folder.exists(), "it is no run"


def test_it_stops_where_the_loss_diverges(tmp_path: Path) -> None:
    found = range_test(small_spec(tmp_path, "optimizer=sgd"), 40, 1e-3, 1e5, tell_nobody)
    assert len(found.losses) < 40
    assert all(map(math.isfinite, found.losses))


def test_the_command_tests_each_model_once_and_keeps_the_curves(tmp_path: Path) -> None:
    models = [o for o in SMALL if "timm_name" not in o]
    given = [*models, "model.timm_name=test_resnet,test_vit", "seed=0,1", "optimizer.lr=1e-3,1e-2", "--steps", "10"]
    command = [sys.executable, "-m", "har_sweep.find_lr"]
    done = subprocess.run([*command, *given], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "find_lr" / "find_lr.csv").open()))
    assert len({row["run"] for row in rows}) == 2
    assert len(rows) == 20
    assert (tmp_path / "find_lr" / "find_lr.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--steps", "3"], "--steps 3 are too few"),
        (["--from", "1", "--to", "0.1"], "is no range"),
        (["modle=resnet18"], "Did you mean 'model'"),
        (["hardware.device_count=2"], "find_lr trains on one device."),
        (["hardware=slurm_cpu", "hydra.launcher.partition=none"], "not in jobs of its own"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    from har_sweep.find_lr import main

    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, *given] if "=" in given[0] else given) == 2
    assert said in capsys.readouterr().out
    assert not (tmp_path / "find_lr").exists()
