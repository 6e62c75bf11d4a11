"""What a job is given: one run, decided to the last detail, so that the job lists, asks and guesses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from har_sweep.record import RunPaths
from har_sweep.schema import Config
from har_sweep.weights import ModelPlan


@dataclass(frozen=True)
class RunSpec:
    """``device`` and ``precision`` are what ``auto`` came to; ``dataset_file`` is what ``data.prepare`` wrote;
    ``label`` tells the run from the sweep's others."""

    run_id: str
    name: str
    label: str
    config: Config
    overrides: list[str]
    sweep: str
    model: ModelPlan
    device: str
    precision: str
    dataset_file: Path
    warnings: tuple[str, ...]

    @property
    def paths(self) -> RunPaths:
        return RunPaths(Path(self.config.paths.runs) / self.run_id)

    @property
    def source_size(self) -> int:
        """The side in pixels that training images are cached at."""
        return source_size(self.config, self.model)


def source_size(config: Config, model: ModelPlan) -> int:
    """The side in pixels that a model's training images are cached at."""
    return round(model.input_size * config.augmentation.cache_scale)
