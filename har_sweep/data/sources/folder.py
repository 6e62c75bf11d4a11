"""One folder a class; or train, val and test with one folder a class each."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.decode import EXTENSIONS, NOT_DECODED
from har_sweep.data.sources.listing import SPLIT_WORDS, Item, Listing, Split, class_order, problems, reason
from har_sweep.errors import InputError
from har_sweep.events import Progress

# --- folders ---------------------------------------------------------------------------------------------------------


def list_folder(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    assert data.root is not None  # schema.check
    return class_folders(existing_folder(data.root, ""), data)


def existing_folder(root: str, hint: str) -> Path:
    hint = hint or "Point data.root at the folder of the images."
    try:
        folder = Path(root).expanduser()
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise InputError(f"data.root={root} is a file, not a folder.", hint)
        return folder.resolve()
    except (FileNotFoundError, NotADirectoryError) as e:
        raise InputError(f"data.root={root} does not exist.", hint) from e
    except (OSError, ValueError, RuntimeError) as e:  # no permission, a link to itself, a name that cannot be
        raise InputError(f"data.root={root} cannot be opened: {reason(e)}.", hint) from e


def class_folders(root: Path, data: DataConfig, hint: str = "") -> Listing:
    """One folder a class; or train/, val/, test/, each with one folder a class."""
    top = subfolders(root)
    by_split: dict[Split, str] = {}
    notes: list[str] = []
    words = [SPLIT_WORDS.get(name.lower()) for name in top]
    if "train" in words and None not in words:
        for name in top:
            split = SPLIT_WORDS[name.lower()]
            if not subfolders(root / name):
                notes.append(f"{root / name} is ignored: it has no class folders.")
            elif split in by_split:
                raise InputError(f"{root} has both {by_split[split]}/ and {name}/.", "Keep one of them.")
            else:
                by_split[split] = name
    walk = Walk(root)
    items: list[Item] = []
    empty: list[str] = []
    parts: list[tuple[str, Split | None]] = [(f"{name}/", split) for split, name in by_split.items()] or [("", None)]
    for prefix, given in parts:
        for label in subfolders(root / prefix):
            found = [Item(path, label, given) for path in walk.images(f"{prefix}{label}")]
            if not found:
                empty.append(f"{prefix}{label}/")
            items += found
    left_out = walk.left_out()
    walk.refuse_outside("Copy what they lead to, or point data.root at a folder that holds both.")
    if not items:
        raise InputError(
            f"{root} has no folders with images ({', '.join(sorted(EXTENSIONS))}). {left_out}".strip(),
            hint or "Put one folder a class there, or train/, val/ and test/ with one folder a class each.",
        )
    if empty:
        raise InputError(
            f"{root}: {problems(empty, 'class folder has no images', 'class folders have no images')}",
            f"Remove them, or put images in. {left_out}".strip(),
        )
    if set(by_split) == {"train"}:  # one folder above the classes says nothing about a split
        items = [item._replace(split=None) for item in items]
    return Listing(root, class_order({item.label for item in items}), items, [*notes, *filter(None, [left_out])])


def subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in _entries(folder) if not e.name.startswith((".", "__")) and _is_folder(e))


def lies_below(real: str, real_root: str) -> bool:
    """Whether a path is of something in a folder, both without links."""
    return real.startswith(real_root.rstrip(os.sep) + os.sep)


class Walk:
    """What lies in the folders below ``root``: images, links that lead ``outside``, and pictures of ``other`` kinds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outside: list[str] = []
        self.other = Counter[str]()
        self._real_root = os.path.realpath(root)

    def images(self, folder: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
        """The paths, from the root, of the images in ``folder`` and below."""
        real = os.path.realpath(self.root / folder)
        if folder and (real in above or real == self._real_root or not self._is_inside(real, folder)):
            return  # the first two are links that lead back up
        for entry in _entries(self.root / folder):
            path, ending = f"{folder}/{entry.name}".removeprefix("/"), os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if _is_folder(entry, may_be_broken=ending in EXTENSIONS):
                yield from self.images(path, above | {real})
            elif ending in EXTENSIONS:
                if not entry.is_symlink() or self._is_inside(os.path.realpath(entry.path), path):
                    yield path
            elif ending in NOT_DECODED:
                self.other[ending] += 1

    def left_out(self) -> str:
        """A sentence about the pictures that are not listed; empty if there are none."""
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in sorted(self.other.items()))
        return f"{self.root}: left out, as such files are not decoded: {kinds}." if kinds else ""

    def refuse_outside(self, hint: str) -> None:
        """Raise InputError if there were links that lead out of the root."""
        if self.outside:
            leave = problems(self.outside, "link leaves the folder", "links leave the folder")
            raise InputError(f"{self.root}: {leave}", hint)

    def _is_inside(self, real: str, path: str) -> bool:
        inside = lies_below(real, self._real_root)
        if not inside:
            self.outside.append(f"{path} -> {real}")
        return inside


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as e:
        raise InputError(f"{folder} cannot be listed: {reason(e)}.", "Make it readable, or take it away.") from e


def _is_folder(entry: os.DirEntry[str], may_be_broken: bool = False) -> bool:
    try:
        return entry.is_dir()
    except OSError as e:  # a link to itself, or into a folder without permission
        if may_be_broken:
            return False
        raise InputError(f"{entry.path} cannot be followed: {reason(e)}.", "Mend the link, or take it away.") from e
