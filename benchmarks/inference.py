"""Inference over a split of real photographs, against the plain script; and at which batch size.

    python benchmarks/inference.py [--models resnet18,vit_tiny] [--device cuda]

Ours is ``predict``, which every run's cost/inference is measured by, from the cache; the script decodes with PIL in two
workers and computes in float32, with batches of the same 32 images. Then ours at other batch sizes. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import pandas as pd
import photographs
import plain_script
from training import HALVES, SIZE
from turns import PAIRS, Answer, Pairs, result, rivals, table, take_turns

IMAGES = {"resnet18": 256, "vit_tiny": 256, "tf_efficientnet_lite0": 192, "vit_base": 64}
BATCH_SIZE, OTHERS = 32, (1, 4, 8, 16, 32, 64)


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


def theirs(answer: Answer, place: Path, timm_name: str, device: str) -> None:
    """Seconds of a pass."""
    loader = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)["val"]
    model = plain_script.build(timm_name, pd.read_csv(place / "labels.csv")["label"].nunique(), SIZE).to(device)
    while True:
        started = time.perf_counter()
        plain_script.predict(model, loader)
        answer(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(IMAGES))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    rows, sizes, ratios = [], [], {}
    for model_name in args.models.split(","):
        images = 384 if args.device == "cuda" else IMAGES.get(model_name, 64)
        few = min(images, 128)
        with (
            photographs.folder(photographs.some(8, images, few)) as place,
            rivals(
                (ours, place, model_name, args.device, "val", [BATCH_SIZE]),
                (ours, place, model_name, args.device, "test", list(OTHERS)),
            ) as (our, at_sizes),
        ):
            timm_name, precision = our()
            with rivals((theirs, place, timm_name, args.device)) as (their,):
                take_turns(our, their, pairs=1)
                pairs = Pairs(*take_turns(our, their, pairs=PAIRS))
            at_sizes()
            found = list(zip(*([at_sizes() for _ in OTHERS] for _ in range(3)), strict=True))
        ratios[model_name] = pairs.ratio
        mine, other = images / median(pairs.ours), images / median(pairs.theirs)
        rows.append([f"{model_name} {precision}", f"{mine:.3g}", f"{other:.3g}", *pairs.texts()[2:]])
        sizes.append([f"{model_name} {precision}", *(f"{few / median(seconds[1:]):.3g}" for seconds in found)])
    table(
        f"Images/s over a split of real photographs, {SIZE} px, batches of {BATCH_SIZE}, {args.device}",
        ["model", "har_sweep", "plain script, fp32", "times as fast", "in pairs"],
        rows,
    )
    table("har_sweep's images/s by batch size", ["model", *map(str, OTHERS)], sizes)
    result(ratios=ratios)


if __name__ == "__main__":
    main()
