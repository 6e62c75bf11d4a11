"""Training: whole epochs on real photographs with augmentation, against the plain script, and against the processor.

    python benchmarks/training.py [--models resnet18,vit_tiny] [--device cuda]

Ours is the loop of every run, with its cache, augmentation and precision; the script decodes with PIL and computes in
float32. Both have the same recipe, batches and images, rest while the other works, and are past their first epoch. The
share of the limit is that of bfloat16 matrix products (4096 x 4096), measured in turn with them: a multiply-add counts
as two operations, a training step as three forward passes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import photographs
import plain_script
import torch
from turns import PAIRS, Answer, Pairs, result, rivals, table, take_turns

# The images of an epoch on a CPU: the script takes a quarter to half a minute for them.
IMAGES = {"resnet18": 128, "vit_tiny": 128, "tf_efficientnet_lite0": 128, "vit_base": 32}
IMAGES_ON_GPU = 1836
BATCH_SIZE, SIZE, LR, HALVES = 32, 224, 1e-4, [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training took; memory is the most in use, above what was before there was a model."""

    seconds: float
    wait_share: float
    peak_bytes: int
    joules: float | None


def ours(answer: Answer, place: Path, model_name: str, device: str, precision: str) -> None:
    """First what the model multiplies for an image, then one epoch after the other."""
    from har_sweep.cost.static import static_costs
    from har_sweep.data.dataset import Dataset
    from har_sweep.device.ranks import Ranks
    from har_sweep.events import tell_nobody
    from har_sweep.model.build import build_model
    from har_sweep.record.record import TrainingCost
    from har_sweep.stop import Stop
    from har_sweep.train.checkpoint import Trained
    from har_sweep.train.loop import train
    from har_sweep.train.session import Session

    spec = photographs.planned(
        place, f"model={model_name}", f"hardware={device}", f"hardware.precision={precision}", "trainer.epochs=1000",
        f"trainer.batch_size={BATCH_SIZE}", "trainer.selection=last", "optimizer=adam", f"optimizer.lr={LR}",
    )  # fmt: skip
    session = Session.begin(spec, Dataset.read(spec.dataset_file), Ranks(), tell_nobody, Stop())
    model, compute = build_model(spec.config, spec.model, len(session.dataset.classes), session.warn), session.compute
    answer((spec.model.timm_name, static_costs(model, [3, SIZE, SIZE]).macs, spec.precision, compute.device_name))
    before = TrainingCost()

    def on_epoch(trained: Trained) -> None:
        nonlocal before
        cost = trained.cost
        seconds, waited = cost.seconds - before.seconds, cost.data_wait_seconds - before.data_wait_seconds
        joules = None if cost.energy_joules is None else cost.energy_joules - (before.energy_joules or 0.0)
        before = cost
        answer(Epoch(seconds, waited / seconds, cost.peak_memory_bytes or 0, joules))

    train(compute.place(model), session, on_epoch)


def theirs(answer: Answer, place: Path, timm_name: str, device: str, precision: str) -> None:
    """The same of the script."""
    from har_sweep.cost.energy import measured_energy
    from har_sweep.cost.memory import memory_now, peak_memory
    from har_sweep.device.compute import synchronise

    where = torch.device(device)
    loaders = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)
    baseline_bytes = memory_now(where)
    model = plain_script.build(timm_name, pd.read_csv(place / "labels.csv")["label"].nunique(), SIZE).to(where)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    peak_bytes = 0
    while True:
        with peak_memory(where, baseline_bytes) as peak, measured_energy(where) as energy:
            started = time.monotonic()
            plain_script.train_epoch(model, loaders["train"], optimizer, precision)
            synchronise(where)
            seconds = time.monotonic() - started
        peak_bytes = max(peak_bytes, peak.bytes)
        answer(Epoch(seconds, 0.0, peak_bytes, energy.joules))


def limit(answer: Answer, device: str) -> None:
    """Operations per second of bfloat16 matrix products."""
    from har_sweep.device.compute import synchronise

    n, times = 4096, 200 if device == "cuda" else 5
    a, b = (torch.randn(n, n, device=device).to(torch.bfloat16) for _ in range(2))
    while True:
        torch.mm(a, b)
        synchronise(a.device)
        started = time.monotonic()
        for _ in range(times):
            torch.mm(a, b)
        synchronise(a.device)
        answer(2 * n**3 * times / (time.monotonic() - started))


def compare(
    model_name: str, device: str, pairs: int, images: int, precisions: tuple[str, str],
    theirs: Callable[..., None] = theirs,
) -> Any:  # fmt: skip
    """The model's facts, and the epochs of ours and theirs, each in its precision, and the limits, in turns."""
    precision, their_precision = precisions
    with (
        photographs.folder(photographs.some(images, 32, 8)) as place,
        rivals((ours, place, model_name, device, precision), (limit, device)) as (our, rate),
    ):
        facts = our()
        with rivals((theirs, place, facts[0], device, their_precision)) as (their,):
            take_turns(our, their, pairs=1)  # the first epochs choose kernels and start workers
            return facts, *take_turns(our, their, rate, pairs=pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(IMAGES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pairs", type=int, default=PAIRS)
    args = parser.parse_args()
    rows, ratios, shares, waits = [], {}, {}, {}
    for model_name in args.models.split(","):
        images = IMAGES_ON_GPU if args.device == "cuda" else IMAGES.get(model_name, 64)
        facts, our, their, rates = compare(model_name, args.device, args.pairs, images, ("auto", "fp32"))
        _, macs, precision, _ = facts
        times = Pairs([e.seconds for e in our], [e.seconds for e in their])
        share = median(6 * macs * images / e.seconds / rate for e, rate in zip(our, rates, strict=True))
        joules = [median(e.joules for e in each) / images if each[0].joules else None for each in (our, their)]
        waits[model_name] = median(e.wait_share for e in our)
        ratios[model_name], shares[model_name] = times.ratio, share
        rows.append(
            [
                f"{model_name} {precision}", *(f"{images / median(each):.3g}" for each in (times.ours, times.theirs)),
                *times.texts()[2:], f"{100 * share:.0f} % of {median(rates) / 1e9:.0f} G/s",
                f"{100 * waits[model_name]:.1f} %", *(f"{j:.3g}" if j else "not counted here" for j in joules),
            ]
        )  # fmt: skip
    table(
        f"Training, images/s over whole epochs of photographs at {SIZE} px, batches of {BATCH_SIZE}, {args.device}",
        ["model", "har_sweep", "plain script, fp32", "times as fast", "in pairs", "share of bf16 products", "data wait",
         "J/image, ours", "theirs"],
        rows,
    )  # fmt: skip
    result(ratios=ratios, shares_of_bf16_rate=shares, data_wait_shares=waits)


if __name__ == "__main__":
    main()
