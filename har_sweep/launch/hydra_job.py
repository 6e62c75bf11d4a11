"""What Hydra does around a job, in the job's own process: its folder, logging, variables and callbacks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

from omegaconf import open_dict, read_write

from har_sweep.config.compose import has_folders
from har_sweep.launch.objective import objective_of
from har_sweep.record.record import Record
from har_sweep.spec.run_spec import RunSpec


def as_hydra_job(spec: RunSpec, compute: Callable[[], Record]) -> Record:
    """``compute()``, as Hydra runs a task where ``spec.hydra`` asks anything of it.

    A sweep's job has the folder that hydra.sweep names, else the run's own; what it returns, for callbacks, is what
    ``sweep.objective`` names. Around a single run Hydra has been at work already, in the process of the command; here
    its logging is set up.
    """
    config = spec.hydra
    if config is None:
        return compute()
    from hydra import version
    from hydra._internal.callbacks import Callbacks
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import JobRuntime, configure_log, run_job, setup_globals
    from hydra.types import HydraContext, RunMode

    warnings.filterwarnings("ignore", r"(?s).*Hydra 1\.5")
    version.setbase("1.3")
    setup_globals()
    JobRuntime.instance().set("name", config.hydra.job.name)
    for place in config.hydra.searchpath:  # a package of configs may register resolvers
        if place.startswith("pkg://"):
            import_module(place.removeprefix("pkg://").replace("/", "."))
    if config.hydra.mode == RunMode.RUN:
        HydraConfig.instance().set_config(config)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        return compute()
    if not has_folders(config.hydra):
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir, config.hydra.sweep.subdir = str(spec.paths.folder.parent), spec.run_id
    records = []

    def task(_: Any) -> Any:
        records.append(compute())
        return objective_of(spec)

    context = HydraContext(config_loader=None, callbacks=Callbacks(config))  # type: ignore[arg-type]
    returned: Any = run_job(
        task, config, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir", hydra_context=context
    )
    if records:
        return records[0]
    raise returned._return_value  # returned.return_value would print where in Hydra it passed
