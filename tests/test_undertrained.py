"""Whose curve still rises at the end is said to be undertrained, and hardly anybody else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_runs import block_of, write_run
from numpy.typing import NDArray

from multirun_analysis.__main__ import main
from multirun_analysis.analysis.epochs import still_rising


def curve(epochs: int, pace: float, noise: float, seed: int = 0) -> NDArray[np.float64]:
    """Learning that nears 0.8 as training usually does: all but 37 % of what is missing after ``pace`` epochs."""
    learned = 0.8 - 0.5 * np.exp(-np.arange(1, epochs + 1) / pace)
    return learned + np.random.default_rng(seed).normal(0, noise, epochs)


def write(runs: Path, model: str, pace: float, seed: int, epochs: int = 30) -> None:
    accuracies = curve(epochs, pace, 0.004, seed).tolist()
    said = [
        {"epoch": n, "train_loss": 1 / n, "val_loss": 1.1 / n, "val_accuracy": a, "learning_rate": 1e-3, "seconds": 1.0}
        for n, a in enumerate(accuracies, 1)
    ]
    write_run(
        runs, model, seed, val=accuracies[-1], test=0.7, selected_epoch=epochs, selection="last", at={"epochs": said}
    )


def test_who_was_trained_too_little_is_marked_with_the_rise_and_nobody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for seed in range(3):
        write(runs, "rising", 15, seed)
        write(runs, "through", 3, seed)
        write(runs, "short", 15, seed, epochs=11)  # too few epochs to tell
    assert main([str(runs), "--format", "csv", "--out", str(tmp_path / "report")]) == 0
    screen = capsys.readouterr().out
    (note,) = {line.strip() for line in screen.splitlines() if "undertrained" in line}
    rise = 100 * (curve(30, 15, 0)[-1] - curve(30, 15, 0)[-10])
    said = float(note.split("still rose by ")[1].split()[0])
    assert said == pytest.approx(rise, abs=1)
    assert note == f"† undertrained: rising (its val accuracy still rose by {said} points over the last 10 epochs)"
    spoilt = {c.label: [m.affects for m in c.marks] for c in block_of(runs).candidates}
    assert spoilt.pop("rising") == [frozenset(["metrics/test/accuracy", "metrics/val/accuracy"])]
    assert set(map(len, spoilt.values())) == {0}


def test_the_best_epoch_being_the_last_is_not_enough() -> None:
    flat = np.full(30, 0.8)
    flat[-1] += 0.02
    assert still_rising(flat) is None
    early = np.concatenate([np.linspace(0.3, 0.8, 24), np.full(6, 0.8)])  # it levelled off within its last third
    assert still_rising(early) is None
    assert still_rising(np.linspace(0.800, 0.806, 30)) is None  # it rises, by less than half a point
    assert still_rising(np.linspace(0.8, 0.7, 30)) is None
    assert still_rising(np.linspace(0.5, 0.8, 30)) is not None
    assert still_rising(np.linspace(0.5, 0.8, 11)) is None  # its last six epochs would be more than half of it


@pytest.mark.parametrize("together", [0.0, 0.3])
@pytest.mark.parametrize(("epochs", "noise"), [(12, 0.01), (30, 0.005), (60, 0.03)])
def test_a_flat_curve_is_called_rising_less_than_once_in_twenty(epochs: int, noise: float, together: float) -> None:
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        drawn = random.normal(0, noise, epochs)
        for n in range(1, epochs):  # as neighbouring epochs of one training resemble each other
            drawn[n] = together * drawn[n - 1] + np.sqrt(1 - together**2) * drawn[n]
        alarms += still_rising(0.75 + drawn) is not None
    assert alarms < 15


@pytest.mark.parametrize(("epochs", "pace"), [(12, 8), (20, 10), (30, 10), (60, 15)])
def test_a_curve_that_rises_by_more_than_two_points_at_the_end_is_seen_nearly_always(epochs: int, pace: float) -> None:
    found = [still_rising(curve(epochs, pace, 0.005, seed)) for seed in range(100)]
    assert sum(one is not None for one in found) >= 90
