"""The training loop: linear, resumable to the same bits, and always aware of what it waits for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from har_sweep import checkpoint
from har_sweep.augmentation import augment
from har_sweep.compute import Compute
from har_sweep.cost.energy import Energy, measured_energy
from har_sweep.cost.memory import peak_memory
from har_sweep.cost.training import TrainingClock
from har_sweep.data import Dataset
from har_sweep.data.batches import batches
from har_sweep.errors import Interrupted, RunFailure
from har_sweep.evaluate import forward_of, predict
from har_sweep.events import Line, Phase, Step, Tell
from har_sweep.model import set_train_mode
from har_sweep.record import Epoch, RunPaths, TrainingCost, atomic_file
from har_sweep.schema import OptimizerConfig, SchedulerConfig
from har_sweep.spec import RunSpec

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
# What PyTorch's allocator and oneDNN say on the CPU, where there is no exception of its own for it.
OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive", "could not create a memory")
STEPS_BETWEEN_READS = 20  # reading the loss makes a GPU's queue run dry, so it is not read in every step


class Stop:
    """Whether the run was asked to end; while training, it does so after the step at hand, with a checkpoint."""

    def __init__(self) -> None:
        self.requested = False
        self.can_wait = False

    def __call__(self, *_: object) -> None:
        """As a signal handler."""
        self.requested = True
        if not self.can_wait:
            raise Interrupted

    @contextmanager
    def after_step(self) -> Iterator[None]:
        self.can_wait = True
        try:
            yield
        finally:
            self.can_wait = False


@dataclass
class Trained:
    """How far training has come: all that a checkpoint holds beside the tensors' states."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int | None = None
    accumulation_steps: int = 1
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
    memory_baseline_bytes: int,
    tell: Tell,
    on_epoch: Callable[[Trained], None],
    stop: Stop,
) -> Trained:
    """Train to the last epoch, from the checkpoint where there is one, and leave the selected weights in ``model``.

    Raises
    ------
    RunFailure
        ``non_finite_loss`` or ``out_of_memory``.
    Interrupted
        after ``stop`` was asked for and a checkpoint was written.
    """
    config, trainer, paths = spec.config, spec.config.trainer, spec.paths
    train_indices = dataset.indices("train")
    steps = math.ceil(len(train_indices) / trainer.batch_size)
    size, source_size = spec.model.input_size, spec.source_size
    optimizer = build_optimizer(model, config.optimizer, compute)
    scheduler = build_scheduler(optimizer, config.scheduler, steps, trainer.epochs)
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
    ema = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(trainer.ema_decay), use_buffers=True)
        if trainer.ema_decay
        else None
    )
    evaluated = ema.module if ema else model
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    parts |= {"ema": ema} if ema else {}
    criterion = nn.CrossEntropyLoss(label_smoothing=trainer.label_smoothing)
    trained, clock = Trained(accumulation_steps=trainer.accumulation_steps), TrainingClock(compute.device)

    if saved := checkpoint.load(paths.checkpoint):
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        trained = Trained.restore(saved["trained"])
        clock.load_state_dict(trained.clock)
        tell(Line(f"Going on from the checkpoint: epoch {trained.epoch + 1}, step {trained.step} of {steps}"))
    forward_backward = torch.compile(model) if config.hardware.compile else model
    loss_sum = torch.zeros((), device=compute.device) + trained.loss_sum
    pace = Pace(len(train_indices) * trainer.epochs)

    def pause(joules_before: float | None, energy: Energy) -> None:
        cost, before = clock.cost(), trained.cost
        cost.energy_joules = add(joules_before, energy.joules)
        cost.peak_memory_bytes = max(before.peak_memory_bytes or 0, memory.bytes)
        trained.cost, trained.clock, trained.loss_sum = cost, clock.state_dict(), loss_sum.item()

    def save() -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        try:
            checkpoint.save(paths.checkpoint, {**states, "trained": asdict(trained)})
        except OSError as e:
            tell(
                Line(
                    f"No checkpoint could be written ({e}); training goes on, from the last one if it is cut off.", True
                )
            )

    with peak_memory(compute.device, memory_baseline_bytes) as memory, stop.after_step():
        while trained.epoch < trainer.epochs:
            set_train_mode(model, config)
            began, saved_at = time.monotonic() - trained.epoch_seconds, time.monotonic()
            stream = batches(
                dataset, "train", source_size, trainer.batch_size,
                order=(config.seed, trained.epoch), start_step=trained.step,
                threads=config.hardware.loader_threads, pin=compute.device.type == "cuda",
            )  # fmt: skip
            joules_before = trained.cost.energy_joules
            with closing(stream), measured_energy(compute.device) as energy:
                while True:
                    with clock.waiting():
                        batch = next(stream, None)
                    if batch is None:
                        break
                    draws = generator(config.seed, trained.epoch, trained.step)
                    inputs, targets = augment(
                        compute.move(batch.images), compute.move(batch.labels), config.augmentation,
                        size, spec.model.mean, spec.model.std, draws, len(dataset.classes),
                    )  # fmt: skip
                    inputs = inputs.contiguous(memory_format=compute.memory_format)
                    loss = None
                    while loss is None:
                        try:
                            loss = gradients(
                                forward_backward,
                                criterion,
                                inputs,
                                targets,
                                trained.accumulation_steps,
                                scaler,
                                compute,
                            )
                        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as e:
                            optimizer.zero_grad(set_to_none=True)
                            trained.accumulation_steps = after_out_of_memory(e, spec, trained.accumulation_steps, tell)
                    if trainer.gradient_clip_norm:
                        scaler.unscale_(optimizer)
                        nn.utils.clip_grad_norm_(model.parameters(), trainer.gradient_clip_norm)
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad(set_to_none=True)
                    learning_rate = optimizer.param_groups[0]["lr"]
                    scheduler.step()
                    if ema:
                        ema.update_parameters(model)
                    loss_sum += loss * len(targets)
                    trained.step += 1
                    clock.step(len(targets))
                    last = trained.step == steps
                    if last or compute.device.type == "cpu" or trained.step % STEPS_BETWEEN_READS in (0, 1):
                        mean_loss = finite(
                            loss_sum.item() / min(trained.step * trainer.batch_size, len(train_indices)), trained, spec
                        )
                        done = trained.epoch * len(train_indices) + min(
                            trained.step * trainer.batch_size, len(train_indices)
                        )
                        tell(Step(trained.epoch + 1, trainer.epochs, trained.step, steps, mean_loss, *pace.at(done)))
                    overdue = time.monotonic() - saved_at > 60 * trainer.checkpoint_minutes
                    if (stop.requested or overdue) and not last:
                        pause(joules_before, energy)
                        trained.epoch_seconds = time.monotonic() - began
                        save()
                        saved_at = time.monotonic()
                        if stop.requested:
                            raise Interrupted
            pause(joules_before, energy)
            train_loss = loss_sum.item() / len(train_indices)
            tell(Phase(f"Epoch [{trained.epoch + 1}/{trainer.epochs}]: validating"))
            evaluated.eval()
            val = predict(
                forward_of(evaluated, spec.model, compute), dataset, "val", size,
                trainer.batch_size, config.hardware.loader_threads, compute,
            )  # fmt: skip
            trained.epoch += 1
            trained.history.append(
                Epoch(trained.epoch, train_loss, val.nll, val.accuracy, learning_rate, time.monotonic() - began)
            )
            if trainer.selection == "best" and is_best(trained.history):
                trained.best_epoch = trained.epoch
                if trained.epoch < trainer.epochs:
                    save_weights(evaluated, paths)
            reached = f"Loss: {train_loss:.4f}, Val Accuracy: {100 * val.accuracy:.2f}%"
            tell(Line(f"Epoch [{trained.epoch}/{trainer.epochs}], {reached}"))
            trained.step, trained.epoch_seconds, trained.loss_sum = 0, 0.0, 0.0
            loss_sum.zero_()
            save()
            on_epoch(trained)
            if stop.requested:
                raise Interrupted
    if ema:
        model.load_state_dict(ema.module.state_dict())
    if trained.best_epoch not in (None, trainer.epochs):
        model.load_state_dict(load_file(paths.selected))
    return trained


