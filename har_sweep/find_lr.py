"""``python -m har_sweep.find_lr``: a learning rate for each model, by a range test on your images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ABOUT = """\
Find a learning rate for each model: train it for some steps while the rate grows, and see where the loss is lowest.

  python -m har_sweep.find_lr model=resnet18,vit_tiny data=folder data.root=photos
  python -m har_sweep.find_lr model=vit_tiny optimizer=adamw_finetune --steps 200

It takes the overrides of a sweep: model, data, optimizer, batch size, augmentation, weights, hardware. optimizer.lr,
the schedule and seeds make no difference to it. A tenth of the rate of the lowest loss is suggested: where a search
begins, not where it ends. Exit status: 0 if all models have a curve, 1 if not, 2 if the input cannot be used."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m har_sweep.find_lr",
        usage="%(prog)s [options] [group=option ...] [key=value ...]",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps of each model (default: 100)")
    parser.add_argument("--from", type=float, default=1e-6, dest="lowest", help="the first rate (default: 1e-6)")
    parser.add_argument("--to", type=float, default=1.0, dest="highest", help="the last rate (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("find_lr"), help="folder of picture and table")
    parser.add_argument("-m", "--multirun", action="store_true", help="as everywhere; it makes no difference")
    parser.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(arguments)

    from har_sweep.errors import InputError, check_platform, system_errors_told
    from har_sweep.launch.terminal import Screen, exit_status

    screen = Screen()
    try:
        if args.steps < 10:
            raise InputError(f"--steps {args.steps} are too few to see a curve.", "Give 10 or more.")
        if not 0 < args.lowest < args.highest < float("inf"):
            raise InputError(f"--from {args.lowest:g} --to {args.highest:g} is no range.", "Give 0 < from < to.")
        check_platform()
        from har_sweep.launch.rates import find_rates

        with system_errors_told():
            return find_rates(args.overrides, args.steps, (args.lowest, args.highest), args.out, screen)
    except (InputError, KeyboardInterrupt) as e:
        return exit_status(e, screen)


if __name__ == "__main__":
    sys.exit(main())
