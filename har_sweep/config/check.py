"""What cannot work is refused by name, before anything is loaded."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra.conf
from omegaconf import OmegaConf

from har_sweep.config.schema import (
    LAUNCHER,
    Config,
    DataConfig,
    Key,
    OptimizerConfig,
    PathsConfig,
    SlurmLauncher,
    keys,
    value_at,
)
from har_sweep.errors import InputError, first_line, nearest

FOREIGN = (
    "runs are started by launchers of our own, so that none is computed twice or lost.",
    "hydra/launcher=local is this machine (launch.parallel=N runs at once), hydra/launcher=slurm a cluster.",
)
ENV_COPY = (
    "hydra.job.env_copy would do nothing: a run's process has the environment of its command already.",
    "Leave it out; hydra.job.env_set sets further variables.",
)
LONGEST_NAME = 100  # in bytes: files are named after names, with some more around them, and file systems end at 255
SCHEDULES = ("constant", "cosine", "multistep", "poly", "rsqrt", "step", "tanh", "wsd")
"""The first two are ours; of the others, all depend on the step alone."""


def against_graph(config: Config, device: str) -> str:
    """Why a run's steps on a device, or on what ``auto`` comes to, cannot be CUDA graphs; empty if they can."""
    if device in ("cpu", "mps"):
        return f"hardware.device={device}"
    if config.hardware.compile:
        return "hardware.compile=true"
    if config.hardware.device_count > 1:
        return f"hardware.device_count={config.hardware.device_count}"
    torch = version("torch")
    if tuple(map(int, torch.split(".")[:2])) < (2, 14):  # after a capture that fails it is of no more use
        return f"torch {torch}; it takes 2.14"
    return "a teacher, whose time is measured apart" if config.teacher is not None else ""


