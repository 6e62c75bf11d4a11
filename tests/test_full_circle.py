"""A sweep that logged to Weights & Biases gives the same report from there as from its folder, to the last digit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
from small import SMALL, one_after_another
from test_multirun_analysis import command
from wandb_server import ENTITY, wandb_server

SWEEP = [*(word for word in SMALL if not word.startswith(("tracking", "model.timm_name"))), "hardware.cpu_threads=1"]


def test_tables_from_wandb_equal_those_from_the_folder(tmp_path: Path) -> None:
    with wandb_server() as server:
        one = ["model.timm_name=test_resnet", "seed=0,1", "tracking=wandb_online", "sweep.name=one"]
        two = ["model.timm_name=test_efficientnet", "tracking=wandb", "sweep.name=two"]
        lines = [["-m", *SWEEP, *overrides] for overrides in (one, two)]
        for status, said in one_after_another(*lines, cwd=tmp_path, **server.environment):
            assert status == 0, said
        assert len(list(tmp_path.glob("runs/*/wandb/offline-run-*"))) == 1
        documented = re.search(r"`(wandb sync [^`]+)`", (Path(__file__).parent.parent / "README.md").read_text())
        assert documented
        environment = {**server.environment, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        subprocess.run(documented[1], shell=True, cwd=tmp_path, check=True, env=environment)
        formats = ("--format", "csv,parquet", "--accuracy", "val")
        from_folder = command("runs", *formats, "--out", "folder", cwd=tmp_path)
        assert from_folder.returncode == 0, from_folder.stderr
        from_wandb = command(
            f"wandb://{ENTITY}/har_sweep", *formats, "--out", "wandb", cwd=tmp_path, **server.environment
        )
        assert from_wandb.returncode == 0, from_wandb.stderr
        both = command(
            f"wandb://{ENTITY}/har_sweep", "runs", *formats, "--out", "both", cwd=tmp_path, **server.environment
        )
        assert both.returncode == 0, both.stderr
        group = command(
            f"wandb://{ENTITY}/har_sweep?group=two", *formats, "--out", "one", cwd=tmp_path, **server.environment
        )
        assert group.returncode == 0, group.stderr
    names = {path.name for path in (tmp_path / "folder" / "tables").iterdir()}
    assert {"table1.csv", "table2.csv", "comparisons.csv", "epochs.csv", "recall.csv", "confusions.csv"} <= names
    for other in ("wandb", "both"):
        assert {path.name for path in (tmp_path / other / "tables").iterdir()} == names
        for name in names - {"runs.csv"}:  # its last column is where a run was read
            texts = [(tmp_path / place / "tables" / name).read_text() for place in ("folder", other)]
            assert texts[0] == texts[1], name
    frames = [pd.read_parquet(tmp_path / place / "data.parquet").set_index("run_id") for place in ("folder", "wandb")]
    assert "environment/hostname" not in frames[1]  # whose machine it was is nobody's business there
    shared = frames[0].dropna(axis="columns", how="all").columns.drop("environment/hostname")
    assert set(shared) - set(frames[1].columns) == {"error/traceback"} & set(shared)
    for column in shared:
        here, there = (
            frame[column].sort_index().map(lambda v: list(v) if hasattr(v, "tolist") else v) for frame in frames
        )
        assert here.tolist() == there.tolist(), column
    assert from_folder.stdout.split("Written")[0] == from_wandb.stdout.split("Written")[0]
    assert "test_efficientnet" in group.stdout
    assert "test_resnet" not in group.stdout
