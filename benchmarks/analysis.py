"""The analysis at size: fronts of 100,000 points, 10,000 records to the finished report, and a table of a million rows.

    python benchmarks/analysis.py

Each figure is a median of pairs that take turns with a peer on the same data: the numpy loop that people copy for
fronts, and ``json`` with ``pandas.json_normalize`` for reading records. Reports are made in processes of their own,
whose times and peak memory are those of the command that a user gives. The last line is JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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

MODELS, SETTINGS, SEEDS, ROWS = 20, 100, 5, 1_000_000
LEVELS = 4  # of accuracy, that the settings reach
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
    """20 models in 100 settings with 5 seeds: 10,000 records, each with its predictions of 1,890 images a split; 25
    settings of a model share those of a seed, the next 25 are 3 points worse."""
    random = np.random.default_rng(0)
    epochs = [Epoch(n, 1 / n, 1.2 / n, 0.5 + n / 100, 1e-3, 10.0) for n in range(1, EPOCHS + 1)]
    count = 0
    for model, seed, level in itertools.product(range(MODELS), range(SEEDS), range(LEVELS)):
        share = 0.5 + model / 50 - 0.03 * level + 0.02 * random.random()
        predicted = predictions({"val": share, "test": share}, (model, seed), CLASSES, IMAGES)
        predicted.to_parquet(shared := folder / f".predictions-{model}-{seed}-{level}.parquet")
        measured = {split: metrics(predicted[predicted["split"] == split], CLASSES) for split in ("val", "test")}
        for setting in range(SETTINGS)[level * SETTINGS // LEVELS :][: SETTINGS // LEVELS]:
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


def make_table(file: Path) -> int:
    """A million models, as many as no one has: names of two words, accuracies that grow with what they cost."""
    random = np.random.default_rng(0)
    macs = 10 ** random.normal(9.5, 0.7, ROWS)
    logits = 0.5 * np.log10(macs) - 4 + random.normal(0, 0.5, ROWS)
    pd.DataFrame({
        "model": [f"net_{number}" for number in range(ROWS)],
        "accuracy": (1 / (1 + np.exp(-logits))).round(5),
        "seconds": (macs / 1e11 * random.lognormal(0, 0.3, ROWS)).round(6),
        "params": (macs / 100 * random.lognormal(0, 0.5, ROWS)).astype(int),
    }).to_csv(file, index=False)  # fmt: skip
    return ROWS


@dataclass(frozen=True)
class Report:
    """What the command took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    @classmethod
    def of(cls, *given: str) -> Report:
        """The command's with these arguments; what it writes is thrown away."""
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "multirun_analysis", *given, "--out", place]
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"{' '.join(command)} failed.")
            unit = 1 if sys.platform == "darwin" else 1024
            return cls(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)

    def texts(self) -> list[str]:
        return [f"{self.seconds:.1f} s", f"{self.cpu_seconds:.1f} s", byte_size(self.peak_bytes)]


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
        of_records = Report.of(place)
    with tempfile.TemporaryDirectory() as place:
        row_count = make_table(file := Path(place) / "models.csv")
        of_rows = Report.of(str(file), "--cost", "seconds:min", "--cost", "params:min")
    table(
        "Fronts, and reading records",
        ["what", "peer", "multirun_analysis", "peer's", "times as fast", "in pairs"],
        [[what, whose, *found.texts()] for what, whose, found in rows],
    )
    table(
        "The command multirun_analysis, to the finished report",
        ["of", "time", "of processors", "peak memory", "to stay under"],
        [
            [f"{count:,} records", *of_records.texts(), "12 s of processors"],
            [f"{row_count:,} rows of a table", *of_rows.texts(), "60 s of processors, 2 GB"],
        ],
    )
    names = ("scattered_front_ratio", "close_front_ratio", "read_ratio")
    ratios = {name: found.ratio for name, (*_, found) in zip(names, rows, strict=True)}
    front_seconds = median(rows[0][-1].ours)
    result(**ratios, front_seconds=front_seconds, report=asdict(of_records), report_of_rows=asdict(of_rows))


if __name__ == "__main__":
    main()
