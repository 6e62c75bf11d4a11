"""Sweeps: what a run costs on top of its training, what runs that are done cost, and how long one waits at the start.

    python benchmarks/sweep.py

20 runs of one epoch (ResNet-18, 32 px, 90 drawn pictures), each with its process, record, checkpoint, weights,
predictions and offline W&B run. What is on top is the sweep's time without training, evaluating and measuring
latency, which are the runs' purpose; the peer, the same training in one process under Hydra's basic launcher, keeps
nothing. 200 runs that are done: records of that many seeds, each a copy of a real one, so that all are recognised. The
first training step: ResNet-18 at 224 px from a cache. 100 runs are submitted to a SLURM that is started for it,
where that can be (root, and what tests/slurm/install.sh installs). The last line is JSON.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import median

import pandas as pd
from photographs import decided
from turns import PAIRS, Pairs, result, table, take_turns

from har_sweep.config.compose import expand
from har_sweep.data.dataset import Dataset
from har_sweep.record.folder import read_record, write_record
from har_sweep.record.record import Record

RUNS, DONE = 20, 200
RESNET18 = ["model=resnet18", "model.weights=scratch", "data.images_per_class=6", "trainer.epochs=1"]
FULL_SIZE = [*RESNET18, "model.input_size=224", "hardware=cpu"]
SHORT = [*RESNET18, "model.input_size=32", "hardware=cpu"]


SEEDS = itertools.count(1000, RUNS)  # of runs that nobody has done
SUBMITTED = itertools.count(100_000, 100)


def seeds(first: int, count: int) -> str:
    return f"seed=range({first},{first + count})"


def har_sweep(place: Path, *overrides: str) -> float:
    """Seconds of the command.

    Raises
    ------
    SystemExit
        with what it said, if not every run is done.
    """
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "har_sweep", "-m", *overrides], cwd=place, capture_output=True, text=True
    )
    if ended.returncode:
        sys.exit(ended.stdout + ended.stderr)
    return time.perf_counter() - started


def finished_runs(place: Path, count: int, *overrides: str) -> None:
    """Records of ``count`` seeds from 0 on, as if they had been computed: copies of one that was."""
    har_sweep(place, *overrides, "seed=0")
    before = Path.cwd()
    os.chdir(place)
    first, *others = decided(expand([*overrides, seeds(0, count)]))
    done = read_record(first.paths.record)
    for spec in others:
        seed = spec.config.seed
        write_record(replace(done, run_id=spec.run_id, seed=seed, config={**done.config, "seed": seed}), spec.paths)
    os.chdir(before)


def on_purpose(record: Record) -> tuple[float, float]:
    """Seconds of a run that are training and evaluating, and about so many that are measuring latency."""
    inference, counts = record.cost.inference, record.dataset.counts
    assert inference
    predicting = inference.seconds * (counts["val"] + counts["test"]) / counts["val"]
    typical = inference.latency_seconds["batch_1"]["p50"]
    calls = 5 + max(20, min(50, int(0.5 / typical)))
    return sum(epoch.seconds for epoch in record.epochs) + predicting, calls * typical


def ours(place: Path) -> tuple[float, float, float]:
    """Seconds a run on top of its purpose: of all, without the first and its start, and of all with latency."""
    first = next(SEEDS)
    seconds = har_sweep(place, *SHORT, seeds(first, RUNS))
    every = [read_record(file) for file in place.glob("runs/*/record.json")]
    found = sorted((r for r in every if first <= r.seed < first + RUNS), key=lambda record: record.started_at)
    purposes = [on_purpose(record) for record in found]
    evaluating, measuring = (sum(each) for each in zip(*purposes, strict=True))
    began, ended = (datetime.fromisoformat(found[n].started_at) for n in (0, -1))
    going = (ended - began).total_seconds() - sum(sum(purpose) for purpose in purposes[:-1])
    return (seconds - evaluating - measuring) / RUNS, going / (RUNS - 1), (seconds - evaluating) / RUNS


def hydras(place: Path, *overrides: str) -> tuple[float, float]:
    """Seconds of the peer, and of them those in training."""
    started = time.perf_counter()
    app = Path(__file__).with_name("hydra_app.py")
    output = subprocess.run(
        [sys.executable, app, "-m", f"labels={place}/labels.csv", *overrides],
        cwd=place,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return time.perf_counter() - started, sum(float(line.split()[-1]) for line in output.splitlines() if "took" in line)


def first_line(place: Path) -> float:
    """Seconds until a sweep has something on the screen."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "har_sweep", "-m", *SHORT, seeds(0, 2)]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        process.stdout.readline()
        seconds = time.perf_counter() - started
        process.stdout.read()
    return seconds


