"""The tensors of a file of weights, and putting them into a model."""

from __future__ import annotations

import importlib
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import load_state_dict
from torch import Tensor, nn

from har_sweep.errors import Damaged, InputError, first_line
from har_sweep.model.head import classifiers

NAMINGS = {
    r"(\w+\.)*encoder\.layers\.encoder_layer_\d+\.": "torchvision's",
    r"features\.\d+\.": "torchvision's",
    r"(\w+\.)*layer\.\d+\.attention\.": "Hugging Face transformers'",
    r"(\w+\.)*resblocks\.\d+\.": "CLIP's",
    r"_(blocks\.\d+\.|conv_)": "EfficientNet-PyTorch's",
}
"""Whose models name their tensors so, by how a name begins; timm reads those that its own models have adapters for."""


def load_own(model: nn.Module, file: Path) -> None:
    """Put a finished run's weights into its model; raises Damaged, with the reason, if they are not all of it."""
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, OSError, RuntimeError) as e:
        raise Damaged(first_line(e)) from e


def load_tensors(path: Path, key: str = "model.weights") -> dict[str, Tensor]:
    """The tensors of a .safetensors or pickled file by name, on the CPU. No code of the file is executed. ``key`` is
    the config's that named the file.

    timm reads it: ``state_dict`` or ``model`` wrappers are opened, ``module.`` and ``_orig_mod.`` prefixes taken off.

    Raises
    ------
    InputError
        if the file is broken, holds no tensors, or holds anything but plain data.
    """
    try:
        content = load_state_dict(str(path), use_ema=False, weights_only=True)
        state = {str(key): tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}
    except AttributeError:
        state = {}  # a list, say
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        if isinstance(e.__cause__, pickle.UnpicklingError):
            raise InputError(
                f"{key}={path} is refused: it is a pickle that holds code, or no PyTorch file at all.",
                "Nothing of it was executed. Save the state_dict alone, best as .safetensors.",
            ) from e
        raise InputError(
            f"{key}={path} cannot be read: {first_line(e)}.",
            "It may be truncated; copy or download it again.",
        ) from e
    if not state:
        raise InputError(f"{key}={path} holds no tensors by name.", "It should be a model's state_dict.")
    return state


def load_user_file(model: nn.Module, path: Path, warn: Callable[[str], None]) -> None:
    state, heads = _adapted(load_tensors(path), model), _heads(model)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(heads)}
    given = {k: v for k, v in state.items() if not k.startswith(heads)}
    fits = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    counters = "num_batches_tracked"
    missing = [k for k in own if k not in given and not k.endswith(counters)]
    unknown = [k for k in given if k not in own]
    misshapen = [f"{k} {list(given[k].shape)} for {list(own[k].shape)}" for k in own if k in given and k not in fits]
    share = sum(own[k].numel() for k in fits) / (sum(v.numel() for v in own.values()) or 1)
    listed = "; ".join(
        f"{len(found)} {word}: {', '.join(found)}"
        for word, found in (("missing", missing), ("unknown to the model", unknown), ("of another shape", misshapen))
        if found
    )
    if share < 0.5:
        few = "; ".join(part if len(part) < 300 else f"{part[:300]} ..." for part in listed.split("; "))
        raise InputError(
            f"model.weights={path} brings only {share:.0%} of {type(model).__name__}'s tensors. {few}",
            _why_so_little(path, given, {k: v for k, v in own.items() if not k.endswith(counters)}),
        )
    if listed:
        warn(f"model.weights={path} brings {share:.1%} of the model; keys that do not fit: {listed}")
    model.load_state_dict(fits, strict=False)


def load_teacher_file(model: nn.Module, path: Path, but_classifier: bool) -> None:
    """Load all of a teacher from a file of the user's, or all ``but_classifier``, of which then nothing is asked.

    Raises
    ------
    InputError
        if the file does not hold that.
    """
    state, heads = _adapted(load_tensors(path, "teacher"), model), _heads(model)
    own = model.state_dict()
    if but_classifier:
        own, state = ({k: v for k, v in each.items() if not k.startswith(heads)} for each in (own, state))
    elif wrong := [k for k in own if k.startswith(heads) and (k not in state or state[k].shape != own[k].shape)]:
        there = f"is {list(state[wrong[0]].shape)}" if wrong[0] in state else "is not in it"
        raise InputError(
            f"teacher={path} has no classifier for these classes: {wrong[0]} {there}, and should be "
            f"{list(own[wrong[0]].shape)}.",
            "Train it on these images first, and give its run as the teacher; or take objective.kind=features, which "
            "needs no classifier.",
        )
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape] + [k for k in state if k not in own]
    if wrong := [k for k in wrong if not k.endswith("num_batches_tracked")]:
        raise InputError(
            f"teacher={path} is not of {type(model).__name__} as it is asked for: {len(wrong)} tensors do not fit, "
            f"such as {wrong[0]}.",
            "Check objective.teacher_model and objective.teacher_input_size.",
        )
    model.load_state_dict(state, strict=False)


def _adapted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """With the model's names: timm's modules keep beside it what adapts foreign ones and interpolates position
    embeddings to another input size."""
    adapt = getattr(importlib.import_module(type(model).__module__), "checkpoint_filter_fn", None)
    return state if adapt is None else dict(adapt(state, model))


def _heads(model: nn.Module) -> tuple[str, ...]:
    """How the names of the classifier's tensors begin."""
    modules = {id(module) for head in classifiers(model) for module in head.modules()}
    return tuple(f"{name}." for name, module in model.named_modules() if id(module) in modules)


def _why_so_little(path: Path, given: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """What to do about tensors with other names than the model's, judged by their names, or else by their shapes."""
    given = {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}
    if not given:
        return "It has a classifier at most, which is not taken."
    prefix = min(given).partition(".")[0] + "."
    if (
        all(k.startswith(prefix) for k in given)
        and len({k.removeprefix(prefix) for k in given} & own.keys()) > len(own) / 2
    ):
        return f"All its names begin with '{prefix}', as a training framework writes them: save them without."
    named = next((whose for start, whose in NAMINGS.items() if any(re.match(start, k) for k in given)), None)
    names = f"Its names seem to be {named}." if named else ""
    if Counter(v.shape for v in own.values()) <= Counter(v.shape for v in given.values()):
        way = "It has a tensor of every shape that the model has, under other names: "
        if path.suffix == ".safetensors":
            way += "convert the file that it was made of, which has them in their order."
        else:
            way += (
                "`python examples/convert_weights.py FILE TIMM_NAME OUTPUT.safetensors` (of har_sweep's repository) "
                "gives them timm's, in order."
            )
    elif named:
        way = "timm's are needed: convert the file, or take model.weights=pretrained."
    else:
        way = "Is it a file of another architecture? Check model.timm_name."
    return f"{names} {way}".strip()
