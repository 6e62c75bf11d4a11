"""What was typed: parsed, and refused in one sentence where Hydra would say less, or would read it and do nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from har_sweep.config.schema import SlurmLauncher, keys
from har_sweep.config.tree import CONF, LAUNCHERS, groups
from har_sweep.errors import InputError, nearest

Mode = Literal["run", "sweep", "any"]
HELP = "`python -m har_sweep --help` lists every key with its default."
_SLURM_NOW = {
    "gpus": "gpus_per_node",
    "gpu_type": "gpus_per_node=TYPE:N",
    "cpus": "cpus_per_task",
    "memory_gib": "mem_gb",
    "time_minutes": "timeout_min",
    "signal_seconds": "signal_delay_s",
    "extra": "additional_parameters",
}
# Of Hydra's submitit launcher, what means nothing here. Its other names are ours.
_SUBMITIT = {
    "max_num_timeout": "A run goes on in another job as often as it needs to; launch.retries is for failures.",
    "submitit_folder": "What jobs print lies in paths.runs/.slurm.",
    "stderr_to_stdout": "Both go into one file as it is.",
    "nodes": "A run has one node; hardware.device_count says on how many of its devices it trains.",
    "tasks_per_node": "A run is one task, which starts a process for each of hardware.device_count devices itself.",
}
_REFUSED = {
    **dict.fromkeys(
        ("hydra/help", "hydra.help"), ("har_sweep has a help of its own: --help.", "--hydra-help shows Hydra's.")
    ),
    "hydra.job.env_copy": (
        "Every process of a run has the environment of its command already.",
        "Leave it out; hydra.job.env_set sets further variables.",
    ),
    **dict.fromkeys(
        (
            "hydra.job.id", "hydra.job.num", "hydra.job.config_name", "hydra.job.override_dirname", "hydra.overrides",
            "hydra.runtime",
        ),
        ("Hydra itself sets this.", "It is there to be read: ${hydra:...}."),
    ),
}  # fmt: skip


def explain(overrides: Iterable[str], mode: Mode = "any", own_tree: bool = False) -> list[Override]:
    """Parse; refuse misspelt keys, groups and options with the nearest right one, and what would do nothing.

    With ``own_tree`` there are config files of the user's, whose options are not known here.

    Raises
    ------
    InputError
        naming the override and what to write instead.
    """
    overrides = list(overrides)
    own_tree = own_tree or any(o.startswith("hydra.searchpath") for o in overrides)
    parsed = [_known(line, own_tree) for line in overrides]
    sweepers = [o.input_line for o in parsed if o.key_or_group == "hydra/sweeper"]
    if len(sweepers) > 1:
        raise InputError(f"{' and '.join(map(str, sweepers))}: a search has one sweeper.", "Leave all but one out.")
    if mode == "any":
        return parsed
    if "hydra.mode=MULTIRUN" in overrides or any(is_sweep(o) for o in parsed):
        mode = "sweep"
    for override in parsed:
        line, name = str(override.input_line), override.key_or_group
        if mode == "run" and override.is_sweep_override():
            raise InputError(f"'{line}' lists several values.", "Add -m to sweep over them.")
        if mode == "run" and re.match(r"hydra[./]sweep", name):
            raise InputError(f"'{line}' is for sweeps, and this is a single run.", "Add -m.")
        if mode == "sweep" and name.startswith("hydra.run."):
            raise InputError(f"'{line}' is for a single run.", "With -m, write hydra.sweep.dir=...")
    if mode == "sweep" and "WANDB_SWEEP_ID" in os.environ:
        raise InputError(
            "-m inside of a W&B agent's trial would log several runs as one.", "Give the agent a command without -m."
        )
    return parsed


def is_sweep(override: Override) -> bool:
    """Whether it chooses an experiment of ours that is a sweep by itself."""
    file = CONF / "experiment" / f"{override.value()}.yaml" if override.key_or_group == "experiment" else None
    return file is not None and file.is_file() and OmegaConf.select(OmegaConf.load(file), "hydra.mode") == "MULTIRUN"


@cache
def _known(line: str, own_tree: bool) -> Override:
    with explained([line]):
        override = OverridesParser.create().parse_overrides([line])[0]
    name = override.key_or_group
    if re.split(r"[./]", name)[0] == "hydra":
        _check_hydra(override, line)
    elif name in groups():
        _check_group(override, line, own_tree)
    elif new := _moved(name):
        raise InputError(f"'{name}' has moved (in '{line}').", f"Write {new}.")
    elif override.is_delete() and name in types():
        raise InputError(f"'{line}' would take a key away, and every key has a value.", f"Write {name}=... instead.")
    elif name not in types() and not own_tree and not any(
        path.startswith(f"{name}.") or (name.startswith(f"{path}.") and get_origin(kind) is dict)
        for path, kind in types().items()
    ):  # fmt: skip
        near = nearest(name, [*groups(), *types()])
        raise InputError(f"There is no key '{name}' (in '{line}').", near or HELP)
    return override


def _check_group(override: Override, line: str, own_tree: bool) -> None:
    name = override.key_or_group
    if own_tree:
        return
    if override.package and override.package.split(".")[0] not in (
        "_global_",
        *(path.split(".")[0] for path in types()),
    ):
        sections = dict.fromkeys(path.split(".")[0] for path in types() if "." in path)
        raise InputError(f"There is no section '{override.package}' for '{line}'.", f"There are {', '.join(sections)}.")
    for option in _options(override):
        if option not in groups()[name]:
            near = nearest(option, groups()[name])
            raise InputError(
                f"There is no {name} '{option}'.", f"{near} There are {', '.join(groups()[name])}.".strip()
            )


def _options(override: Override) -> list[str]:
    if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
        return []
    if override.is_sweep_override():
        return [str(option) for option in override.sweep_string_iterator()]
    value = override.value()
    return [] if isinstance(value, (dict, list)) or override.is_delete() else ["null" if value is None else str(value)]


def _check_hydra(override: Override, line: str) -> None:
    name = override.key_or_group
    for prefix, (why, instead) in _REFUSED.items():
        if f"{name}.".startswith(f"{prefix}."):
            raise InputError(f"'{line}' would do nothing. {why}", instead)
    if override.is_sweep_override():
        value = line.partition("=")[2]
        quoted = f"'{name}=\"{value}\"'" if "params." in name else "one value"
        raise InputError(f"'{line}': Hydra's own settings cannot be swept over.", f"Write {quoted}.")
    if name == "hydra/launcher" and override.value() not in LAUNCHERS:
        raise InputError(
            f"'{line}': runs are started by launchers of our own, so that none is computed twice or lost.",
            "hydra/launcher=local is this machine (launch.parallel=N runs at once), hydra/launcher=slurm a cluster.",
        )
    key = name.removeprefix("hydra.launcher.").split(".")[0]
    if name.startswith("hydra.launcher.") and f"hydra.launcher.{key}" not in types():
        near = nearest(name, [path for path in types() if path.startswith("hydra.launcher.")])
        raise InputError(f"There is no key '{name}' (in '{line}').", _SUBMITIT.get(key) or near or HELP)


def _moved(name: str) -> str:
    """What to write for a key that has another name now, or an empty string."""
    if name == "hardware.launcher":
        return "hydra/launcher=local or hydra/launcher=slurm"
    if name == "hardware.slurm":
        return "hydra.launcher"
    if name.startswith("hardware.slurm."):
        first, *rest = name.removeprefix("hardware.slurm.").split(".")
        return ".".join(["hydra.launcher", _SLURM_NOW.get(first, first), *rest])
    return ""


@cache
def types() -> dict[str, Any]:
    """The type of every key that may be set."""
    return {key.path: key.type for key in (*keys(), *keys(SlurmLauncher, "hydra.launcher."))}


@contextmanager
def explained(overrides: list[str]) -> Iterator[None]:
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
        raise InputError(f"{f'{key}: ' if key else ''}{lines[0]}", _hint(key, lines[0], overrides)) from e


SWEEPERS = ("ax", "nevergrad", "optuna")  # of Hydra's own repository, each a package with Hydra's version


def _missing_sweeper(name: str) -> str:
    if name not in SWEEPERS:
        return nearest(name, [*SWEEPERS, "har_sweep"]) or f"Plug-ins of Hydra's are {', '.join(SWEEPERS)}."
    major, minor = version("hydra-core").split(".")[:2]
    versions = f">={major}.{minor}.0rc0,<{major}.{int(minor) + 1}.0.dev0"
    return f"It is not installed: pip install 'hydra-{name}-sweeper{versions}', which brings the {name} that fits it."


def _hint(key: str, said: str, overrides: list[str]) -> str:
    if plugin := re.search(r"hydra/sweeper/(\w+)", said):
        return _missing_sweeper(plugin[1])
    if key.startswith("hydra.launcher."):
        return "Only SLURM is asked for this: add hydra/launcher=slurm, or hardware=slurm_gpu."
    if key.startswith("hydra.sweeper."):
        return "The sweeper of hydra/sweeper=... does not know it; its documentation lists what it takes."
    if new := _moved(key):
        return f"It has moved: write {new}."
    if "is not in struct" in said or said.startswith("Could not append"):
        return "Write ++key=value: it adds an entry, or replaces the one that is there."
    wrote = [o for o in overrides if key and o.lstrip("+").startswith(f"{key}=")]
    return f"You wrote '{wrote[0]}'." if wrote else HELP
