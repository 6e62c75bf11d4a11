"""The analysis at size: fronts of 100,000 points, and 10,000 run records to the finished report.

    python benchmarks/analysis.py

Each figure is a median of pairs that take turns with a peer on the same data: the numpy loop that people copy for
fronts, and ``json`` with ``pandas.json_normalize`` for reading records. The report is made in a process of its own,
whose time and peak memory are those of the command that a user gives. The last line is JSON.
"""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import pandas as pd
from turns import Pairs, result, table, take_turns

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from made_runs import a_record, metrics, predictions

from har_sweep.record.record import Epoch
from har_sweep.units import byte_size
from multirun_analysis.analysis.pareto import Floats, contributions, nondominated, shortfall
from multirun_analysis.sources.read import read_runs

MODELS, SETTINGS, SEEDS = 20, 100, 5
IMAGES, EPOCHS, CLASSES = 1890, 20, [f"class {n}" for n in range(15)]


def numpy_loop(points: Floats) -> np.ndarray:
    """The well-known loop: take the next point that is left, drop all that it dominates."""
    left = np.arange(len(points))
    front = np.zeros(len(points), dtype=bool)
    rest, place = points, 0
    while place < len(rest):
        kept = np.any(rest < rest[place], axis=1) | np.all(rest == rest[place], axis=1)
        left, rest = left[kept], rest[kept]
        place = int(np.sum(kept[:place])) + 1
    front[left] = True
    return front


def timed(act: Callable[[], object]) -> Callable[[], float]:
    """``act`` that gives the seconds it took."""

    def measured() -> float:
        started = time.perf_counter()
        act()
        return time.perf_counter() - started

    return measured


def make_runs(folder: Path) -> int:
    """20 models in 100 settings with 5 seeds: 10,000 records, each with its predictions of 1,890 images a split; the
    settings of a model share those of a seed."""
    random = np.random.default_rng(0)
    epochs = [Epoch(n, 1 / n, 1.2 / n, 0.5 + n / 100, 1e-3, 10.0) for n in range(1, EPOCHS + 1)]
    count = 0
    for model, seed in itertools.product(range(MODELS), range(SEEDS)):
        share = 0.5 + model / 50 + 0.02 * random.random()
        predicted = predictions({"val": share, "test": share}, (model, seed), CLASSES, IMAGES)
        predicted.to_parquet(shared := folder / f".predictions-{model}-{seed}.parquet")
        measured = {split: metrics(predicted[predicted["split"] == split], CLASSES) for split in ("val", "test")}
        for setting in range(SETTINGS):
            chosen = {"config/optimizer/lr": 1e-5 * (1 + setting), "cost/training/seconds": 100.0 + model}
            record = a_record(f"vit_{model}", seed, at=chosen)
            record.epochs = [*epochs[:-1], replace(epochs[-1], val_accuracy=measured["val"].accuracy)]
            record.selected_epoch = EPOCHS
            record.dataset.classes, record.metrics = CLASSES, measured
            run = folder / record.run_id
            run.mkdir()
            (run / "record.json").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
            (run / "predictions.parquet").hardlink_to(shared)
            count += 1
    return count


def main() -> None:
    rows = []
    random = np.random.default_rng(0)
    scattered = random.random((100_000, 2))
    cost = random.random(10_000)  # fewer: the loop takes seconds where many are on the front
    close = np.stack([cost, 1 - cost + 1e-3 * random.random(10_000)], axis=1)
    for what, points in (("scattered", scattered), ("close to their front", close)):
        assert (nondominated(points) == numpy_loop(points)).all()

        def fronts(points: Floats = points) -> None:
            nondominated(points)
            contributions(points)
            shortfall(points[:, 0], points[:, 1])

        def peer(points: Floats = points) -> None:
            numpy_loop(points)

        found = Pairs(*take_turns(timed(fronts), timed(peer)))
        rows.append((f"{len(points):,} points, {what}: front and shares", "numpy loop, front alone", found))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        count = make_runs(folder)
        files = sorted(folder.glob("*/record.json"))
        found = Pairs(
            *take_turns(
                timed(lambda: read_runs([place], folder, lambda *told: None)),
                timed(lambda: pd.json_normalize([json.loads(file.read_bytes()) for file in files], sep="/")),
            )
        )
        rows.append((f"{count:,} records into a table, checked", "json and json_normalize, unchecked", found))
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "multirun_analysis", place, "--out", str(folder / ".report")],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        report_seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds = used.ru_utime + used.ru_stime
        peak_bytes = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        shutil.rmtree(folder / ".report")
    table(
        "Fronts, and reading records",
        ["what", "peer", "multirun_analysis", "peer's", "times as fast", "in pairs"],
        [[what, whose, *found.texts()] for what, whose, found in rows],
    )
    table(
        "The command multirun_analysis",
        ["records", "seconds to the finished report", "CPU seconds", "peak memory"],
        [[f"{count:,}", f"{report_seconds:.1f}", f"{cpu_seconds:.1f}", byte_size(peak_bytes)]],
    )
    names = ("scattered_front_ratio", "close_front_ratio", "read_ratio")
    ratios = {name: found.ratio for name, (*_, found) in zip(names, rows, strict=True)}
    front_seconds = median(rows[0][-1].ours)
    of_report = {"report_seconds": report_seconds, "report_cpu_seconds": cpu_seconds, "report_peak_bytes": peak_bytes}
    result(**ratios, front_seconds=front_seconds, **of_report)


if __name__ == "__main__":
    main()
