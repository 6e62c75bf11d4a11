"""Which weights a model starts from: decided while planning, without torch, so that runs never contact the hub."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from har_sweep.config.schema import ModelConfig
from har_sweep.config.targets import version_of
from har_sweep.config.tree import groups
from har_sweep.errors import InputError, RunFailure, first_line, nearest
from har_sweep.events import Progress, no_progress
from har_sweep.files import PACKAGE, keep, kept
from har_sweep.spec.hub import Hub, WeightsUnavailable, cached_file

WORDS = ("pretrained", "if_available", "scratch")
FACTS = "models"  # the folder of paths.cache with what timm said
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
IMAGENET_SIZE, IMAGENET_MEAN, IMAGENET_STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelPlan:
    """A model decided to the last detail.

    ``weights`` is the start's identity: a pretrained tag, ``sha256:<hex>`` of a file, or ``scratch``; ``weights_file``
    is where it lies (None for scratch). ``input_size`` in pixels. ``timm_name`` of a ``_target_`` is its import path
    with a digest of its version and arguments.
    """

    timm_name: str
    pretrained_tag: str | None
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    weights_file: Path | None
    warnings: tuple[str, ...] = ()


def resolve(model: ModelConfig, hub: Hub, cache: Path, progress: Progress = no_progress) -> ModelPlan:
    """Decide what ``model`` starts from and what timm says of it; download pretrained weights that are not cached yet.

    ``cache`` is ``paths.cache``; what timm said is kept there.

    Raises
    ------
    InputError
        for an unknown name, tag, word or file, and for ``pretrained`` if the weights cannot be had.
    """
    if model._target_:
        return _own(model, model._target_)
    name, tag = _name_and_tag(model)
    file = None if model.weights in WORDS else _local_file(model.weights)
    wants_hub = model.weights in ("pretrained", "if_available")
    facts: dict[str, Any] = {}
    if asked := asks_about(model):
        facts = facts_of(asked, cache, progress)
        tag = tag or facts["tag"] or None
    warnings: list[str] = []
    weights = content_of(file) if file else "scratch"
    if facts:
        refuse_cut_patches(name, model.input_size, max(facts["input_size"]), facts["patch"])
    if wants_hub:
        try:
            if tag is None or (facts and not facts["repo"]):
                raise WeightsUnavailable(f"timm has none of {name} on the hub", permanent=True)
            file = hub.fetch(*_source(name, tag, facts), progress)
            weights = tag
        except WeightsUnavailable as e:
            if model.weights == "pretrained":
                raise _cannot_be_had(model, name, e) from e
            warnings.append(
                f"No pretrained weights ({e.reason}): starting from SCRATCH. Such an accuracy says little about the "
                "architecture; model.weights=pretrained insists."
            )
    size = model.input_size or max(facts["input_size"])
    if model.input_size is None and facts["input_size"][1:] != [size, size]:
        warnings.append(f"timm's input of {name} is {facts['input_size'][1:]} pixels; a square of {size} is used.")
    return ModelPlan(
        timm_name=name,
        pretrained_tag=tag,
        input_size=size,
        mean=tuple(model.mean or facts["mean"]),
        std=tuple(model.std or facts["std"]),
        weights=weights,
        weights_file=file,
        warnings=tuple(warnings),
    )


def asks_about(model: ModelConfig) -> str | None:
    """The architecture that timm has to be asked about before a model is decided; None if the config says it all."""
    if model._target_:
        return None
    name, tag = _name_and_tag(model)
    patches = re.search(r"patch(\d+)", name)  # worth asking timm, which alone knows
    cut = patches and model.input_size and model.input_size % int(patches[1])
    unknown_tag = tag is None and model.weights in ("pretrained", "if_available")
    if not cut and None not in (model.input_size, model.mean, model.std) and not unknown_tag:
        return None
    return f"{name}.{tag}" if tag else name


def _own(model: ModelConfig, target: str) -> ModelPlan:
    """The plan of a ``_target_``, of which nobody knows more than is given."""
    file = None if model.weights in WORDS else _local_file(model.weights)
    if model.weights == "pretrained":
        raise InputError(
            f"model.weights=pretrained: timm has no weights for model._target_={target}.",
            "model.weights=scratch starts from nothing, model.weights=FILE from a local file.",
        )
    warnings = []
    if model.weights == "if_available":
        warnings.append(f"timm has no weights for {target}: starting from SCRATCH.")
    if model.input_size is None:
        warnings.append(f"model.input_size of {target} is not given: {IMAGENET_SIZE} pixels are used.")
    if model.mean is None or model.std is None:
        warnings.append(f"model.mean and model.std of {target} are not both given: ImageNet's are used for the rest.")
    version = json.dumps([target, version_of(target), model.arguments], sort_keys=True)
    return ModelPlan(
        timm_name=f"{target}-{hashlib.sha256(version.encode()).hexdigest()[:8]}",
        pretrained_tag=None,
        input_size=model.input_size or IMAGENET_SIZE,
        mean=tuple(model.mean or IMAGENET_MEAN),
        std=tuple(model.std or IMAGENET_STD),
        weights=content_of(file) if file else "scratch",
        weights_file=file,
        warnings=tuple(warnings),
    )


def refuse_cut_patches(name: str, input_size: int | None, own_size: int, patch: int) -> None:
    """Refuse pixels that no patch would see, but at a model's ``own_size``: some leave a rim out by themselves.

    ``patch`` is a patch's side in pixels, 0 if there are none.

    Raises
    ------
    InputError
        with the nearest sizes that fit.
    """
    if patch and input_size not in (None, own_size) and (rest := input_size % patch):
        raise InputError(
            f"model.input_size={input_size} is not a multiple of {patch}, the side of the patches of {name}: "
            f"{rest} of its {input_size} rows and columns would go unseen.",
            f"Try model.input_size={input_size - rest} or {input_size - rest + patch}."
            if input_size > patch
            else f"Try model.input_size={patch}.",
        )


def on_command_line(model: ModelConfig) -> str:
    """The overrides that name a model, to be pasted into a shell."""
    if model._target_:
        return shlex.join(["model=custom", f"model._target_={model._target_}"])
    named = model.name in groups()["model"]
    return shlex.join([f"model={model.name}"] if named else ["model=timm", f"model.timm_name={model.timm_name}"])


def is_cached(model: ModelConfig) -> bool:
    """Whether ``model`` finds its weights on this machine. Nobody is asked: an unknown tag counts as absent."""
    if model._target_ or model.weights not in ("pretrained", "if_available"):
        return model.weights in ("scratch", "if_available") or Path(model.weights).expanduser().is_file()
    name, tag = _name_and_tag(model)
    return tag is not None and cached_file(*_source(name, tag, {})) is not None


def timm_facts(name: str) -> dict[str, Any]:
    """What timm knows of an architecture, ``name`` or ``name.tag``. Imports timm (6 s): call it in a child process.

    A dict of ``tag``, ``input_size`` [C, H, W], ``mean``, ``std``, ``repo`` and ``file`` (empty if it has none on the
    hub), ``patch`` (the side in pixels of what its input must be a multiple of, or 0), ``drop_path`` (whether it has
    stochastic depth); or of ``unknown``: the nearest names.
    """
    import timm
    import torch
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return {"unknown": difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)}
    tagged = get_arch_pretrained_cfgs(architecture)
    if tag and name not in tagged:
        return {"unknown": difflib.get_close_matches(name, tagged, n=5, cutoff=0.0)}
    cfg = get_pretrained_cfg(name)
    if cfg is None:
        return {"unknown": []}
    with torch.device("meta"):  # without memory for its weights
        patch = patch_side(timm.create_model(architecture))
    return {
        "patch": patch,
        "drop_path": takes(architecture, drop_path_rate=0.1),
        "tag": cfg.tag or "",
        "input_size": list(cfg.input_size),
        "mean": list(cfg.mean),
        "std": list(cfg.std),
        "repo": cfg.hf_hub_id or "",
        "file": cfg.hf_hub_filename or "",
    }


def patch_side(model: Any) -> int:
    """The side in pixels of the patches that a timm model cuts its input into; 0 if it does not, or pads."""
    from timm.layers import PatchEmbed

    embedding = getattr(model, "patch_embed", None)
    return embedding.patch_size[0] if isinstance(embedding, PatchEmbed) and not embedding.dynamic_img_pad else 0


def takes(architecture: str, **option: Any) -> bool:
    """Whether one of timm's architectures knows an argument: it is made without memory, and without random draws."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            timm.create_model(architecture, **option)
    except TypeError:
        return False
    except Exception:
        return True  # what is wrong with its value is said when it is made in earnest
    return True


