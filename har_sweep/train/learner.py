"""What one training step does: gradients, within the memory there is, and the update; and all the state that it has."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from har_sweep.config.schema import Config, TrainerConfig
from har_sweep.device.compute import Compute, keep_freed_memory, release
from har_sweep.device.graph import NotCapturable, StepGraph
from har_sweep.device.out_of_memory import is_out_of_memory
from har_sweep.device.ranks import Ranks
from har_sweep.errors import RunFailure, first_line
from har_sweep.events import Line, Tell
from har_sweep.model.head import set_train_mode
from har_sweep.train.average import MovingAverage
from har_sweep.train.objective import Objective
from har_sweep.train.optimizer import build_optimizer, build_schedule


class Learner:
    """An objective's model with what trains it. ``steps`` is the number of batches in an epoch; ``halvings`` is how
    often to cut them in two from the start. With several ranks each has one, and all are always in the same state."""

    def __init__(
        self,
        objective: Objective,
        config: Config,
        compute: Compute,
        ranks: Ranks,
        steps: int,
        tell: Tell,
        halvings: int,
    ) -> None:
        trainer, model, trained = config.trainer, objective.model, objective.trained
        self.model, self._trainer, self._compute, self._tell = model, trainer, compute, tell
        self._objective, self._ranks, self._parallel = objective, ranks, None
        if ranks.count > 1:
            self._parallel = ranks.parallel(trained, compute.device)
            set_train_mode(self._parallel.module, config)
        forward = trained if self._parallel is None else self._parallel
        # Around DistributedDataParallel, so that compiled code is cut where gradients can be sent off.
        self._forward = torch.compile(forward) if config.hardware.compile else forward
        self._optimizer = build_optimizer(trained, config.optimizer, compute)
        self._scheduler = build_schedule(self._optimizer, config.scheduler, steps, trainer.epochs)
        self._scaler = torch.amp.GradScaler("cuda", enabled=compute.precision == "fp16")  # fp16 is for CUDA alone
        self._ema = MovingAverage(model, trainer.ema_decay) if trainer.ema_decay else None
        self._accumulation_steps = min(trainer.accumulation_steps << halvings, trainer.batch_size)
        self._capturing, self._sizes = compute.graph, set[int]()
        self._graph: StepGraph | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: their moving average where there is one."""
        return self._ema.module if self._ema else self.model

    @property
    def learning_rate(self) -> float:
        """Of the next step; with ``layer_decay`` the last layer's, with ``head_lr`` the larger one."""
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    def learn(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One optimizer step on a batch, of which each rank computes its share; returns its mean loss, detached, on the
        device.

        Raises
        ------
        RunFailure
            ``out_of_memory``, unless ``trainer.on_oom=split`` and smaller micro-batches fit.
        """
        while (loss := self._gradients(inputs, targets)) is None:
            release(self._compute.device)
        self._sizes.add(len(targets))
        if self._trainer.gradient_clip_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._objective.trained.parameters(), self._trainer.gradient_clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._scheduler.step()
        if self._ema:
            self._ema.update(self.model)
        keep_freed_memory(self._compute.device)  # from the second step on: the optimizer's state is there
        return loss

    def _gradients(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
        """Gradients of the batch's mean loss, over micro-batches and ranks; None if they are to be cut smaller."""
        try:
            if self.captures(len(targets)):
                self._graph = None  # of a smaller batch, and the memory that it keeps
                self._graph = StepGraph(self._backward, self._objective.trained.parameters(), inputs, targets)
            if self._graph and self._graph.images == len(targets):
                return self._graph(inputs, targets)
            return self._ranks.mean(self._backward(inputs, targets))
        except (RuntimeError, MemoryError) as e:
            if not (isinstance(e, NotCapturable) or is_out_of_memory(e)):
                raise
            self._optimizer.zero_grad(set_to_none=True)
            self._tell(Line(self._with_less(e), warning=True))
            return None

    def _backward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Leave gradients in the weights; returns the batch's mean loss, or this rank's part in it."""
        total = torch.zeros((), device=self._compute.device)
        cut = list(zip(*(batch.chunk(self._accumulation_steps) for batch in (inputs, targets)), strict=True))
        for number, (x, y) in enumerate(cut, 1):
            own, weight = self._ranks.share(len(y))
            with self._ranks.forward_of(self._parallel, len(y), number == len(cut)), self._compute.autocast():
                loss = self._objective.loss(self._forward, x[own], y[own]) * (len(y) / len(targets) * weight)
            self._scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _with_less(self, error: Exception) -> str:
        """Do without a graph, or with smaller micro-batches; returns what to say. Raises as ``cut_smaller``."""
        if isinstance(error, NotCapturable) or (self._capturing and self._sizes):
            self._capturing, self._graph = False, None
            why = first_line(error) if isinstance(error, NotCapturable) else "out of memory, of which it keeps much"
            return f"Steps are no longer repeated as a CUDA graph: {why}."
        self._accumulation_steps = cut_smaller(self._accumulation_steps, self._trainer, self._ranks.count, error)
        return f"Out of memory: batches now go in {self._accumulation_steps} micro-batches."

    def captures(self, images: int) -> bool:
        """Whether the next step, if it is on so many images, is one in which a graph is made: the second of whole
        batches, since in the first the device chooses its kernels."""
        return self._capturing and images in self._sizes and images > (self._graph.images if self._graph else 0)

    def computing(self, compute: Compute) -> Learner:
        """The same model, optimizer and state, on the same device in another precision."""
        other = copy.copy(self)
        other._compute = compute
        other._scaler = torch.amp.GradScaler("cuda", enabled=compute.precision == "fp16")
        other._capturing, other._graph, other._sizes = compute.graph, None, set()
        return other

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return parts | {"accumulation_steps": self._accumulation_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._accumulation_steps = max(self._accumulation_steps, state["accumulation_steps"])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "optimizer": self._optimizer,
            "scheduler": self._scheduler,
            "scaler": self._scaler,
            "ema": self._ema,
            "projection": self._objective.projection,
        }
        return {name: part for name, part in parts.items() if part is not None}


def cut_smaller(pieces: int, trainer: TrainerConfig, devices: int, error: BaseException) -> int:
    """The number of micro-batches to try next.

    Raises
    ------
    RunFailure
        ``out_of_memory`` with the batch size to try, if batches are not to be cut, or cannot be any further.
    """
    cause = first_line(error)
    tried = math.ceil(trainer.batch_size / pieces / devices)
    if tried == 1:
        hint = "Take a smaller model or model.input_size, or a larger device."
        raise RunFailure("out_of_memory", f"Out of memory with a single image ({cause}).", hint) from error
    if trainer.on_oom == "fail":
        raise RunFailure(
            "out_of_memory",
            f"Out of memory with batches of {tried} images ({cause}).",
            f"Try trainer.batch_size={tried // 2}, or trainer.on_oom=split: the same batches in smaller pieces."
            if devices == 1
            else f"Try trainer.accumulation_steps={2 * pieces}: the same batches in smaller pieces.",
        ) from error
    return min(2 * pieces, trainer.batch_size)
