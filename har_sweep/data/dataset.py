"""A labelled, split set of images as every run reads it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from har_sweep.data.sources.listing import SPLITS
from har_sweep.errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """The good images of a source, in the sorted order of their paths, and what was learned about them.

    ``labels`` int64 [N] index ``classes``; ``split`` [N] is 'train', 'val' or 'test'; ``rows`` int64 [N] are the
    images' rows in each of ``caches`` (side in pixels -> map of ``cached_images`` images), which is empty in stream
    mode: there ``contents`` has what the files' ``content_hash`` was. With ``test_is_val`` the test images are those
    of val, and ``split`` calls them so. ``skipped`` are (path, reason); ``notes`` are for the user.
    """

    name: str
    root: Path
    classes: list[str]
    paths: list[str]
    labels: NDArray[np.int64]
    split: NDArray[np.str_]
    rows: NDArray[np.int64]
    fingerprint: str
    split_fingerprint: str
    synthetic: bool
    skipped: list[tuple[str, str]]
    notes: list[str]
    max_pixels: int
    cached_images: int
    caches: dict[int, Path] = field(default_factory=dict)
    contents: list[str] = field(default_factory=list)
    file: Path = Path()
    test_is_val: bool = False

    def indices(self, split: str) -> NDArray[np.int64]:
        """The positions of a split's images, ascending."""
        return np.flatnonzero(self.split == ("val" if self.test_is_val and split == "test" else split))

    def counts(self) -> dict[str, int]:
        """Images in train, val and test."""
        return {name: len(self.indices(name)) for name in SPLITS}

    @staticmethod
    def read(file: Path) -> Dataset:
        """What ``prepare_dataset`` wrote, of which its name has a hash; nothing is listed or computed again.

        Raises
        ------
        InputError
            if the file is gone or is not a dataset.
        """
        try:
            text = file.read_bytes()
            if not file.stem.endswith(short_hash(text)):
                raise ValueError("its content is not what its name says")
            tree = msgspec.json.decode(text)
            tree |= {
                "root": Path(tree["root"]),
                "labels": np.array(tree["labels"], np.int64),
                "split": np.array(tree["split"], "<U5"),
                "rows": np.array(tree["rows"], np.int64),
                "skipped": [(path, reason) for path, reason in tree["skipped"]],
                "caches": {int(size): Path(map_) for size, map_ in tree["caches"].items()},
            }
            return Dataset(**tree, file=file)
        except (OSError, msgspec.MsgspecError, TypeError, KeyError, ValueError) as e:
            raise InputError(f"{file} is gone or not a dataset: {e}.", "The same command makes it again.") from e


def short_hash(text: bytes) -> str:
    """8 hex digits."""
    return hashlib.blake2b(text, digest_size=4).hexdigest()