def check(config: Config) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises
    ------
    InputError
        naming the key, its value and what it may be.
    """
    for key in keys():
        _check_range(key, value_at(config, key.path))
    data, hardware, trainer, model = config.data, config.hardware, config.trainer, config.model
    if data.split == "train_test" and data.val_fraction != data.test_fraction:
        raise InputError(
            f"data.split=train_test: val and test are the same images, but data.val_fraction={data.val_fraction} and "
            f"data.test_fraction={data.test_fraction} differ.",
            f"Give both: data.val_fraction={data.test_fraction} data.test_fraction={data.test_fraction}.",
        )
    if data.split == "train_val_test" and data.val_fraction + data.test_fraction >= 1:
        raise InputError(
            f"data.val_fraction={data.val_fraction} and data.test_fraction={data.test_fraction} "
            "leave no training images.",
            "Their sum must be below 1; the default is 0.15 each.",
        )
    if trainer.accumulation_steps > trainer.batch_size:
        raise InputError(
            f"trainer.accumulation_steps={trainer.accumulation_steps} is more than "
            f"trainer.batch_size={trainer.batch_size}.",
            "batch_size is the whole batch of a step; it is cut into accumulation_steps micro-batches.",
        )
    if hardware.precision == "fp16" and hardware.device in ("cpu", "mps"):
        raise InputError(
            f"hardware.precision=fp16 does not train on hardware.device={hardware.device}.",
            "Use hardware.precision=auto, bf16 or fp32; fp16 is for cuda.",
        )
    if hardware.device == "mps" and hardware.device_count != 1:
        raise InputError(
            f"hardware.device_count={hardware.device_count}: there is one mps device.",
            "Leave hardware.device_count at 1.",
        )
    if hardware.cuda_graph and (hindrance := against_graph(config, hardware.device)):
        raise InputError(
            f"hardware.cuda_graph=true does not go with {hindrance}.",
            "Leave it at false; with null steps are CUDA graphs where they can be and that is faster.",
        )
    if hardware.device_count > trainer.batch_size:
        raise InputError(
            f"hardware.device_count={hardware.device_count} is more than trainer.batch_size={trainer.batch_size}.",
            "batch_size is the whole batch of a step; each device takes its share of it.",
        )
    if hardware.device_count > 1 and trainer.on_oom == "split":
        raise InputError(
            "trainer.on_oom=split works with one device: several would cut their batches differently.",
            f"Set trainer.accumulation_steps instead, or hardware.device_count=1 (now {hardware.device_count}).",
        )
    _check_parts(config)
    if config.scheduler.warmup_epochs > trainer.epochs:
        raise InputError(
            f"scheduler.warmup_epochs={config.scheduler.warmup_epochs} is longer than trainer.epochs={trainer.epochs}.",
            "Warm up for fewer epochs than are trained.",
        )
    for path in ("model.mean", "model.std"):
        triple = value_at(config, path)
        if triple is not None and (len(triple) != 3 or not all(0 <= v <= 1 for v in triple)):
            raise InputError(f"{path}={triple} must be three numbers in 0..1.", f"For example {path}=[0.5,0.5,0.5].")
    if model.std is not None and min(model.std) <= 0:
        raise InputError(f"model.std={model.std} must be above 0.", "For example model.std=[0.5,0.5,0.5].")
    scale, ratio = config.augmentation.crop_scale, config.augmentation.crop_ratio
    if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise InputError(
            f"augmentation.crop_scale={scale} must be two shares of the area, smallest first, within 0..1.",
            "For example augmentation.crop_scale=[0.35,1.0].",
        )
    if not (len(ratio) == 2 and 0.001 <= ratio[0] <= ratio[1] <= 1000):
        raise InputError(
            f"augmentation.crop_ratio={ratio} must be two aspect ratios, smallest first, within 0.001..1000.",
            "For example augmentation.crop_ratio=[0.75,1.33].",
        )
    if config.tracking.log_model and not trainer.save_model:
        raise InputError(
            "tracking.log_model=true, but trainer.save_model=false keeps no weights to upload.",
            "Leave one of them out.",
        )
    _check_optimizer(config.optimizer)
    _check_objective(config)
    check_sweep_name(config.sweep.name)
    _check_source(data)
    if (data.source == "custom") != (data._target_ is not None):
        raise InputError(
            "data=custom does not say which function lists the images.", "Add data._target_=MODULE.FUNCTION."
        )
    if data.source in ("folder", "csv") and data.root is None and data.csv is None:
        need = "data.root=FOLDER" if data.source == "folder" else "data.csv=TABLE data.root=FOLDER"
        raise InputError(f"data={data.source} does not say where the images are.", f"Add {need}.")
    if data.source == "csv" and data.csv is None:
        raise InputError("data=csv does not say which table.", "Add data.csv=TABLE.")
    if data.source == "hub" and data.hub_name is None:
        raise InputError("data=hub does not say which dataset.", "Add data.hub_name=OWNER/NAME.")


_OF_A_TABLE = ("csv", "path_column", "label_column", "split_column", "delimiter", "header")
_OF_A_HUB = ("hub_name", "hub_config", "hub_image_column", "hub_label_column")
READ_BY = {
    "root": ("folder", "csv", "har", "custom"), "images_per_class": ("sample",),
    **dict.fromkeys(_OF_A_TABLE, ("csv",)), **dict.fromkeys(_OF_A_HUB, ("hub",)),
}  # fmt: skip
"""By key of ``data``, the sources that read it; of a key that is not here, all."""


def _check_source(data: DataConfig) -> None:
    """Refuse what the source does not read, where it is not what it would be anyway."""
    for key in keys(DataConfig, "data."):
        value, sources = value_at(data, name := key.path.removeprefix("data.")), READ_BY.get(name)
        if sources and data.source not in sources and value != key.default:
            others = f" (or {', '.join(sources[1:])})" if sources[1:] else ""
            raise InputError(
                f"{key.path}={value} does nothing with data={data.source}, which does not read it.",
                f"Write data={sources[0]}{others}, or leave {key.path} out.",
            )


TAKEN = {"adam": ("betas",), "adamw": ("betas",), "sgd": ("momentum", "nesterov")}
"""Beside the rate and the decay, by the optimizers that are ours."""


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    betas, taken = optimizer.betas, None if optimizer._target_ else TAKEN.get(optimizer.name)
    for key in ("betas", "momentum", "nesterov"):
        if taken and key not in taken and getattr(optimizer, key) is not None:
            raise InputError(
                f"optimizer.{key}={getattr(optimizer, key)} is not for optimizer.name={optimizer.name}.",
                f"It takes {' and '.join(taken)}; set optimizer.{key}=null.",
            )
    if betas is not None and ((taken and len(betas) != 2) or not betas or not all(0 <= beta < 1 for beta in betas)):
        raise InputError(
            f"optimizer.betas={betas} must be {'two ' if taken else ''}numbers from 0 to below 1.",
            "For example optimizer.betas=[0.9,0.999].",
        )
    if taken and optimizer.nesterov and not optimizer.momentum:
        raise InputError(
            f"optimizer.nesterov=true needs momentum, and optimizer.momentum is {optimizer.momentum}.",
            "Set optimizer.momentum=0.9, or optimizer.nesterov=false.",
        )


def _check_objective(config: Config) -> None:
    objective, trainer = config.objective, config.trainer
    if objective.taught_by:
        raise InputError("objective.taught_by cannot be given: it is filled in while planning.", "Leave it out.")
    if objective.kind == "labels":
        of_a_teacher = ("objective.weight", "objective.temperature", "objective.teacher_model")
        for path in ("teacher", *of_a_teacher, "objective.teacher_input_size"):
            if (value := value_at(config, path)) is not None:
                raise InputError(
                    f"{path}={value} is for a teacher, and with objective=labels nobody teaches.",
                    "Add objective=distill, or leave it out.",
                )
        return
    if config.teacher is None:
        raise InputError(
            f"objective.kind={objective.kind} does not say who teaches.",
            "Add teacher=RUN, the id of a finished run or its beginning; or teacher=FILE objective.teacher_model=NAME.",
        )
    if objective.weight is None:
        raise InputError("objective.weight has no value, and has no default.", "Write objective=distill, which has.")
    if objective.kind == "features" and objective.temperature is not None:
        raise InputError(
            f"objective.temperature={objective.temperature} is for logits, and objective.kind=features has none.",
            "Leave it out.",
        )
    if objective.kind in ("features", "token") and trainer.finetune == "head":
        why = "what makes the features is frozen" if objective.kind == "features" else "timm's models then hide it"
        raise InputError(
            f"objective.kind={objective.kind} and trainer.finetune=head do not go together: {why}.",
            "Take objective.kind=logits, or train in full.",
        )
    if objective.kind in ("features", "token") and objective.weight == 1:
        raise InputError(
            f"objective.weight=1 leaves the labels no share, from which objective.kind={objective.kind} alone trains "
            "the classifier.",
            "Take objective.kind=logits, or less.",
        )
    if objective.weight == 1 and trainer.label_smoothing:
        raise InputError(
            f"trainer.label_smoothing={trainer.label_smoothing} does nothing where objective.weight=1 leaves the "
            "labels no share of the loss.",
            "Leave one of them out.",
        )


def check_sweep_name(name: str | None) -> None:
    """Refuse what cannot be a folder's name beside those of the other sweeps.

    Raises
    ------
    InputError
        if it is a path, begins like a flag or a hidden file, holds what no terminal should be sent, or is too long.
    """
    if name is None:
        return
    if not re.fullmatch(r"\w[^/]*", name) or not name.isprintable():
        raise InputError(
            f"sweep.name={name!a} cannot be the name of a folder.",
            "Begin with a letter or a digit; use letters, digits, spaces and the like, and no /.",
        )
    if len(name.encode()) > LONGEST_NAME:
        raise _too_long("sweep.name", name)


def check_folder(key: str, folder: str) -> None:
    """Refuse, without making it, a folder that could not be made here.

    Raises
    ------
    InputError
        saying why not.
    """
    path = Path(folder).absolute()
    there = next(p for p in (path, *path.parents) if os.path.isdir(p))
    why = "" if os.access(there, os.W_OK | os.X_OK) else f"{there} is not yours to write to"
    for place in (there / part for part in path.relative_to(there).parts):
        try:
            os.lstat(place)  # of names that do not go the system says so
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as e:
            why = getattr(e, "strerror", None) or first_line(e)
    if why:
        raise InputError(f"{key}: {folder} cannot be made: {why}.", "Give another folder.")


def _too_long(path: str, name: str) -> InputError:
    return InputError(
        f"{path}={name[:20]}... is {len(name.encode()):,} bytes long, and files are named after it.",
        f"Give {path} at most {LONGEST_NAME} bytes.",
    )


@contextmanager
def usable_folders(*paths: PathsConfig) -> Iterator[None]:
    """Inside, what the file system says against a ``paths.cache`` or ``paths.data`` is said in a sentence.

    Raises
    ------
    InputError
        naming the key, the folder and what is wrong with it.
    """
    try:
        yield
    except OSError as e:
        for key, folder in dict.fromkeys((f"paths.{n}", getattr(each, n)) for each in paths for n in ("cache", "data")):
            place = Path(folder).absolute()
            if e.filename and Path(str(e.filename)).absolute().is_relative_to(place):
                file = next((str(p) for p in (place, *place.parents) if os.path.exists(p) and not os.path.isdir(p)), "")
                why = f"{file} is a file, not a folder" if file else f"{e.strerror} ({e.filename})"
                raise InputError(f"{key}={folder} cannot be used: {why}.", f"Give another folder with {key}=...") from e
        raise


def _check_parts(config: Config) -> None:
    """What a ``_target_`` or a part of timm's leaves no room for."""
    scheduler, model, sweep = config.scheduler, config.model, config.sweep
    if scheduler._target_:
        for key in ("warmup_epochs", "final_lr_fraction"):
            if getattr(scheduler, key):
                raise InputError(
                    f"scheduler.{key}={getattr(scheduler, key)} does nothing beside scheduler._target_.",
                    "Give the target arguments of its own instead: +scheduler.NAME=VALUE.",
                )
    elif scheduler.interval:
        raise InputError(
            f"scheduler.interval={scheduler.interval} is for scheduler._target_.",
            f"{scheduler.name} changes the rate after each step; leave it out.",
        )
    elif scheduler.name == "plateau":
        raise InputError(
            "scheduler.name=plateau follows the validation, and timm's keeps too little of it to go on after a break.",
            f"Use one of {', '.join(SCHEDULES)}.",
        )
    elif scheduler.name not in SCHEDULES:
        raise InputError(
            f"scheduler.name={scheduler.name} is not one of {', '.join(SCHEDULES)}.",
            nearest(scheduler.name, SCHEDULES) or "Use one of these, or scheduler=custom with a _target_.",
        )
    if model._target_ and model.drop_path_rate:
        raise InputError(
            f"model.drop_path_rate={model.drop_path_rate} is for timm's models, not for model._target_.",
            "Give it to the function as an argument: +model.arguments.drop_path_rate=...",
        )
    for key in ("pairs", "exclude"):
        if getattr(sweep, key):  # `expand` takes it away where it works
            raise InputError(
                f"sweep.{key} has no effect inside of a section.",
                f"Give it on the command line, or in an experiment as text under hydra.sweeper.params: sweep.{key}.",
            )


