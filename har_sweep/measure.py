"""``python -m har_sweep.measure RUN ...``: what finished runs cost, measured again on this device, without training."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0, 1 if a run could not be measured, or 2 if one of them cannot be: then none is."""
    from har_sweep.config.which import add_wait, parse_names
    from har_sweep.errors import InputError, check_platform
    from har_sweep.launch.terminal import Screen, exit_status

    parser = argparse.ArgumentParser(
        prog="python -m har_sweep.measure",
        description="Measure again, from its weights, what a finished run costs on this device: latency, images/s, "
        "peak memory, a training step, energy. The record keeps what was measured before; the best undisturbed counts.",
    )
    add_wait(parser)
    screen = Screen()
    try:
        args, names, folder = parse_names(parser, arguments, "RUN", "its id, the beginning of it, or a sweep's name")
        if not names:
            raise InputError("Which run shall be measured?", "Name it, or its sweep; the sweep's table shows the ids.")
        check_platform()
        from har_sweep.launch.again import measure_again

        return measure_again(names, folder, args.wait, screen)
    except (InputError, KeyboardInterrupt) as e:
        return exit_status(e, screen)


if __name__ == "__main__":
    sys.exit(main())
