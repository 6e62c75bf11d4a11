"""Training: whole epochs on real photographs with augmentation, against three scripts, and against the processor.

    python benchmarks/training.py [--models resnet18,vit_tiny] [--images 96] [--pairs 3] [--device cuda]

Ours is the loop of every run, with its cache, augmentation and precision. The plain script decodes with PIL and
computes in float32; the tuned script has what PyTorch's tuning guide says to switch on, bfloat16 where it is the
faster; timm's loop has timm's loader and computes as the tuned script does. All have the same recipe (but timm turns
no images), batches and images, rest while another works, and are past their first epoch. The share of the limit is
that of matrix products (4096 x 4096) in our precision, measured in turn with them: a multiply-add counts as two
operations, a training step as three forward passes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import photographs
import plain_script
import timm_script
import torch
import tuned_script
from timm.optim import create_optimizer_v2
from turns import Answer, Pairs, result, rivals, table, take_turns

from har_sweep.processes import patient_threads

# The images of an epoch on a CPU: the plain script takes up to half a minute for them. Whole batches, for timm's sake.
IMAGES = {"resnet18": 96, "vit_tiny": 96, "tf_efficientnet_lite0": 96, "vit_base": 32}
IMAGES_ON_GPU = 1824
BATCH_SIZE, SIZE, LR, HALVES, ROUNDS = 32, 224, 1e-4, [0.5, 0.5, 0.5], 3
Prepare = Callable[[Path, str, torch.device], tuple[str, Callable[[], float]]]
"""A script made ready for the table, timm's model and the device: its precision, and what trains an epoch."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training took; memory is the most in use, above what was before there was a model."""

    precision: str
    seconds: float
    wait_share: float
    peak_bytes: int
    joules: float | None


def ours(answer: Answer, place: Path, model_name: str, device: str, precision: str) -> None:
    """First what the model multiplies for an image, then one epoch after the other. With a GPU, which is told of with a
    checkpoint, and has one only when that is worth its time, it is the mean of the epochs since the last."""
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
    answer((spec.model.timm_name, static_costs(model, [3, SIZE, SIZE]).macs, spec.precision))
    before, epochs_before = TrainingCost(), 0

    def on_epoch(trained: Trained) -> None:
        nonlocal before, epochs_before
        cost, epochs = trained.cost, trained.epoch - epochs_before
        seconds, waited = cost.seconds - before.seconds, cost.data_wait_seconds - before.data_wait_seconds
        joules = None if cost.energy_joules is None else (cost.energy_joules - (before.energy_joules or 0.0)) / epochs
        before, epochs_before = cost, trained.epoch
        answer(Epoch(spec.precision, seconds / epochs, waited / seconds, cost.peak_memory_bytes or 0, joules))

    train(compute.place(model), session, on_epoch)


def plain(
    place: Path, timm_name: str, device: torch.device, precision: str = "fp32"
) -> tuple[str, Callable[[], float]]:
    loader = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)["train"]
    model = plain_script.build(timm_name, classes(place), SIZE).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    return precision, lambda: plain_script.train_epoch(model, loader, optimizer, precision)


def tuned(place: Path, timm_name: str, device: torch.device) -> tuple[str, Callable[[], float]]:
    loader = tuned_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES, device)["train"]
    model = tuned_script.build(timm_name, classes(place), SIZE, device)
    precision = tuned_script.faster_precision(model, SIZE)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    return precision, lambda: tuned_script.train_epoch(model, loader, optimizer, precision)


def timms(place: Path, timm_name: str, device: torch.device) -> tuple[str, Callable[[], float]]:
    loader = timm_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES, device)
    model = tuned_script.build(timm_name, classes(place), SIZE, device)
    precision = tuned_script.faster_precision(model, SIZE)
    task, optimizer = timm_script.task(model), create_optimizer_v2(model, opt="adam", lr=LR)
    return precision, lambda: timm_script.train_epoch(task, loader, optimizer, precision)


PEERS: dict[str, Prepare] = {"plain script": plain, "tuned script": tuned, "timm's loop": timms}


def classes(place: Path) -> int:
    return int(pd.read_csv(place / "labels.csv")["label"].nunique())


def theirs(answer: Answer, place: Path, timm_name: str, device: str, prepare: Prepare) -> None:
    """The epochs of a script."""
    from har_sweep.cost.energy import measured_energy
    from har_sweep.cost.memory import memory_now, peak_memory
    from har_sweep.device.compute import synchronise

    where = torch.device(device)
    baseline_bytes, peak_bytes = memory_now(where), 0
    precision, train_epoch = prepare(place, timm_name, where)
    while True:
        with peak_memory(where, baseline_bytes) as peak, measured_energy(where) as energy:
            started = time.monotonic()
            train_epoch()
            synchronise(where)
            seconds = time.monotonic() - started
        peak_bytes = max(peak_bytes, peak.bytes)
        answer(Epoch(precision, seconds, 0.0, peak_bytes, energy.joules))


