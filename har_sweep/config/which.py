"""Which sweep or runs, and where they are: what commands like ``har_sweep.status`` and ``measure`` are told."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from har_sweep.errors import InputError, nearest


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
    parser: argparse.ArgumentParser, arguments: list[str] | None, what: str, told: str,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> tuple[argparse.Namespace, list[str], Path]:  # fmt: skip
    """The flags, the names of what is asked for, and the folder of ``paths.runs=FOLDER``; raises as ``parse_sweep``.

    ``settings`` are what else may be given as ``KEY=VALUE``, with what is said of it in the help; each is among the
    flags, None where it is not given.
    """
    parser.add_argument("words", nargs="*", metavar=what, help=told)
    parser.add_argument("paths", nargs="*", metavar="paths.runs=FOLDER", help="folder of the runs (default: runs)")
    for key, said in settings.items():
        parser.add_argument(f"{key}_", nargs="*", metavar=f"{key}=...", help=said)
    parser.add_argument("--runs", nargs="?", const="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(arguments)
    if args.runs:
        raise InputError("--runs has another name now.", f"Write paths.runs={args.runs}, as with sweeps.")
    runs, names = Path("runs"), []
    for key in settings:
        setattr(args, key, None)
    for word in [*args.words, *args.paths]:
        key, is_setting, value = word.partition("=")
        if not is_setting or Path(word).exists():
            names.append(word)
        elif key in settings:
            setattr(args, key, value)
        elif key != "paths.runs":
            flag = f"--{key}" if f"--{key}" in parser._option_string_actions else ""
            near = f"Write {flag} {value}." if flag else nearest(key, [*settings, "paths.runs"])
            raise _says_nothing(word, [what, *(f"{key}=..." for key in settings)], near)
        else:
            runs = _folder(word, [what, *(f"{key}=..." for key in settings)])
    return args, names, runs


def add_wait(parser: argparse.ArgumentParser) -> None:
    """``--wait``, of whatever measures."""
    parser.add_argument(
        "--wait", type=seconds, default=30.0, metavar="SECONDS",
        help="how long to wait in all for moments in which nobody disturbs (default: 30)",
    )  # fmt: skip


def seconds(text: str) -> float:  # argparse names it where it says what cannot be read
    if not 0 <= float(text) < math.inf:
        raise InputError(f"--wait {text} is no time to wait.", "Give seconds, 0 or more.")
    return float(text)


def _says_nothing(word: str, others: list[str], near: str = "") -> InputError:
    return InputError(f"'{word}' says nothing here.", near or f"Only {', '.join(others)} and paths.runs=FOLDER do.")


def _folder(word: str, others: list[str]) -> Path:
    """That of ``paths.runs=FOLDER``, as Hydra reads it."""
    from har_sweep.config.arguments import explain

    (override,) = explain([word])
    if override.key_or_group != "paths.runs" or override.is_sweep_override():
        raise _says_nothing(word, others)
    return Path(str(override.value())).expanduser()
