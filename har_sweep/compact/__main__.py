"""``python -m har_sweep.compact RUN ...``: a finished run's network made smaller or faster."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Make variants; 0, 1 if one could not be made, or 2 if one of the runs cannot have them: then none is made."""
    from har_sweep.config.which import parse_names
    from har_sweep.errors import InputError, check_platform

    parser = argparse.ArgumentParser(
        prog="python -m har_sweep.compact",
        description="Make a finished run's network smaller or faster: in fewer bits, compiled, by ONNX Runtime or "
        "OpenVINO. Each variant is scored on the run's own images with the file that one would ship, measured as the "
        "run was, and gets a record of its own, which the report ties to the run.",
    )
    parser.add_argument(
        "--wait", type=float, default=30.0, metavar="SECONDS",
        help="how long to wait for a moment in which nobody disturbs (default: 30)",
    )  # fmt: skip
    settings = {
        "variants": "variants=onnx,int8_dynamic,...: which to make (default: what the device profits from); "
        "variants=all those that can be made here",
        "rerun": "rerun=true: make and measure again what is there already",
    }
    try:
        told = "a finished run's id, the beginning of it, or a sweep's name"
        args, names, folder = parse_names(parser, arguments, "RUN", told, settings)
        if not names:
            raise InputError(
                "Which run shall have variants?", "Name it, or its sweep; the sweep's table shows the ids."
            )
        if not args.wait >= 0:
            raise InputError(f"--wait {args.wait:g} is no time to wait.", "Give seconds, 0 or more.")
        if args.rerun not in (None, "true", "false"):
            raise InputError(f"rerun={args.rerun} is neither true nor false.", "Write rerun=true.")
        check_platform()
        from har_sweep.compact.compact import compact
        from har_sweep.launch.terminal import Screen

        return compact(names, args.variants, folder, args.wait, args.rerun == "true", Screen())
    except InputError as e:
        from har_sweep.launch.terminal import Screen

        Screen().error(e.message, e.hint)
        return 2


if __name__ == "__main__":
    sys.exit(main())
