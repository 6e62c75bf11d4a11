"""Batched transforms on the device, with a random draw for every image.

Draws are made on the CPU, so the same seed gives the same draws on every device, and nothing waits for the device.
The order is that of torchvision's reference training: geometry, RandAugment, normalise, mixup or CutMix. A transform
of one's own (``augmentation._target_``) goes before them all.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from har_sweep.config.schema import AugmentationConfig
from har_sweep.config.targets import called, part_maker
from har_sweep.errors import InputError
from har_sweep.train.randaugment import randaugment
from har_sweep.train.send import send


def augment(
    images: Tensor,
    labels: Tensor,
    config: AugmentationConfig,
    input_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator,
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Training images and targets from a batch of decoded ones.

    Parameters
    ----------
    images
        uint8 [B, H, W, 3]; H and W may differ from ``input_size``.
    labels
        int64 [B], on the device of ``images``.
    mean, std
        of R, G, B in 0..1.
    generator
        a CPU generator; each call advances it by one draw, which seeds all draws of the batch (and, for a transform of
        one's own, by a second, which seeds torch's, NumPy's and Python's global generators while it is called).

    Returns
    -------
    images
        float32 [B, 3, input_size, input_size] in channels_last. Where there is nothing to show it is black.
    targets
        ``labels`` as they are; with mixup or CutMix, float32 [B, num_classes], each row adding up to 1.
    """
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    pixels = images.permute(0, 3, 1, 2)
    if config._target_:
        with _seeded(int(torch.randint(2**32 - 1, (), generator=generator)), images.device):
            pixels = _transformed(pixels, config)
    pixels = _geometry(pixels, config, input_size, rng)
    if config.randaugment_ops:
        pixels = randaugment(_to_uint8(pixels), config.randaugment_ops, config.randaugment_magnitude, rng)
    normalised = _normalise(pixels, mean, std)
    if config.mixup_alpha or config.cutmix_alpha:
        return _mix(normalised, labels, config, num_classes, rng)
    return normalised, labels


def _transformed(pixels: Tensor, config: AugmentationConfig) -> Tensor:
    """What ``_target_`` makes of uint8 [B, 3, H, W]: uint8, or floating point in 0..255, of any height and width.

    Raises
    ------
    InputError
        if it makes anything else of them, or raises.
    """
    target = str(config._target_)
    transform = _transform(target, json.dumps(config.arguments, sort_keys=True), pixels.device)
    made = called("augmentation", target, lambda: transform(pixels.contiguous()))
    right = isinstance(made, Tensor) and made.dim() == 4 and made.shape[:2] == pixels.shape[:2]
    if not right or not (made.dtype == torch.uint8 or made.is_floating_point()):
        shape = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise InputError(
            f"augmentation._target_={target} made {shape} of uint8 {list(pixels.shape)}.",
            "It should give [B, 3, H, W], uint8 or floating point in 0..255, for as many images as it was given.",
        )
    return made


@cache
def _transform(target: str, arguments: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    transform = part_maker("augmentation", target, json.loads(arguments))
    return transform.to(device) if isinstance(transform, nn.Module) else transform


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the global generators start from ``seed``; afterwards they are where they were, for dropout."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in channels_last: ``(x / 255 - mean) / std``, channel by channel."""
    return _normalise(images.permute(0, 3, 1, 2), mean, std)


def _normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    width = pixels.shape[3]
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), width, pixels.device)
    images = pixels.to(torch.float32, memory_format=torch.channels_last, copy=True)
    # Row by row in memory: broadcasting over three channels, the last in memory, is ten times as slow on a CPU.
    # One product and one sum, so that a black pixel becomes exactly -mean / std.
    images.permute(0, 2, 3, 1).view(-1, 3 * width).mul_(scale).add_(shift)
    return images


