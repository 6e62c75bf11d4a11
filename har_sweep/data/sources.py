"""Where images come from: every source becomes one listing of paths and labels. Nothing is decoded here."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from har_sweep.data.decode import EXTENSIONS, DecodeError, read
from har_sweep.errors import InputError
from har_sweep.record import atomic
from har_sweep.schema import DataConfig, PathsConfig, nearest

Progress = Callable[[str, int, int], None]
"""``(what, done, total)``: told often, so it must be cheap."""
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_WORDS: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}


class Item(NamedTuple):
    """One image. ``path`` is relative to the listing's root, with ``/``; ``where`` names a table's row or is empty."""

    path: str
    label: str
    split: Split | None = None
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source holds. ``notes`` are things the user should know, though nothing is wrong."""

    root: Path
    classes: list[str]
    items: list[Item]
    notes: list[str] = field(default_factory=list)


def no_progress(what: str, done: int, total: int) -> None:
    """Tells nobody."""


def list_items(data: DataConfig, paths: PathsConfig, progress: Progress = no_progress) -> Listing:
    """The images that ``data`` names, sorted by path; drawn (``sample``) or fetched (``hub``) first where need be.

    Raises
    ------
    InputError
        naming everything that is wrong with the folder or the table, not only the first.
    """
    listing = {"sample": _sample, "har": _har, "folder": _folder, "csv": _csv, "hub": _hub}[data.source](
        data, paths, progress
    )
    if unspeakable := [i.path for i in listing.items if not _is_utf8(i.path)]:
        raise InputError(
            f"{listing.root}: {problems([ascii(p) for p in unspeakable], 'name is not UTF-8', 'names are not UTF-8')}",
            "Rename them.",
        )
    if len(listing.classes) < 2:
        deeper = " If the class folders lie deeper, point data.root at the folder right above them."
        raise InputError(
            f"{listing.root}: all {len(listing.items):,} images have one label, '{listing.classes[0]}'.",
            f"There must be at least two classes.{deeper if data.source in ('folder', 'har') else ''}",
        )
    return replace(listing, items=sorted(listing.items))


def problems(lines: Sequence[str], one: str, many: str, cap: int = 20) -> str:
    """``lines`` under a count, at most ``cap`` of them, saying how many more there are."""
    shown = "".join(f"\n  {line}" for line in lines[:cap])
    more = f"\n  ... and {len(lines) - cap:,} more" if len(lines) > cap else ""
    return f"{len(lines):,} {one if len(lines) == 1 else many}:{shown}{more}"


def file_name(name: str) -> str:
    """``name`` as one part of a path."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[-60:] or "data"


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _classes(labels: set[str]) -> list[str]:
    def number(label: str) -> float:
        try:
            return float(label)
        except ValueError:
            return math.nan

    if all(math.isfinite(number(label)) for label in labels):
        return sorted(labels, key=lambda label: (number(label), label))
    return sorted(labels)


# --- sample ----------------------------------------------------------------------------------------------------------


def _sample(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    from har_sweep.data.sample import write_sample

    root = Path(paths.data).absolute() / f"sample-{data.images_per_class}"
    if not root.is_dir():
        progress("Drawing the synthetic sample", 0, 1)
        drawing = root.with_name(f".{root.name}.{os.getpid()}")
        write_sample(drawing, data.images_per_class)
        try:
            drawing.rename(root)
        except OSError:
            shutil.rmtree(drawing)
            if not root.is_dir():  # else another process has just drawn the same
                raise
    return _folders(root, data)


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    assert data.root is not None  # schema.check
    return _folders(_existing_folder(data.root, ""), data)


def _existing_folder(root: str, hint: str) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"data.root={root} {what}.", hint or "Point data.root at the folder of the images.")
    return folder.resolve()


def _folders(root: Path, data: DataConfig, hint: str = "") -> Listing:
    """One folder a class; or train/, val/, test/, each with one folder a class."""
    top = _subfolders(root)
    by_split: dict[Split, str] = {}
    notes: list[str] = []
    words = [SPLIT_WORDS.get(name.lower()) for name in top]
    if "train" in words and None not in words:
        for name in top:
            split = SPLIT_WORDS[name.lower()]
            if not _subfolders(root / name):
                notes.append(f"{root / name} is ignored: it has no class folders.")
            elif split in by_split:
                raise InputError(f"{root} has both {by_split[split]}/ and {name}/.", "Keep one of them.")
            else:
                by_split[split] = name
    items: list[Item] = []
    empty: list[str] = []
    parts: list[tuple[str, Split | None]] = [(f"{name}/", split) for split, name in by_split.items()] or [("", None)]
    for prefix, given in parts:
        for label in _subfolders(root / prefix):
            found = [Item(f"{prefix}{label}/{path}", label, given) for path in _images(root / prefix / label)]
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


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith((".", "__")) and e.is_dir())


def _images(folder: Path, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:  # a link that leads back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from (f"{entry.name}/{path}" for path in _images(Path(entry.path), seen | {real}))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield entry.name


# --- Human Action Recognition ----------------------------------------------------------------------------------------


def _har(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    """Kaggle's table and train/, or one folder a class; either may lie one folder deeper, as some archives nest it."""
    hint = "Fetch it with `python -m har_sweep.prefetch data=har`, or point data.root at your copy."
    root = _existing_folder(data.root or str(Path(paths.data) / "har"), hint)
    candidates = [root, *(root / name for name in _subfolders(root))]
    for folder in candidates:
        table = folder / "Training_set.csv"
        if table.is_file():
            base = folder / "train"
            kaggle = replace(
                data, path_column="filename", label_column="label", split_column=None, delimiter=",", header=True
            )
            return _table(table, folder, base if base.is_dir() else folder, kaggle)
    for folder in candidates:
        if len(_class_folders(folder)) > 1 or len(_class_folders(folder / "train")) > 1:
            return _folders(folder, data, hint)
    raise InputError(f"{root} has neither Training_set.csv nor one folder a class.", hint)


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = (n for n in _subfolders(folder) if n.lower() not in SPLIT_WORDS)
    return [name for name in names if next(_images(folder / name), None) and not _subfolders(folder / name)]


