"""A table of image paths and labels, whatever its delimiter, with or without a header."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from har_sweep.config.schema import DataConfig, PathsConfig
from har_sweep.data.sources.folder import existing_folder, lies_below
from har_sweep.data.sources.listing import SPLIT_WORDS, Item, Listing, class_order, problems
from har_sweep.errors import InputError, nearest
from har_sweep.events import Progress

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}


# --- tables ----------------------------------------------------------------------------------------------------------


def list_csv(data: DataConfig, paths: PathsConfig, progress: Progress) -> Listing:
    assert data.csv is not None  # schema.check
    root = None if data.root is None else existing_folder(data.root, "")
    table = Path(os.path.expanduser(data.csv))
    if root is not None and os.path.isfile(root / table):
        table = root / table
    if os.path.isdir(table):
        raise InputError(
            f"data.csv={data.csv} is a folder, not a table.",
            "Name the file in it that lists paths and labels; where each class has a folder, write "
            f"data=folder data.root={data.csv}.",
        )
    if not os.path.isfile(table):  # nor is a pipe one, which would be waited for
        also = "" if root is None or table.is_absolute() else f", neither here nor in {root}"
        raise InputError(f"data.csv={data.csv} does not exist{also}.", "Point data.csv at the table of paths.")
    root = (table.parent if root is None else root).resolve()
    return list_table(table, root, root, data)


def list_table(table: Path, root: Path, base: Path, data: DataConfig) -> Listing:
    """``table``'s images, whose paths are relative to ``base``, as a listing relative to ``root``."""
    name, rows = table.name, _rows(table, data)
    header = [cell.strip() for cell in rows.pop(0)[1]] if data.header and rows else None
    if not rows:
        raise InputError(f"{table} has no rows{' below its header' if header else ''}.", "It needs one row an image.")
    wanted = {"data.path_column": data.path_column, "data.label_column": data.label_column}
    split_column, notes = data.split_column, list[str]()
    if split_column is None and data.source == "csv" and header:
        split_column, notes = _own_split(name, header, rows)
    if split_column is not None:
        wanted["data.split_column"] = split_column
    columns = find_columns(table, wanted, header, rows[0][1])

    errors, entries = list[str](), list[tuple[str, list[str]]]()
    for number, row in rows:
        try:
            entries.append((f"row {number}", [row[c].strip() for c in columns]))
        except IndexError:
            errors.append(f"row {number}: has {len(row)} column(s), and column {max(columns)} (from 0) is needed")
    items = items_of(name, entries, root, base, data.on_error == "fail", errors)
    if errors:
        raise InputError(
            f"{table}: {problems(errors, 'problem', 'problems')}",
            "Correct the table; paths are relative to data.root, else to the table's folder.",
        )
    return Listing(root, class_order({item.label for item in items}), items, notes)


def _own_split(name: str, header: list[str], rows: list[tuple[int, list[str]]]) -> tuple[str | None, list[str]]:
    """The column called split, if it holds one and nobody named a column; and what the user should know of it."""
    column = next((cell for cell in header if cell.lower() == "split"), None)
    if column is None:
        return None, []
    place = header.index(column)
    words = {row[place].strip() if place < len(row) else "" for _, row in rows}
    if all(word.lower() in SPLIT_WORDS for word in words) and "train" in {SPLIT_WORDS[w.lower()] for w in words}:
        return column, [f"{name}: the split is that of its column '{column}'; named otherwise, it would be left out."]
    other = next((word for word in sorted(words) if word.lower() not in SPLIT_WORDS), None)
    why = "no image is in train" if other is None else f"it has '{other}'"
    return None, [f"{name}: its column '{column}' is not taken for the split, as {why}: one is drawn."]


def list_paths(table: Path, root: Path, column: str) -> list[tuple[str, Path]]:
    """The paths in a ``column`` (a name, or a number from 0) of a table with a header: as they stand there, and as
    files below ``root``, whether they exist or not.

    Raises
    ------
    InputError
        if there is no such column, or a row has none or a path that leaves ``root``.
    """
    rows = _rows(table, DataConfig(source="csv", name="", path_column=column))
    if len(rows) < 2:
        raise InputError(f"{table} has no rows below its header.", "It needs one row an image.")
    (place,) = find_columns(table, {"--column": column}, [cell.strip() for cell in rows.pop(0)[1]], rows[0][1])
    locate, found, errors = _locator(root, root), list[tuple[str, Path]](), list[str]()
    for number, row in rows:
        path = row[place].strip() if place < len(row) else ""
        below = locate(path)[0] if path and "\0" not in path else None
        if below is None:
            errors.append(f"row {number}: {f'{path} leaves the folder {root}' if path else 'it has no path'}")
        else:
            found.append((path, root / below))
    if errors:
        raise InputError(
            f"{table}: {problems(errors, 'problem', 'problems')}",
            "Correct it, or give the folder above them all by --root: paths are relative to that, else to the table's.",
        )
    return found


def items_of(
    name: str, entries: list[tuple[str, list[str]]], root: Path, base: Path, must_exist: bool, errors: list[str]
) -> list[Item]:
    """The images of a list of path, label and maybe split, each under where it stands; what is wrong joins ``errors``.

    Paths are relative to ``base``, and become relative to ``root``. Where files ``must_exist``, a missing one is a
    broken image like others; but it is told here where anything else is wrong, or all are missing.
    """
    items: dict[str, Item] = {}
    missing: list[str] = []
    locate = _locator(root, base)
    for where, cells in entries:
        (path, label), given = cells[:2], None
        if not path:
            errors.append(f"{where}: the path is empty")
        if not label:
            errors.append(f"{where}: the label{f' of {path}' if path else ''} is empty")
        if len(cells) == 3:
            given = SPLIT_WORDS.get(cells[2].lower())
            if given is None:
                errors.append(f"{where}: the split '{cells[2]}' is none of {', '.join(SPLIT_WORDS)}")
        if "\0" in path:
            errors.append(f"{where}: the path {path!a} is none")
        if not path or "\0" in path:
            continue
        found, exists = locate(path)
        if found is None:
            errors.append(f"{where}: {path} leaves the folder {base}, which is refused")
            continue
        if not exists and must_exist:
            missing.append(f"{where}: no such file: {path}")
        item = Item(found, label, given, f"{name} {where}")
        first = items.setdefault(found, item)
        if label and first.label != label:
            errors.append(f"{where}: {path} is '{label}' here and '{first.label}' in {first.where}")
        if given and first.split != given:
            errors.append(f"{where}: {path} is in {given} here and in {first.split} in {first.where}")
    if errors or len(missing) == len(entries):
        errors += missing
    return list(items.values())


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


def find_columns(table: Path, wanted: dict[str, str], header: list[str] | None, first: list[str]) -> list[int]:
    """Where in a row the wanted columns are, which are named by the header or numbered from 0.

    Raises
    ------
    InputError
        if there is none of such a name or number.
    """
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
            f"{' If this is its first image already, add data.header=false.' if header else ''}"
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
        inside = lies_below(real, real_root)
        return (os.path.relpath(real, real_root).replace(os.sep, "/") if inside else None), os.path.isfile(real)

    return locate
