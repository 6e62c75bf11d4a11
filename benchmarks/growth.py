"""Growth: how time and memory grow with the images, with the runs of a sweep, and with the model.

    python benchmarks/growth.py

Each step is ten times the one before (models: as they are), so what grows in proportion grows tenfold. Images are drawn
noise of 64 px in folders, each different; runs are records of that many seeds, as in ``sweep.py``, read by the command
that finds them done and by the analysis. Seconds and peak memory are those of the whole command. The last line is JSON.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from statistics import median

import numpy as np
import photographs
from PIL import Image
from sweep import SHORT, finished_runs, seeds
from turns import Answer, result, rivals, table

IMAGES, RUNS = (1_000, 10_000, 100_000), (10, 100, 1_000)
MODELS = ("vit_tiny", "resnet18", "resnet50", "vit_small", "vit_base")
CLASSES, SIDE, BATCH_SIZE, GB = 10, 64, 32, 1e9
Row = tuple[list[str], dict[str, float]]
"""A table's row, and its figures."""


def command(place: Path, *arguments: str) -> tuple[float, int]:
    """Seconds and peak bytes (of the largest process) of a module's command.

    Raises
    ------
    SystemExit
        with what it said, if it failed.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=place, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(output.read().decode())
    return time.perf_counter() - started, _peak_bytes(usage)


def _peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def draw(folder: Path, numbers: range) -> None:
    for number in numbers:
        noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        file = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        Image.fromarray(noise).save(file, quality=80)


def draw_all(folder: Path, count: int) -> None:
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw, repeat(folder), (range(n, min(n + 500, count)) for n in range(0, count, 500))))


def read_epochs(answer: Answer, place: Path, overrides: list[str]) -> None:
    """Seconds in which an epoch's batches are read, in random order."""
    from har_sweep.data.batches import batches
    from har_sweep.data.dataset import Dataset

    os.chdir(place)
    spec = photographs.decided([overrides])[0]
    dataset, epoch = Dataset.read(spec.dataset_file), 0
    while True:
        started = time.perf_counter()
        for _ in batches(dataset, "train", spec.source_size, 256, order=(0, epoch), threads=1):
            pass
        answer(time.perf_counter() - started)
        epoch += 1


def plan_it(answer: Answer, place: Path, overrides: list[str]) -> None:
    """Seconds and peak bytes of planning a run, with all that its images need."""
    os.chdir(place)
    started = time.perf_counter()
    photographs.decided([overrides])
    answer((time.perf_counter() - started, _peak_bytes(resource.getrusage(resource.RUSAGE_SELF))))


def images(count: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="bench-") as there:
        place = Path(there)
        draw_all(place / "images", count)
        asked = [
            "data=folder", f"data.root={place}/images", f"model.input_size={SIDE}", "model=resnet18",
            "model.weights=scratch", "hardware=cpu",
        ]  # fmt: skip
        planned = []
        for _ in range(2):
            with rivals((plan_it, place, asked)) as (ask,):
                planned.append(ask())
        with rivals((read_epochs, place, asked)) as (ask,):
            reading = median([ask() for _ in range(4)][1:])
    (first, first_bytes), (again, _) = planned
    row = [f"{count:,}", f"{first:.1f} s", f"{again:.2f} s", f"{reading:.2f} s", f"{first_bytes / GB:.2f} GB"]
    return row, {"images": count, "first": first, "again": again, "epoch": reading, "bytes": first_bytes}


def runs(count: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="bench-") as there:
        place = Path(there)
        finished_runs(place, count, *SHORT)
        planning, plan_bytes = command(place, "har_sweep", "-m", *SHORT, seeds(0, count))
        analysing, analysis_bytes = command(place, "multirun_analysis", "--format", "html")
    row = [f"{count:,}", f"{planning:.2f} s", f"{plan_bytes / GB:.2f} GB"]
    row += [f"{analysing:.1f} s", f"{analysis_bytes / GB:.2f} GB"]
    found = {"runs": count, "done": planning, "analysis": analysing, "bytes": plan_bytes}
    return row, {**found, "analysis_bytes": analysis_bytes}


def models() -> list[Row]:
    import training  # here, lest torch's memory count as that of the commands that this process starts

    found = []
    with photographs.folder(photographs.some(BATCH_SIZE, 8, 8)) as place:
        for name in MODELS:
            with rivals((training.ours, place, name, "cpu", "auto")) as (ask,):
                _, macs, _, _ = ask()
                epochs: list[training.Epoch] = [ask() for _ in range(4)][1:]
            seconds, peak = median(e.seconds for e in epochs), median(e.peak_bytes for e in epochs)
            row = [
                name,
                f"{macs / 1e9:.2f} G",
                f"{seconds:.2f} s",
                f"{seconds / macs * 1e9:.2f} s",
                f"{peak / GB:.2f} GB",
            ]
            found.append((row, {"macs": macs, "seconds": seconds, "bytes": peak}))
    return found


def show(title: str, columns: Sequence[str], rows: Iterable[Row]) -> list[dict[str, float]]:
    """Print the table as soon as its rows are there; returns their figures."""
    found = list(rows)
    table(title, columns, [row for row, _ in found])
    return [figures for _, figures in found]


def main() -> None:
    by_images = show(
        f"With the images (noise, {SIDE} px)",
        [
            "images",
            "planned, decoded and split",
            "planned again",
            "an epoch's batches read (70 %)",
            "peak memory of planning",
        ],
        map(images, IMAGES),
    )
    by_runs = show(
        "With the runs of a sweep", ["runs", "found done", "peak memory", "analysed", "peak memory"], map(runs, RUNS)
    )
    by_model = show(
        f"With the model (a step of {BATCH_SIZE} images)",
        ["model", "MACs an image", "a step", "a step by GMAC", "peak memory"],
        models(),
    )
    result(images=by_images, runs=by_runs, models=by_model)


if __name__ == "__main__":
    main()
