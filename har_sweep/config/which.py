"""Which sweep or runs, and where they are: what ``har_sweep.status``, ``cancel`` and ``measure`` are told."""

from __future__ import annotations

import argparse
from pathlib import Path

from har_sweep.errors import InputError


def parse_sweep(
    parser: argparse.ArgumentParser, arguments: list[str] | None
) -> tuple[argparse.Namespace, str | None, Path]:
    """The flags; the sweep's name, or None; and the folder of ``paths.runs=FOLDER``, as a sweep itself is told it.

    Raises
    ------
    InputError
        for anything else.
    """
    args, names, runs = parse_names(parser, arguments, "SWEEP", "the sweep's name, as it shows it itself")
    if len(names) > 1:
        raise InputError(f"One sweep at a time, not {' and '.join(names)}.", "Leave all but one out.")
    return args, (names[0] if names else None), runs


def parse_names(
    parser: argparse.ArgumentParser, arguments: list[str] | None, what: str, told: str
) -> tuple[argparse.Namespace, list[str], Path]:
    """The flags, the names of what is asked for, and the folder of ``paths.runs=FOLDER``; raises as ``parse_sweep``."""
    parser.add_argument("words", nargs="*", metavar=what, help=told)
    parser.add_argument("paths", nargs="*", metavar="paths.runs=FOLDER", help="folder of the runs (default: runs)")
    parser.add_argument("--runs", nargs="?", const="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(arguments)
    if args.runs:
        raise InputError("--runs has another name now.", f"Write paths.runs={args.runs}, as with sweeps.")
    runs, names = Path("runs"), []
    for word in [*args.words, *args.paths]:
        if "=" not in word:
            names.append(word)
            continue
        from har_sweep.config.arguments import explain

        (override,) = explain([word])
        if override.key_or_group != "paths.runs" or override.is_sweep_override():
            raise InputError(f"'{word}' says nothing here.", f"Only {what} and paths.runs=FOLDER do.")
        runs = Path(str(override.value()))
    return args, names, runs
