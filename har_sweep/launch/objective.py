"""What a run returns to a search: the numbers of its record that ``sweep.objective`` names, and which way is better."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from har_sweep.errors import InputError, RunFailure, nearest
from har_sweep.record.folder import find_record
from har_sweep.record.record import Record, flatten
from har_sweep.spec.run_spec import RunSpec

Direction = Literal["maximize", "minimize"]
# What stands under the record's dictionaries. ``*`` is any name: the classes are the dataset's.
_NAMES = {
    "metrics": ("val", "test"),
    "per_class": ("*",),
    "latency_seconds": ("batch_1",),
    "batch_1": ("p50", "p95"),
}
_LARGER = re.compile(r"(top5_)?accuracy|(precision|recall|f1)(_macro|_weighted)?|images_per_second")
_NEITHER = ("support", "batch_size")  # what was given, not what came out


def check_objective(named: Any) -> list[str]:
    """The names in ``sweep.objective``.

    Raises
    ------
    InputError
        for what no record has, what is no number, what is neither better large nor small, and all of the test split.
    """
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"sweep.objective={named} is neither a name nor a list of names.",
            "For example sweep.objective=[metrics/val/accuracy,cost/inference/latency_seconds/batch_1/p50].",
        )
    if len(set(names)) < len(names):
        raise InputError(f"sweep.objective={named} names one number twice.", "Leave one out.")
    for name in names:
        _check(name)
    return names


def _check(name: str) -> None:
    if "test" in name.split("/"):
        raise InputError(
            f"sweep.objective={name}: the test split is for the report alone.",
            f"Write {'/'.join('val' if part == 'test' else part for part in name.split('/'))}.",
        )
    known = _quantities()
    key = re.sub(r"per_class/.*/", "per_class/*/", name)
    searchable = [quantity for quantity in known if direction(quantity)]
    if key not in known:
        near = nearest(name, searchable)
        raise InputError(f"sweep.objective={name}: no record has it.", near or f"There are {', '.join(searchable)}.")
    if not known[key]:
        raise InputError(f"sweep.objective={name} is not a number.", "For example metrics/val/accuracy.")
    if direction(name) is None:
        raise InputError(
            f"sweep.objective={name} is a number of how the run was set up: none is better than another.",
            "Name something of metrics/val/ or cost/.",
        )


def check_classes(names: list[str], classes: list[str]) -> None:
    """Refuse a number of a class that the images have none of."""
    for name in names:
        if (found := re.fullmatch("metrics/val/per_class/(.*)/[^/]*", name)) and found[1] not in classes:
            near = nearest(found[1], classes)
            raise InputError(f"sweep.objective={name}: there is no class '{found[1]}'.", near or ", ".join(classes))


def direction(name: str) -> Direction | None:
    """Which way a number of the record is better; None where neither is."""
    last = name.rpartition("/")[2]
    if not name.startswith(("metrics/val/", "cost/")) or last in _NEITHER:
        return None
    return "maximize" if _LARGER.fullmatch(last) else "minimize"


@cache
def _quantities() -> dict[str, bool]:
    """Every value of a record by its path, as ``flatten`` has them, and whether it is a number."""
    return dict(_paths(Record, ""))


def _paths(kind: Any, path: str) -> Iterator[tuple[str, bool]]:
    kinds = [each for each in get_args(kind) or (kind,) if each is not NoneType]  # of ``float | None``, float
    if get_origin(kind) is dict:
        name = path.rpartition("/")[2]
        for key in _NAMES.get(name, ()):
            yield from _paths(kinds[-1], f"{path}/{key}")
    elif is_dataclass(kinds[0]) and get_origin(kind) is not list:
        hints = get_type_hints(kinds[0])
        for f in fields(kinds[0]):
            yield from _paths(hints[f.name], f"{path}/{f.name}".lstrip("/"))
    else:
        yield path, bool({int, float}.intersection(kinds)) and get_origin(kind) is not list


def objective_of(spec: RunSpec) -> Any:
    """The number, or the list of numbers, that ``sweep.objective`` names.

    Raises
    ------
    RunFailure
        if the run is not done, or has no such number.
    """
    record = find_record(spec.paths)
    if record is None or record.status != "done":
        cause = record.error.message if record and record.error else "it is not done"
        raise RunFailure("not_done", f"{spec.label} ({spec.run_id}) has no result: {cause}", f"See {spec.paths.log}.")
    numbers, names = flatten(record), check_objective(spec.config.sweep.objective)
    for name in names:
        if numbers.get(name) is None or numbers[name] != numbers[name]:  # nan, where a record has null
            raise RunFailure("no_number", f"{spec.label} ({spec.run_id}) has no {name}", f"See {spec.paths.record}.")
    return numbers[names[0]] if len(names) == 1 else [numbers[name] for name in names]
