"""What changes the weights, and how fast: optimizer, parameter groups and schedule; ours, timm's or one's own."""

from __future__ import annotations

import inspect
import io
import math
import pickle
from typing import Any, Protocol

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from har_sweep.config.schema import OptimizerConfig, SchedulerConfig
from har_sweep.config.sections import OURS, settings_of
from har_sweep.config.targets import load, make
from har_sweep.device.compute import Compute
from har_sweep.errors import InputError, first_line
from har_sweep.model.head import classifiers


class Schedule(Protocol):
    """What the learner needs of a learning-rate schedule; ``step`` follows each optimizer step."""

    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


def build_optimizer(model: nn.Module, config: OptimizerConfig, compute: Compute) -> Optimizer:
    """The optimizer over every parameter that is trained.

    Raises
    ------
    InputError
        if ``_target_`` refuses its arguments, or keeps a state that a checkpoint cannot hold.
    """
    parameters, settings = parameter_groups(model, config), settings_of(config)
    if config._target_:
        optimizer: Optimizer = make("optimizer", config._target_, settings, parameters)
        _check_resumable("optimizer", config._target_, optimizer)
        return optimizer
    if config.name in OURS["optimizer"]:
        fused = compute.device.type in ("cpu", "cuda")
        of_timm: Any = get_optimizer_class(config.name, bind_defaults=False)
        return of_timm(parameters, **settings, fused=fused)
    return create_optimizer_v2(parameters, config.name, **settings)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[Any]:
    """The parameters that are trained, in groups where they differ; ``lr_scale`` is a group's share of the rate.

    Layer-wise decay follows BEiT (Bao et al. 2021, arXiv:2106.08254): the last layer learns at ``optimizer.lr``, each
    earlier one at ``layer_decay`` times the next one's rate. The classifier has ``optimizer.head_lr``, if it is given.

    Raises
    ------
    InputError
        for ``optimizer.head_lr`` with a model that does not say which layer is its classifier.
    """
    groups = _timms_groups(model, config)
    if config.head_lr is None:
        return groups
    if not (head := {id(p) for layer in classifiers(model) for p in layer.parameters()}):
        raise InputError(
            f"optimizer.head_lr={config.head_lr:g}: the model does not say which layer is its classifier.",
            "Give it a method get_classifier() that returns the layer, as timm's models have, or leave the key out.",
        )
    split = []
    for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
        for rate in ({}, {"lr_scale": config.head_lr / config.lr}):
            if parameters := [p for p in group["params"] if (id(p) in head) == bool(rate)]:
                split.append(group | rate | {"params": parameters})
    return split


def _timms_groups(model: nn.Module, config: OptimizerConfig) -> list[Any]:
    decays_all = config.weight_decay_spares is None
    never_decayed: Any = () if decays_all else getattr(model, "no_weight_decay", set)()
    if config.layer_decay is not None:
        return param_groups_layer_decay(
            model, config.weight_decay, never_decayed,
            weight_decay_exclude_1d=not decays_all, layer_decay=config.layer_decay,
        )  # fmt: skip
    if decays_all:
        return [p for p in model.parameters() if p.requires_grad]
    return param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=never_decayed)


def build_schedule(optimizer: Optimizer, config: SchedulerConfig, steps: int, epochs: int) -> Schedule:
    """The learning rate of each step, for ``epochs`` of ``steps`` each.

    Raises
    ------
    InputError
        if ``_target_`` refuses its arguments, or keeps a state that a checkpoint cannot hold.
    """
    if not config._target_ and config.name not in OURS["scheduler"]:
        return TimmSchedule(_timm_schedule(optimizer, config, steps, epochs))
    for group in optimizer.param_groups:  # torch's schedulers do not know timm's share
        group["lr"] *= group.pop("lr_scale", 1.0)
    if not config._target_:
        return _our_schedule(optimizer, config, steps, epochs)
    arguments = dict(config.arguments)
    if "total_steps" in _parameters(config._target_) and "total_steps" not in arguments:
        arguments["total_steps"] = steps * epochs
    scheduler = make("scheduler", config._target_, arguments, optimizer)
    _check_resumable("scheduler", config._target_, scheduler)
    return EachEpoch(scheduler, steps) if config.interval == "epoch" else scheduler


def _our_schedule(optimizer: Optimizer, config: SchedulerConfig, steps: int, epochs: int) -> LambdaLR:
    """Linear warm-up, then constant or half a cosine down to ``final_lr_fraction``."""
    warmup, total = round(config.warmup_epochs * steps), epochs * steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.name == "constant":
            return 1.0
        share = (step - warmup) / max(1, total - warmup)
        return config.final_lr_fraction + (1 - config.final_lr_fraction) * (1 + math.cos(math.pi * min(1.0, share))) / 2

    return LambdaLR(optimizer, factor)


def _timm_schedule(optimizer: Optimizer, config: SchedulerConfig, steps: int, epochs: int) -> Scheduler:
    schedule, _ = create_scheduler_v2(
        optimizer, config.name, epochs, warmup_epochs=config.warmup_epochs,  # type: ignore[arg-type]
        min_lr=config.final_lr_fraction * max(group["lr"] for group in optimizer.param_groups),
        step_on_epochs=False, updates_per_epoch=steps, **config.arguments,
    )  # fmt: skip
    assert schedule is not None  # which only the name "none" gives
    return schedule


class TimmSchedule:
    """One of timm's schedules, which follow from the number of steps alone: that number is all of its state."""

    def __init__(self, schedule: Scheduler) -> None:
        self._schedule, self._steps = schedule, 0
        schedule.step_update(0)

    def step(self) -> None:
        self._steps += 1
        self._schedule.step_update(self._steps)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._steps = state_dict["steps"]
        self._schedule.step_update(self._steps)


class EachEpoch:
    """A torch scheduler that is stepped after the last step of each epoch."""

    def __init__(self, scheduler: LRScheduler, steps: int) -> None:
        self._scheduler, self._in_epoch, self._steps = scheduler, steps, 0

    def step(self) -> None:
        self._steps += 1
        if self._steps % self._in_epoch == 0:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._steps = state_dict["steps"]
        self._scheduler.load_state_dict(state_dict["scheduler"])


def _parameters(target: str) -> set[str]:
    return set(inspect.signature(load(target)).parameters)


def _check_resumable(section: str, target: str, part: Any) -> None:
    """Refuse at once what could not go on after a break: checkpoints hold tensors and plain data, and no code."""
    file = io.BytesIO()
    try:
        torch.save(part.state_dict(), file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except (AttributeError, TypeError, pickle.PickleError) as e:
        why = first_line(e)
        raise InputError(
            f"{section}._target_={target} keeps something that a checkpoint cannot hold: {why}",
            "Its state_dict() should be of tensors and plain data.",
        ) from e
