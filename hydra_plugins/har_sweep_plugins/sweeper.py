"""``hydra/sweeper=har_sweep``: all runs of a sweep go to the launcher at once. Around another's sweeper: a search."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write


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


class SearchSweeper(Sweeper):
    """Stands where another's sweeper was chosen, and sets that up as the record's numbers want it."""

    def __init__(self, **settings: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Every trial of every study."""
        from har_sweep.launch.search import search

        assert self.hydra_context
        assert self.config
        search(self.task_function, self.hydra_context, self.config, arguments)


class AroundSweepers(Callback):
    """Hydra asks callbacks before it makes the sweeper: here, another's is replaced by what goes around it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not config.hydra.sweeper._target_.startswith(HarSweepSweeper.__module__ + "."):
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.sweeper = {"_target_": f"{__name__}.{SearchSweeper.__name__}"}
