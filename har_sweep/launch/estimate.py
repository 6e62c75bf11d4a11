"""What runs will cost, before any is started: by the records of runs like them, else by measuring a step of each.

Imports no torch: what needs it is asked of a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from har_sweep.cost.counted import counted_costs
from har_sweep.data.dataset import Dataset
from har_sweep.launch.ask import Ask, Unanswered, asking_torch
from har_sweep.launch.evidence import (
    FEW,
    Model,
    Past,
    Speed,
    Work,
    evidence_told,
    is_like,
    median_speed,
    most_alike,
    past_runs,
)
from har_sweep.launch.job import with_threads
from har_sweep.launch.local import slots
from har_sweep.launch.plan import Planned
from har_sweep.launch.speeds import measured, measured_together
from har_sweep.launch.terminal import Screen
from har_sweep.spec.hardware import device_named, find_devices
from har_sweep.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Estimate:
    """What a run will take from now on, None where that is unknown. ``basis`` is for the user: what it rests on."""

    device_hours: float | None
    price: float | None
    basis: str


Known = tuple[Speed | None, str]
"""A speed, if there is one to go by, and what it is known from."""


def estimate(planned: list[Planned], screen: Screen) -> list[Estimate]:
    """What each run will take; measures a model on this machine for some seconds where nothing else tells."""
    past = past_runs(planned)
    works = _works(planned, past)
    with asking_torch() as ask:
        known = iter(_known([work for work in works if work], past, ask, screen, measuring=True))
    return [
        _estimate(work, *next(known)) if work else _priced(p.spec, 0.0, "its record, as it is done")
        for p, work in zip(planned, works, strict=True)
    ]


def cheapness(planned: list[Planned], screen: Screen) -> list[float]:
    """What to order runs by: seconds if records tell those of all, else the MACs of what is left. Measures nothing."""
    past = past_runs(planned)
    works = _works(planned, past)
    todo = [work for work in works if work]
    with asking_torch() as ask:
        speeds = [speed for speed, _ in _known(todo, past, ask, screen, measuring=False)]
        if None in speeds:
            taught = [work.teacher for work in todo]
            macs = _macs([*todo, *filter(None, taught)], past, ask, screen)
            of_teachers = [_of_macs(macs[teacher.model]).evaluation if teacher else 0.0 for teacher in taught]
            speeds = [
                _of_macs(macs[work.model]).beside(seconds) for work, seconds in zip(todo, of_teachers, strict=True)
            ]
    costs = iter(work.seconds(speed) for work, speed in zip(todo, speeds, strict=True) if speed)
    return [next(costs) if work else 0.0 for work in works]


def _of_macs(macs: int | str) -> Speed:
    """As if each took a second; a training step has a backward pass of twice the forward pass's."""
    count = macs if isinstance(macs, int) else 1e30  # the unknown comes last
    return Speed(3 * count, count, 0.0)


def _works(planned: list[Planned], past: list[Past]) -> list[Work | None]:
    """What is left of each run; None of one that is done."""
    dataset, begun = cache(Dataset.read), {p.run_id: p for p in past if not p.done}
    works: list[Work | None] = []
    for p in planned:
        if p.state == "done":
            works.append(None)
            continue
        spec, images, left = p.spec, dataset(p.spec.dataset_file).counts(), p.spec.config.trainer.epochs
        if spec.run_id in begun and spec.paths.checkpoint.exists():
            left -= begun[spec.run_id].epochs
        if spec.slurm is None and spec.device == "cpu":
            spec = with_threads(spec, slots([spec])[0].threads)
        evaluated = left * images["val"] + images["val"] + images["test"]
        works.append(Work(spec, left, left * images["train"], evaluated))
    return works


def _estimate(work: Work, speed: Speed | None, basis: str) -> Estimate:
    if speed is None:
        return Estimate(None, None, basis)
    epochs = work.spec.config.trainer.epochs
    left = f"; {work.epochs} of {epochs} epochs are left" if work.epochs < epochs else ""
    hours = work.seconds(speed) * work.spec.config.hardware.device_count / 3600
    return _priced(work.spec, hours, basis + left)


def _priced(spec: RunSpec, device_hours: float, basis: str) -> Estimate:
    rate = spec.config.hardware.price_per_device_hour
    return Estimate(device_hours, None if rate is None else device_hours * rate, basis)


