"""An epoch of training, from wherever it was left off, and the step that it is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from har_sweep.cost.energy import measured_energy
from har_sweep.cost.memory import peak_memory
from har_sweep.cost.training import TrainingClock
from har_sweep.data.batches import Batch, batches
from har_sweep.errors import Interrupted, RunFailure
from har_sweep.events import Step
from har_sweep.model.head import set_train_mode
from har_sweep.spec.run_spec import RunSpec
from har_sweep.train.augmentation import augment
from har_sweep.train.checkpoint import Checkpoints, Trained
from har_sweep.train.learner import Learner
from har_sweep.train.session import Session

# Reading the loss makes a GPU's queue run dry, so it is not read in every step; on a CPU it costs nothing.
STEPS_BETWEEN_READS = {"cpu": 1, "cuda": 20, "mps": 20}


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


def train_epoch(
    learner: Learner, trained: Trained, clock: TrainingClock, pace: Pace, checkpoints: Checkpoints, session: Session
) -> float:
    """Train from ``trained.step`` to the end of the epoch; returns the learning rate of the last step. Raises what
    ``train`` does.
    """
    spec, compute, ranks, steps = session.spec, session.compute, session.ranks, session.steps
    order = spec.config.seed, trained.epoch
    steps_between_reads = STEPS_BETWEEN_READS[compute.device.type]
    set_train_mode(learner.model, spec.config)
    began = time.monotonic() - trained.epoch_seconds
    loss_sum, learning_rate = torch.zeros((), device=compute.device) + trained.loss_sum, learner.learning_rate
    stream = epoch_batches(session, trained.epoch, trained.step)
    with closing(stream), measured_costs(trained, clock, session) as costs:
        while trained.step < steps:
            with clock.waiting():
                batch = next(stream)
            learning_rate = learner.learning_rate
            with costs.step(len(batch.labels), learner.captures(len(batch.labels))):
                loss = train_step(learner, batch.images, batch.labels, draws(*order, trained.step), session)
                loss_sum += loss * len(batch.labels)
            trained.step += 1

            last = trained.step == steps
            reads = last or trained.step % steps_between_reads == 1 % steps_between_reads
            if reads:
                tell_step(loss_sum, trained, pace, session)
            if not last and (reads or ranks.count == 1):
                stopping, due = ranks.agree(session.stop, checkpoints.due_within_epoch())
                if stopping or due:
                    costs.add_up()
                    trained.loss_sum, trained.epoch_seconds = loss_sum.item(), time.monotonic() - began
                    checkpoints.save(trained)
                if stopping:
                    raise Interrupted(ranks.reason(session.stop))
        costs.add_up()
    trained.loss_sum, trained.epoch_seconds = loss_sum.item(), time.monotonic() - began
    return learning_rate


def epoch_batches(session: Session, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
    """The batches of a training epoch, in its order, from ``start_step`` on; close it to stop early."""
    config = session.spec.config
    return batches(
        session.dataset, "train", session.spec.source_size, config.trainer.batch_size, order=(config.seed, epoch),
        start_step=start_step, threads=session.loader_threads, pin=session.compute.device.type == "cuda",
    )  # fmt: skip


def train_step(
    learner: Learner, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator, session: Session
) -> torch.Tensor:
    """Augment a batch (uint8 [B, H, W, 3] and int64 [B]) and learn from it; returns its mean loss, on the device."""
    spec, compute = session.spec, session.compute
    inputs, targets = augment(
        compute.move(images), compute.move(labels), spec.config.augmentation, spec.model.input_size,
        spec.model.mean, spec.model.std, generator, len(session.dataset.classes),
    )  # fmt: skip
    return learner.learn(inputs.contiguous(memory_format=compute.memory_format), targets)


@dataclass(frozen=True)
class Costs:
    """``step(images, captures)`` goes around each training step, ``captures`` one in which a graph is made;
    ``add_up`` puts what all have cost so far into ``trained``."""

    step: Callable[[int, bool], AbstractContextManager[None]]
    add_up: Callable[[], None]


@contextmanager
def measured_costs(trained: Trained, clock: TrainingClock, session: Session) -> Iterator[Costs]:
    """Around an epoch's steps.

    Memory is this rank's; energy is all GPUs', or that of the processor, which all ranks share.
    """
    device, before = session.compute.device, trained.cost
    with measured_energy(device) as energy, peak_memory(device, session.memory_baseline_bytes) as memory:

        @contextmanager
        def step(images: int, captures: bool) -> Iterator[None]:
            # What a graph needs, it takes while it is captured, and never again.
            with clock.step(images, captures) as first, memory.step(first and not captures):
                yield

        def add_up() -> None:
            cost = clock.cost()
            used = session.ranks.gather(energy.joules) if device.type == "cuda" else [energy.joules]
            if before.seconds:  # of which a part is not known, the whole is not
                used.append(before.energy_joules)
            cost.energy_joules = None if None in used else sum(joules or 0.0 for joules in used)
            cost.peak_memory_bytes = max(before.peak_memory_bytes or 0, memory.bytes)
            trained.cost, trained.clock = cost, clock.state_dict()

        yield Costs(step, add_up)


def diverged(loss: float, epoch: int, step: int, spec: RunSpec) -> RunFailure:
    """What ends a run whose weights no longer answer with numbers."""
    lr = spec.config.optimizer.lr
    fp16 = " fp16 overflows easily: try hardware.precision=bf16 or fp32." if spec.precision == "fp16" else ""
    return RunFailure(
        "non_finite_loss",
        f"The loss became {loss} in epoch {epoch}, at step {step} or shortly before.",
        f"Try a smaller optimizer.lr (now {lr:g}; {lr / 10:g} for a start) or trainer.gradient_clip_norm=1.{fp16}",
    )


def tell_step(loss_sum: torch.Tensor, trained: Trained, pace: Pace, session: Session) -> None:
    """Read the epoch's mean loss so far and tell it, or raise RunFailure (``non_finite_loss``)."""
    spec, trainer = session.spec, session.spec.config.trainer
    seen, loss_now = min(trained.step * trainer.batch_size, session.images), loss_sum.item()
    session.ranks.check()  # of a loss that lacks a rank's share nothing follows
    mean_loss = loss_now / seen
    if not math.isfinite(mean_loss):
        raise diverged(mean_loss, trained.epoch + 1, trained.step, spec)
    paces = pace.at(trained.epoch * session.images + seen)
    session.tell(Step(trained.epoch + 1, trainer.epochs, trained.step, session.steps, mean_loss, *paces))


def draws(seed: int, epoch: int, step: int) -> torch.Generator:
    """The augmentation's random draws in one step: the same however the run came there."""
    state = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))
