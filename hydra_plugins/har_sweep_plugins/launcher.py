"""``hydra/launcher=local`` and ``slurm``: runs are planned together, each computed once, whoever asks for them."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class HarSweepLauncher(Launcher):
    """Each run's own config says where it goes, so ``settings`` are read there."""

    def __init__(self, **settings: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """A result for each list of overrides: what ``sweep.objective`` names, or why there is none."""
        from har_sweep.app import launch

        return launch(self.task_function, self.hydra_context, self.config, job_overrides, initial_job_idx)
