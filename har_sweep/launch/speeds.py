"""How fast this machine trains a model, each way that it can: measured once, and kept in ``paths.cache``."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from har_sweep.config.check import against_graph
from har_sweep.config.compose import compose
from har_sweep.config.schema import HardwareConfig
from har_sweep.files import keep, kept, short_hash
from har_sweep.launch.ask import Ask, Unanswered
from har_sweep.launch.cards import any_card, take_cards
from har_sweep.launch.terminal import Screen
from har_sweep.spec.hardware import THREADS, Device, cores, device_of, find_devices, logical_cores
from har_sweep.spec.hub import Hub
from har_sweep.spec.precision import Choice, Figures, Measured, Way, choose, in_graphs, named, ways
from har_sweep.spec.run_spec import RunSpec
from har_sweep.spec.weights import resolve
from har_sweep.units import digits

CHOOSING_SECONDS = 4.0  # with building the model about 5
TIMING_SECONDS = 2.0  # of one way alone
WORTH_ITS_DEVICES = 1.05  # times as fast as one, for several to be worth anything
VERSION = 8  # of what is measured and how; another one's figures do not count


Setting = dict[str, Any]
"""All that a measurement is of, as plain values."""


def choices(specs: list[RunSpec], ask: Ask, screen: Screen) -> list[Choice]:
    """Of each run the way to compute it that is fastest for its model on this machine, or the only one there is.

    It is one decision for all runs of an architecture, whatever their batches, optimizers and augmentations (the first
    to ask is measured), so that they can be compared, and so that runs which are done are found again. What cannot be
    measured trains in fp32, which is said.
    """
    asked = [short_hash(_setting(spec, several)) if len(several := ways_of(spec)) > 1 else "" for spec in specs]
    # Of each question the first run, in the order asked for.
    first = {name: spec for name, spec in zip(reversed(asked), reversed(specs), strict=True) if name}
    known = {
        name: kept(_folder(spec), _setting(spec, ways_of(spec)), Measured) for name, spec in reversed(first.items())
    }
    found = {name: choose(figures) for name, figures in known.items() if figures}
    missing = {name: first[name] for name in known if name not in found}
    for n, (name, spec) in enumerate(missing.items(), 1):
        model = spec.config.model.name
        which = f"{model} ({n}/{len(missing)})" if len(missing) > 1 else model
        choice = "which precision" if spec.config.hardware.precision == "auto" else "what"
        what = f"Measuring {choice} is fastest here for {which}, about 5 s"
        try:
            found[name] = choose(measured(spec, ways_of(spec), ask, partial(screen.progress, what, 0, 0)))
            if not kept(_folder(spec), _setting(spec, ways_of(spec)), Measured):
                screen.warn(f"{choice.capitalize()} is fastest here for {model} is not kept: it is measured again.")
        except Unanswered as e:
            found[name] = Choice(ways_of(spec)[0])
            screen.warn(f"{model} trains in {found[name].way}: {choice} is fastest here could not be measured ({e}).")
    return [found.get(name) or Choice(ways_of(spec)[0]) for name, spec in zip(asked, specs, strict=True)]


def ways_of(spec: RunSpec) -> tuple[Way, ...]:
    """Between what a run's device can choose, but for what the user named. Nothing is measured for a cluster."""
    hardware = spec.config.hardware
    graph = hardware.cuda_graph
    if graph is None and (spec.slurm or against_graph(spec.config, spec.device)):
        graph = False
    if hardware.precision != "auto":
        return in_graphs((named(hardware.precision, spec.device).way,), graph)
    return ways(device_of(spec.device), hardware.compile, graph)


def measured(spec: RunSpec, ways: tuple[Way, ...], ask: Ask, tell: Callable[[], None]) -> Measured:
    """What is kept, or else, after ``tell()``, is measured and kept. Models are not compiled for it: it takes minutes.

    Raises
    ------
    Unanswered
        if it cannot be measured.
    """
    setting = _setting(spec, ways)
    if known := kept(_folder(spec), setting, Measured):
        return known
    tell()
    seconds = CHOOSING_SECONDS if len(ways) > 1 else TIMING_SECONDS
    with any_card(_cards(spec)) as (card, taken):
        found: Measured = ask("measure", _uncompiled(spec), ways, seconds, card)
    if taken:  # good enough for now, and measured again when it is free
        return replace(found, disturbed=f"while {taken}")
    if known := kept(_folder(spec), setting, Measured):  # by another sweep meanwhile: one decision for both
        return known
    with suppress(OSError):  # of a cache that cannot be written, what was measured counts all the same
        keep(_folder(spec), setting, found)
    return found