# --- tables ----------------------------------------------------------------------------------------------------------


def _csv(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    assert data.csv is not None  # schema.check
    root = None if data.root is None else _existing_folder(data.root, "")
    table = Path(data.csv).expanduser()
    if root is not None and (root / table).is_file():
        table = root / table
    if not table.is_file():
        also = "" if root is None or table.is_absolute() else f", neither here nor in {root}"
        raise InputError(f"data.csv={data.csv} does not exist{also}.", "Point data.csv at the table of paths.")
    root = (table.parent if root is None else root).resolve()
    return _table(table, root, root, data)


def _table(table: Path, root: Path, base: Path, data: DataConfig) -> Listing:
    """``table``'s images, whose paths are relative to ``base``, as a listing relative to ``root``."""
    name, rows = table.name, _rows(table, data)
    header = [cell.strip() for cell in rows.pop(0)[1]] if data.header and rows else None
    if not rows:
        raise InputError(f"{table} has no rows{' below its header' if header else ''}.", "It needs one row an image.")
    wanted = {"data.path_column": data.path_column, "data.label_column": data.label_column}
    if data.split_column is not None:
        wanted["data.split_column"] = data.split_column
    columns = _columns(table, wanted, header, rows[0][1])

    errors: list[str] = []
    items: dict[str, Item] = {}
    locate = _locator(root, base)
    for number, row in rows:
        where = f"{name} row {number}"
        try:
            cells = [row[c].strip() for c in columns]
        except IndexError:
            errors.append(f"row {number}: has {len(row)} column(s), and column {max(columns)} (from 0) is needed")
            continue
        (path, label), given = cells[:2], None
        if not path:
            errors.append(f"row {number}: the path is empty")
        if not label:
            errors.append(f"row {number}: the label{f' of {path}' if path else ''} is empty")
        if len(cells) == 3:
            given = SPLIT_WORDS.get(cells[2].lower())
            if given is None:
                errors.append(f"row {number}: the split '{cells[2]}' is none of {', '.join(SPLIT_WORDS)}")
        if not path:
            continue
        found, exists = locate(path)
        if found is None:
            errors.append(f"row {number}: {path} leaves the folder {base}, which is refused")
            continue
        if not exists and data.on_error == "fail":
            errors.append(f"row {number}: no such file: {path}")
        item = Item(found, label, given, where)
        first = items.setdefault(found, item)
        if label and first.label != label:
            errors.append(f"row {number}: {path} is '{label}' here and '{first.label}' in {first.where}")
        if given and first.split != given:
            errors.append(f"row {number}: {path} is in {given} here and in {first.split} in {first.where}")
    if errors:
        raise InputError(
            f"{table}: {problems(errors, 'problem', 'problems')}",
            "Correct the table; paths are relative to data.root, else to the table's folder.",
        )
    return Listing(root, _classes({item.label for item in items.values()}), list(items.values()))


def _rows(table: Path, data: DataConfig) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, with their line numbers as an editor counts them."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{table} cannot be read: {e}.", "Save it as text in UTF-8.") from e
    delimiter = DELIMITERS.get(data.delimiter, data.delimiter)
    if delimiter == "auto":
        delimiter = _sniff(text, [data.path_column, data.label_column])
    if delimiter != "whitespace" and len(delimiter) != 1:
        raise InputError(
            f"data.delimiter={data.delimiter} is not a single character.",
            nearest(data.delimiter, ["auto", "whitespace", *DELIMITERS]) or "Use auto, whitespace, tab or a character.",
        )
    try:
        return list(_parse(text, delimiter))
    except csv.Error as e:
        raise InputError(f"{table} is not a table: {e}.", "Check data.csv and data.delimiter.") from e


