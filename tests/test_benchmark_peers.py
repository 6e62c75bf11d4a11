"""The scripts that training is measured against are fair: the same images, epochs that train, the best precision."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import photographs
import plain_script
import timm_script
import training
import tuned_script
from small import small_spec

from har_sweep.record.record import TrainingCost
from har_sweep.train import loop
from har_sweep.train.checkpoint import Trained


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Path]:
    """``labels.csv`` of eight pictures, the same for training and val: each of a brightness of its own, darker below,
    and the same when flipped. What scripts set in PyTorch is set back."""
    rows = []
    for number in range(8):
        grey = np.tile(np.linspace(25 * number + 60, 25 * number, 40)[:, None, None], (1, 40, 3))
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows += [(tmp_path / f"{number}.png", f"class {number % 2}", split) for split in ("train", "val")]
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "labels.csv", index=False)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    yield tmp_path / "labels.csv"
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.benchmark = before[1]


def by_brightness(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, list[int]]:
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = images.mean((1, 2, 3)).argsort()
    return images[order], labels[order].tolist()


def test_the_scripts_prepare_the_same_images(table: Path) -> None:
    given, cpu = (table, 32, 4, [0.5] * 3, [0.5] * 3), torch.device("cpu")
    images, labels = by_brightness(list(plain_script.load(*given)["val"]))
    assert labels == [0, 1] * 4
    for loader in (tuned_script.load(*given, cpu)["val"], timm_script.load(*given, cpu)):
        others, their_labels = by_brightness(list(loader))
        assert their_labels == labels
        assert (others - images).abs().max() < 0.02


@pytest.mark.parametrize("peer", training.PEERS)
def test_each_script_trains_epochs(peer: str, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SIZE", 32)
    monkeypatch.setattr(training, "BATCH_SIZE", 4)
    monkeypatch.setattr(training, "LR", 0.01)
    _, train_epoch = training.PEERS[peer](table.parent, "test_resnet", torch.device("cpu"))
    losses = [train_epoch() for _ in range(2)]
    assert all(map(math.isfinite, losses))
    assert losses[0] != losses[1]


def test_ours_tells_of_one_epoch_also_where_several_have_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, found = small_spec(tmp_path), list[object]()

    def train(model: object, session: object, on_epoch: Callable[[Trained], None]) -> None:
        on_epoch(
            Trained(epoch=1, cost=TrainingCost(3.0, data_wait_seconds=1.0, peak_memory_bytes=7, energy_joules=9.0))
        )
        on_epoch(
            Trained(epoch=4, cost=TrainingCost(9.0, data_wait_seconds=4.0, peak_memory_bytes=8, energy_joules=24.0))
        )

    monkeypatch.setattr(photographs, "planned", lambda *_: spec)
    monkeypatch.setattr(loop, "train", train)
    training.ours(found.append, tmp_path, "resnet18", "cpu", "fp32")
    assert found[1:] == [training.Epoch("fp32", 3.0, 1 / 3, 7, 9.0), training.Epoch("fp32", 2.0, 0.5, 8, 5.0)]


@pytest.mark.parametrize(("bf16", "taken", "largest"), [(0.5, "bf16", 16), (1.5, "fp32", 16), (10.0, "fp32", 2)])
def test_the_tuned_script_takes_the_faster_precision_and_tries_no_whole_batch_of_a_hopeless_one(
    bf16: float, taken: str, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``bf16``: the time of an image in bfloat16, in units of that in float32."""
    tried, clock = list[int](), [0.0]

    class Model(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tried.append(len(images))
            clock[0] += len(images) * (bf16 if torch.is_autocast_enabled("cpu") else 1.0)
            return super().forward(images)

    monkeypatch.setattr("tuned_script.time.perf_counter", lambda: clock[0])
    assert tuned_script.faster_precision(Model(3, 1, 1), 4) == taken
    assert max(tried) == largest
