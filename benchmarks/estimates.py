"""What a run is said to take before it is started, against what it then takes.

    python benchmarks/estimates.py [--models resnet18,vit_tiny,...] [--images 512] [--epochs 2] [--device cuda]

Each model is estimated as ``launch.dry_run=true`` does where no record tells: by measuring its steps for some seconds.
Then it is trained and evaluated, in a process of its own: for two epochs, or on CUDA for sixty, beside which loading
its kernels should count for little. The record's device hours are what it took.
Neither should be 1.5 times the other. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

import photographs
from turns import Answer, result, rivals, table

LIMIT = 1.5


def trained(answer: Answer, place: Path, *overrides: str) -> None:
    """The seconds that a run's record has, and its precision."""
    from har_sweep.events import tell_nobody
    from har_sweep.run.execute import execute
    from har_sweep.stop import Stop

    spec = photographs.planned(place, *overrides)
    hours = execute(spec, tell_nobody, Stop()).cost.device_hours
    assert hours
    answer((3600 * hours, spec.precision))


def estimated(place: Path, *overrides: str) -> float:
    """The seconds that a run is said to take."""
    from har_sweep.config.compose import compose_runs
    from har_sweep.launch.estimate import estimate
    from har_sweep.launch.plan import plan
    from har_sweep.launch.terminal import Screen

    with redirect_stdout(sys.stderr):
        (found,) = estimate(plan(compose_runs([photographs.overrides(place, *overrides)]), Screen()), Screen())
    assert found.device_hours
    return 3600 * found.device_hours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet18,vit_tiny,tf_efficientnet_lite0,mobilenetv4_conv_small")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    epochs = args.epochs or (60 if args.device == "cuda" else 2)
    rows, ratios = [], {}
    for model_name in args.models.split(","):
        with photographs.folder(photographs.some(args.images, args.images // 4, args.images // 4)) as place:
            given = [f"model={model_name}", f"hardware={args.device}", f"trainer.epochs={epochs}"]
            said = estimated(place, *given)
            with rivals((trained, place, *given)) as (train,):
                took, precision = train()
        ratios[model_name] = took / said
        rows.append([f"{model_name} {precision}", f"{said:.0f} s", f"{took:.0f} s", f"{took / said:.2f}"])
    table(
        f"{epochs} epochs of {args.images:,} photographs at 224 px, {args.device}: within {1 / LIMIT:.2f} and {LIMIT}?",
        ["model", "said", "taken", "taken to said"],
        rows,
    )
    result(taken_to_said=ratios)


if __name__ == "__main__":
    main()
