"""Overrides -> checked configs. Hydra composes; this module finds the tree, expands sweeps and explains mistakes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast, get_origin

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from har_sweep.config.check import check
from har_sweep.config.choices import chosen_runs
from har_sweep.config.schema import Config, keys
from har_sweep.config.sections import config_of, may_be_argument, open_schema, part_of, unknown_key
from har_sweep.errors import InputError, nearest
from har_sweep.files import PACKAGE

# An installed wheel carries the tree inside the package; a checkout has it beside the package.
_INSTALLED = PACKAGE / "conf"
CONF = _INSTALLED if _INSTALLED.is_dir() else PACKAGE.parent / "conf"

ConfigStore.instance().store(name="schema", node=open_schema())
SCALARS = [kind for scalar in (bool, int, float, str) for kind in (scalar, scalar | None)]


@cache
def groups() -> dict[str, list[str]]:
    """Each config group with its options, as the tree has them."""
    found = {folder.name: sorted(f.stem for f in folder.glob("*.yaml")) for folder in CONF.iterdir() if folder.is_dir()}
    return dict(sorted(found.items()))


def compose(overrides: list[str]) -> Config:
    """One checked config from overrides without sweeps.

    Raises
    ------
    InputError
        naming the key, group or value that does not fit, with the nearest one that does.
    """
    return compose_all([overrides])[0]


def compose_all(choices: list[list[str]]) -> list[Config]:
    """``compose`` of each choice, much faster: choices that differ only in plain values share one composition.

    Hydra puts the groups together, which takes long, and sets the values last. So a second choice of the same shape is
    the first one with its own values set, and what interpolates them resolved again.
    """
    shared: dict[tuple[str, ...], _Composition] = {}
    configs = []
    for choice in choices:
        overrides = explain(choice)
        values = _plain_values(overrides)
        shape = tuple(o.key_or_group if o.key_or_group in values else o.input_line or "" for o in overrides)
        if shape in shared:
            try:
                config = shared[shape].with_values(values)
            except OmegaConfBaseException:
                config = compose(choice)  # in whose words errors are explained
        else:
            with _explained(choice):
                tree = _compose(choice)
                config = config_of(tree)
            shared[shape] = _Composition(tree, config)
        check(config)
        configs.append(config)
    return configs


@dataclass
class _Composition:
    """What choices of one shape share."""

    tree: DictConfig
    config: Config

    @cached_property
    def interpolating(self) -> dict[str, str]:
        """The top-level keys in which something refers to other values, and their text."""
        unresolved = cast(dict[str, Any], OmegaConf.to_container(self.tree))
        return {name: str(part) for name, part in unresolved.items() if "${" in str(part)}

    def with_values(self, values: dict[str, Any]) -> Config:
        """The config of a choice with other plain values; they stay in the tree until the next ones overwrite them."""
        for path, value in values.items():
            OmegaConf.update(self.tree, path, value)
        changed = {path.split(".")[0] for path in values}
        # ${a.b} refers to a.b or what is below it. Any other form gives "" here, as it may refer to everything.
        referred = tuple(re.findall(r"\$\{(?:([a-zA-Z_][\w.]*)\})?", "".join(self.interpolating.values())))
        if any(path.startswith(referred) for path in values):
            changed.update(self.interpolating)
        config = deepcopy(self.config)
        for name in changed:
            setattr(config, name, part_of(self.tree, name))
        return config


def _plain_values(overrides: list[Override]) -> dict[str, Any]:
    """Key and value of the overrides that set a scalar of the schema which no other override touches."""
    if any(o.is_delete() for o in overrides):
        return {}
    written = [o.key_or_group for o in overrides if o.key_or_group not in groups() or isinstance(o.value(), dict)]
    return {
        o.key_or_group: o.value()
        for o in overrides
        if (o.type, o.value_type, o.package) == (OverrideType.CHANGE, ValueType.ELEMENT, None)
        and _types().get(o.key_or_group) in SCALARS
        and ("." in o.key_or_group or not isinstance(o.value(), str))  # a user's tree may have a group called seed
        and sum(f"{o.key_or_group}.".startswith(f"{key}.") for key in written) == 1
    }


def expand(overrides: list[str]) -> list[list[str]]:
    """A sweep's override lists: the product of all ``key=a,b``, and of an experiment's own where nothing beats it."""
    own = _experiment_sweep([o.input_line or "" for o in explain(overrides) if not o.is_sweep_override()])
    swept: dict[str, list[str]] = {}
    for override in explain([*own, *overrides]):
        key = override.get_key_element()
        if override.is_sweep_override():
            swept[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            swept[key] = [override.input_line or ""]
    return chosen_runs([list(choice) for choice in itertools.product(*swept.values())])


def refuse_sweep(overrides: list[str]) -> None:
    """Commas make a sweep only with ``-m``.

    Raises
    ------
    InputError
        naming the override that has them.
    """
    for override in explain(overrides):
        if override.is_sweep_override():
            raise InputError(f"'{override.input_line}' lists several values.", "Add -m to sweep over them.")
    if len(chosen_runs([overrides])) > 1:
        raise InputError("sweep.pairs, or a list of values for a model, asks for several runs.", "Add -m to sweep.")


def explain(overrides: list[str]) -> list[Override]:
    """Parse; refuse misspelt keys, groups and options with the nearest right one, as Hydra's own words say less."""
    own_tree = any(o.startswith("hydra.searchpath") for o in overrides)
    return [_known(line, own_tree) for line in overrides]


