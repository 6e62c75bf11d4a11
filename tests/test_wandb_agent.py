"""``wandb sweep`` and ``wandb agent`` drive us, with the arguments that an agent writes by default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import SMALL, runs
from wandb_server import ENTITY, Json, WandbServer, wandb_server

from har_sweep.__main__ import main
from har_sweep.config.compose import compose
from har_sweep.config.trial import as_overrides

SWEEP_FILE = Path(__file__).parent.parent / "examples" / "wandb_sweep.yaml"
BIN = Path(sys.executable).parent


def wandb(server: WandbServer, cwd: Path, *arguments: str) -> str:
    """What the real client's command says."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {**server.environment, "PATH": f"{BIN}:{os.environ['PATH']}", "WANDB_PROJECT": "trials"}
    command = [str(BIN / "wandb"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def first_values(parameters: Json) -> Json:
    """What an agent might choose, as the server hands it on."""
    return {
        name: first_values(given["parameters"])
        if "parameters" in given
        else given.get("value", given.get("values", [given.get("min")])[0])
        for name, given in parameters.items()
    }


def test_the_documented_sweep_file_makes_overrides_that_are_understood() -> None:
    sweep = yaml.safe_load(SWEEP_FILE.read_text())
    assert sweep["command"][-3:] == ["-m", "har_sweep", "${args}"]
    chosen = first_values(sweep["parameters"])
    config = compose(as_overrides([f"--{name}={value}" for name, value in chosen.items()], []))
    assert (config.model.name, config.optimizer.lr) == ("resnet18", 1e-5)
    assert (config.trainer.epochs, config.trainer.label_smoothing) == (3, 0.0)


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("--optimizer.lr=0.1", ["optimizer.lr=0.1"]),
        ("--optimizer={'lr': 1e-05, 'betas': [0.9, 0.99]}", ["optimizer.lr=1e-05", "optimizer.betas=[0.9,0.99]"]),
        ("trainer={'ema_decay': None, 'epochs': 2}", ["trainer.ema_decay=null", "trainer.epochs=2"]),
        ("--hardware.compile=True", ["hardware.compile=true"]),
        ("--model.weights={resnet18:a.pth}", ["model.weights={resnet18:a.pth}"]),
        ("--model=1e3", ["model=1e3"]),
        ("--cfg=job", ["--cfg=job"]),
        ("+optimizer.eps=1e-8", ["+optimizer.eps=1e-8"]),
        ("-m", ["-m"]),
    ],
)
def test_what_an_agent_writes_is_an_override(typed: str, understood: list[str]) -> None:
    assert as_overrides([typed], ["--cfg"]) == understood


def test_dashes_are_refused_elsewhere_and_several_runs_in_a_trial(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert main(["--optimizer.lr=0.1"]) == 2
    assert "Overrides have no dashes" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert main(["--seed=0,1", "-m"]) == 2
    assert "A W&B agent's trial is one run" in capsys.readouterr().out


def test_an_agent_s_trials_are_logged_and_one_that_is_done_is_told_again(tmp_path: Path) -> None:
    sweep = yaml.safe_load(SWEEP_FILE.read_text())
    kept = [word for word in SMALL if not word.startswith(("tracking", "trainer"))]
    sweep["command"][-1:] = [*kept, "trainer.batch_size=16", "${args}"]
    (tmp_path / "sweep.yaml").write_text(yaml.dump(sweep))
    trial: dict[str, Any] = {"optimizer.lr": 0.01, "trainer": {"epochs": 1, "label_smoothing": 0.1}}
    with wandb_server() as server:
        said = wandb(server, tmp_path, "sweep", "sweep.yaml")
        assert "wandb agent" in said
        (name,) = server.sweeps
        server.trials = [trial, trial]
        said = wandb(server, tmp_path, "agent", f"{ENTITY}/trials/{name}")
    assert [run.state for run in server.runs.values()] == ["finished"] * 2, said
    first, again = server.runs.values()
    (record,) = runs(tmp_path).values()
    assert (first.sweep, first.project) == (name, "trials")
    # The search is told of each trial what it looks for; of the one that was done already too, and its epochs.
    found = [run.summary["metrics/val/accuracy"] for run in (first, again)]
    assert found == [record.metrics["val"].accuracy] * 2
    assert [line["epoch"] for line in again.history if "epoch" in line] == [1]
    assert [run.config["record"]["run_id"] for run in (first, again)] == [record.run_id] * 2
    # A section of which the sweep chose a part is whole all the same.
    assert [run.config["trainer"]["batch_size"] for run in (first, again)] == [16, 16]
