"""Finished runs for tests of the analysis: real records and predictions in real files, of chosen accuracies."""

from __future__ import annotations

import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from har_sweep.record.folder import RunPaths, write_record
from har_sweep.record.record import (
    ClassMetrics,
    Cost,
    DatasetInfo,
    Environment,
    Epoch,
    Hardware,
    InferenceCost,
    Metrics,
    ModelInfo,
    Record,
    TrainingCost,
    confusions,
)
from multirun_analysis.analysis.analysis import analyse
from multirun_analysis.analysis.question import Question
from multirun_analysis.findings import Analysis, Block
from multirun_analysis.sources.read import read_runs

CLASSES = ["calling", "clapping", "cycling", "dancing"]


def quiet(what: str, done: int, total: int | None) -> None:
    """Progress that nobody looks at."""


def ask(*sources: Path, **question: Any) -> Analysis:
    """The analysis of some sources, with its cache beside the first."""
    runs = read_runs(list(map(str, sources)), sources[0] / "cache", quiet)
    return analyse(runs, Question(**question), "", quiet)


def block_of(runs: Path, **question: Any) -> Block:
    """The one block of a folder's analysis."""
    (block,) = ask(runs, **question).blocks
    return block


def a_record(model: str = "resnet18", seed: int = 0, **changes: Any) -> Record:
    """A record of a finished run, without metrics. ``changes`` are set by their paths: ``cost__macs=...`` or, where
    a name is none of Python's, in ``{"config/optimizer/lr": ...}`` given as ``at``."""
    at = changes.pop("at", {}) | {key.replace("__", "/"): value for key, value in changes.items()}
    config = {
        "model": {"name": model, "timm_name": model, "drop_path_rate": 0.0},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "trainer": {"epochs": 2, "batch_size": 32},
        "hardware": {"device": "auto", "price_per_device_hour": None},
        "data": {"root": None},
        "tracking": {"backend": "none"},
        "seed": seed,
    }
    record = Record(
        run_id="",
        status="done",
        name=model,
        sweeps=["sweep"],
        seed=seed,
        config=config,
        overrides=[],
        started_at="2026-01-01T00:00:00.000Z",
        finished_at="2026-01-01T00:10:00.000Z",
        environment=Environment("3.11.7", {"torch": "2.14.1"}, "abc", False, "host", "Linux", None),
        hardware=Hardware("cuda", "NVIDIA H100", 1, "bf16", 8),
        dataset=DatasetInfo("photos", "f00d", "5eed", CLASSES, {"train": 800, "val": 200, "test": 200}),
        model=ModelInfo(model, model, "in1k", [3, 224, 224], "pretrained"),
        epochs=[Epoch(n, 1 / n, 1.2 / n, 0.5 + n / 10, 1e-3, 10.0) for n in (1, 2)],
        selected_epoch=2,
        cost=Cost(
            parameters=11_000_000, trainable_parameters=11_000_000, disk_bytes=44_000_000, macs=1_800_000_000,
            macs_without_attention_products=1_800_000_000, device_hours=0.1,
            training=TrainingCost(100.0, 99.0, 1.0, 0.01, 400.0, 10**9, None),
            inference=InferenceCost(32, 2.0, 5 * 10**8, 900.0, {"batch_1": {"p50": 0.004, "p95": 0.005}}, None),
        ),
    )  # fmt: skip
    tree = msgspec.to_builtins(record)
    for path, value in at.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    record = msgspec.convert(tree, Record)
    if not record.run_id:
        record.run_id = f"{model}-{_number(f'{model} {seed} {sorted(at.items())}'):010x}"
    return record


def _number(text: str) -> int:
    return zlib.crc32(text.encode())


def predictions(right: dict[str, float], seed: object, classes: list[str] = CLASSES, images: int = 200) -> pd.DataFrame:
    """Predictions of which just ``right[split]`` (a share) are right; what is hard is hard for every model, mostly."""
    frames = []
    for split, share in right.items():
        difficulty = np.random.default_rng(7).random(images)
        mine = difficulty + 0.3 * np.random.default_rng(_number(str(seed))).random(images)
        labels = np.arange(images) % len(classes)
        answers = labels.copy()
        wrong = np.argsort(-mine)[: images - round(share * images)]
        answers[wrong] = (labels[wrong] + 1) % len(classes)
        probabilities = np.full((images, len(classes)), 0.1 / max(1, len(classes) - 1), dtype=np.float32)
        probabilities[np.arange(images), answers] = 0.9
        names = np.array(classes)
        frames.append(
            pd.DataFrame(
                {
                    "path": [f"{split}/{number:04}.jpg" for number in range(images)],
                    "split": split,
                    "label": names[labels],
                    "prediction": names[answers],
                    "probabilities": list(probabilities),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def metrics(table: pd.DataFrame, classes: list[str]) -> Metrics:
    """The metrics that belong to predictions."""
    truth, answer = table["label"], table["prediction"]

    def averages(average: str | None) -> Any:
        return precision_recall_fscore_support(truth, answer, labels=classes, average=average, zero_division=0)

    macro, weighted, each = averages("macro"), averages("weighted"), averages(None)
    shares = [float((truth == answer).mean()), 1.0, *map(float, macro[:3]), *map(float, weighted[:3]), 0.5, 0.05]
    names = [field.name for field in fields(Metrics)]
    return Metrics(
        **dict(zip(names, shares, strict=False)),
        per_class={
            name: ClassMetrics(float(p), float(r), float(f), int(n))
            for name, p, r, f, n in zip(classes, *each, strict=True)
        },
        confusion=confusions(confusion_matrix(truth, answer, labels=classes).tolist()),
    )


def write_run(
    runs: Path,
    model: str = "resnet18",
    seed: int = 0,
    val: float = 0.7,
    test: float = 0.7,
    images: int = 200,
    **changes: Any,
) -> Record:
    """A finished run in ``runs/<run_id>/``: its record and its predictions, with these accuracies on val and test."""
    record = a_record(model, seed, **changes)
    paths = RunPaths(runs / record.run_id)
    if record.status == "done":
        classes = record.dataset.classes
        table = predictions({"val": val, "test": test}, (model, seed, sorted(changes)), classes, images)
        record.metrics = {split: metrics(table[table["split"] == split], classes) for split in ("val", "test")}
        record.dataset.counts |= {"val": images, "test": images}
        if record.selected_epoch and record.selected_epoch <= len(record.epochs):
            record.epochs[record.selected_epoch - 1].val_accuracy = record.metrics["val"].accuracy
        paths.folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(paths.predictions)
    write_record(record, paths)
    return record
