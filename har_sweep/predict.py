"""``python -m har_sweep.predict RUN IMAGE|FOLDER|CSV ...``: what a finished run answers about pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ABOUT = """\
Classify pictures with a finished run: images, folders of images, or the paths in a column of a table.

  python -m har_sweep.predict resnet18-abdf photo.jpg
  python -m har_sweep.predict resnet18-abdf photos/ --csv answers.csv --sheet answers.png
  python -m har_sweep.predict resnet18-abdf files.csv --column file --top 3 --json -

They are decoded and resized as the run's own images were. Exit status: 0, 1 if some of them cannot be used (the others
are answered), 2 if none can, or the input cannot be used."""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m har_sweep.predict", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--top", type=int, default=1, metavar="K", help="the K likeliest classes (default: 1)")
    parser.add_argument("--csv", metavar="FILE", help="all answers as CSV; - for stdout")
    parser.add_argument("--json", metavar="FILE", help="all answers as JSON; - for stdout")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="the first pictures with their answers")
    parser.add_argument("--column", help="a table's column of paths: a name, or a number from 0 (default: path)")
    parser.add_argument("--root", type=Path, help="the folder that a table's paths start from (default: its own)")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: that which the run ran on")

    from har_sweep.config.which import parse_names
    from har_sweep.console import Console
    from har_sweep.errors import Failed, InputError, check_platform, system_errors_told
    from har_sweep.launch.terminal import Screen, exit_status

    screen = Screen()
    told = "a finished run: its id, the beginning of it, or its folder; then images, folders, tables (.csv, .tsv, .txt)"
    try:
        args, words, folder = parse_names(parser, arguments, "RUN IMAGE|FOLDER|CSV", told)
        if "-" in (args.csv, args.json):
            screen = Screen(Console(stderr=True, soft_wrap=True))
        _check(args, words)
        check_platform()
        from har_sweep.data.unlabelled import list_pictures
        from har_sweep.use.predict import Wanted, predict
        from har_sweep.use.run import find_finished

        with system_errors_told("Give a place that can be used: --csv, --json and --sheet say what is written."):
            run = find_finished(words[0], folder, args.device)
            pictures, notes = list_pictures(words[1:], args.root, "path" if args.column is None else args.column)
            for note in filter(None, [*notes, run.note]):
                screen.warn(note)
            return predict(run, pictures, Wanted(args.top, args.csv, args.json, args.sheet), screen)
    except (InputError, Failed, KeyboardInterrupt) as e:
        return exit_status(e, screen)


def _check(args: argparse.Namespace, words: list[str]) -> None:
    from har_sweep.data.unlabelled import TABLES
    from har_sweep.errors import InputError

    if len(words) < 2:
        raise InputError("A run and pictures are needed.", "python -m har_sweep.predict RUN IMAGE|FOLDER|CSV ...")
    if args.top < 1:
        raise InputError(f"--top {args.top} are no classes.", "Give 1 or more.")
    if args.csv == args.json == "-":
        raise InputError("CSV and JSON cannot both go to stdout.", "Give one of them a file.")
    for flag in ("column", "root"):
        if getattr(args, flag) is not None and not any(word.lower().endswith(TABLES) for word in words[1:]):
            raise InputError(
                f"--{flag} {getattr(args, flag)} is for tables of paths ({', '.join(TABLES)}), and none is given.",
                "Leave it out, or name a table.",
            )
    taken = {Path(word).resolve() for word in words[1:]}
    for file in filter(None, (args.csv, args.json, args.sheet)):
        if Path(file).is_dir():
            raise InputError(f"{file} is a folder.", "Name a file to write.")
        place = Path(file).resolve()
        if file != "-" and place in taken:
            raise InputError(f"{file} is named twice, and would be written over.", "Give each its own file.")
        taken.add(place)


if __name__ == "__main__":
    sys.exit(main())
