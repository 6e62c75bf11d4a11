"""``hydra/sweeper=har_sweep``: all runs of a sweep go to the launcher at once."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class HarSweepSweeper(Sweeper):
    """The product of what the command line and ``params`` list."""

    def __init__(self, params: dict[str, Any] | None = None, **unknown: Any) -> None:
        self.params, self.unknown = params or {}, unknown

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from har_sweep.config.check import check_hydra, check_sweeper

        check_hydra(config.hydra)
        check_sweeper(self.unknown)
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Results of the runs, in their order."""
        from har_sweep.config.compose import expand, note_multirun, own_tree

        assert self.hydra_context
        assert self.config
        assert self.launcher
        note_multirun(self.config)
        loader, hydra = self.hydra_context.config_loader, self.config.hydra
        return self.launcher.launch(expand(arguments, self.params, loader, own_tree(hydra)), 0)