def answer(place: Path, *arguments: str) -> float:
    """Seconds of a command that runs nothing."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "har_sweep", *arguments], cwd=place, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def submitting(place: Path) -> list[float]:
    """Seconds to plan and submit 100 runs, some times; none where no SLURM can be started."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from slurm.cluster import Cluster

    seconds = []
    try:
        with Cluster() as cluster:
            for _ in range(PAIRS):
                first, started = next(SUBMITTED), time.perf_counter()
                given = [*SHORT[:-1], "hardware=slurm_cpu", "launch.wait=false"]
                given += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=3"]
                held = "+hydra.launcher.additional_parameters.hold=true"
                command = [sys.executable, "-m", "har_sweep", "-m", *given, held, seeds(first, 100)]
                ended = cluster.run(*command, cwd=place)
                if ended.returncode:
                    raise RuntimeError(ended.stdout + ended.stderr)
                seconds.append(time.perf_counter() - started)
    except RuntimeError as e:
        print(f"100 runs are not submitted: {e}", file=sys.stderr)
    return seconds


def first_step(place: Path) -> float:
    """Seconds from the command to the end of a new run's first training step."""
    seed, began = next(SEEDS), time.time()
    har_sweep(place, *FULL_SIZE, f"seed={seed}")
    (log,) = (f.with_name("run.log") for f in place.glob("runs/*/record.json") if _is(f, seed))
    line = next(line for line in log.read_text().splitlines() if " step 1/" in line)
    return datetime.fromisoformat(line.split()[0]).timestamp() - began


def _is(file: Path, seed: int) -> bool:
    record = read_record(file)
    return record.seed == seed and record.model.input_size == [3, 224, 224]


def labels(place: Path) -> None:
    """The sample's pictures for the peer, with the same split."""
    dataset = Dataset.read(next(place.rglob("datasets/*.json")))
    rows = {
        "path": [str(dataset.root / path) for path in dataset.paths],
        "label": [dataset.classes[label] for label in dataset.labels],
        "split": dataset.split,
    }
    pd.DataFrame(rows).to_csv(place / "labels.csv", index=False)


def shown(name: str, seconds: Sequence[float], limit: str = "") -> list[str]:
    return [name, f"{median(seconds):.2f} s", f"{min(seconds):.2f} to {max(seconds):.2f}", limit]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as there, tempfile.TemporaryDirectory(prefix="bench-") as old:
        place, done_place = Path(there), Path(old)
        finished_runs(done_place, DONE, *SHORT)
        har_sweep(place, *SHORT, "seed=0")
        labels(place)
        mine, other = take_turns(lambda: ours(place), lambda: hydras(place, seeds(0, RUNS)))
        done, hydra_done = take_turns(
            lambda: har_sweep(done_place, *SHORT, seeds(0, DONE)), lambda: hydras(place, "done=true", seeds(0, DONE))[0]
        )
        lines = take_turns(lambda: first_line(done_place))[0]
        har_sweep(place, *FULL_SIZE, "seed=0")
        steps = take_turns(lambda: first_step(place))[0]
        helps = take_turns(lambda: answer(place, "--help"))[0]
        configs = take_turns(lambda: answer(place, "--cfg", "job"))[0]
        submitted = submitting(place)
    on_top, going, with_latency = ([pair[n] for pair in mine] for n in range(3))
    hydra_on_top = [(seconds - training) / RUNS for seconds, training in other]
    table(
        "Sweeps",
        ["what", "median", "range", "to stay under"],
        [
            shown(f"a run on top of training, evaluating and measuring, of {RUNS}", on_top, "0.5 s"),
            shown("the same from run to run, without the start of the first", going, "0.5 s"),
            shown("the first with measuring latency", with_latency),
            shown("Hydra's basic launcher: a run on top of training (no process, record or W&B)", hydra_on_top),
            shown(f"{DONE} runs that are done, in all", done, "1.6 s"),
            shown(f"Hydra's basic launcher: {DONE} runs that return at once", hydra_done),
            *([shown("100 runs planned and submitted to SLURM", submitted, "5 s")] if submitted else []),
            shown("`--help`", helps, "0.5 s"),
            shown("`--cfg job`", configs, "0.6 s"),
            shown("the first line on the screen", lines, "1 s"),
            shown("the first training step is over (ResNet-18, 224 px, cached)", steps, "8 s"),
        ],
    )
    result(
        seconds_on_top_of_a_run=median(on_top), from_run_to_run_seconds=median(going),
        with_latency_seconds=median(with_latency),
        hydra_seconds_on_top=median(hydra_on_top), done_seconds=median(done),
        done_ratio_to_hydra=Pairs(done, hydra_done).ratio, first_line_seconds=median(lines),
        first_step_seconds=median(steps), help_seconds=median(helps), config_seconds=median(configs),
        submitting_seconds=median(submitted) if submitted else None, pairs=PAIRS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
