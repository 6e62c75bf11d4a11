"""The peer: a training script as people write it for such a study. PIL, torchvision, a DataLoader, float32.

    python benchmarks/plain_script.py labels.csv --model resnet18 --epochs 5

``labels.csv`` has the columns path, label and split. It knows nothing of har_sweep; the benchmarks call its parts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Photographs(Dataset[tuple[torch.Tensor, int]]):
    """Rows of the table, decoded and transformed each time they are asked for."""

    def __init__(self, table: pd.DataFrame, classes: list[str], transform: transforms.Compose) -> None:
        self.paths, self.transform = list(table["path"]), transform
        self.labels = [classes.index(label) for label in table["label"]]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]


def load(csv: Path, size: int, batch_size: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, DataLoader]:
    """A loader of float32 [B, 3, size, size] and int64 [B] for each split."""
    ending = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    random = [transforms.RandomHorizontalFlip(), transforms.RandomRotation(10)]
    training = transforms.Compose([transforms.Resize((size, size)), *random, *ending])
    plain = transforms.Compose([transforms.Resize((size, size)), *ending])
    return in_batches(csv, Photographs, training, plain, batch_size)


def in_batches(
    csv: Path, dataset: type[Photographs], training: Any, plain: Any, batch_size: int, **options: Any
) -> dict[str, DataLoader]:
    """A loader for each split, with two workers; the training images shuffled and by a transform of their own."""
    table = pd.read_csv(csv, dtype=str)
    classes = sorted(set(table["label"]))
    return {
        split: DataLoader(
            dataset(rows, classes, training if split == "train" else plain),
            batch_size, shuffle=split == "train", num_workers=2, **options,
        )
        for split, rows in table.groupby("split")
    }  # fmt: skip


def build(name: str, classes: int, size: int, weights: Path | None = None) -> nn.Module:
    """A timm model with a new last layer, from scratch or from a file of pretrained weights."""
    options: dict[str, Any] = {"img_size": size} if name.startswith("vit") else {}
    model: Any = timm.create_model(name, num_classes=classes, **options)
    model.get_classifier().reset_parameters()
    if weights:
        head = tuple(n for n, module in model.named_modules() if module is model.get_classifier())
        model.load_state_dict({k: v for k, v in load_file(weights).items() if not k.startswith(head)}, strict=False)
    return model


def train_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, precision: str) -> float:
    """One pass over the training images; returns their mean loss."""
    device = next(model.parameters()).device
    criterion, running_loss = nn.CrossEntropyLoss(), 0.0
    model.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * len(labels)
    return running_loss / len(loader.dataset)  # type: ignore[arg-type]


@torch.no_grad()
def predict(model: nn.Module, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and predictions [N] of a split."""
    device = next(model.parameters()).device
    model.eval()
    found = [(labels, model(images.to(device)).argmax(1).cpu()) for images, labels in loader]
    return torch.cat([labels for labels, _ in found]), torch.cat([predicted for _, predicted in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    loaders = load(args.csv, 224, 32, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    model = build(args.model, pd.read_csv(args.csv)["label"].nunique(), 224)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for epoch in range(1, args.epochs + 1):
        started = time.perf_counter()
        loss = train_epoch(model, loaders["train"], optimizer, "fp32")
        seconds = time.perf_counter() - started
        labels, predicted = predict(model, loaders["val"])
        accuracy = 100 * (labels == predicted).float().mean().item()
        print(f"Epoch [{epoch}/{args.epochs}], Loss: {loss:.4f}, Val Accuracy: {accuracy:.2f}%, {seconds:.1f} s")


if __name__ == "__main__":
    main()
