"""Augmentation: the recipe of the study on batches, against torchvision's and kornia's transforms.

    python benchmarks/augmenting.py [--device cuda]

Flip, rotation by up to 10 degrees with a draw for every image, and normalising of 32 uint8 images at 224 px, already
in memory, until they are ready for the model. torchvision's have one draw for a batch, so they are called image by
image, as in a dataset; kornia's are batched as ours are. All use every core. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from kornia.augmentation import AugmentationSequential, Normalize, RandomHorizontalFlip, RandomRotation
from torchvision.transforms import InterpolationMode, v2
from turns import Pairs, result, table, take_turns

from har_sweep.config.schema import AugmentationConfig
from har_sweep.device.compute import keep_freed_memory, synchronise
from har_sweep.train.augmentation import augment

BATCH_SIZE, SIZE, BATCHES, HALVES = 32, 224, 20, [0.5, 0.5, 0.5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    device = torch.device(parser.parse_args().device)
    keep_freed_memory(device)  # for all three, as in every run
    images = torch.randint(0, 256, (BATCH_SIZE, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    labels = torch.zeros(BATCH_SIZE, dtype=torch.int64, device=device)
    recipe, generator = AugmentationConfig(), torch.Generator().manual_seed(0)
    each = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomRotation(10, InterpolationMode.BILINEAR),
         v2.ToDtype(torch.float32, scale=True), v2.Normalize(HALVES, HALVES)]
    )  # fmt: skip
    halves = torch.tensor(HALVES)
    batched = AugmentationSequential(RandomHorizontalFlip(0.5), RandomRotation(10.0, p=1.0), Normalize(halves, halves))

    def ours() -> torch.Tensor:
        return augment(images, labels, recipe, SIZE, HALVES, HALVES, generator, 15)[0]

    def torchvisions() -> torch.Tensor:
        return torch.stack([each(image) for image in images.permute(0, 3, 1, 2)])

    def kornias() -> torch.Tensor:
        return batched(images.permute(0, 3, 1, 2).float() / 255)

    def timed(act: Callable[[], torch.Tensor]) -> Callable[[], float]:
        def ask() -> float:
            started = time.perf_counter()
            for _ in range(BATCHES):
                act()
            synchronise(device)
            return (time.perf_counter() - started) / BATCHES

        return ask

    asks = [timed(act) for act in (ours, torchvisions, kornias)]
    take_turns(*asks, pairs=1)
    mine, *others = take_turns(*asks)
    rows, ratios = [], {}
    for name, seconds in zip(("torchvision", "kornia"), others, strict=True):
        pairs = Pairs([1e3 * s for s in mine], [1e3 * s for s in seconds])
        rows.append([name, *pairs.texts("ms")])
        ratios[name] = pairs.ratio
    table(f"A batch of {BATCH_SIZE}, {device.type}", ["peer", "har_sweep", "peer's", "times as fast", "in pairs"], rows)
    result(ratios=ratios)


if __name__ == "__main__":
    main()
