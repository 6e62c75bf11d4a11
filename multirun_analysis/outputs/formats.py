"""The formats of a report; apart from what writes them, so that ``--help`` needs none of it."""

from __future__ import annotations

from collections.abc import Sequence

from har_sweep.errors import InputError

FORMATS = ("html", "png", "svg", "pdf", "csv", "md", "tex", "parquet")


def choose_formats(given: Sequence[str]) -> tuple[str, ...]:
    """Those that are named, each perhaps several joined by commas; all, if none is.

    Raises
    ------
    InputError
        naming what is no format.
    """
    wanted = [word for words in given for word in words.split(",")]
    if unknown := [word for word in wanted if word not in FORMATS]:
        raise InputError(
            f"--format {unknown[0]} is not one of {', '.join(FORMATS)}.", "Name some of these, with commas."
        )
    return tuple(word for word in FORMATS if word in wanted or not wanted)