def limit(answer: Answer, device: str, precision: str) -> None:
    """Operations per second of matrix products, over a second."""
    from har_sweep.device.compute import DTYPES, synchronise

    n, at_once = 4096, 100 if device == "cuda" else 1
    a, b = (torch.randn(n, n, device=device).to(DTYPES[precision]) for _ in range(2))
    while True:
        torch.mm(a, b)
        synchronise(a.device)
        started, products = time.monotonic(), 0
        while (seconds := time.monotonic() - started) < 1:
            for _ in range(at_once):
                torch.mm(a, b)
            synchronise(a.device)
            products += at_once
        answer(2 * n**3 * products / seconds)


@contextmanager
def begun(
    model_name: str, device: str, images: int, precision: str
) -> Iterator[tuple[Path, str, int, list[Callable[[], Any]]]]:
    """The photographs' place, timm's name of the model, its multiply-adds, and our epochs and the limit to be asked
    for; we are past our first epoch."""
    with (
        photographs.folder(photographs.some(images, 32, 8)) as place,
        rivals((ours, place, model_name, device, precision), environment=patient_threads()) as (our,),
    ):
        timm_name, macs, taken = our()
        our()  # chooses kernels
        with rivals((limit, device, taken)) as (rate,):
            yield place, timm_name, macs, [our, rate]


def against(work: tuple[Any, ...], asks: list[Callable[[], Any]], pairs: int) -> list[list[Any]]:
    """What the rival gave and what ``asks`` did, in turns, without its first epoch, which starts its workers."""
    with rivals(work) as (their,):
        their()
        return take_turns(their, *asks, pairs=pairs)


def compare(model_name: str, device: str, images: int, pairs: int) -> tuple[int, dict[str, list[list[Any]]]]:
    """The model's multiply-adds, and of each peer its epochs, ours beside them, and the limits."""
    with begun(model_name, device, images, "auto") as (place, timm_name, macs, asks):
        return macs, {
            peer: against((theirs, place, timm_name, device, prepare), asks, pairs) for peer, prepare in PEERS.items()
        }


def joules(epochs: list[Epoch], images: int) -> str:
    """Of an image."""
    counted = [epoch.joules for epoch in epochs if epoch.joules]
    return f"{median(counted) / images:.3g}" if counted else "not counted here"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(IMAGES))
    parser.add_argument("--images", type=int, help=f"of an epoch, a multiple of {BATCH_SIZE}")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pairs", type=int, default=ROUNDS)
    args = parser.parse_args()
    if args.images and args.images % BATCH_SIZE:
        parser.error(f"--images {args.images}: give a multiple of {BATCH_SIZE}; timm leaves out what is above one")
    rows, costs, shares, waits = [], [], {}, {}
    ratios: dict[str, dict[str, float]] = {peer: {} for peer in PEERS}
    for model_name in args.models.split(","):
        images = args.images or (IMAGES_ON_GPU if args.device == "cuda" else IMAGES.get(model_name, 64))
        macs, found = compare(model_name, args.device, images, args.pairs)
        our, rates = ([each for turns in found.values() for each in turns[n]] for n in (1, 2))
        name = f"{model_name} {our[0].precision}"
        for peer, (their, beside, _) in found.items():
            times = Pairs([e.seconds for e in beside], [e.seconds for e in their])
            mine, other = (f"{images / median(each):.3g}" for each in (times.ours, times.theirs))
            rows.append([name, mine, f"{peer}, {their[0].precision}", other, *times.texts()[2:]])
            ratios[peer][model_name] = times.ratio
        shares[model_name] = median(6 * macs * images / e.seconds / r for e, r in zip(our, rates, strict=True))
        waits[model_name] = median(e.wait_share for e in our)
        of_all = [joules(our, images), *(joules(their, images) for their, *_ in found.values())]
        share = f"{100 * shares[model_name]:.0f} % of {median(rates) / 1e9:.0f} G/s"
        costs.append([name, share, f"{100 * waits[model_name]:.1f} %", *of_all])
    table(
        f"Training, images/s over whole epochs of photographs at {SIZE} px, batches of {BATCH_SIZE}, {args.device}",
        ["model", "har_sweep", "peer", "its images/s", "times as fast", "in pairs"],
        rows,
    )
    columns = [
        "model",
        "share of matrix products",
        "data wait",
        *(f"J/image, {name}" for name in ("har_sweep", *PEERS)),
    ]
    table("What har_sweep's training makes of the device, and the energy of all", columns, costs)
    result(ratios=ratios, shares_of_product_rate=shares, data_wait_shares=waits)


if __name__ == "__main__":
    main()
