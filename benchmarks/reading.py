"""Input: real photographs into batches that are ready for a model, against the loaders of the scripts and of timm.

    python benchmarks/reading.py [--images 1836] [--pairs 5]

One pass over the training photographs in random order, 224 px, batches of 32. What is compared is ready to train on:
flipped, turned (but where the peer is timm, which does not), float32 and normalised. Ours come from the decoded cache,
augmented by as many threads as the peers have workers, two; also with not a page of the cache in memory, which is the
worst of a cache larger than memory. Beside it, and labelled so, decoded bytes alone, as they go to a GPU. Building the
cache: by one core and by two, against a loop of PIL that keeps the same pixels. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sized
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import photographs
from PIL import Image
from turns import PAIRS, Answer, Pairs, result, rivals, table, take_turns

# Torch is imported where it is used: processes that decode import this module, and should start as fast as ever.
SIZE, BATCH_SIZE, HALVES = 224, 32, [0.5, 0.5, 0.5]


def _timed(batches: Iterable[Sized]) -> float:
    """Seconds an image of a whole pass, the start of what it starts included."""
    started = time.perf_counter()
    images = sum(len(batch) for batch in batches)
    return (time.perf_counter() - started) / images


def cached(answer: Answer, place: Path, degrees: float | None, cold: bool) -> None:
    """Our passes: ready to train on, turned by up to ``degrees``, or for None decoded bytes; ``cold`` drops the
    cache's pages from memory before each."""
    import torch

    from har_sweep.config.schema import AugmentationConfig
    from har_sweep.data.batches import batches
    from har_sweep.data.dataset import Dataset
    from har_sweep.train.augmentation import augment

    spec = photographs.planned(place, "model=resnet18", "hardware=cpu", "hardware.precision=fp32")
    dataset, epoch = Dataset.read(spec.dataset_file), 0
    recipe, generator = AugmentationConfig(rotation_degrees=degrees or 0.0), torch.Generator().manual_seed(0)
    torch.set_num_threads(2)
    while True:
        if cold:
            _forget(dataset.caches[SIZE])
        stream = batches(dataset, "train", SIZE, BATCH_SIZE, order=(0, epoch), threads=1)
        if degrees is None:
            answer(_timed(b.images for b in stream))
        else:
            ready = (augment(b.images, b.labels, recipe, SIZE, HALVES, HALVES, generator, 4)[0] for b in stream)
            answer(_timed(ready))
        epoch += 1


def _forget(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def data_loader(answer: Answer, place: Path) -> None:
    """The plain script's own loader, in two workers."""
    import plain_script

    loader = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)["train"]
    while True:
        answer(_timed(images for images, _ in loader))


def tuned_loader(answer: Answer, place: Path) -> None:
    """The tuned script's, in two workers that stay."""
    import torch
    import tuned_script

    place_of_it, cpu = place / "labels.csv", torch.device("cpu")
    loader = tuned_script.load(place_of_it, SIZE, BATCH_SIZE, HALVES, HALVES, cpu)["train"]
    while True:
        answer(_timed(images for images, _ in loader))


def timm_loader(answer: Answer, place: Path) -> None:
    """timm's, in two workers that stay: resized and flipped."""
    import timm_script
    import torch

    loader = timm_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES, torch.device("cpu"))
    while True:
        answer(_timed(images for images, _ in loader))


# A program of its own, as the command is one: the processes that decode import what starts them.
BUILD = """
import os, pathlib, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from photographs import planned
place, cache = map(pathlib.Path, sys.argv[2:])
started = time.perf_counter()
planned(place, "model=resnet18", "hardware=cpu", "hardware.precision=fp32", f"paths.cache={cache}")
print(time.perf_counter() - started)
"""


def build(place: Path, cores: int, images: int) -> float:
    """Seconds an image in which all photographs are decoded into a new cache on so many cores."""
    cache = place / f"built-by-{cores}"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", BUILD, str(cores), str(place), str(cache)]
    said = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    shutil.rmtree(cache)
    return float(said.stdout.splitlines()[-1]) / images


def build_with_pil(answer: Answer, place: Path) -> None:
    """What one writes by hand: read, convert, resize, keep."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    paths = list(pd.read_csv(place / "labels.csv")["path"])
    while True:
        started = time.perf_counter()
        pixels = np.memmap(place / "pil.u8", np.uint8, "w+", shape=(len(paths), SIZE, SIZE, 3))
        for row, path in enumerate(paths):
            pixels[row] = np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        pixels.flush()
        answer((time.perf_counter() - started) / len(paths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help="of the training split; default: all")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    args = parser.parse_args()
    rows = photographs.some(args.images, 8, 8) if args.images else photographs.elpv()
    with photographs.folder(rows) as place:
        photographs.planned(place, "model=resnet18", "hardware=cpu", "hardware.precision=fp32")
        ours = [(cached, place, *given) for given in ((10.0, False), (0.0, False), (10.0, True), (None, False))]
        with rivals(*ours, (data_loader, place), (tuned_loader, place), (timm_loader, place)) as asks:
            take_turns(*asks, pairs=1)
            ready, flipped, cold, decoded, plain, tuned, timms = take_turns(*asks, pairs=args.pairs)
        with rivals((build_with_pil, place)) as (loop,):
            of_two, of_one = (lambda cores=n: build(place, cores, len(rows)) for n in (2, 1))
            two, one, pil = take_turns(of_two, of_one, loop, pairs=args.pairs)
    pairs = {
        ("ready to train on", "the plain script's loader (PIL)"): Pairs(ready, plain),
        ("ready to train on", "the tuned script's loader (torchvision v2)"): Pairs(ready, tuned),
        ("ready to train on, not turned", "timm's loader"): Pairs(flipped, timms),
        ("ready to train on, from a cache with no page in memory", "the plain script's loader (PIL)"): Pairs(
            cold, plain
        ),
        ("not like with like: decoded bytes", "the plain script's loader, ready to train on"): Pairs(decoded, plain),
        ("building the cache, two cores", "the same, one core"): Pairs(two, one),
        ("building the cache, one core", "a loop of PIL, one core"): Pairs(one, pil),
        ("building the cache, two cores", "a loop of PIL, one core"): Pairs(two, pil),
    }
    table(
        f"Images/s, in random order, {SIZE} px, peers with two workers",
        ["ours", "images/s", "peer", "images/s", "times as fast", "in pairs"],
        [
            [our, f"{1 / median(found.ours):,.0f}", peer, f"{1 / median(found.theirs):,.0f}", *found.texts()[2:]]
            for (our, peer), found in pairs.items()
        ],
    )
    result(ratios={f"{our} / {peer}": found.ratio for (our, peer), found in pairs.items()})


if __name__ == "__main__":
    main()
