"""A timm model with a new classifier, started from the weights that were planned."""

from __future__ import annotations

import importlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from har_sweep.errors import InputError, RunFailure
from har_sweep.schema import Config, nearest
from har_sweep.weights import ModelPlan


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
        _load_user_file(model, plan.weights_file, warn)
    _new_classifiers(model, config.seed)
    if not usual_size:
        _try_input(model, plan)
    if config.trainer.finetune == "head":
        model.requires_grad_(False)
        for head in classifiers(model):
            head.requires_grad_(True)
    return model


def _new_classifiers(model: nn.Module, seed: int) -> None:
    """Give every model a last layer as PyTorch starts one, which is what replacing it means in most people's scripts.

    timm's own start differs by family, and EfficientNet's grows as the classes get fewer: with four of them its logits
    are so large that the first epochs go into unlearning them.
    """
    torch.manual_seed(seed)
    for head in classifiers(model):
        for module in head.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()


def set_train_mode(model: nn.Module, config: Config) -> None:
    """Training mode for what is trained; what is frozen stays in evaluation mode, lest its statistics drift."""
    if config.trainer.finetune == "full":
        model.train()
        return
    model.eval()
    for head in classifiers(model):
        head.train()


def classifiers(model: nn.Module) -> list[nn.Module]:
    """The last layer; of distilled models, all of them."""
    found = model.get_classifier()  # type: ignore[operator]
    return [found] if isinstance(found, nn.Module) else list(found)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or pickled file by name, on the CPU. No code of the file is executed.

    ``state_dict`` or ``model`` wrappers are opened, ``module.`` and ``_orig_mod.`` prefixes taken off.

    Raises
    ------
    InputError
        if the file is broken, holds no tensors, or holds anything but plain data.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise InputError(
            f"model.weights={path} is refused: it is a pickle that holds code or objects, or no PyTorch file at all.",
            "Nothing of it was executed. Save the state_dict alone, best as .safetensors.",
        ) from e
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        raise InputError(
            f"model.weights={path} cannot be read: {str(e).splitlines()[0] if str(e) else type(e).__name__}.",
            "It may be truncated; copy or download it again.",
        ) from e
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = content.items() if isinstance(content, dict) else ()
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", str(key)): t for key, t in tensors if isinstance(t, Tensor)}
    if not state:
        raise InputError(f"model.weights={path} holds no tensors by name.", "It should be a model's state_dict.")
    return state


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


def _load_user_file(model: nn.Module, path: Path, warn: Callable[[str], None]) -> None:
    state = load_tensors(path)
    # timm's modules keep here what adapts foreign names and interpolates position embeddings to another input size.
    adapt = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    if adapt is not None:
        state = adapt(state, model)
    modules = {id(module) for head in classifiers(model) for module in head.modules()}
    heads = tuple(f"{name}." for name, module in model.named_modules() if id(module) in modules)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(heads)}
    given = {k: v for k, v in state.items() if not k.startswith(heads)}
    fits = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    counters = "num_batches_tracked"
    missing = [k for k in own if k not in given and not k.endswith(counters)]
    unknown = [k for k in given if k not in own]
    misshapen = [f"{k} {list(given[k].shape)} for {list(own[k].shape)}" for k in own if k in given and k not in fits]
    share = sum(own[k].numel() for k in fits) / sum(v.numel() for v in own.values())
    listed = "; ".join(
        f"{len(found)} {word}: {', '.join(found)}"
        for word, found in (("missing", missing), ("unknown to the model", unknown), ("of another shape", misshapen))
        if found
    )
    if share < 0.5:
        few = "; ".join(part if len(part) < 300 else f"{part[:300]} ..." for part in listed.split("; "))
        raise InputError(
            f"model.weights={path} brings only {share:.0%} of {type(model).__name__}'s tensors. {few}",
            "Is it a file of another architecture? Check model.timm_name.",
        )
    if listed:
        warn(f"model.weights={path} brings {share:.1%} of the model; keys that do not fit: {listed}")
    model.load_state_dict(fits, strict=False)