def check_hydra(settings: Any) -> None:
    """Refuse what a config file says to Hydra and nobody would listen to; ``settings`` is Hydra's own part.

    Raises
    ------
    InputError
        naming the key and what to write instead.
    """
    if settings.launcher.get("_target_") != LAUNCHER:
        raise InputError(f"hydra/launcher={settings.runtime.choices['hydra/launcher']}: {FOREIGN[0]}", FOREIGN[1])
    if settings.job.env_copy:
        raise InputError(*ENV_COPY)
    if OmegaConf.to_container(settings.help) != _hydras_help():
        raise InputError("hydra.help would do nothing: har_sweep has a help of its own, --help.", "Leave it out.")
    loggings = settings.job_logging, settings.hydra_logging
    if settings.verbose and not any((each or {}).get("root") for each in loggings):
        raise InputError(
            f"hydra.verbose={settings.verbose} has nowhere to write: Hydra's logging is off.",
            "Add hydra/job_logging=stdout (into each run's run.log) or hydra/hydra_logging=default (here).",
        )


def check_sweeper(unknown: dict[str, Any]) -> None:
    """Refuse what our own sweeper was given beside ``params``.

    Raises
    ------
    InputError
        naming the key.
    """
    for name in unknown:
        raise InputError(
            f"There is no key 'hydra.sweeper.{name}' of hydra/sweeper=har_sweep.",
            "It takes hydra.sweeper.params.KEY='a,b'; other sweepers take more, such as hydra/sweeper=optuna.",
        )


