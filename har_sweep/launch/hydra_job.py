"""What Hydra does around a job of a sweep, in the job's own process: its folder, logging, variables and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from omegaconf import DictConfig

Result = TypeVar("Result")


def as_hydra_job(config: DictConfig | None, compute: Callable[[], Result]) -> Result:
    """``compute()``, as Hydra runs a task where ``config`` (with its ``hydra`` node) asks anything of it."""
    if config is None:
        return compute()
    from hydra._internal.callbacks import Callbacks
    from hydra.core.utils import JobStatus, run_job, setup_globals
    from hydra.types import HydraContext

    setup_globals()
    context = HydraContext(config_loader=None, callbacks=Callbacks(config))  # type: ignore[arg-type]
    returned: Any = run_job(
        lambda _: compute(), config, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )  # fmt: skip
    if returned.status is JobStatus.FAILED:
        raise returned._return_value  # returned.return_value would print where in Hydra it passed
    return returned.return_value
