"""Learning rates by range tests: each model's in a process of its own, and what is shown and kept of them."""

from __future__ import annotations

import csv
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from har_sweep.config.compose import compose_runs, expand
from har_sweep.config.schema import SchedulerConfig
from har_sweep.errors import InputError
from har_sweep.events import Tell
from har_sweep.files import atomic
from har_sweep.launch.apart import apart
from har_sweep.launch.plan import plan
from har_sweep.launch.terminal import Screen
from har_sweep.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from har_sweep.run.range_test import Curve


def find_rates(overrides: list[str], steps: int, rates: tuple[float, float], out: Path, screen: Screen) -> int:
    """Test each model that ``overrides`` plan between two ``rates``; 1 if one could not be tested, else 0.

    Raises
    ------
    InputError
        if any of it cannot be used: then nothing was trained.
    """
    specs = _one_of_each([planned.spec for planned in plan(compose_runs(expand(overrides)), screen)])
    if any(spec.slurm for spec in specs):
        raise InputError(
            "find_lr trains where it is started, not in jobs of its own.",
            "Start it inside a job, with hardware=auto: srun ... python -m har_sweep.find_lr ...",
        )
    if any(spec.config.hardware.device_count > 1 for spec in specs):
        raise InputError("find_lr trains on one device.", "Leave hardware.device_count out: batches are the same.")
    out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, tuple[RunSpec, Curve]] = {}
    with screen.live():
        for number, spec in enumerate(specs, 1):
            label = f"[{number}/{len(specs)}] {spec.label}"
            work = partial(_range_test, spec, steps, *rates)
            if found := apart(work, spec.device, label, out / "find_lr.log", screen):
                curves[spec.label] = spec, found.value
                _keep(curves, out)
    for name, (spec, curve) in curves.items():
        now, rate = spec.config.optimizer.lr, curve.suggestion
        screen.say(
            f"{name}: the loss never fell; look at the curve, or give more --steps."
            if rate is None
            else f"{name}: try optimizer.lr={rate:g} (now {now:g})"
        )
    rates_of = {spec.config.model.name: curve.suggestion for spec, curve in curves.values()}
    if len(rates_of) > 1 and len(rates_of) == len(curves) and all(rates_of.values()):
        of_all = ",".join(f"{model}:{rate:g}" for model, rate in rates_of.items())
        screen.say(f"For a sweep of them all: {shlex.quote(f'optimizer.lr={{{of_all}}}')}")
    if curves:
        screen.say(f"The curves: {out / 'find_lr.png'}, {out / 'find_lr.csv'}")
    return int(len(curves) < len(specs))


def _one_of_each(specs: list[RunSpec]) -> list[RunSpec]:
    """Without those that differ only in what a range test has of its own."""
    kept = dict[str, RunSpec]()
    for spec in specs:
        config = spec.config
        optimizer = replace(config.optimizer, lr=0.0, head_lr=config.optimizer.head_lr and 0.0)
        same = replace(config, seed=0, optimizer=optimizer, scheduler=SchedulerConfig())
        kept.setdefault(f"{same} {spec.model} {spec.device}", spec)
    return list(kept.values())


def _range_test(spec: RunSpec, steps: int, lowest: float, highest: float, tell: Tell) -> Curve:
    from har_sweep.run.range_test import range_test

    return range_test(spec, steps, lowest, highest, tell)


def _keep(curves: dict[str, tuple[RunSpec, Curve]], out: Path) -> None:
    """All that is known by now, as a table and as a picture."""
    with atomic(out / "find_lr.csv", "w") as file:
        table = csv.writer(file)
        table.writerow(["run", "step", "learning_rate", "loss", "smoothed_loss"])
        for name, (_, curve) in curves.items():
            rows = zip(curve.rates, curve.losses, curve.smoothed, strict=True)
            table.writerows([name, step, *row] for step, row in enumerate(rows, 1))

    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.6 * len(curves)), layout="constrained")
    for axes, (name, (spec, curve)) in zip(
        figure.subplots(len(curves), squeeze=False).flat, curves.items(), strict=True
    ):
        smoothed = curve.smoothed
        axes.plot(curve.rates, curve.losses, color="0.8", linewidth=1)
        axes.plot(curve.rates, smoothed, color="C0")
        axes.axvline(spec.config.optimizer.lr, color="0.5", linestyle=":", label=f"now: {spec.config.optimizer.lr:g}")
        if rate := curve.suggestion:
            axes.axvline(rate, color="C1", label=f"suggested: {rate:g}")
        axes.set(xscale="log", title=name, xlabel="learning rate", ylabel="loss (nats)", ylim=(0, 1.3 * smoothed[0]))
        axes.legend()
    with atomic(out / "find_lr.png") as picture:
        figure.savefig(picture, format="png", dpi=150)
