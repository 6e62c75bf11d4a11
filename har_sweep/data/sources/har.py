"""The study's photographs: Human Action Recognition, as Kaggle packs it or one folder a class."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.sources.folder import Walk, class_folders, existing_folder, subfolders
from har_sweep.data.sources.listing import SPLIT_WORDS, Listing
from har_sweep.data.sources.table import list_table
from har_sweep.errors import InputError
from har_sweep.events import Progress


def list_har(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    """Kaggle's table and train/, or one folder a class; either may lie one folder deeper, as some archives nest it."""
    hint = "Fetch it with `python -m har_sweep.prefetch data=har`, or point data.root at your copy."
    root = existing_folder(data.root or str(Path(paths.data) / "har"), hint)
    candidates = [root, *(root / name for name in subfolders(root))]
    for folder in candidates:
        table = folder / "Training_set.csv"
        if table.is_file():
            base = folder / "train"
            kaggle = replace(
                data, path_column="filename", label_column="label", split_column=None, delimiter=",", header=True
            )
            return list_table(table, folder, base if base.is_dir() else folder, kaggle)
    for folder in candidates:
        if len(_class_folders(folder)) > 1 or len(_class_folders(folder / "train")) > 1:
            return class_folders(folder, data, hint)
    raise InputError(f"{root} has neither Training_set.csv nor one folder a class.", hint)


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = (n for n in subfolders(folder) if n.lower() not in SPLIT_WORDS)
    return [name for name in names if next(Walk(folder).images(name), None) and not subfolders(folder / name)]


KAGGLE_DATASET = "meetnagadia/human-action-recognition-har-dataset"
HAR_IMAGES_PER_CLASS = 840
HAR_CLASSES = (
    "calling", "clapping", "cycling", "dancing", "drinking", "eating", "fighting", "hugging", "laughing",
    "listening_to_music", "running", "sitting", "sleeping", "texting", "using_laptop",
)  # fmt: skip


def har_differences(listing: Listing) -> list[str]:
    """In what the listing is not the whole HAR dataset, 840 labelled images of each of 15 classes; empty if it is."""
    found = Counter(item.label for item in listing.items)
    differences = [
        f"{label}: {found[label]:,} images, not {HAR_IMAGES_PER_CLASS}"
        for label in HAR_CLASSES
        if found[label] != HAR_IMAGES_PER_CLASS
    ]
    differences += [
        f"{label}: {found[label]:,} images of a class that HAR does not have"
        for label in sorted(found.keys() - set(HAR_CLASSES))
    ]
    if len(listing.items) != (expected := HAR_IMAGES_PER_CLASS * len(HAR_CLASSES)):
        differences.insert(0, f"{len(listing.items):,} labelled images, not {expected:,}")
    return differences
