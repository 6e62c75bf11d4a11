"""A search from its settings to its best trial: another's sweeper proposes trials, batch by batch.

What a trial came to stands in its run's record. A sampler that begins anew proposes the same trials again, as long as
it is told the same; those that have a record are told and not computed. So a search that is given again goes on.
"""

from __future__ import annotations

import importlib.metadata
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from packaging.requirements import Requirement

from har_sweep.config.arguments import explain, types
from har_sweep.config.check import check_sweep_name, usable_folders
from har_sweep.config.compose import Composed, expand
from har_sweep.config.identity import sweep_name
from har_sweep.config.schema import PathsConfig
from har_sweep.config.tree import groups
from har_sweep.data.dataset import Dataset
from har_sweep.errors import InputError, RunFailure, nearest
from har_sweep.launch.journal import sweep_folder
from har_sweep.launch.objective import check_classes, check_objective, direction, objective_of
from har_sweep.launch.plan import Planned, check_writable, plan
from har_sweep.launch.sweep import WORDS, begin, follow, run_here, summarise, warn
from har_sweep.launch.terminal import Screen
from har_sweep.spec.run_spec import RunSpec
from har_sweep.spec.stochastic_depth import take_drop_path

DROP_PATH = "model.drop_path_rate"


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
        params = [f"{key}={value}" for key, value in (self.config.hydra.sweeper.get("params") or {}).items()]
        chosen = {o.get_key_element(): o.is_sweep_override() for o in explain([*params, *self.arguments])}
        return {key for key, sampled in chosen.items() if not sampled}


def search(application: Any, context: HydraContext, config: DictConfig, arguments: list[str]) -> None:
    """Every trial of every study; ``config`` is what Hydra composed, ``arguments`` are the command's overrides.

    Raises
    ------
    InputError
        before any trial, for an objective, a direction, a sweeper or a setting that does not fit.
    """
    screen: Screen = application.screen

    def load(settings: list[str], overrides: list[str]) -> DictConfig:
        loaded: DictConfig = context.config_loader.load_configuration(
            config_name=config.hydra.job.config_name,
            overrides=[*config.hydra.overrides.hydra, *settings, *overrides],
            run_mode=RunMode.MULTIRUN,
        )
        return loaded

    config = load([], arguments)  # again, as SearchSweeper stands in it where the settings should
    names = _checked(config)
    settings = _settings(config.hydra, names)
    studies = []
    for label, own in _split(config, context, arguments):
        study = Study(label, own, load(settings, own))
        if leave_out := _unknown_to(study.config, screen):
            study = Study(label, [*own, *leave_out], load(settings, [*own, *leave_out]))
        studies.append(study)
    application.search = searching = Search(screen, config, names, arguments)
    if settings:
        screen.say(f"Set because it was not given: {' '.join(settings)}")
    try:
        for study in studies:
            searching.run(study, application, context)
    finally:
        searching.close()
    application.status = 0 if all(any(t.values for t in study.trials) for study in studies) else 1


def _checked(config: DictConfig) -> list[str]:
    """The objectives of a search that can be begun."""
    names = check_objective(OmegaConf.to_container(config.sweep)["objective"])  # type: ignore[call-overload,index]
    if "cost/price" in names and config.hardware.price_per_device_hour is None:
        raise InputError("sweep.objective=cost/price: nothing has a price.", "Add hardware.price_per_device_hour=...")
    check_sweep_name(config.sweep.name)
    refuse_leaving(config.launch)
    check_versions(config.hydra.sweeper._target_)
    check_writable(Path(config.paths.runs))
    return names


