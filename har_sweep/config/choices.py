"""A sweep's runs beyond the plain product: values by model, choices that go together, choices that are left out."""

from __future__ import annotations

import itertools
from contextlib import suppress
from functools import cache
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, Quote, QuotedString
from hydra.errors import HydraException

from har_sweep.config.arguments import parse
from har_sweep.config.check import READ_BY
from har_sweep.config.schema import keys
from har_sweep.config.sections import NAMED_BY, SECTIONS, may_be_argument
from har_sweep.config.tree import groups
from har_sweep.errors import InputError, nearest

Choice = list[str]
"""The overrides of one run."""
OPEN = ("timm", "custom")
"""The options of groups that are what they are given: a name of timm's, or a ``_target_``."""


def chosen_runs(product: list[Choice]) -> list[Choice]:
    """The runs that are meant by a product of choices.

    ``key={resnet18:a,vit_tiny:[b,c]}`` is ``key=a`` for one model and ``key=b,c`` for the other; a model that is not
    named does without the override. ``sweep.pairs=[{...},{...}]`` multiplies the runs by its entries, each of which has
    all its keys set; ``sweep.exclude=[{...}]`` leaves out the runs that have all values of an entry.
    ``model.timm_name`` is for ``model=timm`` alone where a sweep has other models too, and so are ``_target_`` and its
    arguments for ``custom``, ``teacher`` and what is about it for ``objective=distill``, and a source's keys for it.

    Raises
    ------
    InputError
        for an entry that no run matches, and for a name that would go to another model.
    """
    runs = [pair for choice in product for pair in _paired(choice)]
    sections = {_section(_key(line)) for run in runs for line in run}
    options = {section: {_option(run, section) for run in runs} for section in sections}
    runs = [_for_its_option(run, options) for run in runs]
    models = {name for run in runs for name in _names(run)}
    by_model = {line: _by_model(line, models) for run in runs for line in run}
    runs = [
        list(itertools.chain(*lines))
        for run in runs
        for lines in itertools.product(*(_for_model(line, run, by_model[line]) for line in run))
    ]
    return [list(run) for run in dict.fromkeys(map(tuple, _without_excluded(runs)))]


def _paired(choice: Choice) -> list[Choice]:
    given = [line for line in choice if _key(line) == "sweep.pairs"]
    if not given:
        return [choice]
    entries, rest = _entries(given[-1]), [line for line in choice if line not in given]
    told = {_key(line) for line in rest}
    for key in {key.lstrip("+~") for entry in entries for key in entry} & told:
        raise InputError(f"{key} is given both by itself and in sweep.pairs.", "Give it in one place.")
    return [[*rest, *(f"{key}={_text(value)}" for key, value in entry.items())] for entry in entries]


def _for_its_option(run: Choice, options_of: dict[str, set[str | None]]) -> Choice:
    """The run without what is for another option of a group; with ``custom`` where ``_target_`` alone asks for it.

    ``options_of`` are those that the sweep has of each group.
    """
    kept = []
    for line in run:
        section = _section(_key(line))
        options, belongs = options_of[section], _options_of(_key(line))
        if belongs and _option(run, section) not in belongs and options & belongs:
            continue
        if section in NAMED_BY and _key(line) == f"{section}._target_" and options == {None}:
            kept.append(f"{section}=custom")
        if _key(line) == "model.timm_name" and not (options & set(OPEN) or "model.name" in map(_key, run)):
            raise InputError(
                f"{line} would train it under the name of {_option(run, section) or 'the default model'}.",
                f"Write model=timm {line}, or give model.name=... too.",
            )
        kept.append(line)
    return kept


def _section(key: str) -> str:
    return "objective" if key == "teacher" else key.split(".")[0]


def _options_of(key: str) -> set[str]:
    """The options of its group that a key is for, where others would misunderstand it."""
    section, _, name = key.partition(".")
    if key == "teacher" or (section == "objective" and name):
        return {"distill"}
    if section == "data" and name in READ_BY:
        return set(READ_BY[name])
    if section not in SECTIONS:
        return set()
    if name == NAMED_BY.get(section):
        return {"timm"}
    return {"custom"} if name == "_target_" else set(OPEN) if may_be_argument(key) else set()


