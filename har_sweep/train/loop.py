"""The training loop: linear, resumable to the same bits, and always aware of what it waits for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from har_sweep.cost.energy import Energy, measured_energy
from har_sweep.cost.memory import Peak, peak_memory
from har_sweep.cost.training import TrainingClock
from har_sweep.data.batches import batches
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute
from har_sweep.device.ranks import Ranks
from har_sweep.errors import Interrupted, RunFailure
from har_sweep.events import Line, Phase, Step, Tell
from har_sweep.model.head import set_train_mode
from har_sweep.record.record import Epoch, TrainingCost
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train import checkpoint
from har_sweep.train.augmentation import augment
from har_sweep.train.evaluate import Forward, forward_of, predict
from har_sweep.train.learner import Learner

# Reading the loss makes a GPU's queue run dry, so it is not read in every step; on a CPU it costs nothing.
STEPS_BETWEEN_READS = {"cpu": 1, "cuda": 20, "mps": 20}


@dataclass
class Trained:
    """How far training has come: all that a checkpoint holds beside the learner's state."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int | None = None
    cost: TrainingCost = field(default_factory=TrainingCost)
    clock: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Trained:
        history, cost = [Epoch(**epoch) for epoch in state["history"]], TrainingCost(**state["cost"])
        return cls(**{**state, "history": history, "cost": cost})


def train(
    model: nn.Module,
    dataset: Dataset,
    spec: RunSpec,
    compute: Compute,
    ranks: Ranks,
    memory_baseline_bytes: int,
    tell: Tell,
    on_epoch: Callable[[Trained], None],
    stop: Stop,
) -> Trained:
    """Train to the last epoch, from the checkpoint where there is one, and leave the selected weights in ``model``.

    All ranks do so at once, and decide together when to save and stop; rank 0 alone validates, writes and tells.

    Raises
    ------
    RunFailure
        ``non_finite_loss`` or ``out_of_memory``; or ``killed``, if another rank was.
    Interrupted
        after any rank was asked to stop and a checkpoint was written.
    ClaimLost
        when another process has taken the run over.
    """
    config, trainer, threads = spec.config, spec.config.trainer, spec.config.hardware.loader_threads
    classes, images, cuda = len(dataset.classes), len(dataset.indices("train")), compute.device.type == "cuda"
    steps = math.ceil(images / trainer.batch_size)
    ranks.join(compute.device)
    learner, clock = Learner(model, config, compute, ranks, steps, tell, spec.splits), TrainingClock(compute.device)
    trained = resume(learner, clock, spec, ranks, steps, tell)
    selected_elsewhere = trained.epoch == trainer.epochs
    pace, steps_between_reads = Pace(images * trainer.epochs), STEPS_BETWEEN_READS[compute.device.type]

    with stop.deferred():
        while trained.epoch < trainer.epochs:
            set_train_mode(model, config)
            began, saved_at = time.monotonic() - trained.epoch_seconds, time.monotonic()
            loss_sum = torch.zeros((), device=compute.device) + trained.loss_sum
            joules_before, learning_rate = trained.cost.energy_joules, learner.learning_rate
            order = (config.seed, trained.epoch)
            stream = batches(
                dataset, "train", spec.source_size, trainer.batch_size,
                order=order, start_step=trained.step, threads=threads, pin=cuda,
            )  # fmt: skip
            with (
                closing(stream),
                measured_energy(compute.device) as energy,
                peak_memory(compute.device, memory_baseline_bytes) as memory,
            ):
                while trained.step < steps:
                    with clock.waiting():
                        batch = next(stream)
                    inputs, targets = augment(
                        compute.move(batch.images), compute.move(batch.labels), config.augmentation,
                        spec.model.input_size, spec.model.mean, spec.model.std, draws(*order, trained.step), classes,
                    )  # fmt: skip
                    learning_rate = learner.learning_rate
                    loss = learner.learn(inputs.contiguous(memory_format=compute.memory_format), targets)
                    loss_sum += loss * len(targets)
                    trained.step += 1
                    clock.step(len(targets))

                    last = trained.step == steps
                    reads = last or trained.step % steps_between_reads == 1 % steps_between_reads
                    if reads:
                        seen = min(trained.step * trainer.batch_size, images)
                        loss_now = loss_sum.item()
                        ranks.check()  # of a loss that lacks a rank's share nothing follows
                        mean_loss = finite(loss_now / seen, trained, spec)
                        pace_now = pace.at(trained.epoch * images + seen)
                        tell(Step(trained.epoch + 1, trainer.epochs, trained.step, steps, mean_loss, *pace_now))
                    overdue = time.monotonic() - saved_at > 60 * trainer.checkpoint_minutes
                    if not last and (reads or ranks.count == 1):
                        stopping, overdue = ranks.agree(stop, overdue)
                        if stopping or overdue:
                            add_up(trained, clock, joules_before, energy, memory, compute, ranks)
                            trained.loss_sum, trained.epoch_seconds = loss_sum.item(), time.monotonic() - began
                            save(learner, trained, spec, ranks, tell)
                            saved_at = time.monotonic()
                        if stopping:
                            raise Interrupted(ranks.reason(stop))
                add_up(trained, clock, joules_before, energy, memory, compute, ranks)

            trained.epoch += 1
            train_loss = loss_sum.item() / images
            if ranks.rank == 0:
                tell(Phase(f"Epoch [{trained.epoch}/{trainer.epochs}]: validating"))
                forward = watched(forward_of(learner.evaluated.eval(), spec.model, compute), ranks)
                val = predict(forward, dataset, "val", spec.model.input_size, trainer.batch_size, threads, compute)
                seconds = time.monotonic() - began
                trained.history.append(Epoch(trained.epoch, train_loss, val.nll, val.accuracy, learning_rate, seconds))
                if trainer.selection == "best" and is_best(trained.history):
                    trained.best_epoch = trained.epoch
                    checkpoint.save_weights(learner.evaluated, spec.paths.selected, spec.paths.check)
                reached = f"Loss: {train_loss:.4f}, Val Accuracy: {100 * val.accuracy:.2f}%"
                tell(Line(f"Epoch [{trained.epoch}/{trainer.epochs}], {reached}"))
            trained.step, trained.loss_sum, trained.epoch_seconds = 0, 0.0, 0.0
            save(learner, trained, spec, ranks, tell)
            on_epoch(trained)  # after the checkpoint: nothing is told that a resumed run would compute once more
            if ranks.agree(stop, False)[0]:
                raise Interrupted(ranks.reason(stop))
    ranks.leave()

    if learner.evaluated is not model:
        model.load_state_dict(learner.evaluated.state_dict())
    if selected_elsewhere or trained.best_epoch not in (None, trainer.epochs):
        model.load_state_dict(load_file(spec.paths.selected))
    return trained


