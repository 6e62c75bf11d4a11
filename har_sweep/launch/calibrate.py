"""What a planner asks torch, in a process of its own: a model's MACs, and how fast this machine trains it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from har_sweep.cost.static import static_costs
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import synchronise
from har_sweep.device.ranks import Ranks
from har_sweep.events import tell_nobody
from har_sweep.model.build import build_model
from har_sweep.model.head import set_train_mode
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.epoch import train_step
from har_sweep.train.evaluate import forward_of
from har_sweep.train.learner import Learner
from har_sweep.train.session import Session

TRAINING_SHARE = 0.75  # of the time for measuring; the rest is for evaluation


def count_macs(spec: RunSpec) -> int:
    """Multiply-adds of one image in a run's model."""
    size = spec.model.input_size
    counted = static_costs(_untrained(spec, Dataset.read(spec.dataset_file)), [3, size, size])
    if counted.macs is None:
        raise ValueError(counted.not_counted)
    return counted.macs


def measure_speed(spec: RunSpec, seconds: float) -> tuple[float, float, float]:
    """Train and evaluate a run's model on random pixels, on one device, for about so many seconds.

    Returns seconds for an image in training, for an image in evaluation, and for building the model.
    """
    config, size, device_count = spec.config, spec.model.input_size, spec.config.hardware.device_count
    batch_size = config.trainer.batch_size // (device_count if spec.device == "cuda" else 1)
    session = Session.begin(spec, Dataset.read(spec.dataset_file), Ranks(), tell_nobody, Stop())
    compute = session.compute
    began = time.monotonic()
    model = _untrained(spec, session.dataset)
    static_costs(model, [3, size, size])  # as every run does
    model = compute.place(model)
    build_seconds = time.monotonic() - began
    learner, generator = Learner(model, config, compute, Ranks(), 1, tell_nobody, 0), torch.Generator()
    pixels = torch.randint(256, (1, spec.source_size, spec.source_size, 3), dtype=torch.uint8)
    labels = torch.randint(len(session.dataset.classes), (batch_size,))
    forward = forward_of(model, spec.model, compute)

    def train(count: int) -> None:
        train_step(learner, pixels.expand(count, -1, -1, -1), labels[:count], generator, session)

    def evaluate(count: int) -> None:
        forward(compute.move(pixels[:, :size, :size].expand(count, -1, -1, -1)))

    set_train_mode(model, config)
    training = seconds_per_image(train, batch_size, TRAINING_SHARE * seconds, compute.device)
    model.eval()
    evaluation = seconds_per_image(evaluate, batch_size, (1 - TRAINING_SHARE) * seconds, compute.device)
    return training, evaluation, build_seconds


def seconds_per_image(step: Callable[[int], None], batch_size: int, seconds: float, device: torch.device) -> float:
    """How long ``step(images)`` takes an image in batches, once warm; ``seconds`` are for the warm-up too.

    Batches grow to their size while there is time for it: a large model on a small machine is measured with less.
    """
    deadline = time.monotonic() + seconds
    count = min(2, batch_size)  # batch normalisation cannot do with one

    def timed(steps: int) -> float:
        began = time.monotonic()
        for _ in range(steps):
            step(count)
        synchronise(device)
        return (time.monotonic() - began) / steps

    while timed(1) < seconds / 10 and count < batch_size:
        count = min(2 * count, batch_size)
    step_seconds = timed(1)
    if (left := deadline - time.monotonic()) > step_seconds:
        step_seconds = timed(int(left / step_seconds))
    return step_seconds / count


def _untrained(spec: RunSpec, dataset: Dataset) -> nn.Module:
    """The run's model without its weights, which need not be here."""
    scratch = replace(spec.model, weights="scratch", weights_file=None)
    return build_model(spec.config, scratch, len(dataset.classes), lambda text: None)
