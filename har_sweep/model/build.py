"""A timm model with a new classifier, started from the weights that were planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from har_sweep.config.schema import Config
from har_sweep.errors import InputError, RunFailure, nearest
from har_sweep.model.head import classifiers, new_classifiers
from har_sweep.model.load import load_user_file
from har_sweep.spec.weights import ModelPlan


def build_model(config: Config, plan: ModelPlan, num_classes: int, warn: Callable[[str], None]) -> nn.Module:
    """The model on the CPU in float32, in training mode, mapping [N, 3, size, size] to logits [N, num_classes].

    Every tensor that the weights do not bring, the classifier always among them, depends on ``config.seed`` alone.
    With ``trainer.finetune=head`` only the classifier requires gradients.

    Raises
    ------
    InputError
        for an architecture or ``model.drop_path_rate`` that timm does not take, or a file of weights that does not fit.
    RunFailure
        if the pretrained weights do not load, or the architecture refuses the input size.
    """
    if not timm.is_model(plan.timm_name):
        raise InputError(
            f"timm has no model '{plan.timm_name}' (model.timm_name).", nearest(plan.timm_name, timm.list_models())
        )
    from_hub = plan.weights_file is not None and plan.weights == plan.pretrained_tag
    full_name = f"{plan.timm_name}.{plan.pretrained_tag}" if from_hub else plan.timm_name
    cfg = get_pretrained_cfg(full_name)
    usual_size = cfg is not None and tuple(cfg.input_size[1:]) == (plan.input_size, plan.input_size)
    options: dict[str, Any] = {"drop_path_rate": config.model.drop_path_rate}
    if not usual_size:
        options["img_size"] = plan.input_size
    if from_hub:
        # A number of classes that no model has makes timm leave the file's classifier out, whatever its shape.
        overlay = {"file": str(plan.weights_file), "num_classes": -1}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
        assert cfg is not None
        for key, given, right in (("mean", plan.mean, cfg.mean), ("std", plan.std, cfg.std)):
            if tuple(given) != tuple(right):
                warn(f"model.{key} is {list(given)}, but the weights of {full_name} were trained with {list(right)}.")
    model = _create(full_name, plan, num_classes, config.seed, options)
    if plan.weights_file is not None and not from_hub:
        load_user_file(model, plan.weights_file, warn)
    new_classifiers(model, config.seed)
    if not usual_size:
        _try_input(model, plan)
    if config.trainer.finetune == "head":
        model.requires_grad_(False)
        for head in classifiers(model):
            head.requires_grad_(True)
    return model


def _create(full_name: str, plan: ModelPlan, num_classes: int, seed: int, options: dict[str, Any]) -> nn.Module:
    while True:
        torch.manual_seed(seed)
        try:
            return timm.create_model(full_name, num_classes=num_classes, **options)
        except TypeError as e:
            refused = next((option for option in options if f"'{option}'" in str(e)), None)
            if refused is None:
                raise
            if options.pop(refused) and refused == "drop_path_rate":
                raise InputError(
                    f"{plan.timm_name} has no stochastic depth, so model.drop_path_rate cannot be set.",
                    "Leave model.drop_path_rate at 0.",
                ) from e
            # Convolutional networks have no img_size: they take any.
        except Exception as e:
            if options.get("pretrained"):
                raise RunFailure(
                    "weights",
                    f"The pretrained weights of {full_name} do not load: {str(e).splitlines()[0]}",
                    f"Delete {plan.weights_file}, so that it is fetched again.",
                ) from e
            raise _refused(plan, e) from e


def _try_input(model: nn.Module, plan: ModelPlan) -> None:
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, plan.input_size, plan.input_size))
    except Exception as e:
        raise _refused(plan, e) from e
    model.train()


def _refused(plan: ModelPlan, e: Exception) -> RunFailure:
    return RunFailure(
        "input_size",
        f"{plan.timm_name} does not take images of {plan.input_size} x {plan.input_size}: {str(e).splitlines()[0]}",
        "Leave model.input_size at the architecture's own, or try a multiple of 32.",
    )
