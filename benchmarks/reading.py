"""Input: real photographs into batches, against PIL with a DataLoader of two workers, and against timm's loader.

    python benchmarks/reading.py

One pass over 1,836 training photographs in random order, 224 px, batches of 32. Ours come from the decoded cache: as
uint8, as they go to the device; as float32 and normalised, as the peers' are; and with not a page of the cache in
memory, which is the worst of a cache larger than memory. Building the cache: by one core and by two, against a loop of
PIL that keeps the same pixels. The last line is JSON.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import photographs
from PIL import Image
from turns import Answer, Pairs, result, rivals, table, take_turns

# Torch is imported where it is used: processes that decode import this module, and should start as fast as ever.
SIZE, BATCH_SIZE, HALVES = 224, 32, [0.5, 0.5, 0.5]


def _timed(batches: Iterable[Sized]) -> float:
    """Seconds of a whole pass, the start of workers included."""
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


def cached(answer: Answer, place: Path, floats: bool, cold: bool) -> None:
    """Our passes; ``cold`` drops the cache's pages from memory before each."""
    import torch

    from har_sweep.data.batches import batches
    from har_sweep.data.dataset import Dataset
    from har_sweep.train.augmentation import normalise

    spec = photographs.planned(place, "model=resnet18", "hardware=cpu")
    dataset, epoch = Dataset.read(spec.dataset_file), 0
    torch.set_num_threads(1)  # gathering has a thread of its own, and the peers' workers are two
    while True:
        if cold:
            _forget(dataset.caches[SIZE])
        stream = batches(dataset, "train", SIZE, BATCH_SIZE, order=(0, epoch), threads=1)
        answer(
            _timed(normalise(b.images, HALVES, HALVES) for b in stream) if floats else _timed(b.images for b in stream)
        )
        epoch += 1


def _forget(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def data_loader(answer: Answer, place: Path) -> None:
    """The script's own loader: decoding, resizing, flip, rotation, normalising, in two workers."""
    import plain_script

    loader = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)["train"]
    while True:
        answer(_timed(images for images, _ in loader))


def timm_loader(answer: Answer, place: Path) -> None:
    """timm's training loader with two workers, with as little augmentation as it has: crop, resize, flip."""
    import plain_script
    import torch
    from timm.data import create_loader

    dataset: Any = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)["train"].dataset
    loader = create_loader(
        dataset, (3, SIZE, SIZE), BATCH_SIZE, is_training=True, color_jitter=0.0, num_workers=2,
        mean=tuple(HALVES), std=tuple(HALVES), device=torch.device("cpu"), persistent_workers=False,
    )  # fmt: skip
    while True:
        answer(_timed(images for images, _ in loader))


# A program of its own, as the command is one: the processes that decode import what starts them.
BUILD = """
import os, pathlib, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
from photographs import planned
place, cache = map(pathlib.Path, sys.argv[2:])
started = time.perf_counter()
planned(place, "model=resnet18", "hardware=cpu", f"paths.cache={cache}")
print(time.perf_counter() - started)
"""


def build(place: Path, cores: int) -> float:
    """Seconds in which all photographs are decoded into a new cache on so many cores."""
    cache = place / f"built-by-{cores}"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", BUILD, str(cores), str(place), str(cache)]
    said = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    shutil.rmtree(cache)
    return float(said.stdout.splitlines()[-1])


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
        answer(time.perf_counter() - started)


def main() -> None:
    rows = photographs.elpv()
    train, everything = int((rows["split"] == "train").sum()), len(rows)
    with photographs.folder(rows) as place:
        photographs.planned(place, "model=resnet18", "hardware=cpu")
        works = [(cached, place, False, False), (cached, place, True, False), (cached, place, False, True),
                 (data_loader, place), (timm_loader, place)]  # fmt: skip
        with rivals(*works) as asks:
            take_turns(*asks, pairs=1)
            warm, floats, cold, loader, timms = take_turns(*asks)
        with rivals((build_with_pil, place)) as (loop,):
            two, one, pil = take_turns(lambda: build(place, 2), lambda: build(place, 1), loop)

    def line(what: str, seconds: list[float], peer: str, peers: list[float], images: int = train) -> list[str]:
        pairs = Pairs(seconds, peers)
        rates: list[Callable[[float], str]] = [lambda s: f"{images / s:,.0f}"]
        our, their = (rates[0](float(np.median(s))) for s in (seconds, peers))
        return [what, our, peer, their, *pairs.texts()[2:]]

    pil_loader = "PIL, DataLoader with 2 workers"
    table(
        "Images/s, in random order, 224 px",
        ["ours", "images/s", "peer", "images/s", "times as fast", "in pairs"],
        [
            line("from the cache, uint8 as they go to the device", warm, pil_loader, loader),
            line("from the cache, float32 and normalised", floats, pil_loader, loader),
            line("from a cache with no page in memory, uint8", cold, pil_loader, loader),
            line("from the cache, uint8 as they go to the device", warm, "timm's loader, 2 workers", timms),
            line("building the cache, two cores", two, "the same, one core", one, everything),
            line("building the cache, one core", one, "a loop of PIL, one core", pil, everything),
            line("building the cache, two cores", two, "a loop of PIL, one core", pil, everything),
        ],
    )
    result(
        cache_to_loader=Pairs(warm, loader).ratio, floats_to_loader=Pairs(floats, loader).ratio,
        cold_cache_to_loader=Pairs(cold, loader).ratio, cache_to_timm_loader=Pairs(warm, timms).ratio,
        two_cores_to_one=Pairs(two, one).ratio, one_core_to_pil=Pairs(one, pil).ratio,
    )  # fmt: skip


if __name__ == "__main__":
    main()
