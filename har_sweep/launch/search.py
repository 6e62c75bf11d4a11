"""A search from its settings to its best trial: another's sweeper proposes trials, batch by batch.

What a trial came to stands in its run's record. A sampler that begins anew proposes the same trials again, as long as
it is told the same; those that have a record are told and not computed. So a search that is given again goes on.
"""

from __future__ import annotations

import logging
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, read_write

from har_sweep.config.compose import Composed
from har_sweep.config.identity import sweep_name
from har_sweep.data.dataset import Dataset
from har_sweep.errors import InputError, RunFailure, first_line
from har_sweep.launch.journal import sweep_folder
from har_sweep.launch.objective import check_classes, check_objective, direction, objective_of
from har_sweep.launch.plan import Planned, check_writable, plan
from har_sweep.launch.study import Study, Trial, checked_objectives, refuse_leaving, settings_for, studies_of
from har_sweep.launch.sweep import WORDS, begin, follow, run_here, summarise, warn
from har_sweep.launch.terminal import Screen
from har_sweep.spec.run_spec import RunSpec


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
    names = checked_objectives(config)
    settings = settings_for(config.hydra, names)
    studies = studies_of(config, context, arguments, partial(load, settings), screen.progress)
    application.search = searching = Search(screen, config, names, arguments)
    if settings:
        screen.say(f"Set because it was not given: {' '.join(settings)}")
    try:
        for study in studies:
            searching.run(study, application, context)
    finally:
        searching.close()
    application.status = 0 if all(any(t.values for t in study.trials) for study in studies) else 1


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
        try:
            sweeper = Plugins.instance().instantiate_sweeper(
                config=study.config, hydra_context=context, task_function=application
            )
            if not sys.stderr.isatty():
                for handler in logging.getLogger("optuna").handlers:  # Optuna 2 colours its lines in files too
                    handler.setFormatter(logging.Formatter("[%(levelname)1.1s %(asctime)s] %(message)s"))
            sweeper.sweep(arguments=study.arguments)
        except (InputError, RunFailure):
            raise
        except Exception as e:
            if not study.trials:
                cause: BaseException = e
                while cause.__cause__:  # Hydra wraps what a plug-in raises
                    cause = cause.__cause__
                text = f"{self.sweeper} could not begin: {type(cause).__name__} {first_line(cause)}"
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
        warnings = check_writable(Path(runs[0].config.paths.runs))
        planned = [_as_left(p) for p in plan(runs, self.screen, common, warnings)]
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


def _named(run: Composed, name: str) -> Composed:
    """The run under the name that all batches share."""
    return replace(run, config=replace(run.config, sweep=replace(run.config.sweep, name=name)))


def _as_left(planned: Planned) -> Planned:
    """What has failed is told as such: whether it would fail again is launch.retries' business."""
    given_up = planned.state == "failed" and not planned.spec.config.launch.retries
    return replace(planned, state="failed before") if given_up else planned
