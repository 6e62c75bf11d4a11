"""har_sweep as Hydra sees it: the task function of ``hydra.main``, and what our launcher does with a batch of jobs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from hydra.utils import get_original_cwd
from omegaconf import DictConfig, OmegaConf

from har_sweep.config.arguments import Mode, explain, explained, is_sweep
from har_sweep.config.check import check, check_launcher
from har_sweep.config.compose import Composed, anchored, compose_runs, read_composed
from har_sweep.config.tree import CONF
from har_sweep.errors import InputError, RunFailure
from har_sweep.launch.objective import check_objective, objective_of
from har_sweep.launch.sweep import sweep
from har_sweep.launch.terminal import Screen

if TYPE_CHECKING:
    from har_sweep.launch.search import Search


class Application:
    """The task function: Hydra calls it for a single run, and hands it to our launcher for a sweep."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.status = 0  # the exit status
        self.error: InputError | None = None
        self.search: Search | None = None  # what another's sweeper proposes goes through it

    def __call__(self, config: DictConfig) -> Any:
        """A single run, and what ``sweep.objective`` names of it."""
        try:
            self.screen.progress("har_sweep: 1 run asked for; reading configs, weights and data", 0, 0)
            run = read_composed(config, HydraConfig.get())
            check(run.config)
            check_launcher(run.config, run.slurm)
            check_objective(run.config.sweep.objective)
            here = Path(get_original_cwd())
            run = anchored(run, here, moves=Path.cwd() != here)
            self.status, (spec,) = sweep([run], run.overrides, self.screen)
        except InputError as e:
            self.error = e  # Hydra would print where in its code it passed
            return None
        try:
            return objective_of(spec)
        except RunFailure:
            return None  # the table says it, and so does the status


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
    load = partial(context.config_loader.load_sweep_config, master)
    composed = compose_runs([list(choice) for choice in choices], load, first)
    asked = [anchored(run, Path.cwd(), moves=bool(run.hydra and run.hydra.hydra.job.chdir)) for run in composed]
    if search:
        specs = search.batch(asked)
    else:
        _check_for_sweep(asked)
        application.status, specs = sweep(asked, list(master.hydra.overrides.task), application.screen)
    returns = []
    for run, spec in zip(composed, specs, strict=True):
        returned = JobReturn(overrides=run.overrides, cfg=OmegaConf.structured(run.config), task_name="har_sweep")
        try:
            returned.return_value, returned.status = objective_of(spec), JobStatus.COMPLETED
        except RunFailure as e:
            returned.return_value, returned.status = e, JobStatus.FAILED
        returns.append(returned)
    return returns


def _check_for_sweep(runs: list[Composed]) -> None:
    """Refuse what only a search would look at, and an objective that no run could return."""
    for run in runs:
        check_objective(run.config.sweep.objective)
        if run.config.sweep.study_per:
            raise InputError("sweep.study_per is for a search.", "Add hydra/sweeper=optuna, or leave it out.")


def run_hydra(arguments: list[str], screen: Screen) -> int:
    """Hydra's command line; returns the exit status.

    Raises
    ------
    InputError
        in our words, whatever Hydra found wrong; with HYDRA_FULL_ERROR=1, Hydra's own exceptions.
    """
    arguments, overrides = _read(arguments)
    application = Application(screen)
    command = hydra.main(config_path=str(CONF.resolve()), config_name="config", version_base="1.3")(application)
    full_error, argv = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra would print its exceptions and end this process
    sys.argv = [argv[0], *arguments]
    try:
        with nullcontext() if full_error == "1" else explained(overrides):
            command()
    except RunFailure:
        application.status = 1  # a sweeper that gives up; what failed stands in the table
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error
    if application.error:
        raise application.error
    return application.status


def _read(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments as Hydra takes them, flags first, and the overrides among them.

    Raises
    ------
    InputError
        for what is misspelt, does not go together or would do nothing.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        hint = "`python -m har_sweep --help` lists the flags."
        if "--cfg" in message:
            hint = "Write --cfg job, --cfg hydra or --cfg all."
        elif "=" in message and "unrecognized" in message:
            hint = "Overrides have no dashes: key=value (a W&B agent writes so with ${args_no_hyphens})."
        raise InputError(f"{message[0].upper()}{message[1:]}.", hint)

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_intermixed_args(arguments)
    commands = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(args, name)]
    if len(commands) > 1:
        raise InputError(f"--{' and --'.join(commands)} do not go together.", "Leave all but one out.")
    if (args.resolve or args.package) and not args.cfg:
        raise InputError("--resolve and --package are for showing a config.", "Add --cfg job, hydra or all.")
    if args.experimental_rerun and (commands or args.overrides):
        raise InputError("--experimental-rerun takes its config from the file alone.", "Leave everything else out.")
    own_tree = any((args.config_name, args.config_dir, args.config_path))
    mode: Mode = "sweep" if args.multirun else "any" if args.info or args.shell_completion or args.hydra_help else "run"
    parsed = explain(args.overrides, mode, own_tree)
    flags = list(arguments)
    for override in args.overrides:
        flags.remove(override)
    if not commands and any(is_sweep(override) for override in parsed):
        flags.append("--multirun")  # Hydra 1.4 does not look for hydra.mode in an experiment's file
    if args.config_path:
        if args.config_dir:
            raise InputError("--config-path and --config-dir: one says where your configs are.", "Leave one out.")
        if not Path(args.config_path).is_dir():
            raise InputError(f"--config-path {args.config_path}: there is no such folder.", "Check the path.")
        # From where the command is given, not from where this file happens to be; our groups stay in reach.
        flags += ["--config-path", os.path.abspath(args.config_path), "--config-dir", str(CONF.resolve())]
    return [*flags, *args.overrides], args.overrides
