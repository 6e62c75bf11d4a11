"""What a planner asks torch, in a process of its own: a model's MACs, and how fast this machine trains it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from har_sweep.cost.static import static_costs
from har_sweep.device.compute import prepare_compute, synchronise
from har_sweep.device.ranks import Ranks
from har_sweep.model.build import build_model
from har_sweep.model.head import set_train_mode
from har_sweep.spec.run_spec import RunSpec
from har_sweep.train.augmentation import augment
from har_sweep.train.evaluate import forward_of
from har_sweep.train.learner import Learner

TRAINING_SHARE = 0.75  # of the time for measuring; the rest is for evaluation


def count_macs(spec: RunSpec, classes: int) -> int:
    """Multiply-adds of one image in a run's model."""
    size = spec.model.input_size
    counted = static_costs(_untrained(spec, classes), [3, size, size])
    if counted.macs is None:
        raise ValueError(counted.not_counted)
    return counted.macs


def measure_speed(spec: RunSpec, classes: int, seconds: float) -> tuple[float, float, float]:
    """Train and evaluate a run's model on random pixels, on one device, for about so many seconds.

    Returns seconds for an image in training, for an image in evaluation, and for building the model.
    """
    config, size, device_count = spec.config, spec.model.input_size, spec.config.hardware.device_count
    batch_size = config.trainer.batch_size // (device_count if spec.device == "cuda" else 1)
    compute = prepare_compute(config.hardware, spec.device, spec.precision, Ranks())
    began = time.monotonic()
    model = _untrained(spec, classes)
    static_costs(model, [3, size, size])  # as every run does
    model = model.to(compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]
    build_seconds = time.monotonic() - began
    learner = Learner(model, config, compute, Ranks(), 1, lambda event: None)
    generator = torch.Generator()
    pixels = torch.randint(256, (1, spec.source_size, spec.source_size, 3), dtype=torch.uint8)
    labels = torch.randint(classes, (batch_size,))

    def train(count: int) -> None:
        inputs, targets = augment(
            compute.move(pixels.expand(count, -1, -1, -1)), compute.move(labels[:count]), config.augmentation,
            size, spec.model.mean, spec.model.std, generator, classes,
        )  # fmt: skip
        learner.learn(inputs.contiguous(memory_format=compute.memory_format), targets)

    forward = forward_of(model, spec.model, compute)

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


def _untrained(spec: RunSpec, classes: int) -> nn.Module:
    """The run's model without its weights, which need not be here."""
    scratch = replace(spec.model, weights="scratch", weights_file=None)
    return build_model(spec.config, scratch, classes, lambda text: None)