def facts_of(name: str, cache: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """``timm_facts``, from a child process; what it said is kept in ``cache`` (paths.cache).

    Raises
    ------
    InputError
        if timm has no such model, or none for images of three channels.
    """
    return ask_timm([name], cache, progress)[name]


def ask_timm(names: Collection[str], cache: Path, progress: Progress = no_progress) -> dict[str, dict[str, Any]]:
    """``facts_of`` several, of which one child process answers all that is not kept yet."""
    folder = cache / FACTS
    facts = dict[str, dict[str, Any]]()
    for name in names:
        if known := _REFUSED.get(name) or kept(folder, facts_setting(name), dict[str, Any]):
            facts[name] = known
    if missing := [name for name in dict.fromkeys(names) if name not in facts]:
        for name, answer in _asked(missing, progress).items():
            facts[name] = answer
            if _refusal(name, answer):
                _REFUSED[name] = answer
            else:
                keep(folder, facts_setting(name), answer)
    for name, answer in facts.items():
        if error := _refusal(name, answer):
            raise error
    return facts


def facts_setting(name: str) -> dict[str, Any]:
    """What a model's facts are kept under."""
    return {"timm": importlib.metadata.version("timm"), "name": name, "version": 1}


def ask_at_once(models: Collection[ModelConfig], cache: Path, progress: Progress = no_progress) -> None:
    """Ask timm about several models in one child process, if it has to be asked about more than one; what is wrong with
    any is told when that is asked about."""
    with suppress(InputError):
        if len(asked := {name for model in models if (name := asks_about(model))}) > 1:
            ask_timm(sorted(asked), cache, progress)


_REFUSED: dict[str, dict[str, Any]] = {}
"""What timm said of names that were refused. Of several that it was asked about, each is looked at again."""


def _asked(names: list[str], progress: Progress) -> dict[str, Any]:
    progress(f"Asking timm about {', '.join(names)}, about 6 s, once", 0, 1)
    code = (
        "import gc, json, sys; gc.disable(); from har_sweep.spec.weights import timm_facts; "
        "print(json.dumps({name: timm_facts(name) for name in sys.argv[1:]}))"
    )
    # The folder that holds this package, so that the child finds it however the parent did.
    folder = PACKAGE.parent.resolve()
    child = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, cwd=folder)
    if child.returncode != 0:
        raise InputError(
            f"timm cannot be asked about model.timm_name={','.join(names)}: {child.stderr.strip().splitlines()[-1:]}",
            "`python -m har_sweep.doctor` checks the installation.",
        )
    answers: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answers


