"""A timm model with a new classifier, or one of the user's own, started from the weights that were planned."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from har_sweep.config.schema import Config
from har_sweep.config.targets import WANTED, check_unchanged, make
from har_sweep.device.out_of_memory import is_out_of_memory
from har_sweep.errors import InputError, RunFailure, first_line, nearest
from har_sweep.model.head import classifiers, new_classifiers
from har_sweep.model.load import load_user_file
from har_sweep.spec.weights import ModelPlan, check_weights_file, patch_side, refuse_cut_patches


def build_model(config: Config, plan: ModelPlan, num_classes: int, warn: Callable[[str], None]) -> nn.Module:
    """The model on the CPU in float32, in training mode, mapping [N, 3, size, size] to logits [N, num_classes].

    Every tensor that the weights do not bring, the classifier always among them, depends on ``config.seed`` alone.
    With ``trainer.finetune=head`` only the classifier requires gradients.

    Raises
    ------
    InputError
        for an architecture, input size, ``model.drop_path_rate`` or file of weights that does not fit, or a
        ``model._target_`` that returns no such model.
    RunFailure
        if the pretrained weights do not load, the architecture refuses the input size, or what a ``_target_`` names has
        changed since the run was planned.
    """
    check_unchanged(config)
    check_weights_file(plan)
    if config.model._target_:
        model = _own(config, plan, num_classes, warn)
    else:
        model = _timms(config, plan, num_classes, warn)
    if config.trainer.finetune == "head":
        model.requires_grad_(False)
        for head in classifiers(model):
            head.requires_grad_(True)
    return model


def _own(config: Config, plan: ModelPlan, num_classes: int, warn: Callable[[str], None]) -> nn.Module:
    """What ``model._target_`` returns, as it is, but for a file of weights."""
    target = str(config.model._target_)
    torch.manual_seed(config.seed)
    model = make("model", target, config.model.arguments, num_classes=num_classes)
    if not isinstance(model, nn.Module):
        raise InputError(f"model._target_={target} returned {type(model).__name__}, no nn.Module.", WANTED["model"])
    if not classifiers(model):
        if config.trainer.finetune == "head":
            raise InputError(
                f"trainer.finetune=head: the model of {target} does not say which layer is its classifier.",
                "Give it a method get_classifier() that returns the layer, as timm's models have, or train it in full.",
            )
        if plan.weights_file is not None:
            warn(f"{target} does not say which layer is its classifier, so it is loaded like any other where it fits.")
    if plan.weights_file is not None:
        load_user_file(model, plan.weights_file, warn)
    logits = _tried(model, plan)
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        made = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"The model of {target} maps an image to {made}, not to logits [1, {num_classes}].",
            "It should be built for num_classes, with which the function is called.",
        )
    return model.train()


def _timms(config: Config, plan: ModelPlan, num_classes: int, warn: Callable[[str], None]) -> nn.Module:
    if not timm.is_model(plan.timm_name):
        raise InputError(
            f"timm has no model '{plan.timm_name}' (model.timm_name).", nearest(plan.timm_name, timm.list_models())
        )
    from_hub = plan.weights_file is not None and plan.weights == plan.pretrained_tag
    full_name = f"{plan.timm_name}.{plan.pretrained_tag}" if from_hub else plan.timm_name
    cfg = get_pretrained_cfg(full_name)
    usual_size = cfg is not None and tuple(cfg.input_size[1:]) == (plan.input_size, plan.input_size)
    options: dict[str, Any] = {}
    if from_hub:
        # A number of classes that no model has makes timm leave the file's classifier out, whatever its shape.
        overlay = {"file": str(plan.weights_file), "num_classes": -1}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
        assert cfg is not None
        for key, given, right in (("mean", plan.mean, cfg.mean), ("std", plan.std, cfg.std)):
            if tuple(given) != tuple(right):
                warn(f"model.{key} is {list(given)}, but the weights of {full_name} were trained with {list(right)}.")
    with _Undrawn() if from_hub else nullcontext():
        model = _create(full_name, plan, num_classes, config, options, usual_size)
    refuse_cut_patches(plan.timm_name, plan.input_size, max(cfg.input_size) if cfg else 0, patch_side(model))
    if plan.weights_file is not None and not from_hub:
        load_user_file(model, plan.weights_file, warn)
    new_classifiers(model, config.seed)
    if from_hub and _has_nan(model):  # the file leaves something out
        model = _create(full_name, plan, num_classes, config, options, usual_size)
        new_classifiers(model, config.seed)
    if not usual_size:
        _tried(model, plan)
    return model


class _Undrawn(TorchFunctionMode):
    """Inside, a weight that would be drawn at random is nan: drawing is most of the work of building a large model, and
    is for nothing where a file brings the weights."""

    DRAWING = (torch.Tensor.normal_, torch.Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in self.DRAWING:
            drawn = args[0] if args else kwargs["tensor"]
            if isinstance(drawn, nn.Parameter):
                return drawn.detach().fill_(math.nan)
        return function(*args, **kwargs)


def _has_nan(model: nn.Module) -> bool:
    return any(tensor.sum().isnan() for tensor in (*model.parameters(), *model.buffers()) if tensor.numel())


def _create(
    full_name: str, plan: ModelPlan, num_classes: int, config: Config, options: dict[str, Any], usual_size: bool
) -> nn.Module:
    """A timm model with stochastic depth, 0 too, since some have another default, and with an input size where that is
    not its usual one; of both only what it takes: networks of convolutions alone take any size.

    Raises
    ------
    InputError
        where it has no stochastic depth, and some is asked for.
    """
    tried: dict[str, Any] = {"drop_path_rate": config.model.drop_path_rate}
    if not usual_size:
        tried["img_size"] = plan.input_size
    while True:
        torch.manual_seed(config.seed)
        try:
            return timm.create_model(full_name, num_classes=num_classes, **options, **tried)
        except Exception as e:
            if is_out_of_memory(e):
                raise
            refused = str(e) if isinstance(e, TypeError) and "unexpected keyword" in str(e) else ""
            unknown = [name for name in tried if f"'{name}'" in refused]
            if not unknown:
                raise _not_made(full_name, plan, options, e) from e
            for name in unknown:  # said before anything of the model is made
                del tried[name]
            if config.model.drop_path_rate and "drop_path_rate" not in tried:
                raise InputError(
                    f"{plan.timm_name} has no stochastic depth, so model.drop_path_rate cannot be set.",
                    "Leave model.drop_path_rate at 0.",
                ) from e


def _not_made(full_name: str, plan: ModelPlan, options: dict[str, Any], e: Exception) -> RunFailure:
    if not options.get("pretrained"):
        return _refused(plan, e)
    return RunFailure(
        "weights",
        f"The pretrained weights of {full_name} do not load: {first_line(e)}",
        f"Delete {plan.weights_file}, so that it is fetched again.",
    )


def _tried(model: nn.Module, plan: ModelPlan) -> Any:
    """What the model makes of one black image; leaves it in training mode, and random draws as they were."""
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(torch.zeros(1, 3, plan.input_size, plan.input_size))
    except Exception as e:
        if is_out_of_memory(e):
            raise
        raise _refused(plan, e) from e
    finally:
        model.train()


def _refused(plan: ModelPlan, e: Exception) -> RunFailure:
    return RunFailure(
        "input_size",
        f"{plan.timm_name} does not take images of {plan.input_size} x {plan.input_size}: {first_line(e)}",
        "Leave model.input_size at the architecture's own, or try a multiple of 32.",
    )