def _known(works: list[Work], past: list[Past], ask: Ask, screen: Screen, measuring: bool) -> list[Known]:
    """How fast each will go: by its own model's records, else by measuring it on this machine; where that is another
    one than its own, or measuring is not wanted, by others' records and MACs first."""
    kinds = {work.kind: work for work in works}
    known, others, unknown = dict[str, Known](), dict[str, list[Past]](), list[Work]()
    for kind, work in kinds.items():
        like = [p for p in past if p.speed and is_like(p, work)]
        here = measuring and not work.on_cluster and _is_here(work)
        same = most_alike([p for p in like if p.model == work.model and not (p.busy and here)], work)[:FEW]
        if same:
            speed = median_speed([p.speed for p in same if p.speed])
            known[kind] = (
                speed,
                f"{evidence_told(same)} of {work.spec.config.model.name} on {same[0].hardware.device_name}",
            )
        elif (work.on_cluster or not measuring) and (counted := most_alike(_counted(like, work), work)):
            others[kind] = list({p.model: p for p in reversed(counted)}.values())  # of each model its latest
        elif measuring and _is_here(work):
            unknown.append(work)
        else:
            known[kind] = None, _nothing(work)
    macs = _macs([kinds[kind] for kind in others], past, ask, screen) if others else {}
    for kind, counted in others.items():
        known[kind] = _by_macs(macs[kinds[kind].model], counted)
    for n, work in enumerate(unknown):
        what = f"Measuring how fast this machine trains {work.spec.model.timm_name}, about 3 s"
        known[work.kind] = _measured(work, ask, partial(screen.progress, what, n, len(unknown)))
    return [known[work.kind] for work in works]


def _counted(like: list[Past], work: Work) -> list[Past]:
    """Those from whose MACs a speed follows: none where a teacher, whose MACs are not the model's, takes its time."""
    return [] if work.teacher else [p for p in like if p.macs]


def _by_macs(count: int | str, counted: list[Past]) -> Known:
    if isinstance(count, str):
        return None, f"nothing: its MACs cannot be counted ({count})"
    speed = median_speed([p.speed.scaled(count / p.macs) for p in counted if p.speed and p.macs])
    whose = "other models" if len(counted) > 1 else "another model"
    return speed, f"MACs, at the speed of {evidence_told(counted)} of {whose} on {counted[0].hardware.device_name}"


def _measured(work: Work, ask: Ask, tell: Callable[[], None]) -> Known:
    """The speed of a run's own steps on this machine: from when its precision was chosen, if there was time for its
    batches, with its threads, else measured on its own: small batches may be half as fast."""
    spec, hardware = work.spec, work.spec.config.hardware
    found = spec.choice.measured
    wanted = (spec.device_batch, spec.device_batch, hardware.cpu_threads)
    if found is None or (found.batch_size, found.batch_wanted, found.cpu_threads) != wanted:
        try:
            found = measured(spec, (spec.choice.way,), ask, tell)
        except Unanswered as e:
            return None, f"nothing: this machine could not be measured ({e})"
    rate = next(f.images_per_second for f in found.figures if f.way == spec.choice.way)
    if rate is None:
        return None, "nothing: this machine could not be measured"
    if hardware.device_count > 1 and not work.on_cluster:
        try:
            rate = measured_together(spec, ask, tell)
        except Unanswered as e:
            return None, f"nothing: {hardware.device_count} processes could not be measured together ({e})"
    taught = 0.0
    if work.teacher:
        try:
            taught = measured(work.teacher.spec, (spec.choice.way,), ask, tell).evaluation_seconds
        except Unanswered as e:
            return None, f"nothing: its teacher could not be measured on this machine ({e})"
    compiled = ", not compiled" if hardware.compile else ""
    what = "its steps and its teacher" if work.teacher else "its steps"
    here = f"{what} on this machine ({device_named(spec.device)}, {spec.precision}{compiled})"
    basis = f"{here}, not on the node" if work.on_cluster else here
    alone = Speed(1 / rate, found.evaluation_seconds, found.once_seconds)
    return alone.beside(taught / spec.devices), basis


def _is_here(work: Work) -> bool:
    """Whether this machine can stand for the one that the run will have."""
    device = work.spec.device
    return any(d.kind == device for d in find_devices()) and (device == "cpu" or not work.on_cluster)


def _nothing(work: Work) -> str:
    """Why nothing is known, and what to do about it."""
    spec, count = work.spec, work.spec.config.hardware.device_count
    devices = f"{count} x {spec.device}" if count > 1 else spec.device
    taught = f" that {spec.teacher.name} taught" if spec.teacher else ""
    return (
        f"nothing: there is no record of a run{taught} on {devices} in {spec.precision}. Run any of these models for "
        "an epoch first: the next estimate uses its record"
    )


def _macs(works: list[Work], past: list[Past], ask: Ask, screen: Screen) -> dict[Model, int | str]:
    """The MACs of each model: from records, else from earlier counts, else counted now; a text says why they cannot."""
    macs: dict[Model, int | str] = {p.model: p.macs for p in past if p.macs}
    missing = {work.model: work.spec for work in works if work.model not in macs}
    new, dataset = dict[Model, RunSpec](), cache(Dataset.read)
    for model, spec in missing.items():
        counted = counted_costs(spec, len(dataset(spec.dataset_file).classes))
        if counted and counted.macs:
            macs[model] = counted.macs
        else:
            new[model] = spec
    for n, (model, spec) in enumerate(new.items()):
        screen.progress("Counting the MACs of models without a record; the first takes about 10 s", n, len(new))
        try:
            macs[model] = ask("count_macs", spec)
        except Unanswered as e:
            macs[model] = str(e)
    return macs
