"""Overrides -> checked configs. Hydra composes; this module expands sweeps and composes once for all of one shape."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from har_sweep.config.arguments import explain, explained, parse, range_length, types
from har_sweep.config.check import check, check_folder, check_hydra, check_launcher
from har_sweep.config.choices import chosen_runs
from har_sweep.config.plugins import load_plugins
from har_sweep.config.schema import Config, SlurmLauncher
from har_sweep.config.sections import config_of, part_of
from har_sweep.config.tree import CONF, groups
from har_sweep.errors import InputError, first_line

SCALARS = [kind for scalar in (bool, int, float, str) for kind in (scalar, scalar | None)]
MOST_RUNS = 100_000
Load = Callable[[list[str]], DictConfig]
"""Composes: overrides -> the config with its ``hydra`` node."""


@dataclass(frozen=True)
class Composed:
    """One run as it was asked for.

    ``slurm`` is what a job on a cluster asks for, None on this machine; ``hydra`` is the whole composed config, where
    Hydra has something to do around the job (a folder of its own, callbacks, logging, variables of the environment).
    """

    overrides: list[str]
    config: Config
    slurm: SlurmLauncher | None = None
    hydra: DictConfig | None = None


def compose(overrides: list[str]) -> Config:
    """One checked config from overrides without sweeps.

    Raises
    ------
    InputError
        naming the key, group or value that does not fit, with the nearest one that does.
    """
    return compose_runs([overrides])[0].config


def compose_all(choices: list[list[str]]) -> list[Config]:
    """The config of each choice."""
    return [run.config for run in compose_runs(choices)]


def compose_runs(
    choices: list[list[str]], load: Load | None = None, first: int = 0, own_tree: bool = False
) -> list[Composed]:
    """Each choice composed and checked; ``first`` is the number of the first one's job; with ``own_tree`` there are
    config files of the user's.

    Choices that differ only in plain values share one composition: Hydra puts the groups together, which takes long,
    and sets the values last. So a second choice of the same shape is the first one with its own values set, and what
    interpolates them resolved again.
    """
    load = load or _compose
    shared: dict[tuple[str, ...], _Composition] = {}
    runs = []
    for number, choice in enumerate(choices, first):
        overrides = explain(choice, own_tree=own_tree)
        for override in overrides:
            if override.is_sweep_override():
                raise InputError(f"'{override.input_line}' is not one value.", "Add -m to sweep over several.")
        values = _plain_values(overrides)
        shape = tuple(o.key_or_group if o.key_or_group in values else o.input_line or "" for o in overrides)
        if shape in shared:
            try:
                config, slurm = shared[shape].with_values(values)
                runs.append(checked(Composed(choice, config, slurm)))
                continue
            except OmegaConfBaseException:
                pass  # composed alone, its error is explained
        with explained(choice):
            whole = load(choice)
            with read_write(whole), open_dict(whole):
                whole.hydra.job.num, whole.hydra.job.id = number, str(number)
            HydraConfig.instance().set_config(whole)
            hydra, kept = whole.hydra, whole.copy() if _has_to_do_with_jobs(whole.hydra) else None
            if has_folders(hydra):
                check_folder("hydra.sweep.subdir", os.path.join(hydra.sweep.dir, hydra.sweep.subdir))
            run = replace(read_composed(whole, hydra), overrides=choice, hydra=kept)
        refers = "${" in str(OmegaConf.to_container(hydra.launcher)).replace("${hydra.job.name}", "")
        composition = _Composition(whole, run, values)
        if run.hydra is None and not refers and "${hydra:" not in composition.text:
            shared[shape] = composition
        runs.append(checked(run))
    return runs


def read_composed(config: DictConfig, hydra: Any) -> Composed:
    """Plain values of what Hydra composed; ``hydra`` is its own part, and is taken out of ``config``.

    Raises
    ------
    InputError
        if Hydra was told what cannot be here, or the primary config is a user's own and does not begin with ours.
    """
    check_hydra(hydra)
    launcher = OmegaConf.to_object(hydra.launcher)
    with read_write(config), open_dict(config):
        config.pop("hydra", None)
    if not {f.name for f in fields(Config)} <= set(config):
        raise InputError(
            f"The primary config '{hydra.job.config_name}' is not of har_sweep.",
            "Let it begin with `defaults: [config, _self_]`.",
        )
    slurm = launcher if isinstance(launcher, SlurmLauncher) else None
    return Composed(as_typed(hydra.overrides.task), config_of(config), slurm)


def as_typed(overrides: Any) -> list[str]:
    """Overrides that Hydra noted, with their interpolations as they were typed."""
    return cast(list[str], OmegaConf.to_container(overrides, resolve=False))


def anchored(run: Composed, folder: Path, moves: bool) -> Composed:
    """The run with its paths as seen from ``folder``, where its process ``moves`` elsewhere (hydra.job.chdir=true)."""
    if not moves:
        return run
    paths, data, model = run.config.paths, run.config.data, run.config.model

    def at(path: str) -> str:
        return str(folder / path)

    def if_there(path: Any) -> Any:  # not a word, nor below data.root
        return at(path) if path and (folder / path).is_file() else path

    paths = replace(paths, **{name: at(path) for name, path in vars(paths).items()})
    data = replace(data, root=data.root and at(data.root), csv=if_there(data.csv))
    model = replace(model, weights=if_there(model.weights))
    tracking = replace(run.config.tracking, dir=run.config.tracking.dir and at(run.config.tracking.dir))
    return replace(run, config=replace(run.config, paths=paths, data=data, model=model, tracking=tracking))


def _has_to_do_with_jobs(hydra: Any) -> bool:
    """Whether Hydra was asked for anything around a sweep's job."""
    job, callbacks = hydra.job, set(hydra.callbacks or ()) - {"har_sweep"}  # ours, for whole sweeps
    return bool(
        hydra.output_subdir or job.chdir or job.env_set or callbacks or has_logging(hydra) or has_folders(hydra)
    )


