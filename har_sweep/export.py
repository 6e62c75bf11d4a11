"""``python -m har_sweep.export RUN``: a finished run's network as ONNX, as timm's folders have it, and a model card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ABOUT = """\
Write what is needed to use a finished run's network without har_sweep:

  model.onnx          takes uint8 RGB images [any number, side, side, 3], gives logits; ONNX Runtime and others run it
  model.safetensors, config.json
                      timm.create_model('local-dir:FOLDER', pretrained=True) loads them, with labels and preprocessing
  README.md           a model card: data, metrics with intervals, costs, licence

Each file is compared with the run's own answers before the folder gets its name. Exit status: 0, 1 if it failed, 2 if
the input cannot be used."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m har_sweep.export", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to (default: exports/RUN)")

    from har_sweep.config.which import parse_names
    from har_sweep.errors import Failed, InputError, check_platform, system_errors_told
    from har_sweep.launch.terminal import Screen, exit_status

    screen = Screen()
    try:
        args, names, folder = parse_names(parser, arguments, "RUN", "its id, the beginning of it, or its folder")
        if len(names) != 1:
            raise InputError("One run is exported at a time.", "python -m har_sweep.export RUN [--to FOLDER]")
        check_platform()
        from har_sweep.use.export import export

        with system_errors_told("Give another folder, with --to FOLDER."):
            export(names[0], folder, args.to, screen)
        return 0
    except (InputError, Failed, KeyboardInterrupt) as e:
        return exit_status(e, screen)


if __name__ == "__main__":
    sys.exit(main())