def _by_model(line: str, models: set[str]) -> dict[str, Any] | None:
    """The entries of a value by model; None of any other value.

    Raises
    ------
    InputError
        for an entry that is for no model of the sweep.
    """
    value = _value(line)
    if not isinstance(value, dict) or not value or (_takes(_key(line), dict) and not value.keys() & models):
        return None
    for name in value:
        if name not in models:
            there = f"Its models are {', '.join(sorted(models))}." if models else "Say which it has: model=..."
            raise InputError(
                f"'{line}' has an entry for {name}, which is no model of this sweep.", nearest(name, models) or there
            )
    return value


def _for_model(line: str, run: Choice, entries: dict[str, Any] | None) -> list[list[str]]:
    """What an override comes to for a run's model: itself, nothing, or one of several values."""
    if entries is None:
        return [[line]]
    name = next((name for name in _names(run) if name in entries), None)
    if name is None:
        return [[]]
    swept = isinstance(entries[name], list) and not _takes(_key(line), list)
    values = entries[name] if swept else [entries[name]]
    return [[f"{line.partition('=')[0]}={_text(value)}"] for value in values]


def left_to_us(line: str) -> str:
    """An override, written as a choice of one where it is by model and Hydra, composing the sweep's own config before
    any run's, would take its entries for a section's keys or for a number."""
    override, key, value = parse(line), _key(line), _value(line)
    if not isinstance(value, dict) or not value or override.type != OverrideType.CHANGE or override.package:
        return line
    of_a_group = key in groups() and key != "model" and all(isinstance(each, str | list) for each in value.values())
    of_a_section = any(f"{key}.{name}" in _types() for name in value)
    by_model = (of_a_group and not of_a_section) or (key in _types() and not _takes(key, dict))
    return f"{key}=choice({line.partition('=')[2]})" if by_model else line


def _without_excluded(runs: list[Choice]) -> list[Choice]:
    given = [line for run in runs for line in run if _key(line) == "sweep.exclude"]
    runs = [[line for line in run if _key(line) != "sweep.exclude"] for run in runs]
    if not given:
        return runs
    kept = runs
    for entry in _entries(given[-1]):
        if not any(_matches(run, entry) for run in runs):
            raise InputError(
                f"No run of this sweep has {entry}, so sweep.exclude leaves out nothing by it.",
                "Correct it, or take it away.",
            )
        kept = [run for run in kept if not _matches(run, entry)]
    if not kept:
        raise InputError("sweep.exclude leaves out every run.", "Leave out fewer.")
    return kept


def _matches(run: Choice, entry: dict[str, Any]) -> bool:
    def has(key: str, wanted: Any) -> bool:
        values = [_value(line) for line in run if _key(line) == key.lstrip("+")]
        found = [*values, *_names(run)] if key == "model" else values
        return any(value in (wanted if isinstance(wanted, list) else [wanted]) for value in found)

    return all(has(key, wanted) for key, wanted in entry.items())


def _entries(line: str) -> list[dict[str, Any]]:
    value = _value(line)
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) and entry for entry in value):
        raise InputError(
            f"'{line}' is not a list of choices.", f"Write {_key(line)}=[{{model:resnet18,seed:0}},{{...}}]."
        )
    return value


def _names(run: Choice) -> list[str]:
    """What a run's model is called: the option of ``model``, and timm's name where that is given."""
    named = [str(_value(line)) for line in run if _key(line) == "model.timm_name"]
    return [*named, *filter(None, [_option(run, "model")])]


def _option(run: Choice, group: str) -> str | None:
    return next((str(_value(line)) for line in reversed(run) if _key(line) == group), None)


def _takes(key: str, kind: type) -> bool:
    """Whether a list, or a mapping, may be the key's own value; sections and groups take mappings."""
    if key not in _types():
        return kind is dict
    return any(get_origin(each) is kind for each in (_types()[key], *get_args(_types()[key])))


@cache
def _types() -> dict[str, Any]:
    return {key.path: key.type for key in keys()}


def _key(line: str) -> str:
    return parse(line).key_or_group


def _value(line: str) -> Any:
    return None if parse(line).is_delete() else parse(line).value()


def _text(value: Any) -> str:
    """A value as an override has it, in quotes only where it needs them."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_text(each)}' for key, each in value.items())}}}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, str):
        return str(value)
    return quoted(value)


def quoted(text: str) -> str:
    """A string so that Hydra reads this very string; left bare where it does so anyway."""
    with suppress(HydraException):
        override = OverridesParser.create().parse_override(f"key={text}")
        if text and not text.endswith("\\") and not override.is_sweep_override() and override.value() == text:
            return text  # nothing, or a backslash, would join what follows in a list
    return QuotedString(text, Quote.single).with_quotes()
