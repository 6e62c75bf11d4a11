"""Inference over a split of real photographs, against the plain and the tuned script; and at which batch size.

    python benchmarks/inference.py [--models resnet18,vit_tiny] [--images 64] [--pairs 3] [--device cuda]

Ours is ``predict``, which every run's cost/inference is measured by, from the cache, normalising included. The scripts
have batches of the same 32 images in memory, ready for the model: what is compared is computing. Beside it, labelled
so, their pass from the files, which two workers decode anew. Then ours at other batch sizes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import photographs
import plain_script
import torch
import tuned_script
from training import BATCH_SIZE, HALVES, ROUNDS, SIZE, classes
from turns import Answer, Pairs, result, rivals, table, take_turns

from har_sweep.processes import patient_threads

IMAGES = {"resnet18": 128, "vit_tiny": 128, "tf_efficientnet_lite0": 128, "vit_base": 32}
OTHERS, FEW = (1, 4, 8, 16, 32, 64), 64
Prepare = Callable[[Path, str, torch.device], tuple[str, Any, Callable[[Any], Any]]]
"""A script made ready: its precision, its loader, and what predicts batches."""


def ours(answer: Answer, place: Path, model_name: str, device: str, split: str, batch_sizes: list[int]) -> None:
    """First timm's name, then the seconds of a pass at each of the batch sizes in turn, again and again."""
    from har_sweep.data.dataset import Dataset
    from har_sweep.device.compute import prepare_compute
    from har_sweep.device.ranks import Ranks
    from har_sweep.model.build import build_model
    from har_sweep.train.evaluate import forward_of, predict
    from har_sweep.train.session import Session

    given = f"model={model_name}", f"hardware={device}"
    specs = [photographs.planned(place, *given, f"trainer.batch_size={batch_size}") for batch_size in batch_sizes]
    spec, dataset = specs[0], Dataset.read(specs[0].dataset_file)
    compute = prepare_compute(spec, Ranks())
    model = build_model(spec.config, spec.model, len(dataset.classes), lambda text: None).eval()
    forward = forward_of(compute.place(model), spec.model, compute)
    answer((spec.model.timm_name, spec.precision))
    while True:
        for each in specs:
            answer(predict(forward, Session(each, dataset, compute), split).seconds)


def plain(place: Path, timm_name: str, device: torch.device) -> tuple[str, Any, Callable[[Any], Any]]:
    loader = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)["val"]
    return "fp32", loader, partial(plain_script.predict, plain_script.build(timm_name, classes(place), SIZE).to(device))


def tuned(place: Path, timm_name: str, device: torch.device) -> tuple[str, Any, Callable[[Any], Any]]:
    loader = tuned_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES, device)["val"]
    model = tuned_script.build(timm_name, classes(place), SIZE, device).eval()
    precision = tuned_script.faster_precision(model, SIZE)
    return precision, loader, lambda batches: tuned_script.predict(model, batches, precision)


PEERS: dict[str, Prepare] = {"plain script": plain, "tuned script": tuned}


def theirs(answer: Answer, place: Path, timm_name: str, device: str, prepare: Prepare) -> None:
    """First the precision, then seconds of a pass over images in memory, and of one over files, again and again."""
    precision, loader, predict = prepare(place, timm_name, torch.device(device))
    ready = list(loader)
    answer(precision)
    while True:
        seconds = []
        for batches in (ready, loader):
            started = time.perf_counter()
            predict(batches)
            seconds.append(time.perf_counter() - started)
        answer(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(IMAGES))
    parser.add_argument("--images", type=int, help="of the split")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pairs", type=int, default=ROUNDS)
    args = parser.parse_args()
    rows, sizes = [], []
    ratios: dict[str, dict[str, float]] = {f"{peer}{files}": {} for peer in PEERS for files in ("", ", from files")}
    for model_name in args.models.split(","):
        images = args.images or (384 if args.device == "cuda" else IMAGES.get(model_name, 64))
        few = min(images, FEW)
        with (
            photographs.folder(photographs.some(8, images, few)) as place,
            rivals(
                (ours, place, model_name, args.device, "val", [BATCH_SIZE]),
                (ours, place, model_name, args.device, "test", list(OTHERS)),
                environment=patient_threads(),
            ) as (our, at_sizes),
        ):
            timm_name, precision = our()
            with rivals(*((theirs, place, timm_name, args.device, prepare) for prepare in PEERS.values())) as scripts:
                precisions = [script() for script in scripts]
                take_turns(our, *scripts, pairs=1)
                mine, *others = take_turns(our, *scripts, pairs=args.pairs)
            at_sizes()
            found = list(zip(*([at_sizes() for _ in OTHERS] for _ in range(3)), strict=True))
        name = f"{model_name} {precision}"
        for peer, its, seconds in zip(PEERS, precisions, others, strict=True):
            ready, files = (Pairs(mine, list(each)) for each in zip(*seconds, strict=True))
            rates = [f"{images / median(each):.3g}" for each in (mine, ready.theirs, files.theirs)]
            rows.append([name, rates[0], f"{peer}, {its}", rates[1], *ready.texts()[2:], rates[2], files.texts()[2]])
            ratios[peer][model_name], ratios[f"{peer}, from files"][model_name] = ready.ratio, files.ratio
        sizes.append([name, *(f"{few / median(seconds[1:]):.3g}" for seconds in found)])
    table(
        f"Images/s over a split of real photographs, {SIZE} px, batches of {BATCH_SIZE}, {args.device}",
        ["model", "har_sweep", "peer", "its images/s, decoded and normalised before", "times as fast", "in pairs",
         "its images/s from files", "times as fast, decoding included"],
        rows,
    )  # fmt: skip
    table("har_sweep's images/s by batch size", ["model", *map(str, OTHERS)], sizes)
    result(ratios=ratios)


if __name__ == "__main__":
    main()
