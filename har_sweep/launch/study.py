"""What a search is before its first trial: its studies, the settings that they need, and what is refused."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from packaging.requirements import Requirement
from packaging.version import Version

from har_sweep.config.arguments import explain, types
from har_sweep.config.check import check_hydra, check_sweep_name
from har_sweep.config.compose import expand
from har_sweep.config.tree import groups
from har_sweep.errors import InputError, nearest
from har_sweep.events import Progress
from har_sweep.launch.objective import check_objective, direction
from har_sweep.launch.plan import check_writable
from har_sweep.spec.run_spec import RunSpec
from har_sweep.spec.weights import ask_timm

DROP_PATH = "model.drop_path_rate"
OPTUNA = ".hydra_optuna_sweeper."  # within its import path


@dataclass(frozen=True)
class Trial:
    """A run that was proposed; ``values`` are what its record holds of the objectives, None if it failed."""

    spec: RunSpec
    values: list[float] | None


@dataclass
class Study:
    """What one sampler learns from. ``label`` is the choice that it is for, ``arguments`` the sweeper's, ``config`` the
    sweeper's with its ``hydra`` node."""

    label: str
    arguments: list[str]
    config: DictConfig
    trials: list[Trial] = field(default_factory=list)

    @property
    def fixed(self) -> set[str]:
        """The keys that the sampler does not choose."""
        return {key for key, sampled in self._sampled().items() if not sampled}

    @property
    def is_empty(self) -> bool:
        """Whether all trials would be one run; of other sweepers than Optuna's it is not known where they are told."""
        sweeper = self.config.hydra.sweeper
        elsewhere = sweeper.get("search_space") or sweeper.get("custom_search_space")
        return OPTUNA in sweeper._target_ and not elsewhere and not any(self._sampled().values())

    def _sampled(self) -> dict[str, bool]:
        """Every key that is given, and whether the sampler chooses its value."""
        params = [f"{key}={value}" for key, value in (self.config.hydra.sweeper.get("params") or {}).items()]
        return {o.get_key_element(): o.is_sweep_override() for o in explain([*params, *self.arguments])}


def studies_of(
    config: DictConfig,
    context: HydraContext,
    arguments: list[str],
    load: Callable[[list[str]], DictConfig],
    progress: Progress,
) -> list[Study]:
    """One for each choice of ``sweep.study_per``'s keys; ``load`` composes the config of a study's arguments.

    Raises
    ------
    InputError
        for one that leaves nothing to its sampler.
    """
    studies = [Study(label, own, load(own)) for label, own in _split(config, context, arguments)]
    names = [study.config.model.timm_name.partition(".")[0] if _varies_drop_path(study) else "" for study in studies]
    facts = ask_timm(list(filter(None, names)), Path(config.paths.cache), progress)
    for n, name in enumerate(names):
        if name and not facts[name]["drop_path"]:
            own = [*studies[n].arguments, f"{DROP_PATH}=0.0"]
            studies[n] = Study(studies[n].label, own, load(own))
    for study in studies:
        if study.is_empty:
            of = f" for {study.label}" if study.label else ""
            raise InputError(
                f"There is nothing to search{of}: each trial would be the same run.",
                "Give a key several values, such as 'optimizer.lr=tag(log,interval(1e-4,1e-2))'; or leave "
                "hydra/sweeper=optuna out.",
            )
    return studies


def checked_objectives(config: DictConfig) -> list[str]:
    """The objectives of a search that can be begun.

    Raises
    ------
    InputError
        for a search that cannot.
    """
    check_hydra(config.hydra)
    names = check_objective(OmegaConf.to_container(config.sweep)["objective"])  # type: ignore[call-overload,index]
    if "cost/price" in names and config.hardware.price_per_device_hour is None:
        raise InputError("sweep.objective=cost/price: nothing has a price.", "Add hardware.price_per_device_hour=...")
    check_sweep_name(config.sweep.name)
    refuse_leaving(config.launch)
    sweeper = config.hydra.sweeper
    check_versions(sweeper._target_)
    if sweeper.get("storage") and OPTUNA in sweeper._target_:
        _check_storage()
    check_writable(Path(config.paths.runs))
    return names


