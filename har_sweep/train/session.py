"""What a process works with while it computes a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch

from har_sweep.cost.disturbance import Meter, Place, SystemCounters
from har_sweep.cost.memory import memory_now
from har_sweep.cost.nvml import GpuCounters, gpu_handle
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute, prepare_compute
from har_sweep.device.ranks import Ranks
from har_sweep.events import Line, Tell, tell_nobody
from har_sweep.spec.hardware import cores
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop

GPU_LOADER_THREADS = 4  # 10,000 images/s of 224 px each, on a Xeon; a GPU trains ResNet-18 at as many and more


@dataclass(frozen=True)
class Session:
    """The run as planned, its images, where it is computed and with whom, who is told, and whether it shall end.

    ``memory_baseline_bytes`` were in use before there was a model.
    """

    spec: RunSpec
    dataset: Dataset
    compute: Compute
    memory_baseline_bytes: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    tell: Tell = tell_nobody
    stop: Stop = field(default_factory=Stop)

    @classmethod
    def begin(cls, spec: RunSpec, dataset: Dataset, ranks: Ranks, tell: Tell, stop: Stop) -> Session:
        """Make the device ready, while there is no model yet; raises what ``prepare_compute`` does."""
        compute = prepare_compute(spec, ranks)
        return cls(spec, dataset, compute, memory_now(compute.device), ranks, tell, stop)

    @cached_property
    def images(self) -> int:
        """In an epoch."""
        return len(self.dataset.indices("train"))

    @property
    def steps(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return math.ceil(self.images / self.spec.config.trainer.batch_size)

    @property
    def loader_threads(self) -> int:
        """That gather batches: as many as were asked for, or else one on a CPU and several for a fast GPU."""
        hardware = self.spec.config.hardware
        if hardware.loader_threads is not None:
            return hardware.loader_threads
        if self.compute.device.type == "cpu":
            return 1
        return max(1, min(GPU_LOADER_THREADS, cores() // self.ranks.count - 1))

    def meter(self, ranks: int = 1) -> Meter:
        """Of what others take from this run while so many of its ranks compute."""
        device = self.compute.device
        if device.type == "cpu":
            return Meter(Place(torch.get_num_threads() * ranks), SystemCounters())
        if device.type == "cuda":
            return Meter(Place(ranks), SystemCounters(GpuCounters(gpu_handle(device))))
        return Meter(Place(ranks), SystemCounters(lambda: (None, 0.0)))  # nobody counts who uses an Apple GPU

    def warn(self, text: str) -> None:
        """Tell what must not be missed."""
        self.tell(Line(text, warning=True))
