"""The sections that take a ``_target_``: as Hydra composes them, arguments beside it, and as they are typed."""

from __future__ import annotations

import functools
import json
from copy import deepcopy
from dataclasses import field, fields, make_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from har_sweep.config import schema
from har_sweep.config.schema import MISSING_VALUE, Config, keys
from har_sweep.errors import InputError, nearest

SECTIONS: dict[str, type] = {
    "model": schema.ModelConfig,
    "optimizer": schema.OptimizerConfig,
    "scheduler": schema.SchedulerConfig,
    "augmentation": schema.AugmentationConfig,
    "data": schema.DataConfig,
}
NAMED_BY = {"model": "timm_name", "optimizer": "name", "scheduler": "name", "data": "source"}
"""The key by which a section names a part of ours or timm's, in place of ``_target_``."""
OURS = {"optimizer": ("adam", "adamw", "sgd"), "scheduler": ("constant", "cosine")}
"""Names whose arguments all have keys of their own; any other name is timm's, and takes arguments as a target does."""


def _open_schema() -> type:
    hints = get_type_hints(Config)
    return make_dataclass(
        "OpenConfig",
        [
            (f.name, dict[str, Any], field(default_factory=functools.partial(_plain, SECTIONS[f.name])))
            if f.name in SECTIONS
            else (f.name, hints[f.name], f)
            for f in fields(Config)
        ],
    )


def _plain(cls: type) -> Any:
    return OmegaConf.to_container(OmegaConf.structured(cls))


OpenConfig = _open_schema()
"""What Hydra composes into: ``Config`` with room beside each ``_target_``; ``config_of`` types those sections."""
OpenConfig.__module__ = __name__  # where it is found again, when a job's config is read back in another process


def config_of(tree: DictConfig) -> Config:
    """A composed tree as a ``Config``.

    Raises
    ------
    InputError
        for a key that is neither ours nor an argument, and where two keys name the same part.
    OmegaConfBaseException
        for a value of a wrong type, or one that is missing.
    """
    return Config(**{f.name: part_of(tree, f.name) for f in fields(Config)})


def part_of(tree: DictConfig, name: str) -> Any:
    """One top-level key of a composed tree, typed."""
    part = tree[name]
    if name in SECTIONS:
        return deepcopy(_typed(name, json.dumps(OmegaConf.to_container(part, resolve=True))))
    return OmegaConf.to_object(part) if OmegaConf.is_config(part) else part


@cache
def _typed(name: str, text: str) -> Any:
    given, cls = json.loads(text), SECTIONS[name]
    own, target, key = {f.name for f in fields(cls)}, given.get("_target_"), NAMED_BY.get(name)
    others = {k: v for k, v in given.items() if k not in own}
    if not isinstance(given.get("arguments") or {}, dict):
        raise InputError(f"{name}.arguments={given['arguments']} names no arguments.", f"Write +{name}.NAME=VALUE.")
    if not isinstance(target or "", str):
        raise InputError(f"{name}._target_={target} is no import path.", "Write package.module.name.")
    arguments = {**(given.get("arguments") or {}), **others}
    named = given.get(key) if key else None
    if arguments and not target and named in (None, *OURS.get(name, (named,))):
        raise unknown_key(f"{name}.{next(iter(arguments))}")
    if target:
        if named not in (None, MISSING_VALUE):
            raise InputError(
                f"{name}.{key}={named} and {name}._target_={target} both say which {name} it is.",
                f"Write {name}=custom {name}._target_={target}, which starts from no other.",
            )
        given |= _name_of_target(name, target, given)
    elif key and named in (None, MISSING_VALUE):
        raise InputError(
            f"{name}.{key} has no value, nor has {name}._target_.", f"Add {name}.{key}=... or {name}._target_=..."
        )
    if name in ("model", "data") and given.get("name") in (None, MISSING_VALUE):
        given["name"] = given[key]
    given = {k: v for k, v in given.items() if k in own} | {"arguments": arguments}
    if missing := [f"{name}.{k}" for k, v in given.items() if v == MISSING_VALUE and k != key]:
        raise InputError(f"{missing[0]} has no value, and has no default.", f"Add {missing[0]}=...")
    holder = OmegaConf.create({name: OmegaConf.structured(cls)})  # so that errors give the whole key
    holder.merge_with({name: given})
    return OmegaConf.to_object(holder[name])


def _name_of_target(name: str, target: str, given: dict[str, Any]) -> dict[str, str]:
    """What stands in tables for a part that has no name of ours."""
    short = target.rpartition(".")[2]
    if name in ("optimizer", "scheduler"):
        return {"name": short}
    if name == "augmentation":
        return {"name": f"{given['name']}+{short}"}
    called = short if given.get("name") in (None, MISSING_VALUE) else given["name"]
    return {"name": called, NAMED_BY[name]: target if name == "model" else "custom"}


def unknown_key(path: str) -> InputError:
    """For a key that no section has."""
    section = path.split(".")[0]
    near = nearest(path, [key.path for key in keys()])
    way = f"Arguments go beside a _target_: {section}._target_=... +{path}=..." if section in SECTIONS else ""
    hint = " ".join(filter(None, (near, way))) or "`python -m har_sweep --help` lists every key."
    return InputError(f"There is no key '{path}'.", hint)


def may_be_argument(path: str) -> bool:
    """Whether a key is none of ours, in a section where a ``_target_`` might take it."""
    section, _, key = path.partition(".")
    return section in SECTIONS and bool(key) and key.split(".")[0] not in {f.name for f in fields(SECTIONS[section])}


def settings_of(optimizer: schema.OptimizerConfig) -> dict[str, Any]:
    """What an optimizer is called with beside its parameters: every setting that is not null."""
    named = {key: getattr(optimizer, key) for key in ("lr", "weight_decay", "betas", "momentum", "nesterov")}
    return {key: value for key, value in named.items() if value is not None} | optimizer.arguments