def _refusal(name: str, answer: dict[str, Any]) -> InputError | None:
    """What is wrong with a name, by timm's answer."""
    if "unknown" in answer:
        near = " or ".join(f"'{n}'" for n in answer["unknown"])
        return InputError(
            f"timm has no model '{name}' (model.timm_name).",
            f"Did you mean {near}?" if near else "`python -c 'import timm; print(timm.list_models())'` lists them.",
        )
    if answer["input_size"][0] != 3:
        return InputError(
            f"model.timm_name={name} takes {answer['input_size'][0]} channels; images here have 3.",
            "Choose another architecture.",
        )
    return None


def _name_and_tag(model: ModelConfig) -> tuple[str, str | None]:
    if ":" in model.timm_name or "/" in model.timm_name:
        raise InputError(
            f"model.timm_name={model.timm_name} is an address, not one of timm's architectures.",
            "Give the architecture's name, and a local file of weights with model.weights=FILE.",
        )
    name, _, tag = model.timm_name.partition(".")
    return name, tag or model.pretrained_tag


def _source(name: str, tag: str, facts: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The hub repository of a pretrained tag, and its files in the order to try."""
    return facts.get("repo") or f"timm/{name}.{tag}", (facts["file"],) if facts.get("file") else _HUB_FILES


def _local_file(weights: str) -> Path:
    try:
        return _found_file(Path(weights).expanduser(), weights)
    except (OSError, RuntimeError) as e:  # no permission, a name that cannot be, somebody's home that is not there
        raise InputError(f"model.weights={weights} cannot be read: {first_line(e)}.", "Check the path.") from e


def _found_file(path: Path, weights: str) -> Path:
    if path.is_file() and path.suffix in SUFFIXES:
        return path.resolve()
    if path.is_file():
        raise InputError(
            f"model.weights={weights} is not a file of weights.", f"Its name should end in {', '.join(SUFFIXES)}."
        )
    if path.suffix not in SUFFIXES and path.name == weights:
        raise InputError(
            f"model.weights={weights} is neither a file nor one of {', '.join(WORDS)}.",
            nearest(weights, WORDS) or f"Use one of these, or a file that ends in {', '.join(SUFFIXES)}.",
        )
    siblings = [f.name for f in path.parent.iterdir() if f.suffix in SUFFIXES] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
    missing = next(p for p in (path, *path.parents) if p.parent.is_dir() or p == p.parent)
    raise InputError(
        f"model.weights={weights}: there is no {missing}.",
        f"Did you mean '{path.parent / near[0]}'?" if near else "Check the path; it is taken from the current folder.",
    )


def check_weights_file(plan: ModelPlan) -> None:
    """Refuse a file of weights that is not what was planned with: the user's own by its hash, the hub's by its name.

    Raises
    ------
    RunFailure
        ``weights_damaged``.
    """
    if plan.weights_file is None:
        return
    hub_name = plan.weights_file.resolve().name  # the hub's client names a large file by its content
    wanted = plan.weights if plan.weights.startswith("sha256:") else f"sha256:{hub_name}"
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", wanted):
        return
    try:
        same = content_of(plan.weights_file) == wanted
    except OSError:
        same = False
    if not same:
        raise RunFailure(
            "weights_damaged",
            f"{plan.weights_file} does not hold the weights that the run was planned with.",
            "The same command plans with what the file holds now."
            if wanted == plan.weights
            else "Delete the file; the same command fetches it again.",
        )


def content_of(file: Path) -> str:
    """``sha256:<hex>`` of a file; raises OSError if it cannot be read."""
    return f"sha256:{_sha256(file, file.stat().st_size, file.stat().st_mtime_ns)}"


@lru_cache
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    """The content's; size and time of change are there so that a changed file is read again."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _cannot_be_had(model: ModelConfig, name: str, e: WeightsUnavailable) -> InputError:
    if e.permanent:
        hint = (
            f"model=timm model.timm_name={name} takes timm's own default tag; "
            "model.weights=scratch starts from nothing, model.weights=FILE from a local file."
        )
    else:
        hint = (
            f"On a machine with network, `python -m har_sweep.prefetch {on_command_line(model)}` fetches them; "
            "model.weights=if_available or scratch goes without, model.weights=FILE takes a local file."
        )
    return InputError(f"The pretrained weights of {model.name} ({model.timm_name}) cannot be had: {e.reason}.", hint)