@cache
def _hydras_help() -> Any:
    return OmegaConf.to_container(OmegaConf.load(Path(hydra.conf.__file__).parent / "hydra/help/default.yaml"))


def check_launcher(config: Config, slurm: SlurmLauncher | None) -> None:
    """Refuse what SLURM could not be asked for.

    Raises
    ------
    InputError
        naming the key, its value and what it may be.
    """
    if slurm is None:
        return
    for key in keys(SlurmLauncher, "hydra.launcher."):
        _check_range(key, getattr(slurm, key.path.rpartition(".")[2]))
    more: Any = slurm.additional_parameters
    if not isinstance(more, dict):  # an interpolation's value is not held to the type
        raise InputError(
            f"hydra.launcher.additional_parameters={more} is no mapping of sbatch's options.", "Write {OPTION:VALUE}."
        )
    hardware = config.hardware
    if hardware.device == "auto":
        raise InputError(
            "hardware.device=auto cannot be told before the job runs: it is part of what a run is.",
            "Say hardware.device=cuda or cpu.",
        )
    if hardware.precision == "auto":
        raise InputError(
            "hardware.precision=auto is decided by a measurement on the run's own device, which is not known when a "
            "job is submitted; and nodes that differ would train one sweep in several precisions.",
            "Say hardware.precision=bf16, fp16 or fp32; `python -m har_sweep.doctor` on a node shows which is fastest.",
        )
    if slurm.gpus_per_node is not None and not re.fullmatch(r"([\w.-]+:)?\d+", slurm.gpus_per_node):
        raise InputError(
            f"hydra.launcher.gpus_per_node={slurm.gpus_per_node} is no number of GPUs.",
            "Write N, or TYPE:N as in a100:1.",
        )
    if slurm.cpus_per_task < hardware.device_count:
        raise InputError(
            f"hydra.launcher.cpus_per_task={slurm.cpus_per_task} is less than "
            f"hardware.device_count={hardware.device_count}.",
            "Each device is driven by a process with at least one core.",
        )
    if 60 * slurm.timeout_min <= slurm.signal_delay_s:
        raise InputError(
            f"hydra.launcher.timeout_min={slurm.timeout_min} is over before hydra.launcher.signal_delay_s="
            f"{slurm.signal_delay_s} can warn of its end.",
            "Ask for more time.",
        )