def build_optimizer(model: nn.Module, config: OptimizerConfig, compute: Compute) -> torch.optim.Optimizer:
    """The optimizer over every parameter that is trained; its settings are those of the config that are not null."""
    given = {key: value for key, value in vars(config).items() if key != "name" and value is not None}
    fused = compute.device.type in ("cpu", "cuda")
    return OPTIMIZERS[config.name]((p for p in model.parameters() if p.requires_grad), **given, fused=fused)


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: SchedulerConfig, steps: int, epochs: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then constant or half a cosine down to ``final_lr_fraction``; stepped after every batch."""
    warmup, total = round(config.warmup_epochs * steps), epochs * steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.name == "constant":
            return 1.0
        share = (step - warmup) / max(1, total - warmup)
        return config.final_lr_fraction + (1 - config.final_lr_fraction) * (1 + math.cos(math.pi * min(1.0, share))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def gradients(
    model: Callable[[torch.Tensor], torch.Tensor],
    criterion: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    accumulation_steps: int,
    scaler: torch.amp.GradScaler,
    compute: Compute,
) -> torch.Tensor:
    """Gradients of the batch's mean loss, gathered over its micro-batches; returns that loss, on the device."""
    total = torch.zeros((), device=compute.device)
    for x, y in zip(inputs.chunk(accumulation_steps), targets.chunk(accumulation_steps), strict=True):
        with compute.autocast():
            loss = criterion(model(x), y) * (len(y) / len(targets))
        scaler.scale(loss).backward()
        total += loss.detach()
    return total


def generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The augmentation's draws of one step: the same however the run came there."""
    return torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0] >> 1)
    )


def after_out_of_memory(error: BaseException, spec: RunSpec, accumulation_steps: int, tell: Tell) -> int:
    """The number of micro-batches to go on with, if ``trainer.on_oom=split`` allows; other errors are raised again."""
    if not is_out_of_memory(error):
        raise error
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    batch_size = spec.config.trainer.batch_size
    half = batch_size // accumulation_steps // 2
    if half < 1:
        raise RunFailure(
            "out_of_memory",
            f"Out of memory with a single image ({cause}).",
            "Take a smaller model or model.input_size, or a larger device.",
        ) from error
    if spec.config.trainer.on_oom == "fail":
        raise RunFailure(
            "out_of_memory",
            f"Out of memory with batches of {batch_size // accumulation_steps} images ({cause}).",
            f"Try trainer.batch_size={half}, or trainer.on_oom=split: batches of {batch_size} in smaller pieces.",
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    pieces = 2 * accumulation_steps
    tell(Line(f"Out of memory: batches of {batch_size} now go in {pieces} micro-batches (trainer.on_oom=split).", True))
    return pieces


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was missing, on whatever device."""
    named = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return named or any(sign in str(error) for sign in OUT_OF_MEMORY)


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


def save_weights(model: nn.Module, paths: RunPaths) -> None:
    """The best epoch's weights so far, whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    atomic_file(paths.selected, lambda file: save_file(state, file))


class Pace:
    """How fast training goes and how long it will take, for the screen alone; the first call starts the watch."""

    def __init__(self, images_in_all: int) -> None:
        self._in_all = images_in_all
        self._start: tuple[float, int] | None = None

    def at(self, images_done: int) -> tuple[float | None, float | None]:
        """Images/s and seconds left in training; None where it is too early to tell."""
        now = time.monotonic()
        if self._start is None:
            self._start = now, images_done
            return None, None
        rate = (images_done - self._start[1]) / (now - self._start[0])
        return rate, (self._in_all - images_done) / rate


def add(a: float | None, b: float | None) -> float | None:
    """The sum of what is known; unknown only if nothing is."""
    return None if a is None and b is None else (a or 0.0) + (b or 0.0)
