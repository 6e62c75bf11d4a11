"""One folder a class; or train, val and test with one folder a class each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.decode import EXTENSIONS
from har_sweep.data.sources.listing import SPLIT_WORDS, Item, Listing, Split, _classes, problems
from har_sweep.errors import InputError
from har_sweep.events import Progress

# --- folders ---------------------------------------------------------------------------------------------------------


def list_folder(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    assert data.root is not None  # schema.check
    return class_folders(existing_folder(data.root, ""), data)


def existing_folder(root: str, hint: str) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"data.root={root} {what}.", hint or "Point data.root at the folder of the images.")
    return folder.resolve()


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
    items: list[Item] = []
    empty: list[str] = []
    parts: list[tuple[str, Split | None]] = [(f"{name}/", split) for split, name in by_split.items()] or [("", None)]
    for prefix, given in parts:
        for label in subfolders(root / prefix):
            found = [Item(f"{prefix}{label}/{path}", label, given) for path in images_below(root / prefix / label)]
            if not found:
                empty.append(f"{prefix}{label}/")
            items += found
    if not items:
        raise InputError(
            f"{root} has no folders with images ({', '.join(sorted(EXTENSIONS))}).",
            hint or "Put one folder a class there, or train/, val/ and test/ with one folder a class each.",
        )
    if empty:
        raise InputError(
            f"{root}: {problems(empty, 'class folder has no images', 'class folders have no images')}",
            "Remove them, or put images in.",
        )
    if set(by_split) == {"train"}:  # one folder above the classes says nothing about a split
        items = [item._replace(split=None) for item in items]
    return Listing(root, _classes({item.label for item in items}), items, notes)


def subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith((".", "__")) and e.is_dir())


def images_below(folder: Path, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link that leads back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from (f"{entry.name}/{path}" for path in images_below(Path(entry.path), seen | {real}))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield entry.name
