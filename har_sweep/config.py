"""Overrides -> checked configs. Hydra composes; this module finds the tree, expands sweeps and explains mistakes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from har_sweep.errors import InputError
from har_sweep.schema import Config, check, keys, nearest

# An installed wheel carries the tree inside the package; a checkout has it beside the package.
_INSTALLED = Path(__file__).parent / "conf"
CONF = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "conf"


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
    explain(overrides)
    with _explained(overrides):
        config = OmegaConf.to_object(_compose(overrides))
    assert isinstance(config, Config)
    check(config)
    return config


def expand(overrides: list[str]) -> list[list[str]]:
    """A sweep's override lists: the product of all ``key=a,b``, and of an experiment's own where nothing beats it."""
    explain(overrides)
    single = [o.input_line or "" for o in _parse(overrides) if not o.is_sweep_override()]
    swept: dict[str, list[str]] = {}
    for override in _parse([*_experiment_sweep(single), *overrides]):
        key = override.get_key_element()
        if override.is_discrete_sweep():
            swept[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif override.is_sweep_override():
            raise InputError(
                f"'{override.input_line}' is not a list of choices.", f"Write {key}=a,b,c or {key}=range(0,3)."
            )
        else:
            swept[key] = [override.input_line or ""]
    return [list(choice) for choice in itertools.product(*swept.values())]


def refuse_sweep(overrides: list[str]) -> None:
    """Commas make a sweep only with ``-m``.

    Raises
    ------
    InputError
        naming the override that has them.
    """
    for override in _parse(overrides):
        if override.is_sweep_override():
            raise InputError(f"'{override.input_line}' lists several values.", "Add -m to sweep over them.")


def explain(overrides: list[str]) -> None:
    """Refuse misspelt keys, groups and options with the nearest right one; Hydra's own words say less."""
    known = [key.path for key in keys()]
    sections = {path.rsplit(".", n)[0] for path in known for n in range(1, path.count(".") + 1)}
    searchpath = any(o.startswith("hydra.searchpath") for o in overrides)
    for override in _parse(overrides):
        name, line = override.key_or_group, override.input_line
        if name.split(".")[0].split("/")[0] == "hydra" or name in known:
            continue
        if name in groups():
            if not searchpath:
                for option in _options(override):
                    if option not in groups()[name]:
                        near = nearest(option, groups()[name])
                        raise InputError(
                            f"There is no {name} '{option}'.", f"{near} There are {', '.join(groups()[name])}.".strip()
                        )
        elif name not in sections:
            near = nearest(name, [*groups(), *known])
            raise InputError(
                f"There is no key '{name}' (in '{line}').", near or "`python -m har_sweep --help` lists every key."
            )


def _options(override: Override) -> list[str]:
    if override.is_sweep_override():
        return [str(option) for option in override.sweep_string_iterator()]
    value = override.value()
    return [] if isinstance(value, (dict, list)) or value is None else [str(value)]


def _parse(overrides: list[str]) -> list[Override]:
    with _explained(overrides):
        return OverridesParser.create().parse_overrides(overrides)


def _experiment_sweep(overrides: list[str]) -> list[str]:
    if not any(o.startswith("experiment=") for o in overrides):
        return []
    with _explained(overrides):
        params = _compose(overrides, return_hydra_config=True).hydra.sweeper.params
    return [f"{key}={value}" for key, value in (params or {}).items()]


def _compose(overrides: list[str], **kwargs: Any) -> DictConfig:
    ConfigStore.instance().store(name="schema", node=Config)
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
        key = getattr(cause, "full_key", None) or ""
        raise InputError(
            f"{f'{key}: ' if key else ''}{lines[0]}",
            next((f"You wrote '{o}'." for o in overrides if key and o.lstrip("+").startswith(f"{key}=")), "")
            or "`python -m har_sweep --help` lists every key with its default.",
        ) from e
