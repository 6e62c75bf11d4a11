"""Pictures that nobody has labelled, as a command is given them. Nothing is decoded here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from har_sweep.data.sources.folder import Walk
from har_sweep.data.sources.table import list_paths
from har_sweep.errors import InputError

TABLES = (".csv", ".tsv", ".txt")


class Picture(NamedTuple):
    """``path`` as it was given, or stands in a table; ``file`` to open."""

    path: str
    file: Path


def list_pictures(words: Sequence[str], root: Path | None, column: str) -> tuple[list[Picture], list[str]]:
    """The images that are named: by their paths, as a folder with them (and all below it), or in a ``column`` of a
    table; a folder's in the order of their paths. And what the user should know of those that are left out.

    Raises
    ------
    InputError
        for what is not there or holds no image; a single file may turn out to be none when it is decoded.
    """
    pictures, notes = list[Picture](), list[str]()
    for word in words:
        given = Path(os.path.expanduser(word))
        if given.is_dir():
            walk = Walk(given)
            found = sorted(walk.images())
            walk.refuse_outside("Copy what they lead to, or name the files.")
            notes += filter(None, [walk.left_out()])
            if not found:
                raise InputError(f"{word} has no images in it. {walk.left_out()}".strip(), "Name a folder that has.")
            pictures += [Picture(f"{word.rstrip(os.sep)}/{path}", given / path) for path in found]
        elif not given.exists():
            raise InputError(f"{word} does not exist.", "Name an image, a folder of images, or a table of paths.")
        elif given.suffix.lower() in TABLES and given.is_file():  # a pipe would be waited for
            pictures += [Picture(*row) for row in list_paths(given, (root or given.parent).resolve(), column)]
        else:
            pictures.append(Picture(word, given))
    return pictures, notes
