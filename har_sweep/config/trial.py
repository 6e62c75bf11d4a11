"""What a W&B agent types, ``--optimizer.lr=0.1`` or ``--optimizer={'lr': 0.1}``, as overrides."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

SWEEP = "WANDB_SWEEP_ID"
SEVERAL_IN_A_TRIAL = (
    "A W&B agent's trial is one run; several (-m) would be logged as one.", "Give the agent a command without -m."
)  # fmt: skip


def in_trial() -> bool:
    """Whether a W&B agent asked for this command."""
    return bool(os.environ.get(SWEEP))


def as_overrides(arguments: Iterable[str], flags: Iterable[str]) -> list[str]:
    """The arguments of an agent's command: its parameters without their dashes, nested ones key by key.

    ``flags`` are Hydra's own, with their dashes.
    """
    found: list[str] = []
    for argument in arguments:
        written = re.fullmatch(r"(--)?([A-Za-z_][\w.@/]*)=(.*)", argument, re.DOTALL)
        if written is None or f"--{written[2]}" in flags:
            found.append(argument)
        else:
            found += _lines(written[2], _read(written[3]))
    return found


def _read(text: str) -> Any:
    """What Python wrote, where that is a mapping, a list, None, true or false; else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, (dict, list, bool)) or value is None else text


def _lines(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        for name, inner in value.items():
            yield from _lines(f"{key}.{name}", inner)
    else:
        yield f"{key}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value)
