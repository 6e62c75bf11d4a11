"""What was typed and no run of the sweep would read; in a file it may stand for the sweeps that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from har_sweep.config.compose import Composed
from har_sweep.config.schema import keys
from har_sweep.errors import InputError


@dataclass(frozen=True)
class Use:
    """Of a ``key``, or a section's by its name with a dot: whether a run reads it, why it does not, and what helps."""

    key: str
    is_read: Callable[[Composed], bool]
    why: str
    instead: str


USES = (
    Use(
        "launch.wait",
        lambda run: bool(run.slurm) or run.config.launch.wait,
        "for runs on this machine, which end with their command",
        "Leave it out, or add hydra/launcher=slurm.",
    ),
    Use(
        "launch.parallel",
        lambda run: not run.slurm,
        "for jobs of SLURM",
        "Write hydra.launcher.array_parallelism=N.",
    ),
    Use(
        "tracking.",
        lambda run: run.config.tracking.backend != "none",
        "with tracking=none, which tells nobody",
        "Leave one of them out.",
    ),
    Use(
        "scheduler.final_lr_fraction",
        lambda run: run.config.scheduler.name != "constant" or run.config.scheduler._target_ is not None,
        "with scheduler=constant, whose rate never falls",
        "Write scheduler=cosine, or leave it out.",
    ),
    Use(
        "augmentation.crop_ratio",
        lambda run: run.config.augmentation.crop_scale is not None,
        "without augmentation.crop_scale, which crops",
        "Write augmentation=imagenet, or augmentation.crop_scale=[0.08,1].",
    ),
    Use(
        "augmentation.randaugment_magnitude",
        lambda run: run.config.augmentation.randaugment_ops > 0,
        "without augmentation.randaugment_ops",
        "Write augmentation=randaugment, or augmentation.randaugment_ops=2.",
    ),
    *(
        Use(
            f"hardware.{key}",
            lambda run: run.config.hardware.device != "cpu",
            "with hardware.device=cpu",
            "Leave it out: it is a choice of GPUs alone.",
        )
        for key in ("tf32", "deterministic", "cuda_graph")
    ),
)
OF_RECIPES = ("scheduler.", "augmentation.")  # what of these a run does not read, tells it from no other
OF_SEARCHES = ("launch.", "tracking.")  # what of these a search's trial reads, no sampler chooses


def refuse_unread(runs: Sequence[Composed], of_a_search: bool = False) -> None:
    """Look at what was typed for some runs, which are a whole sweep, or trials ``of_a_search``.

    Raises
    ------
    InputError
        for the first key that none of them reads.
    """
    typed = dict.fromkeys(line.lstrip("+").partition("=")[::2] for run in runs for line in run.overrides)
    for key, value in typed:
        for use in USES:
            meant = key.startswith(use.key) if use.key.endswith(".") else key == use.key
            if not meant or key == "tracking.backend" or (of_a_search and not key.startswith(OF_SEARCHES)):
                continue
            if not any(map(use.is_read, runs)):
                raise InputError(f"{key}={value} does nothing {use.why}.", use.instead)


def as_read(run: Composed, device: str) -> Composed:
    """The run with what of its recipe it does not read as it is by default, and as if it had not been typed: in a grid
    over the schedule and what a decay ends at, all that are constant are one run. So too of ``hardware`` what does
    nothing on the device that it gets."""
    defaults = {key.path: key.default for key in keys()}
    for use in USES:
        of_gpus = use.key.startswith("hardware.") and device == "cpu"
        if of_gpus or (use.key.startswith(OF_RECIPES) and not use.is_read(run)):
            section, _, name = use.key.partition(".")
            part = replace(getattr(run.config, section), **{name: defaults[use.key]})
            typed = [line for line in run.overrides if line.lstrip("+").partition("=")[0] != use.key]
            run = replace(run, config=replace(run.config, **{section: part}), overrides=typed)
    return run