@lru_cache(16)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Of a row of pixels, [3 x width] each; sent to the device once."""
    with torch.inference_mode(False):  # training uses them as well
        scale = send(np.tile(1 / (255 * np.asarray(std)), width), device)
        return scale, send(np.tile(-np.asarray(mean) / np.asarray(std), width), device)


def _to_uint8(pixels: Tensor) -> Tensor:
    return pixels if pixels.dtype == torch.uint8 else pixels.round().to(torch.uint8)


def _geometry(pixels: Tensor, config: AugmentationConfig, size: int, rng: np.random.Generator) -> Tensor:
    """Crop, flip and rotation of uint8 [B, 3, H, W], as one resampling; uint8 where no pixel had to be interpolated."""
    count, _, height, width = pixels.shape
    flip = rng.random(count) < config.horizontal_flip
    angle = np.radians(rng.uniform(-1, 1, count) * config.rotation_degrees)
    if config.crop_scale is None:
        box = np.tile([0, 0, height, width], (count, 1))
        if (height, width) != (size, size):
            pixels = TF.resize(pixels, [size, size], antialias=True)
        if not config.rotation_degrees:
            return torch.where(send(flip, pixels.device).view(-1, 1, 1, 1), pixels.flip(3), pixels)
    else:
        box = _crop_boxes(count, height, width, config.crop_scale, config.crop_ratio, rng)
    return _resample(pixels, box / [height, width, height, width], flip, angle, size)


def _resample(pixels: Tensor, box: np.ndarray, flip: np.ndarray, angle: np.ndarray, size: int) -> Tensor:
    """Crop to ``box``, resize to the square, flip, and turn by ``angle`` (radians, anticlockwise), in one go.

    ``box`` is (top, left, height, width) [B, 4] as shares of the image's height and width. Returns float32 in 0..255.
    """
    top, left, box_height, box_width = box.T
    # From places in the output to places in the source, both in -1..1 from edge to edge, x before y.
    half_x, half_y = np.where(flip, -box_width, box_width), box_height
    centre_x, centre_y = 2 * left + box_width - 1, 2 * top + box_height - 1
    cos, sin = np.cos(angle), np.sin(angle)
    rows = [[half_x * cos, -half_x * sin, centre_x], [half_y * sin, half_y * cos, centre_y]]
    theta = send(np.moveaxis(np.array(rows), -1, 0), pixels.device)
    # F.affine_grid multiplies matrices for this, which takes as long as the sampling itself.
    centres = (torch.arange(size, device=pixels.device) * 2 + 1) / size - 1
    by_x, by_y, shift = theta[..., None, None].unbind(2)
    grid = (centres * by_x + (centres[:, None] * by_y + shift)).permute(0, 2, 3, 1)
    # Without rotation every sample lies in the image, and black beyond its border would only darken its rim.
    padding = "zeros" if angle.any() else "border"
    return F.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _crop_boxes(
    count: int, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Whole-pixel (top, left, height, width) [B, 4], drawn as torchvision's ``RandomResizedCrop`` draws them.

    Ten tries each; an image that none of them fits gets the largest central crop of an allowed aspect ratio.
    """
    tries = (10, count)
    area = height * width * rng.uniform(scale[0], scale[1], tries)
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), tries))
    widths, heights = np.round(np.sqrt(area * aspect)).astype(int), np.round(np.sqrt(area / aspect)).astype(int)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, each = fits.argmax(0), np.arange(count)
    best = min(max(width / height, ratio[0]), ratio[1])
    largest = min(height, round(width / best)), min(width, round(height * best))
    h = np.where(fits.any(0), heights[first, each], largest[0])
    w = np.where(fits.any(0), widths[first, each], largest[1])
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    central = ~fits.any(0)
    top, left = np.where(central, (height - h) // 2, top), np.where(central, (width - w) // 2, left)
    return np.stack([top, left, h, w], axis=1)


def _mix(
    images: Tensor, labels: Tensor, config: AugmentationConfig, num_classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412) or CutMix (Yun et al. 2019, arXiv:1905.04899) with a partner each.

    Every image has its own share; with both on, each image gets one or the other with probability 1/2.
    """
    count, _, height, width = images.shape
    device = images.device
    partner = send(rng.permutation(count), device)
    cut = rng.random(count) < (0.5 if config.mixup_alpha and config.cutmix_alpha else bool(config.cutmix_alpha))
    # The alpha that is off is never chosen; 1 only keeps its Beta defined.
    alpha = np.where(cut, config.cutmix_alpha or 1, config.mixup_alpha or 1)
    share = rng.beta(alpha, alpha)
    y, x = rng.integers(height, size=count), rng.integers(width, size=count)
    half_height, half_width = (np.sqrt(1 - share) * side / 2 for side in (height, width))
    top, bottom = (np.clip(np.round(y + d * half_height), 0, height).astype(int) for d in (-1, 1))
    left, right = (np.clip(np.round(x + d * half_width), 0, width).astype(int) for d in (-1, 1))
    share = np.where(cut, 1 - (bottom - top) * (right - left) / (height * width), share)
    weight = send(share, device).view(-1, 1, 1, 1)
    if cut.any():
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        top_, bottom_, left_, right_, cut_ = (send(a, device).view(-1, 1) for a in (top, bottom, left, right, cut))
        in_rows, in_columns = (rows >= top_) & (rows < bottom_), (columns >= left_) & (columns < right_)
        inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        weight = torch.where(cut_.view(-1, 1, 1, 1), (~inside).float(), weight)
    truth = F.one_hot(labels, num_classes).float()
    targets = torch.lerp(truth[partner], truth, send(share, device).view(-1, 1))
    return torch.lerp(images[partner], images, weight), targets
