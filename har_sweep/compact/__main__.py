"""``python -m har_sweep.compact RUN ...``: a finished run's network made smaller or faster."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Make variants; 0, 1 if one could not be made, or 2 if one of the runs cannot have them: then none is made."""
    from har_sweep.config.which import add_wait, parse_names
    from har_sweep.errors import InputError, check_platform
    from har_sweep.launch.terminal import Screen, exit_status

    parser = argparse.ArgumentParser(
        prog="python -m har_sweep.compact",
        description="Make a finished run's network smaller or faster: in fewer bits, compiled, by ONNX Runtime or "
        "OpenVINO. Each variant is scored on the run's own images with the file that one would ship, measured as the "
        "run was, and gets a record of its own, which the report ties to the run.",
    )
    add_wait(parser)
    settings = {
        "variants": "variants=onnx,int8_dynamic,...: which to make (default: what the device profits from); "
        "variants=all those that can be made here",
        "rerun": "rerun=true: make and measure again what is there already",
    }
    screen = Screen()
    try:
        told = "a finished run's id, the beginning of it, or a sweep's name"
        args, names, folder = parse_names(parser, arguments, "RUN", told, settings)
        if not names:
            raise InputError(
                "Which run shall have variants?", "Name it, or its sweep; the sweep's table shows the ids."
            )
        if args.rerun not in (None, "true", "false"):
            raise InputError(f"rerun={args.rerun} is neither true nor false.", "Write rerun=true.")
        check_platform()
        from har_sweep.compact.compact import compact

        return compact(names, args.variants, folder, args.wait, args.rerun == "true", screen)
    except (InputError, KeyboardInterrupt) as e:
        return exit_status(e, screen)


if __name__ == "__main__":
    sys.exit(main())