def refuse_leaving(launch: Any) -> None:
    """Refuse what would give the sweeper no answer."""
    for given, why in (
        (launch.dry_run and "launch.dry_run=true", "what a search will try depends on what its trials come to"),
        (not launch.wait and "launch.wait=false", "a search waits for its trials, to propose the next"),
    ):
        if given:
            raise InputError(f"{given}: {why}.", "Leave it out.")


def check_versions(target: str) -> None:
    """Refuse a plug-in whose own requirements are not met.

    Raises
    ------
    InputError
        with the versions that go together.
    """
    name = target.split(".")[1].replace("_", "-") if target.startswith("hydra_plugins.") else "hydra-core"
    try:
        requires = importlib.metadata.requires(name) or []
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return  # a module of the user's own
    for requirement in map(Requirement, requires):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            there = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            there = "nothing"
        if there == "nothing" or not requirement.specifier.contains(there, prereleases=True):
            raise InputError(
                f"{name} {version} needs {requirement.name}{requirement.specifier}, and {there} is installed.",
                f"pip install '{requirement.name}{requirement.specifier}' (docs/search.md has the versions that go "
                "together).",
            )


def _check_storage() -> None:
    """Refuse Optuna's storage with a SQLAlchemy that it does not work with, though its requirements allow it."""
    optuna, sqlalchemy = map(importlib.metadata.version, ("optuna", "sqlalchemy"))
    if Version(optuna) < Version("3") and Version(sqlalchemy) >= Version("2"):
        raise InputError(
            f"hydra.sweeper.storage: Optuna {optuna} cannot store its trials with SQLAlchemy {sqlalchemy}.",
            "pip install 'sqlalchemy<2' 'alembic<1.14', or leave it out: the records have all that a search needs.",
        )


def settings_for(hydra: DictConfig, names: list[str]) -> list[str]:
    """The overrides that a search needs and was not given; refuses a direction that is wrong for the objectives."""
    sweeper, settings = hydra.sweeper, []
    right = [direction(name) for name in names]
    if "direction" in sweeper:
        given = sweeper.direction
        line = f"hydra.sweeper.direction={right[0] if len(right) == 1 else '[' + ','.join(map(str, right)) + ']'}"
        if isinstance(given, Enum):  # the plug-in's own default
            settings.append(line)
        else:
            words = [getattr(word, "name", word) for word in ([given] if isinstance(given, str) else given)]
            if words != right:
                raise InputError(
                    f"hydra.sweeper.direction={given} is not the direction of sweep.objective={','.join(names)}.",
                    f"Write {line}, or leave it out.",
                )
    if "sampler" in sweeper and "seed" in sweeper.sampler and sweeper.sampler.seed is None:
        settings.append("hydra.sweeper.sampler.seed=0")
    given = any(o.startswith("hydra.sweeper.max_failure_rate=") for o in hydra.overrides.hydra)
    if sweeper.get("max_failure_rate") == 0 and not given:
        settings.append("hydra.sweeper.max_failure_rate=1.0")
    return settings


def _split(config: DictConfig, context: HydraContext, arguments: list[str]) -> list[tuple[str, list[str]]]:
    """The label and the arguments of each study: one for each choice of ``sweep.study_per``'s keys."""
    per = list(config.sweep.study_per)
    for key in per:
        if key not in (*groups(), *types()):
            raise InputError(f"sweep.study_per: there is no key '{key}'.", nearest(key, [*groups(), *types()]))
    if not per:
        return [("", arguments)]
    params = {key: value for key, value in (config.hydra.sweeper.get("params") or {}).items() if key in per}
    choosing = [line for line in arguments if explain([line])[0].get_key_element() in per]
    others = [line for line in arguments if line not in choosing]
    choices = expand(choosing, params, context.config_loader)
    same = set.intersection(*map(set, choices))
    return [(" ".join(o for o in choice if o not in same), [*choice, *others]) for choice in choices]


def _varies_drop_path(study: Study) -> bool:
    return bool(study.config.sweep.study_per) and DROP_PATH in (study.config.hydra.sweeper.get("params") or {})