def _parse(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    if delimiter == "whitespace":
        yield from ((number, line.split()) for number, line in enumerate(io.StringIO(text), 1) if line.strip())
        return
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        yield from ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except csv.Error as e:
        raise csv.Error(f"row {reader.line_num}: {e}") from e


def _sniff(text: str, names: list[str]) -> str:
    """The delimiter whose header names the columns wanted; else one that gives every row the same, most columns."""
    head = "".join(itertools.islice(io.StringIO(text), 50))

    def score(delimiter: str) -> tuple[int, bool, int]:
        try:
            rows = [row for _, row in _parse(head, delimiter)]
        except csv.Error:
            return 0, False, 0
        widths = {len(row) for row in rows} or {0}
        named = sum(name in [cell.strip() for cell in rows[0]] for name in names) if rows else 0
        return named, len(widths) == 1 and widths != {1}, max(widths)

    # max() keeps the first of equals; whitespace, which also stands inside labels and paths, is the last resort.
    best = max([",", ";", "\t", "|"], key=score)
    return "whitespace" if score("whitespace")[:2] > score(best)[:2] else best


def _columns(table: Path, wanted: dict[str, str], header: list[str] | None, first: list[str]) -> list[int]:
    width = len(header or first)
    found: list[int] = []
    missing: list[str] = []
    near = ""
    for key, column in wanted.items():
        if header is not None and column in header:
            found.append(header.index(column))
        elif column.isdecimal() and int(column) < width:
            found.append(int(column))
        else:
            missing.append(f"{key}={column}")
            near = near or (nearest(column, header) if header and not column.isdecimal() else "")
    if missing:
        has = f"it has no header (data.header=false) and {width} column(s)"
        if header:
            has = f"its columns are {', '.join(header)}"
        hint = near or (
            f"Use {'one of these names, or ' if header else ''}a number from 0 to {width - 1};"
            " if the rows were cut into columns wrongly, set data.delimiter."
        )
        raise InputError(f"{table} has no column for {', '.join(missing)}: {has}.", hint)
    return found


def _locator(root: Path, base: Path) -> Callable[[str], tuple[str | None, bool]]:
    """A function from a table's path to (path relative to ``root`` or None if it lies outside, whether it exists)."""
    # The real folder of each folder is looked up once: tables have many more files than folders.
    real_folder = cache(os.path.realpath)
    real_root = os.path.realpath(root)

    def locate(text: str) -> tuple[str | None, bool]:
        path = os.path.join(base, text)
        if "\\" in text and not os.path.exists(path):  # a table made on Windows
            path = os.path.join(base, text.replace("\\", "/"))
        folder, leaf = os.path.split(path)
        real = os.path.join(real_folder(folder), leaf)
        if leaf in ("", ".", "..") or os.path.islink(real):
            real = os.path.realpath(path)
        inside = real.startswith(real_root.rstrip(os.sep) + os.sep)
        return (os.path.relpath(real, real_root).replace(os.sep, "/") if inside else None), os.path.isfile(real)

    return locate


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def _hub(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
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
    return replace(_table(table, folder.resolve(), folder, plain), notes=notes.read_text(encoding="utf-8").splitlines())


def _materialise(data: DataConfig, folder: Path, table: Path, notes: Path, progress: Progress) -> None:
    try:
        import datasets
    except ImportError as e:
        raise InputError("data=hub needs the package `datasets`.", "pip install 'har_sweep[hub]'") from e
    name = str(data.hub_name)
    progress(f"Fetching {name}", 0, 1)
    try:
        loaded = datasets.load_dataset(name, data.hub_config)
    except Exception as e:  # the library raises what its parsers, its file systems and the network raise
        raise InputError(
            f"data.hub_name={name} cannot be loaded: {type(e).__name__}: {str(e).strip() or 'no reason given'}",
            "Check the name, data.hub_config and the network.",
        ) from e
    rows: list[tuple[str, str, Split | None]] = []
    said: list[str] = []
    total = sum(len(part) for part in loaded.values())
    for part_name, part in loaded.items():
        given = SPLIT_WORDS.get(str(part_name).lower())
        wanted = {"data.hub_image_column": data.hub_image_column, "data.hub_label_column": data.hub_label_column}
        _columns(Path(f"{name} ({part_name})"), wanted, part.column_names, part.column_names)
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
            _put(folder / path, image["bytes"], image["path"])
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
            data = read(Path(str(source)))
        except DecodeError:
            return  # listed as missing when it is decoded, like any other
    if not (file.is_file() and file.read_bytes() == data):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}")
        temporary.write_bytes(data)
        temporary.replace(file)
