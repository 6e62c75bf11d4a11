"""A Hugging Face dataset, written out once as image files and a table."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.decode import DecodeError, read
from har_sweep.data.sources.listing import SPLIT_WORDS, Listing, Split, file_name
from har_sweep.data.sources.table import find_columns, list_table
from har_sweep.errors import InputError
from har_sweep.events import Progress
from har_sweep.files import atomic
from har_sweep.spec.hub import Hub, from_caches

# --- Hugging Face ----------------------------------------------------------------------------------------------------


def list_hub(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    """The dataset's images as files with their original bytes, and a table of them, which marks that all are there."""
    assert data.hub_name is not None  # schema.check
    columns = [data.hub_config or "default", data.hub_image_column, data.hub_label_column]
    folder = Path(paths.data).absolute() / "hub" / file_name(data.hub_name) / file_name("-".join(columns))
    table, notes = folder / "labels.csv", folder / "notes.txt"
    if not table.is_file():
        _materialise(data, folder, table, notes, progress)
    plain = replace(data, path_column="path", label_column="label", delimiter=",", header=True)
    with table.open(encoding="utf-8") as file:
        plain.split_column = "split" if "split" in file.readline().strip().split(",") else None
    return replace(
        list_table(table, folder.resolve(), folder, plain), notes=notes.read_text(encoding="utf-8").splitlines()
    )


def _materialise(data: DataConfig, folder: Path, table: Path, notes: Path, progress: Progress) -> None:
    try:
        import datasets
    except ImportError as e:
        raise InputError("data=hub needs the package `datasets`.", "pip install 'har_sweep[hub]'") from e
    from huggingface_hub.constants import HF_HUB_CACHE

    name = str(data.hub_name)
    progress(f"Fetching {name}", 0, 1)
    of_the_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not Path(name).exists()
    away = Hub().problem() if of_the_hub else ""
    try:
        with from_caches() if away else nullcontext():
            loaded = datasets.load_dataset(name, data.hub_config)
    except Exception as e:  # the library raises what its parsers, its file systems and the network raise
        if away:
            raise InputError(
                f"data.hub_name={name} cannot be had: {away}.",
                f"On a machine with network, `python -m har_sweep.prefetch data=hub data.hub_name={name}` fetches it "
                "into paths.data.",
            ) from e
        raise InputError(
            f"data.hub_name={name} cannot be loaded: {type(e).__name__}: {str(e).strip() or 'no reason given'}",
            "Check the name, data.hub_config and the network.",
        ) from e
    # Where a dataset from the hub may name files: one that names others, such as keys, does not get them copied.
    caches = [os.path.realpath(cache) for cache in (datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE)]

    def fetched(path: str | None) -> bool:
        return Path(name).exists() or any(Path(os.path.realpath(path or "")).is_relative_to(place) for place in caches)

    rows: list[tuple[str, str, Split | None]] = []
    said: list[str] = []
    total = sum(len(part) for part in loaded.values())
    for part_name, part in loaded.items():
        given = SPLIT_WORDS.get(str(part_name).lower())
        wanted = {"data.hub_image_column": data.hub_image_column, "data.hub_label_column": data.hub_label_column}
        find_columns(Path(f"{name} ({part_name})"), wanted, part.column_names, part.column_names)
        label_of = _label_reader(part.features[data.hub_label_column], data)
        kind = part.features[data.hub_image_column]
        if not isinstance(kind, datasets.Image):
            raise InputError(
                f"{name}: data.hub_image_column={data.hub_image_column} holds no images but {kind}.",
                f"Its columns are {', '.join(part.column_names)}.",
            )
        part = part.cast_column(data.hub_image_column, datasets.Image(decode=False))
        unlabelled = 0
        for index, row in enumerate(part.select_columns([data.hub_image_column, data.hub_label_column])):
            progress(f"Writing the images of {name} to {folder}", len(rows), total)
            label = label_of(row[data.hub_label_column])
            if label is None:
                unlabelled += 1
                continue
            image = row[data.hub_image_column]
            path = f"{file_name(str(part_name))}/{index:07d}{Path(image['path'] or '').suffix.lower()}"
            _put(folder / path, image["bytes"], image["path"] if fetched(image["path"]) else None)
            rows.append((path, label, given))
        if unlabelled:
            said.append(f"{name}: {unlabelled:,} images of its split '{part_name}' have no label and are left out.")
        if given is None and len(loaded) > 1:
            said.append(f"{name}: '{part_name}' is none of {', '.join(SPLIT_WORDS)}, so its own splits are not kept.")
    splits = {split for _, _, split in rows}
    keep = None not in splits and len(splits) > 1
    with atomic(notes, "w") as file:
        file.write("\n".join(said))
    with atomic(table, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *(["split"] if keep else [])])
        writer.writerows(row if keep else row[:2] for row in rows)


def _label_reader(feature: Any, data: DataConfig) -> Callable[[Any], str | None]:
    """From a stored label to its text; None for no label, which a ``ClassLabel`` writes as -1."""
    if hasattr(feature, "int2str"):
        return lambda value: None if value is None or value < 0 else str(feature.int2str(value))
    kind = str(getattr(feature, "dtype", ""))
    if kind in ("string", "large_string", "bool") or "int" in kind:
        return lambda value: None if value is None else str(value).strip() or None
    raise InputError(
        f"{data.hub_name}: data.hub_label_column={data.hub_label_column} holds no class but {feature}.",
        "It must be a ClassLabel, text or whole numbers.",
    )


def _put(file: Path, data: bytes | None, source: str | None) -> None:
    """Write an image's bytes unless they are there already: a fetch that was cut off goes on."""
    if data is None:
        try:
            data = read(Path(source or ""))
        except DecodeError:
            return  # listed as missing when it is decoded, like any other
    if not (file.is_file() and file.read_bytes() == data):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}")
        temporary.write_bytes(data)
        temporary.replace(file)