def note_multirun(master: DictConfig) -> None:
    """Write ``multirun.yaml`` into the sweep's folder, as Hydra does, if it was given one."""
    if has_folders(master.hydra):
        folder = Path(master.hydra.sweep.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(master, folder / "multirun.yaml")
        except (OSError, ValueError) as e:
            why = getattr(e, "strerror", None) or first_line(e)
            raise InputError(f"hydra.sweep.dir={folder} cannot be written: {why}.", "Give another folder.") from e


def own_tree(hydra: Any) -> bool:
    """Whether config files come from anywhere but ours and Hydra's."""
    known = {str(CONF.resolve()), "hydra.conf", ""}
    return any(source.path not in known for source in hydra.runtime.config_sources)


def has_logging(hydra: Any) -> bool:
    """Whether a job's logging goes anywhere."""
    return (hydra.job_logging or {}).get("root") is not None


def has_folders(hydra: Any) -> bool:
    """Whether a sweep's jobs were given folders of their own, beside those of their runs."""
    return OmegaConf.to_container(hydra.sweep, resolve=False) != {"dir": ".", "subdir": "${hydra.job.num}"}


def checked(run: Composed) -> Composed:
    check(run.config)
    check_launcher(run.config, run.slurm)
    return run


@dataclass
class _Composition:
    """What choices of one shape share: the first one's tree, run and plain values."""

    tree: DictConfig
    run: Composed
    values: Mapping[str, Any]

    @cached_property
    def interpolating(self) -> dict[str, str]:
        """The top-level keys in which something refers to other values, and their text."""
        unresolved = cast(dict[str, Any], OmegaConf.to_container(self.tree))
        return {name: str(part) for name, part in unresolved.items() if "${" in str(part)}

    @cached_property
    def _in_tree(self) -> dict[str, Any]:
        return dict(self.values)

    @cached_property
    def _pickled(self) -> bytes:
        """The first one's config, to be copied: several times as fast as ``deepcopy``."""
        return pickle.dumps(self.run.config)

    @property
    def text(self) -> str:
        return "".join(self.interpolating.values())

    def with_values(self, values: Mapping[str, Any]) -> tuple[Config, SlurmLauncher | None]:
        """What a choice with other plain values comes to; they stay in the tree until the next overwrite them."""
        for path, value in values.items():
            if repr(value) != repr(self._in_tree[path]):
                OmegaConf.update(self.tree, path, value)
                self._in_tree[path] = value
        others = [path for path, value in values.items() if repr(value) != repr(self.values[path])]  # 1 is not 1.0
        changed = {path.split(".")[0] for path in others}
        # ${a.b} refers to a.b or what is below it. Any other form gives "" here, as it may refer to everything.
        referred = tuple(re.findall(r"\$\{(?:([a-zA-Z_][\w.]*)\})?", self.text))
        if any(path.startswith(referred) for path in others):
            changed.update(self.interpolating)
        config: Config = pickle.loads(self._pickled)
        for name in changed:
            setattr(config, name, part_of(self.tree, name))
        return config, self.run.slurm


def _plain_values(overrides: list[Override]) -> dict[str, Any]:
    """Key and value of the overrides that set a scalar of the schema which no other override touches."""
    if any(o.is_delete() for o in overrides):
        return {}
    written = [o.key_or_group for o in overrides if o.key_or_group not in groups() or isinstance(o.value(), dict)]
    return {
        o.key_or_group: o.value()
        for o in overrides
        if (o.type, o.value_type, o.package) == (OverrideType.CHANGE, ValueType.ELEMENT, None)
        and types().get(o.key_or_group) in SCALARS
        and not o.key_or_group.startswith("hydra.")
        and ("." in o.key_or_group or not isinstance(o.value(), str))  # a user's tree may have a group called seed
        and sum(f"{o.key_or_group}.".startswith(f"{key}.") for key in written) == 1
    }


def expand(
    overrides: list[str],
    params: Mapping[str, Any] | None = None,
    loader: ConfigLoader | None = None,
    own_tree: bool = False,
    intervals: bool = False,
) -> list[list[str]]:
    """A sweep's override lists: the product of all ``key=a,b``, and of an experiment's own where nothing beats it.

    ``params`` are the experiment's (``hydra.sweeper.params``), looked up if they are not given; ``loader`` knows the
    options that a ``glob(...)`` stands for. ``intervals`` may stand there for where they begin; else they are refused.
    """
    if params is None:
        params = _experiment_sweep([o.input_line or "" for o in explain(overrides) if not o.is_sweep_override()])
    swept: dict[str, list[str]] = {}
    for override in explain([*(f"{key}={value}" for key, value in params.items()), *overrides], own_tree=own_tree):
        line, key = override.input_line or "", override.get_key_element()
        if override.value_type == ValueType.INTERVAL_SWEEP and intervals:
            override = parse(line := f"{key}={override.value().start:.12g}")  # type: ignore[union-attr]
        if override.value_type == ValueType.INTERVAL_SWEEP:
            raise InputError(
                f"'{line}' is not a list of choices.",
                f"Write {override.key_or_group}=a,b,c or {override.key_or_group}=range(0,3); an interval is for a "
                "search: hydra/sweeper=optuna.",
            )
        if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            override = _with_options(line, loader)
        if override.value_type == ValueType.RANGE_SWEEP and range_length(override) > MOST_RUNS:
            raise InputError(f"'{line}' has more than {MOST_RUNS:,} values.", "Give it larger steps.")
        if override.is_sweep_override():
            swept[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if not swept[key]:
                options = groups().get(override.key_or_group, ["none of such a group"])
                raise InputError(f"'{line}' matches nothing.", f"There are {', '.join(options)}.")
        else:
            swept[key] = [line]
    if (runs := math.prod(map(len, swept.values()))) > MOST_RUNS:
        raise InputError(f"These are {runs:,} runs, and {MOST_RUNS:,} are the most.", "Give fewer values.")
    return chosen_runs([list(choice) for choice in itertools.product(*swept.values())])


def copied(arguments: list[str]) -> list[list[str]]:
    """The runs of a sweep's or a search's command line that stands behind another command, for what they need."""
    return expand([word for word in arguments if word not in ("-m", "--multirun")], intervals=True)


def _with_options(line: str, loader: ConfigLoader | None) -> Override:
    """The override of a ``glob(...)``, which can then tell what it stands for."""
    if loader is None:
        with explained([line]), initialize_config_dir(str(CONF.resolve()), "har_sweep", "1.3"):
            loader = GlobalHydra.instance().config_loader()
    return OverridesParser.create(config_loader=loader).parse_overrides([line])[0]


def _experiment_sweep(overrides: list[str]) -> dict[str, Any]:
    if not any(o.startswith("experiment=") for o in overrides):
        return {}
    with explained(overrides):
        return dict(_compose(overrides).hydra.sweeper.get("params") or {})


def _compose(overrides: list[str]) -> DictConfig:
    load_plugins()
    with initialize_config_dir(str(CONF.resolve()), "har_sweep", "1.3"):
        return hydra_compose("config", overrides, return_hydra_config=True)
