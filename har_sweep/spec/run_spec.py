"""What a job is given: one run, decided to the last detail, so that the job lists, asks and guesses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from har_sweep.config.schema import Config, SlurmLauncher
from har_sweep.record.folder import RunPaths
from har_sweep.spec.precision import Choice
from har_sweep.spec.teacher import TeacherPlan
from har_sweep.spec.weights import ModelPlan

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class RunSpec:
    """``device`` and ``choice``, precision and kernels, are what ``auto`` came to; ``dataset_file`` is what
    ``prepare_dataset`` wrote; ``label`` tells the run from the sweep's others; ``git_commit`` and ``git_dirty`` are of
    the code that planned it; ``failures_allowed`` counts those of earlier sweeps too. ``slurm`` is what a job on a
    cluster asks for, None on this machine; ``hydra`` is the whole composed config where Hydra has something to do
    around the job.

    The run's owner adds ``claim``, the number it writes under, and ``halvings``, how often batches are cut in two
    from the start because the system has killed the run for its memory.
    """

    run_id: str
    name: str
    label: str
    config: Config
    overrides: list[str]
    sweep: str
    model: ModelPlan
    device: str
    choice: Choice
    dataset_file: Path
    warnings: tuple[str, ...]
    teacher: TeacherPlan | None = None
    slurm: SlurmLauncher | None = None
    hydra: DictConfig | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    failures_allowed: int = 0
    claim: int = 0
    halvings: int = 0

    @property
    def precision(self) -> str:
        return self.choice.way.precision

    @property
    def paths(self) -> RunPaths:
        return RunPaths(Path(self.config.paths.runs) / self.run_id, self.claim)

    @property
    def devices(self) -> int:
        """That the run computes on; ranks on one CPU share it."""
        return self.config.hardware.device_count if self.device == "cuda" else 1

    @property
    def device_batch(self) -> int:
        """Images of a full batch that a device computes at once."""
        return max(1, self.config.trainer.batch_size // self.devices)

    @property
    def source_size(self) -> int:
        """The side in pixels that training images are cached at."""
        return source_size(self.config, self.model)


def source_size(config: Config, model: ModelPlan) -> int:
    """The side in pixels that a model's training images are cached at."""
    return round(model.input_size * config.augmentation.cache_scale)
