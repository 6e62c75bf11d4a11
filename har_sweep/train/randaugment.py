"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719) as torchvision has it, on a batch, with a draw for every image.

What moves pixels is done for all images of a batch at once, by a matrix for each, and what needs constants has them on
the device: torchvision's own functions send theirs anew in every call, and each time the device has to be waited for.
The images are the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from har_sweep.train.send import send

_STRONGEST_BIN = 30
_SAME = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""From a place (x, y, 1) in the output to (x, y) in the input, in pixels from the centre."""


@dataclass(frozen=True)
class Operation:
    """``strongest`` is the value of the highest bin (None: it has no strength), ``signed`` whether it has either sign.

    What it does with a value is a ``change`` of uint8 [B, 3, H, W], or a ``matrix`` for an image's height and width.
    """

    strongest: float | None = None
    signed: bool = False
    change: Callable[[Tensor, float], Tensor] = lambda pixels, value: pixels
    matrix: Callable[[float, int, int], Matrix] | None = None


def _rotation(value: float, height: int, width: int) -> Matrix:
    angle = math.radians(-(value % 360))
    return (math.cos(angle), math.sin(angle), 0.0), (-math.sin(angle), math.cos(angle), 0.0)


# Shearing turns about the corner, as AutoAugment's does.
OPERATIONS = {
    "Identity": Operation(),
    "ShearX": Operation(0.3, True, matrix=lambda v, h, w: ((1.0, v, v * h / 2), _SAME[1])),
    "ShearY": Operation(0.3, True, matrix=lambda v, h, w: (_SAME[0], (v, 1.0, v * w / 2))),
    "TranslateX": Operation(150 / 331, True, matrix=lambda v, h, w: ((1.0, 0.0, -int(v * w)), _SAME[1])),
    "TranslateY": Operation(150 / 331, True, matrix=lambda v, h, w: (_SAME[0], (0.0, 1.0, -int(v * h)))),
    "Rotate": Operation(30.0, True, matrix=_rotation),
    "Brightness": Operation(0.9, True, lambda x, v: TF.adjust_brightness(x, 1 + v)),
    "Color": Operation(0.9, True, lambda x, v: TF.adjust_saturation(x, 1 + v)),
    "Contrast": Operation(0.9, True, lambda x, v: TF.adjust_contrast(x, 1 + v)),
    "Sharpness": Operation(0.9, True, lambda x, v: _sharpen(x, 1 + v)),
    "Posterize": Operation(4.0, False, lambda x, v: TF.posterize(x, 8 - round(v))),
    "Solarize": Operation(255.0, False, lambda x, v: TF.solarize(x, 255.0 - v)),
    "AutoContrast": Operation(change=lambda x, _: TF.autocontrast(x)),
    "Equalize": Operation(change=lambda x, _: TF.equalize(x)),
}


def randaugment(pixels: Tensor, operations: int, magnitude: int, rng: np.random.Generator) -> Tensor:
    """So many operations for each of uint8 [B, 3, H, W], one call for all images with the same draw."""
    pixels = pixels.clone(memory_format=torch.channels_last)
    for _ in range(operations):
        chosen, signs = rng.integers(len(OPERATIONS), size=len(pixels)), rng.choice([-1, 1], len(pixels))
        moved: list[tuple[np.intp, Matrix]] = []
        for number, (name, operation) in enumerate(OPERATIONS.items()):
            value = (operation.strongest or 0.0) * magnitude / _STRONGEST_BIN
            for sign in (-1, 1) if operation.signed else (1,):
                group = np.flatnonzero((chosen == number) & ((signs == sign) | (not operation.signed)))
                if operation.matrix:
                    matrix = operation.matrix(sign * value, *pixels.shape[2:])
                    moved += [(image, matrix) for image in group]
                elif len(group) and name != "Identity":
                    where = send(group, pixels.device)
                    pixels.index_copy_(0, where, operation.change(pixels.index_select(0, where), sign * value))
        if moved:
            images, matrices = zip(*moved, strict=True)
            where = send(np.array(images), pixels.device)
            pixels.index_copy_(0, where, _move(pixels.index_select(0, where), np.array(matrices)))
    return pixels


def _move(pixels: Tensor, matrices: np.ndarray) -> Tensor:
    """uint8 [B, 3, H, W] through a matrix each, [B, 2, 3]: the nearest pixel's value, black beyond the border."""
    height, width = pixels.shape[2:]
    places = _places(height, width, pixels.device)  # grid_sample's are in -1..1 from edge to edge
    halves = np.array([width / 2, height / 2], np.float32)
    from_places = send(matrices.transpose(0, 2, 1).astype(np.float32) / halves, pixels.device)
    grid = places.expand(len(pixels), -1, -1).bmm(from_places).view(-1, height, width, 2)
    moved = F.grid_sample(pixels.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.to(torch.uint8)


@lru_cache(8)
def _places(height: int, width: int, device: torch.device) -> Tensor:
    """(x, y, 1) of each pixel, from the centre: [1, H x W, 3]."""
    columns, rows = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in (width, height)))
    return send(np.stack([columns, rows, np.ones_like(rows)], -1).reshape(1, -1, 3), device)


def _sharpen(pixels: Tensor, factor: float) -> Tensor:
    """Away from what a 3 x 3 filter blurs, or towards it; the rim stays as it is."""
    if min(pixels.shape[2:]) <= 2:
        return pixels
    sharpened = pixels.float()
    inner = sharpened[..., 1:-1, 1:-1]
    blurred = F.conv2d(sharpened, _blur(pixels.device), groups=3).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return sharpened.clamp_(0, 255).to(torch.uint8)


@lru_cache(8)
def _blur(device: torch.device) -> Tensor:
    weights = np.full((3, 1, 3, 3), 1 / 13)
    weights[:, :, 1, 1] = 5 / 13
    return send(weights, device)