class Search:
    """The trials of a command, over the batches of its studies."""

    def __init__(self, screen: Screen, config: DictConfig, names: list[str], overrides: list[str]) -> None:
        self.screen, self.names, self.overrides = screen, names, overrides
        self.name: str = config.sweep.name or sweep_name([overrides])
        self.sweeper = config.hydra.runtime.choices["hydra/sweeper"]
        settings = config.hydra.sweeper
        if "direction" not in settings and not settings._target_.startswith("hydra._internal."):
            screen.warn(
                f"Which way is better is {self.sweeper}'s own setting, left as it is. Better is {_best(names)}."
            )
        if settings.get("storage"):
            screen.warn("hydra.sweeper.storage has trials of its own, to which this adds, however often it is given.")
        self.studies: list[Study] = []
        self.planned: dict[str, Planned] = {}  # by run id
        self.causes: dict[str, str] = {}

    @property
    def trials_before(self) -> int:
        """Of the studies before the one at hand: jobs are numbered over all."""
        return sum(len(study.trials) for study in self.studies[:-1])

    def run(self, study: Study, application: Any, context: HydraContext) -> None:
        """Let the sweeper propose all of its trials."""
        self.studies.append(study)
        hydra = study.config.hydra
        trials = f"up to {hydra.sweeper.n_trials} trials" if "n_trials" in hydra.sweeper else "trials"
        of = f" for {study.label}" if study.label else ""
        self.screen.say(f"Search {self.name}{of}: {trials} by {self.sweeper}, for {_best(self.names)}.", "bold")
        if hydra.sweep.dir == ".":  # for what the sweeper itself has to say: not among the user's files
            with read_write(hydra):
                folder = sweep_folder(Path(study.config.paths.runs), self.name)
                hydra.sweep.dir = str(folder / re.sub(r"[^\w.=-]+", "_", study.label))
            Path(hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        random.seed(0)  # Optuna 2's grid draws from Python's own generator
        sweeper = Plugins.instance().instantiate_sweeper(
            config=study.config, hydra_context=context, task_function=application
        )
        try:
            sweeper.sweep(arguments=study.arguments)
        except (InputError, RunFailure):
            raise
        except Exception as e:
            if not study.trials:
                text = f"{self.sweeper} could not begin: {type(e).__name__} {e}".strip()
                raise InputError(f"{text}.", "Its settings are hydra.sweeper.*; docs/search.md has versions.") from e
            if any(trial.values for trial in study.trials):
                raise
            # Optuna, asked for the best of none. What failed stands in the table.

    def batch(self, runs: list[Composed]) -> list[RunSpec]:
        """Compute those of a batch's trials that have no record yet; returns what each came to be.

        Raises
        ------
        RunFailure
            if no run so far has a number that is searched by, though all went well.
        """
        study = self.studies[-1]
        for run in runs:
            refuse_leaving(run.config.launch)
            if check_objective(run.config.sweep.objective) != self.names:
                raise InputError("sweep.objective is not the same in all trials.", "Give it one value.")
        runs = [_named(run, self.name) for run in runs]
        fixed = study.fixed
        common = {o for run in runs for o in run.overrides if o.partition("=")[0] in fixed}
        planned = [_as_left(p) for p in plan(runs, self.screen, common)]
        check_classes(self.names, Dataset.read(planned[0].spec.dataset_file).classes)
        first = len(study.trials) + 1
        numbers = f"Trials {first} to {first + len(runs) - 1}" if len(runs) > 1 else f"Trial {first}"
        counts = Counter(WORDS.get(p.state, p.state) for p in planned)
        self.screen.say(f"{numbers}: {', '.join(f'{count} {word}' for word, count in counts.items())}.")
        warn(planned, self.screen, {w for p in self.planned.values() for w in p.spec.warnings})
        self.planned |= {p.spec.run_id: p for p in planned if p.spec.run_id not in self.planned}
        run_here([p for p in planned if not p.on_cluster], begin(planned, self.overrides, self.screen), self.screen)
        if any(p.on_cluster for p in planned):
            self.causes |= follow(planned, self.screen)
        specs = {place: p.spec for p in planned for place in p.places}
        for place in range(len(runs)):
            self._tell(study, specs[place])
        return [specs[place] for place in range(len(runs))]

    def _tell(self, study: Study, spec: RunSpec) -> None:
        try:
            found = objective_of(spec)
        except RunFailure as e:
            study.trials.append(Trial(spec, None))
            self.screen.say(f"  trial {len(study.trials)}: {e.message}", "red")
            if e.kind == "no_number" and not any(trial.values for trial in study.trials):
                self.screen.error("No record has what is searched by, so the search ends here.", e.hint)
                raise
            return
        values = found if isinstance(found, list) else [found]
        study.trials.append(Trial(spec, values))
        self.screen.say(f"  trial {len(study.trials)}: {spec.label}: {self._text(values)}")

    def close(self) -> None:
        """The table of all trials, and the best."""
        if self.planned:
            summarise(list(self.planned.values()), self.causes, self.screen)
        for study in self.studies:
            done = [trial for trial in study.trials if trial.values]
            if not done:
                continue
            best = self.best(done)
            count = f"{len(done)} trial{'s' if len(done) > 1 else ''}"
            of = f" for {study.label}" if study.label else ""
            if len(self.names) > 1:
                self.screen.say(f"Best trade-offs{of}, {len(best)} of {count}:", "bold")
            for trial in best:
                fixed = study.fixed
                chosen = " ".join(o for o in trial.spec.overrides if o.partition("=")[0] not in fixed)
                head = "  " if len(self.names) > 1 else f"Best{of} of {count}: "
                self.screen.say(f"{head}{self._text(trial.values or [])} by {trial.spec.run_id}: {chosen}", "bold")

    def best(self, done: Sequence[Trial]) -> list[Trial]:
        """The trials that no other is better than in one number and as good as in all."""
        signs = [1 if direction(name) == "maximize" else -1 for name in self.names]
        points = [[sign * value for sign, value in zip(signs, t.values or [], strict=True)] for t in done]
        best = [
            trial for trial, point in zip(done, points, strict=True)
            if not any(o != point and all(a >= b for a, b in zip(o, point, strict=True)) for o in points)
        ]  # fmt: skip
        unique = list({trial.spec.run_id: trial for trial in best}.values())
        return unique if len(self.names) > 1 else unique[:1]

    def _text(self, values: Sequence[float]) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, values, strict=True))


def _best(names: list[str]) -> str:
    return " and ".join(f"the {'largest' if direction(name) == 'maximize' else 'smallest'} {name}" for name in names)


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


def _settings(hydra: DictConfig, names: list[str]) -> list[str]:
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


def _unknown_to(config: DictConfig, screen: Screen) -> list[str]:
    """Where a study would vary the drop path of a model that has none, the override that keeps it out."""
    if not config.sweep.study_per or DROP_PATH not in (config.hydra.sweeper.get("params") or {}):
        return []
    name = config.model.timm_name.partition(".")[0]
    paths = cast(PathsConfig, OmegaConf.to_object(config.paths))
    with usable_folders(paths):
        takes = take_drop_path([name], Path(paths.cache), screen.progress)[name]
    return [] if takes else [f"{DROP_PATH}=0.0"]


def _named(run: Composed, name: str) -> Composed:
    """The run under the name that all batches share."""
    return replace(run, config=replace(run.config, sweep=replace(run.config.sweep, name=name)))


def _as_left(planned: Planned) -> Planned:
    """What has failed is told as such: whether it would fail again is launch.retries' business."""
    given_up = planned.state == "failed" and not planned.spec.config.launch.retries
    return replace(planned, state="failed before") if given_up else planned
