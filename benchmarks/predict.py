"""Answers about photographs in files, against the rate at which the run's own are answered from the cache.

    python benchmarks/predict.py [--models resnet18,vit_tiny] [--images 256] [--pairs 5] [--device cuda]

Ours is what ``python -m har_sweep.predict`` does once torch is loaded: build the network, decode, resize, answer. Its
peer is the pass over val that cost/inference/images_per_second of every record is of, by the same network in the same
minutes: it reads decoded images, so that what is below 1 is decoding. ``--images 10000 --pairs 1`` is the whole claim,
with photographs given several times. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import photographs
from turns import PAIRS, Answer, Pairs, result, rivals, table, take_turns

VAL = 192


def trained(answer: Answer, place: Path, model_name: str, device: str) -> None:
    """The folder of a run that is finished after an epoch, its precision, and the images/s that its record has."""
    from har_sweep.events import tell_nobody
    from har_sweep.run.execute import execute
    from har_sweep.stop import Stop

    spec = photographs.planned(place, f"model={model_name}", f"hardware={device}", "trainer.epochs=1")
    inference = execute(spec, tell_nobody, Stop()).cost.inference
    assert inference
    answer((spec.paths.folder, spec.precision, inference.images_per_second))


def from_files(answer: Answer, folder: Path, images: int) -> None:
    """Seconds an image of so many files."""
    from har_sweep.events import tell_nobody
    from har_sweep.use.answer import answer as answers_of
    from har_sweep.use.run import find_finished

    run, files = find_finished(str(folder), folder.parent, None), list(map(Path, photographs.elpv()["path"]))
    while True:
        started = time.perf_counter()
        answers_of(run, list(islice(cycle(files), images)), 1, tell_nobody)
        answer((time.perf_counter() - started) / images)


def from_cache(answer: Answer, place: Path, model_name: str, device: str) -> None:
    """Seconds an image of val."""
    from har_sweep.data.dataset import Dataset
    from har_sweep.device.compute import prepare_compute
    from har_sweep.device.ranks import Ranks
    from har_sweep.model.build import build_model
    from har_sweep.train.evaluate import forward_of, predict
    from har_sweep.train.session import Session

    spec = photographs.planned(place, f"model={model_name}", f"hardware={device}", "trainer.epochs=1")
    dataset, compute = Dataset.read(spec.dataset_file), prepare_compute(spec, Ranks())
    model = build_model(spec.config, spec.model, len(dataset.classes), lambda text: None).eval()
    forward = forward_of(compute.place(model), spec.model, compute)
    while True:
        answer(predict(forward, Session(spec, dataset, compute), "val").seconds / VAL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet18,vit_tiny")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    rows, ratios = [], {}
    for model_name in args.models.split(","):
        with photographs.folder(photographs.some(64, VAL, 8)) as place:
            with rivals((trained, place, model_name, args.device)) as (train,):
                folder, precision, recorded = train()
            with rivals(
                (from_files, folder, args.images), (from_cache, place, model_name, args.device)
            ) as (files, cache):  # fmt: skip
                if args.pairs > 1:
                    take_turns(files, cache, pairs=1)
                pairs = Pairs(*take_turns(files, cache, pairs=args.pairs))
        ratios[model_name] = pairs.ratio
        rates = (1 / median(pairs.ours), 1 / median(pairs.theirs), recorded)
        rows.append([f"{model_name} {precision}", *(f"{rate:.3g}" for rate in rates), *pairs.texts()[2:]])
    table(
        f"Images/s of {args.images:,} photographs in files, {args.device}",
        ["model", "predict, from files", "from the cache", "in its record", "files to cache", "in pairs"],
        rows,
    )
    result(ratios=ratios)


if __name__ == "__main__":
    main()