def _check_range(key: Key, value: Any) -> None:
    limits = key.metadata
    if value is None:
        return
    for leaf in _leaves(value):
        if isinstance(leaf, str) and not _is_text(leaf):
            raise InputError(f"{key.path}={leaf!a} is no text in UTF-8.", "Write it with other characters.")
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise InputError(
                f"{key.path}={value} is not finite.", f"{key.path} ({key.metadata['doc']}) must be a number."
            )
        if isinstance(leaf, int) and abs(leaf) > LARGEST:
            raise InputError(f"{key.path}={value} is too large to be noted in a record.", f"At most {LARGEST:,}.")
    if limits.get("names_files") and len(value.encode()) > LONGEST_NAME:
        raise _too_long(key.path, value)
    if "choices" in limits and value not in limits["choices"]:
        near = nearest(str(value), limits["choices"])
        raise InputError(
            f"{key.path}={value} is not one of {', '.join(limits['choices'])}.", near or "Use one of these."
        )
    # Written so that nan is out of every range.
    low_enough = "high" not in limits or value <= limits["high"]
    high_enough = ("low" not in limits or value >= limits["low"]) and ("above" not in limits or value > limits["above"])
    if not (low_enough and high_enough):
        lower = (
            f"at least {limits['low']}" if "low" in limits else f"above {limits['above']}" if "above" in limits else ""
        )
        upper = f"at most {limits['high']:,}" if "high" in limits else ""
        raise InputError(
            f"{key.path}={value} is out of range.",
            f"{key.path} ({key.metadata['doc']}) must be {' and '.join(filter(None, (lower, upper)))}.",
        )


LARGEST = 2**63 - 1


def _leaves(value: Any) -> Iterator[Any]:
    """Every value in lists and dicts at any depth, and the dicts' keys."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
