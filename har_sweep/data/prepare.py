"""Config -> listed, split, decoded dataset, once for all runs that share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from har_sweep.config.schema import DataConfig, PathsConfig, keys
from har_sweep.data.cache import ensure
from har_sweep.data.dataset import Dataset, short_hash
from har_sweep.data.sources import list_items
from har_sweep.data.sources.listing import NOT_UTF8, Split, problems
from har_sweep.data.split import split, watched
from har_sweep.errors import InputError
from har_sweep.events import Progress
from har_sweep.files import atomic


def prepare_dataset(data: DataConfig, paths: PathsConfig, sizes: Iterable[int], progress: Progress) -> Dataset:
    """List the source, decode it once at each of ``sizes`` (pixels), split it, fingerprint it, and write that down.

    With ``data.cache=stream`` each image is decoded once to find the broken ones, and no pixels are kept.

    Raises
    ------
    InputError
        for anything wrong with the source; listing every broken image unless ``data.on_error=skip``.
    """
    progress("Listing images", 0, 1)
    listing = list_items(data, paths, progress)
    items, max_pixels, cache = listing.items, int(data.max_megapixels * 1e6), Path(paths.cache).absolute()
    files, maps = ensure(
        data.name, listing.root, [item.path for item in items], list(sizes) if data.cache == "disk" else [],
        max_pixels, cache, progress,
    )  # fmt: skip
    skipped = [(path, NOT_UTF8) for path in listing.unspeakable]
    skipped += [(item.path, item.told(error)) for item, error in zip(items, files.errors, strict=True) if error]
    count = len(items) + len(listing.unspeakable)
    if skipped and (data.on_error == "fail" or len(skipped) == count):
        raise _broken(skipped, count, listing.root, cache)
    rows = np.array([row for row, error in enumerate(files.errors) if not error], np.int64)
    good = [items[row] for row in rows]
    hashes = [files.hashes[row] for row in rows]
    code = {label: i for i, label in enumerate(listing.classes)}
    labels = np.array([code[item.label] for item in good], np.int64)
    test_is_val, given = data.split == "train_test", [item.split for item in good]
    _check_fractions(data, given)
    fractions = {"val": data.val_fraction} | ({} if test_is_val else {"test": data.test_fraction})
    parts, split_notes = split(
        [item.path for item in good], labels, hashes, watched(given) if test_is_val else given, listing.classes,
        fractions=fractions, seed=data.split_seed,
    )  # fmt: skip
    names = {"val": "val and test"} if test_is_val else {}
    dataset = Dataset(
        name=data.name,
        root=listing.root,
        classes=listing.classes,
        paths=[item.path for item in good],
        labels=labels,
        split=parts,
        rows=rows,
        fingerprint=_fingerprint((item.path, content, item.label) for item, content in zip(good, hashes, strict=True)),
        split_fingerprint=_fingerprint(
            (item.path, names.get(part, part)) for item, part in zip(good, parts.tolist(), strict=True)
        ),
        synthetic=data.source == "sample",
        skipped=skipped,
        notes=[*listing.notes, *split_notes],
        max_pixels=max_pixels,
        cached_images=len(items),
        caches=maps,
        test_is_val=test_is_val,
        contents=[] if maps else hashes,
    )
    return _write(dataset, cache / "datasets")


def _check_fractions(data: DataConfig, given: Sequence[Split | None]) -> None:
    """Refuse a share of what the images' own split has already."""
    usual = {key.path: key.default for key in keys(DataConfig)}
    for part in ("val", "test"):
        name = f"{part}_fraction"
        if part in given and (share := getattr(data, name)) != usual[name]:
            raise InputError(
                f"data.{name}={share} does nothing: the images come with a split that has {part} images.",
                f"Leave data.{name} out, or take the split away.",
            )


def _broken(skipped: Sequence[tuple[str, str]], count: int, root: Path, cache: Path) -> InputError:
    lines = [f"{path}: {reason}" for path, reason in skipped]
    digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=4).hexdigest()
    with atomic(cache / "datasets" / f"broken-{digest}.txt", "w") as file:
        file.write("\n".join([f"# of {root}", *lines, ""]))
    return InputError(
        f"{root}: of {count:,} images {problems(lines, 'cannot be used', 'cannot be used')}\n"
        f"The full list is in {cache / 'datasets' / f'broken-{digest}.txt'}.",
        f"Repair or remove them{', or raise data.max_megapixels' if 'data.max_megapixels' in str(lines) else ''}."
        + (" Or set data.on_error=skip, which leaves them out." if len(skipped) < count else " None is left to use."),
    )


def _fingerprint(facts: Iterable[tuple[str, ...]]) -> str:
    """16 hex over the sorted facts, whatever their order was; JSON keeps one field from running into the next."""
    return hashlib.blake2b(json.dumps(sorted(facts)).encode(), digest_size=8).hexdigest()


def _write(dataset: Dataset, folder: Path) -> Dataset:
    tree: dict[str, Any] = {name: value for name, value in vars(dataset).items() if name != "file"}
    tree |= {name: tree[name].tolist() for name in ("labels", "split", "rows")}
    tree |= {"root": str(dataset.root), "caches": {str(size): str(file) for size, file in dataset.caches.items()}}
    text = msgspec.json.encode(tree)
    # The same images may lie in two folders or be decoded at other sizes; neither overwrites the other's file.
    file = folder / f"{dataset.fingerprint}-{dataset.split_fingerprint}-{short_hash(text)}.json"
    if not file.is_file() or file.read_bytes() != text:
        with atomic(file) as handle:
            handle.write(text)
    return Dataset.read(file)