def measured_together(spec: RunSpec, ask: Ask, tell: Callable[[], None]) -> float:
    """Images a second that all devices of a run train together, or all its processes on a CPU: what is kept, or else,
    after ``tell()``, is measured.

    Raises
    ------
    Unanswered
        if it cannot be measured.
    """
    setting = _setting(spec, (spec.choice.way,)) | {"together": True}
    found = kept(_folder(spec), setting, Measured)
    if found is None:
        tell()
        held = take_cards(_cards(spec)[: spec.config.hardware.device_count])
        if isinstance(held, str):
            raise Unanswered(held)
        try:
            rate: float = ask("together", _uncompiled(spec), TIMING_SECONDS)
        finally:
            held.release()
        batch = spec.config.trainer.batch_size
        found = Measured((Figures(spec.choice.way, (1 / rate,)),), 0.0, 0.0, batch, batch)
        with suppress(OSError):
            keep(_folder(spec), setting, found)
    return found.figures[0].images_per_second or 0.0


def on_one(spec: RunSpec) -> RunSpec:
    """The same run on one device."""
    return replace(spec, config=replace(spec.config, hardware=replace(spec.config.hardware, device_count=1)))


def warnings_of_several(specs: list[RunSpec], ask: Ask, screen: Screen) -> list[str]:
    """Of each run what there is to say against its devices: that one of them alone would be as fast; or nothing."""
    asked = [short_hash(_setting(spec, (spec.choice.way,))) if _has_several(spec) else "" for spec in specs]
    kinds = {name: spec for name, spec in zip(asked, specs, strict=True) if name}
    found = {name: _against_several(spec, ask, screen) for name, spec in kinds.items()}
    return [found.get(name, "") for name in asked]


def _against_several(spec: RunSpec, ask: Ask, screen: Screen) -> str:
    batch, model = spec.config.trainer.batch_size, spec.model.timm_name
    several = f"{spec.config.hardware.device_count} {'GPUs' if spec.device == 'cuda' else 'processes'}"
    tell = partial(screen.progress, f"Measuring {model} on 1 and on {several}, about 15 s each", 0, 0)
    try:
        one = measured(on_one(spec), (spec.choice.way,), ask, tell).figures[0].images_per_second or 0.0
        rate = measured_together(spec, ask, tell)
    except Unanswered as e:
        return f"Whether {several} train {model} faster than one could not be measured ({e})."
    if rate >= WORTH_ITS_DEVICES * one:
        return ""
    return (
        f"{several} train {model} in batches of {batch} at {digits(rate)} images/s, one at {digits(one)}: take "
        "hardware.device_count=1, or a larger trainer.batch_size."
    )


def _has_several(spec: RunSpec) -> bool:
    return spec.slurm is None and spec.config.hardware.device_count > 1


def _cards(spec: RunSpec) -> list[Device]:
    return [device for device in find_devices() if device.kind == spec.device == "cuda"]


def _uncompiled(spec: RunSpec) -> RunSpec:
    return replace(spec, config=replace(spec.config, hardware=replace(spec.config.hardware, compile=False)))


def small_run(device: str, hardware: HardwareConfig, cache_folder: str) -> RunSpec:
    """ResNet-18 as its default config would train it, for ``measured`` alone: it has no images, id or weights."""
    config = compose(["model=resnet18", "model.weights=scratch"])
    config = replace(config, hardware=hardware, paths=replace(config.paths, cache=cache_folder))
    model = resolve(config.model, Hub(), Path(cache_folder))
    return RunSpec(
        run_id="", name="", label="", config=config, overrides=[], sweep="", model=model, device=device,
        choice=named("fp32"), dataset_file=Path(), warnings=(),
    )  # fmt: skip


def _setting(spec: RunSpec, ways: tuple[Way, ...]) -> Setting:
    """A batch size counts only where there is nothing to choose: the choice is one for all."""
    hardware = spec.config.hardware
    setting = {
        **_machine(spec.device),
        "model": [spec.model.timm_name, spec.model.input_size, spec.config.trainer.finetune],
        "hardware": [hardware.memory_format, hardware.tf32, hardware.deterministic, hardware.cpu_threads],
        "ways": [way.key for way in ways],
    }
    return setting if len(ways) > 1 else setting | {"batch": [spec.config.trainer.batch_size, hardware.device_count]}


@cache
def _machine(kind: str) -> Setting:
    device = device_of(kind)
    return {
        "version": VERSION,
        "device": [kind, device.name, device.instructions, cores(), logical_cores(), *map(os.environ.get, THREADS)],
        "packages": [importlib.metadata.version(name) for name in ("torch", "timm")],
    }


def _folder(spec: RunSpec) -> Path:
    return Path(spec.config.paths.cache) / "speeds"
