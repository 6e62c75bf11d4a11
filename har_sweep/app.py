"""har_sweep as Hydra sees it: the task function of ``hydra.main``, and what our launcher does with a batch of jobs."""

from __future__ import annotations

import os
import pickle
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from hydra.utils import get_original_cwd
from omegaconf import DictConfig, OmegaConf
from packaging.version import Version

from har_sweep.config.arguments import Mode, asks_for_sweep, check_mode, explain, explained, types
from har_sweep.config.choices import chosen_runs, left_to_us
from har_sweep.config.compose import (
    Composed,
    anchored,
    as_typed,
    checked,
    compose_runs,
    has_logging,
    own_tree,
    read_composed,
)
from har_sweep.config.plugins import load_plugins
from har_sweep.config.tree import CONF
from har_sweep.config.trial import as_overrides, in_trial
from har_sweep.config.unread import refuse_unread
from har_sweep.console import BROKEN_PIPE
from har_sweep.errors import InputError, RunFailure, check_platform, nearest
from har_sweep.units import escaped

if TYPE_CHECKING:
    from har_sweep.launch.search import Search
    from har_sweep.launch.terminal import Screen
    from har_sweep.spec.run_spec import RunSpec


class Application:
    """The task function: Hydra calls it for a single run, and hands it to our launcher for a sweep."""

    def __init__(self, screen: Screen | None = None) -> None:
        self._screen = screen
        self.__module__ = "har_sweep"  # from which Hydra takes the job's name
        self.status = 0  # the exit status
        self.specs: list[RunSpec] = []  # of every run that was asked for
        self.error: InputError | None = None
        self.search: Search | None = None  # what another's sweeper proposes goes through it

    @cached_property
    def screen(self) -> Screen:
        from har_sweep.launch.terminal import Screen  # which takes longer than showing a config

        return self._screen or Screen()

    def __call__(self, config: DictConfig) -> Any:
        """A single run, and what ``sweep.objective`` names of it."""
        try:
            self.screen.progress("har_sweep: 1 run asked for; reading configs, weights and data", 0, 0)
            from har_sweep.launch.objective import check_objective, objective_of
            from har_sweep.launch.sweep import sweep

            if HydraConfig.get().mode == RunMode.RUN:  # not a sweep's job, given again
                check_mode(as_typed(HydraConfig.get().overrides.hydra), "run")
            with explained(as_typed(HydraConfig.get().overrides.task)):
                run = read_composed(config, HydraConfig.get())
            if has_logging(HydraConfig.get()):
                run = replace(run, hydra=cast(DictConfig, HydraConfig.instance().cfg))
            checked(run)
            check_objective(run.config.sweep.objective)
            here = Path(get_original_cwd())
            run = anchored(run, here, moves=Path.cwd() != here)
            refuse_unread([run])
            self.status, self.specs = sweep([run], run.overrides, self.screen)
            return objective_of(self.specs[0])
        except InputError as e:
            self.error = e  # Hydra would print where in its code it passed
        except RunFailure:
            pass  # the table says it, and so does the status
        return None


