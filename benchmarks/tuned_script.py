"""A stronger peer: the plain script with what PyTorch's tuning guide tells anyone to switch on.

torchvision.transforms.v2 on uint8 tensors, workers that stay, memory that is pinned for CUDA, channels_last for
convolutional networks, a thread a core, a fused optimizer, cuDNN's trials, TF32, no waiting for the loss of each step;
and bfloat16 autocast where a short trial finds it the faster. It knows nothing of har_sweep.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import plain_script
import psutil
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.io import decode_image
from torchvision.transforms import v2

TRIED = (2, 16)  # images: where nothing multiplies bfloat16 in hardware, two tell, and more would take minutes


class Tensors(plain_script.Photographs):
    """The same rows as uint8 tensors, which torchvision decodes faster than PIL does."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(decode_image(self.paths[index], "RGB")), self.labels[index]


def load(
    csv: Path, size: int, batch_size: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> dict[str, DataLoader]:
    """A loader of float32 [B, 3, size, size] and int64 [B] for each split."""
    ending = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    training = v2.Compose([v2.Resize((size, size)), v2.RandomHorizontalFlip(), v2.RandomRotation(10), *ending])
    plain = v2.Compose([v2.Resize((size, size)), *ending])
    return plain_script.in_batches(
        csv, Tensors, training, plain, batch_size, persistent_workers=True, pin_memory=device.type == "cuda"
    )


def build(name: str, classes: int, size: int, device: torch.device) -> nn.Module:
    """The plain script's model on the device, in its memory format; PyTorch's switches are set."""
    torch.set_num_threads(min(torch.get_num_threads(), psutil.cpu_count(logical=False) or 1))
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    model = plain_script.build(name, classes, size)
    return model.to(device, memory_format=memory_format(model))  # type: ignore[call-overload]


def memory_format(model: nn.Module) -> torch.memory_format:
    """channels_last for convolutional networks; a ViT's only convolution does not count."""
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    return torch.channels_last if convolutions > 1 else torch.contiguous_format


def faster_precision(model: nn.Module, size: int) -> str:
    """fp32 or bf16, in which a forward pass, and for a model in training mode a backward pass, takes less time."""
    device, trial = next(model.parameters()).device, copy.deepcopy(model)

    def seconds(precision: str, count: int) -> float:
        images = torch.rand(count, 3, size, size, device=device).contiguous(memory_format=memory_format(model))
        started = time.perf_counter()
        with torch.set_grad_enabled(model.training):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = trial(images)
            if model.training:
                logits.sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for count in TRIED:
        fp32, bf16 = (min(seconds(precision, count) for _ in range(2)) for precision in ("fp32", "bf16"))
        if bf16 > 3 * fp32:
            break
    return "bf16" if bf16 < fp32 else "fp32"


def train_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, precision: str) -> float:
    """One pass over the training images; returns their mean loss."""
    device, layout = next(model.parameters()).device, memory_format(model)
    criterion, total_loss, images_seen = nn.CrossEntropyLoss(), torch.zeros((), device=device), 0
    model.train()
    for images, labels in loader:
        images = images.to(device, non_blocking=True, memory_format=layout)
        labels = labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.detach() * len(labels)
        images_seen += len(labels)
    return total_loss.item() / images_seen


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and predictions [N] of a split."""
    device, layout = next(model.parameters()).device, memory_format(model)
    model.eval()
    found = []
    for images, labels in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images.to(device, non_blocking=True, memory_format=layout))
        found.append((labels, logits.argmax(1)))
    return torch.cat([labels for labels, _ in found]), torch.cat([predicted for _, predicted in found]).cpu()