@cache
def _known(line: str, own_tree: bool) -> Override:
    with _explained([line]):
        override = OverridesParser.create().parse_overrides([line])[0]
    name = override.key_or_group
    if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        raise InputError(f"'{line}' is not a list of choices.", f"Write {name}=a,b,c or {name}=range(0,3).")
    if name.split(".")[0].split("/")[0] == "hydra" or name in _types():
        return override
    if name in groups():
        if isinstance(override.value(), list):
            text = ",".join(map(str, cast(list[Any], override.value())))
            raise InputError(f"'{line}' is a list, and a run has one {name}.", f"Write -m {name}={text}.")
        for option in [] if own_tree else _options(override):
            if option not in groups()[name]:
                near = nearest(option, groups()[name])
                if name == "model":
                    near += f" Any architecture of timm's is model=timm model.timm_name={option}."
                raise InputError(
                    f"There is no {name} '{option}'.", f"{near.strip()} There are {', '.join(groups()[name])}.".strip()
                )
    elif not may_be_argument(name) and not any(
        path.startswith(f"{name}.") or (name.startswith(f"{path}.") and get_origin(kind) is dict)
        for path, kind in _types().items()
    ):
        near = nearest(name, [*groups(), *_types()])
        raise InputError(
            f"There is no key '{name}' (in '{line}').", near or "`python -m har_sweep --help` lists every key."
        )
    return override


@cache
def _types() -> dict[str, Any]:
    return {key.path: key.type for key in keys()}


def _options(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(option) for option in override.sweep_string_iterator()]
    value = override.value()
    return [] if isinstance(value, (dict, list)) or override.is_delete() else ["null" if value is None else str(value)]


def _experiment_sweep(overrides: list[str]) -> list[str]:
    if not any(o.startswith("experiment=") for o in overrides):
        return []
    with _explained(overrides):
        params = _compose(overrides, return_hydra_config=True).hydra.sweeper.params
    return [f"{key}={value}" for key, value in (params or {}).items()]


def _compose(overrides: list[str], **kwargs: Any) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONF.resolve()), version_base="1.3"):
        return hydra_compose("config", overrides, **kwargs)


@contextmanager
def _explained(overrides: list[str]) -> Iterator[None]:
    """Turn Hydra's and OmegaConf's exceptions into one sentence about what the user wrote."""
    try:
        yield
    except OverrideParseException as e:
        raise InputError(
            f"'{e.override}' cannot be read.", "Write key=value, or key=a,b,c with -m; quote what holds = or commas."
        ) from e
    except (HydraException, OmegaConfBaseException) as e:
        if "issing mandatory value: " in str(e):  # met directly, or by way of another key's interpolation
            key = str(e).splitlines()[0].split("andatory value: ")[1]
            raise InputError(f"{key} has no value, and has no default.", f"Add {key}=...") from e
        cause = e.__cause__ if isinstance(e.__cause__, OmegaConfBaseException) else e
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        told = re.search(r"full_key: (\S+)", str(cause))  # Hydra tells of a file's mistakes in text alone
        key = getattr(cause, "full_key", None) or (told[1] if told else "")
        if "raised while composing" in lines[0]:
            raise InputError(f"{lines[0].split(':')[0]}, {key}: {lines[1]}.", nearest(key, _types())) from e
        if "is not in struct" in str(cause) and may_be_argument(key):
            raise unknown_key(key) from e
        hint = "`python -m har_sweep --help` lists every key with its default."
        if "is not in struct" in lines[0] or lines[0].startswith("Could not append"):
            hint = "Write ++key=value: it adds an entry, or replaces the one that is there."
        elif wrote := [o for o in overrides if key and o.lstrip("+").startswith(f"{key}=")]:
            hint = f"You wrote '{wrote[0]}'."
        raise InputError(f"{f'{key}: ' if key else ''}{lines[0]}", hint) from e