def launch(
    application: Any, context: HydraContext, master: DictConfig, choices: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Plan and run a sweep's jobs, or a batch of a search's; ``first`` is the number of its first one.

    Raises
    ------
    InputError
        if any of them could not run: then none is started.
    """
    search = application.search
    if search:
        first += search.trials_before
    elif not master.hydra.sweeper._target_.startswith("hydra_plugins.har_sweep_plugins."):
        raise InputError(
            "Another's sweeper needs hydra.callbacks.har_sweep, which is gone.", "Leave hydra.callbacks as it was."
        )
    else:
        runs = "1 run" if len(choices) == 1 else f"{len(choices)} runs"
        application.screen.progress(f"har_sweep: {runs} asked for; reading configs, weights and data", 0, 0)
    from har_sweep.launch.objective import objective_of  # takes a moment: not before something is on the screen
    from har_sweep.launch.sweep import sweep

    check_mode(as_typed(master.hydra.overrides.hydra), "sweep")
    if search:  # of a sweep's, `expand` has seen to it
        choices = [chosen_runs([list(choice)])[0] for choice in choices]
    load = partial(context.config_loader.load_sweep_config, master)
    composed = compose_runs([list(choice) for choice in choices], load, first, own_tree(master.hydra))
    asked = [anchored(run, Path.cwd(), moves=bool(run.hydra and run.hydra.hydra.job.chdir)) for run in composed]
    refuse_unread(asked, of_a_search=bool(search))
    if search:
        specs = search.batch(asked)
    else:
        _check_for_sweep(asked)
        application.status, specs = sweep(asked, as_typed(master.hydra.overrides.task), application.screen)
    application.specs += specs
    returns = []
    for run, spec in zip(composed, specs, strict=True):
        cfg = OmegaConf.structured(run.config) if search else None  # which takes 20 ms, and nobody else reads it
        returned = JobReturn(overrides=run.overrides, cfg=cfg, task_name="har_sweep")
        try:
            returned.return_value, returned.status = objective_of(spec), JobStatus.COMPLETED
        except RunFailure as e:
            returned.return_value, returned.status = e, JobStatus.FAILED
        returns.append(returned)
    return returns


def _check_for_sweep(runs: list[Composed]) -> None:
    """Refuse what only a search would look at, and an objective that no run could return."""
    from har_sweep.launch.objective import check_objective

    for run in runs:
        check_objective(run.config.sweep.objective)
        if run.config.sweep.study_per:
            raise InputError("sweep.study_per is for a search.", "Add hydra/sweeper=optuna, or leave it out.")


def run_hydra(arguments: list[str], screen: Screen | None = None) -> Application:
    """Hydra's command line; returns what it came to: the exit status, and the runs.

    Raises
    ------
    InputError
        in our words, whatever Hydra found wrong.
    """
    check_platform()
    arguments, overrides, shows = _read(arguments)
    application = Application(screen)
    for plugin in load_plugins():
        application.screen.warn(plugin)
    program = sys.argv[0] if Path(sys.argv[0]).stem == "har_sweep" else "har_sweep"  # what shells are to complete
    with explained(overrides), _as_hydra_s(program, arguments), _harmless() if shows else nullcontext():
        command = hydra.main(config_path=str(CONF.resolve()), config_name="config", version_base="1.3")(application)
        try:
            command()
        except RunFailure:
            application.status = application.status or 1  # a sweeper that gives up; what failed stands in the table
        except SystemExit as e:
            application.status = BROKEN_PIPE if e.code == BROKEN_PIPE else 2 if e.code else 0
    if application.error:
        raise application.error
    return application


@contextmanager
def _as_hydra_s(program: str, arguments: list[str]) -> Iterator[None]:
    """Inside, Hydra reads ``arguments``, and raises what it would print before it ends this process."""
    full_error, argv = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"], sys.argv = "1", [program, *arguments]
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


@contextmanager
def _harmless() -> Iterator[None]:
    """Inside, what is printed is kept, and in the end printed without anything that a terminal would obey."""
    kept = StringIO()
    try:
        with redirect_stdout(kept):
            yield
    finally:
        print(escaped(kept.getvalue()), end="")


def _read(arguments: list[str]) -> tuple[list[str], list[str], bool]:
    """The arguments as Hydra takes them, flags first; the overrides among them; whether a config is to be shown.

    Raises
    ------
    InputError
        for what is misspelt, does not go together or would do nothing.
    """
    parser = _parser()
    if in_trial():
        arguments = as_overrides(arguments, [flag for action in parser._actions for flag in action.option_strings])
    args = parser.parse_intermixed_args(arguments)
    commands = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(args, name)]
    if len(commands) > 1:
        told = " and ".join(f"--{name.replace('_', '-')}" for name in commands)
        raise InputError(f"{told} do not go together.", "Leave all but one out.")
    if (args.resolve or args.package) and not args.cfg:
        raise InputError("--resolve and --package are for showing a config.", "Add --cfg job, hydra or all.")
    flags = list(arguments)
    for override in args.overrides:
        flags.remove(override)
    if args.shell_completion:
        _check_completion(args.overrides)
        return [*flags, *args.overrides], args.overrides, False
    if args.experimental_rerun:
        if commands or args.overrides:
            raise InputError("--experimental-rerun takes its config from there alone.", "Leave everything else out.")
        _check_rerun(Path(args.experimental_rerun))
    own_files = any((args.config_name, args.config_dir, args.config_path))
    mode: Mode = "sweep" if args.multirun else "show" if args.info or args.cfg else "run"
    overrides = explain(args.overrides, "hydra_help" if args.hydra_help else mode, own_files)
    swept = [str(o.input_line) for o in overrides if o.is_sweep_override()]
    if swept and (args.cfg or args.info):
        raise InputError(f"'{swept[0]}' lists several values.", "What is shown is one config: give one of them.")
    if args.package and not own_files:
        _check_package(args.package, args.cfg)
    if args.config_dir and not os.path.isdir(args.config_dir):
        raise InputError(f"--config-dir {args.config_dir}: there is no such folder.", "Check the path.")
    if args.config_path:
        if args.config_dir:
            raise InputError("--config-path and --config-dir: one says where your configs are.", "Leave one out.")
        if not os.path.isdir(args.config_path):
            raise InputError(f"--config-path {args.config_path}: there is no such folder.", "Check the path.")
        # From where the command is given, not from where this file happens to be; our groups stay in reach.
        flags += ["--config-path", os.path.abspath(args.config_path), "--config-dir", str(CONF.resolve())]
    if not commands and not args.hydra_help and asks_for_sweep(overrides):
        flags.append("--multirun")  # Hydra 1.4 does not look for hydra.mode in an experiment's file
    if mode != "sweep" and not own_files and not swept and not asks_for_sweep(overrides):
        chosen = chosen_runs([args.overrides])
        if len(chosen) > 1:
            raise InputError("sweep.pairs, or a list of values for a model, asks for several runs.", "Add -m.")
        args.overrides = chosen[0]
    names = {o.key_or_group for o in overrides}
    if (args.multirun or asks_for_sweep(overrides)) and "hydra/sweeper" not in names:  # a search's sampler has no use
        args.overrides = [left_to_us(line) for line in args.overrides]
    if "hydra.verbose" in names and not names & {"hydra/job_logging", "hydra/hydra_logging"}:
        args.overrides += ["hydra/job_logging=stdout", "hydra/hydra_logging=default"]  # where it can be read
    return [*flags, *args.overrides], args.overrides, bool(args.cfg or args.info)


def _parser() -> ArgumentParser:
    """Hydra's own, which explains what it refuses."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        hint = "`python -m har_sweep --help` lists the flags."
        if "--cfg" in message:
            hint = "Write --cfg job, --cfg hydra or --cfg all."
        elif "--info" in message:
            hint = "Write --info alone, or with one of these."
        elif "=" in message and "unrecognized" in message:
            hint = "Overrides have no dashes: key=value."
        raise InputError(f"{message[0].upper()}{message[1:]}.", hint)

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def _check_completion(words: list[str]) -> None:
    what, _, shell = " ".join(words).partition("=")
    if what not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        raise InputError(
            f"--shell-completion {' '.join(words)}".strip() + " says not what to do.",
            "Write -sc install=bash or uninstall=bash; there are bash, zsh and fish.",
        )


def _check_package(package: str, part: str) -> None:
    sections = {key.rpartition(".")[0] or key for key in types()} | {key.split(".")[0] for key in types()}
    known = {name for name in (*sections, *types()) if part != "job" or not name.startswith("hydra")}
    if part == "hydra" or package in known or package == "_global_" or (package.startswith("hydra") and part == "all"):
        return
    raise InputError(f"--package {package}: the config has no such part.", nearest(package, known) or "Leave it out.")


def _check_rerun(place: Path) -> None:
    """Refuse what ``--experimental-rerun`` could not read: a pickled config, or with Hydra 1.4 a job's folder."""
    folder = Version(hydra.__version__) >= Version("1.4.dev0")
    hint = (
        "Give the folder of a job that has a .hydra folder in it (hydra.output_subdir=.hydra)."
        if folder
        else "Give the config.pickle of a job with hydra.output_subdir=.hydra "
        "+hydra.callbacks.pickle._target_=hydra.experimental.callbacks.PickleJobInfoCallback."
    )
    if not folder and place.is_file():
        from har_sweep.launch.private import check_ours  # not before a config is shown

        check_ours(place)  # what is unpickled is executed
    try:
        fits = place.is_dir() if folder else isinstance(pickle.loads(place.read_bytes()), DictConfig)
    except Exception:  # whatever a file may hold
        fits = False
    if not fits:
        raise InputError(f"--experimental-rerun {place}: there is no job's config.", hint)