def resume(learner: Learner, clock: TrainingClock, spec: RunSpec, ranks: Ranks, steps: int, tell: Tell) -> Trained:
    """Where the checkpoint left off, or the beginning."""
    saved = checkpoint.load(spec.paths.checkpoint, ranks.rank)
    if saved is None:
        return Trained()
    trained = Trained.restore(saved["trained"])
    clock.load_state_dict(trained.clock)
    if trained.epoch < spec.config.trainer.epochs:
        learner.load_state_dict(saved["learner"])
        tell(Line(f"Going on from the checkpoint: epoch {trained.epoch + 1}, after step {trained.step} of {steps}"))
    else:
        tell(Line("Going on from the checkpoint: training is complete"))
    return trained


def save(learner: Learner, trained: Trained, spec: RunSpec, ranks: Ranks, tell: Tell) -> None:
    """Write the checkpoint of all ranks; where it cannot be, training goes on and says so.

    Of a complete training only the selected weights are needed again, which have a file of their own.
    """
    randomness = ranks.gather(checkpoint.random_state())
    if ranks.rank > 0:
        return
    try:
        complete = trained.epoch == spec.config.trainer.epochs
        learned = {} if complete else {"learner": learner.state_dict()}
        if complete and trained.best_epoch is None:
            checkpoint.save_weights(learner.evaluated, spec.paths.selected, spec.paths.check)
        checkpoint.save(spec.paths, learned | {"trained": asdict(trained)}, randomness)
    except OSError as e:
        text = f"No checkpoint could be written ({e}); training goes on, and could only resume from an older one."
        tell(Line(text, warning=True))


def add_up(
    trained: Trained,
    clock: TrainingClock,
    joules_before: float | None,
    energy: Energy,
    memory: Peak,
    compute: Compute,
    ranks: Ranks,
) -> None:
    """Put what training has cost so far into ``trained``; ``energy`` and ``memory`` are of this epoch alone.

    Memory is this rank's; energy is all GPUs', or that of the processor, which all ranks share.
    """
    cost, before = clock.cost(), trained.cost
    used = ranks.gather(energy.joules) if compute.device.type == "cuda" else [energy.joules]
    joules = None if None in used and joules_before is None else sum(j or 0 for j in used) + (joules_before or 0)
    peak_bytes = max(before.peak_memory_bytes or 0, memory.bytes)
    cost.energy_joules, cost.peak_memory_bytes = joules, peak_bytes
    trained.cost, trained.clock = cost, clock.state_dict()


def watched(forward: Forward, ranks: Ranks) -> Forward:
    """``forward``, as long as all ranks live."""

    def watching(images: torch.Tensor) -> torch.Tensor:
        ranks.check()
        return forward(images)

    return watching


def draws(seed: int, epoch: int, step: int) -> torch.Generator:
    """The augmentation's random draws in one step: the same however the run came there."""
    state = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


def finite(loss: float, trained: Trained, spec: RunSpec) -> float:
    """``loss`` itself, or the end of the run."""
    if math.isfinite(loss):
        return loss
    lr = spec.config.optimizer.lr
    fp16 = " fp16 overflows easily: try hardware.precision=bf16 or fp32." if spec.precision == "fp16" else ""
    raise RunFailure(
        "non_finite_loss",
        f"The loss became {loss} in epoch {trained.epoch + 1}, at step {trained.step} or shortly before.",
        f"Try a smaller optimizer.lr (now {lr:g}; {lr / 10:g} for a start) or trainer.gradient_clip_norm=1.{fp16}",
    )


def is_best(history: list[Epoch]) -> bool:
    """Whether the last epoch's val accuracy is above all earlier ones'; the first of equals stays the best."""
    return all((history[-1].val_accuracy or 0) > (epoch.val_accuracy or 0) for epoch in history[:-1])


class Pace:
    """How fast training goes and how long it will take, for the screen alone; the first call starts the watch."""

    def __init__(self, images_in_all: int) -> None:
        self._in_all = images_in_all
        self._start: tuple[float, int] | None = None

    def at(self, images_done: int) -> tuple[float | None, float | None]:
        """Images/s and seconds left, validation included; None where it is too early to tell."""
        now = time.monotonic()
        if self._start is None:
            self._start = now, images_done
            return None, None
        rate = (images_done - self._start[1]) / (now - self._start[0])
        return rate, (self._in_all - images_done) / rate
