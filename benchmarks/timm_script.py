"""Another peer: timm's training, as its train.py does it for such a recipe, by timm's public functions.

With ``--amp`` and ``--channels-last`` where the tuned script has them. What differs from the other scripts: timm has no
rotation outside of its policies, so there is none; an epoch leaves out its last batch if that is not full; an image
is resized as a crop of all of it, which it is only if it is square, as the benchmarks' are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from timm.data import create_dataset, create_loader
from timm.task import ClassificationTask
from timm.utils import AverageMeter
from torch import nn
from tuned_script import memory_format


def load(
    csv: Path, size: int, batch_size: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Any:
    """Training batches of float32 [B, 3, size, size] and int64 [B] on the device, normalised there.

    timm reads folders: there is one of links to the photographs beside the table.
    """
    for path, label, split in pd.read_csv(csv, dtype=str)[["path", "label", "split"]].itertuples(index=False):
        link = csv.parent / "timm" / split / label / Path(path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path)
    dataset = create_dataset("", root=str(csv.parent / "timm"), split="train", is_training=True)
    return create_loader(
        dataset, (3, size, size), batch_size, is_training=True, scale=(1.0, 1.0), ratio=(1.0, 1.0), color_jitter=0.0,
        mean=tuple(mean), std=tuple(std), num_workers=2, pin_memory=device.type == "cuda", device=device,
    )  # fmt: skip


def task(model: nn.Module) -> nn.Module:
    """What timm trains: a model with its loss, which gives the loss of images and labels."""
    device = next(model.parameters()).device
    return ClassificationTask(model, nn.CrossEntropyLoss(), device=device, verbose=False)


def train_epoch(task: nn.Module, loader: Any, optimizer: torch.optim.Optimizer, precision: str) -> float:
    """One pass over the training images; returns their mean loss."""
    device, layout, losses = next(task.parameters()).device, memory_format(task), AverageMeter()
    task.train()
    for images, labels in loader:
        images = images.contiguous(memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = task(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.update(loss.detach(), len(labels))
    return float(losses.avg)
