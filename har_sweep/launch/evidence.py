"""What earlier records say of a run's speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from har_sweep.cost.disturbance import CROWDED
from har_sweep.errors import InputError
from har_sweep.launch.plan import Planned
from har_sweep.record.folder import read_record
from har_sweep.record.record import Hardware, Record
from har_sweep.spec.hardware import device_named
from har_sweep.spec.run_spec import RunSpec

FEW = 5  # records, the latest, that an estimate rests on

Model = tuple[str, int]
"""timm's name and the input size in pixels: what MACs follow from."""


@dataclass(frozen=True)
class Speed:
    """Seconds: for an image in training, for an image in evaluation, and for all that a run does once."""

    training: float
    evaluation: float
    once: float

    def scaled(self, ratio: float) -> Speed:
        """With so many times the MACs."""
        return Speed(self.training * ratio, self.evaluation * ratio, self.once)

    def beside(self, teacher: float) -> Speed:
        """With a teacher that takes so many seconds for an image in training."""
        return Speed(self.training + teacher, self.evaluation, self.once)


@dataclass(frozen=True)
class Past:
    """What counts of a record; ``speed``, without what others took, is None before the end of the first epoch.
    ``busy``: they took so much that it says little."""

    run_id: str
    done: bool
    time: str
    model: Model
    macs: int | None
    hardware: Hardware
    config: dict[str, Any]
    epochs: int
    speed: Speed | None
    busy: bool


@dataclass(frozen=True)
class Work:
    """What is left of a run, in images that go through its model. ``spec`` is as its job will have it."""

    spec: RunSpec
    epochs: int
    trained: int
    evaluated: int

    @property
    def model(self) -> Model:
        return self.spec.model.timm_name, self.spec.model.input_size

    @property
    def teacher(self) -> Work | None:
        """As if the run's teacher were to be measured on its own."""
        if self.spec.teacher is None:
            return None
        plan, config = self.spec.teacher, self.spec.config
        alone = replace(config, model=plan.config.model, targets=plan.config.targets)
        return Work(replace(self.spec, config=alone, model=plan.model, teacher=None), 0, 0, 0)

    @property
    def kind(self) -> str:
        """The same for runs of the same speed."""
        spec = self.spec
        settings = spec.config.hardware, spec.config.trainer, spec.config.augmentation, spec.config.objective.taught_by
        return str((self.model, spec.device, spec.precision, settings))

    @property
    def on_cluster(self) -> bool:
        return self.spec.slurm is not None

    def seconds(self, speed: Speed) -> float:
        return self.trained * speed.training + self.evaluated * speed.evaluation + speed.once


def past_runs(planned: list[Planned]) -> list[Past]:
    """What the runs folder tells, the latest first. What cannot be read is no evidence."""
    found = []
    for folder in {p.spec.paths.folder.parent for p in planned}:
        for file in folder.glob("*/record.json"):
            try:
                record = read_record(file)
            except (InputError, OSError):
                continue
            found.append(
                Past(
                    run_id=record.run_id,
                    done=record.status == "done",
                    time=record.finished_at or record.started_at,
                    model=(record.model.timm_name, record.model.input_size[-1]),
                    macs=record.cost.macs,
                    hardware=record.hardware,
                    config=record.config,
                    epochs=len(record.epochs),
                    speed=_speed(record),
                    busy=(record.cost.training.disturbed_share or 0.0) > CROWDED,
                )
            )
    return sorted(found, key=lambda p: p.time, reverse=True)


def _speed(record: Record) -> Speed | None:
    """What a run took beside what others did; for one that is not done, without what it does once."""
    images, cost, epochs = record.dataset.counts, record.cost, len(record.epochs)
    if not epochs or not cost.training.seconds:
        return None
    in_epochs = sum(epoch.seconds for epoch in record.epochs) - (cost.training.compile_seconds or 0.0)  # which is once
    evaluation = max(0.0, in_epochs - cost.training.seconds) / (images["val"] * epochs)
    once = 0.0
    if record.status == "done" and cost.device_hours:
        in_all = 3600 * cost.device_hours / record.hardware.device_count
        once = max(0.0, in_all - in_epochs - evaluation * (images["val"] + images["test"]))
    own = 1 - (cost.training.disturbed_share or 0.0)
    return Speed(own * cost.training.seconds / (images["train"] * epochs), own * evaluation, own * once)


def is_like(p: Past, work: Work) -> bool:
    """Whether a record is of the hardware that the run will have, as far as that is known, and of its teacher."""
    spec, theirs = work.spec, p.config["hardware"]
    if p.config.get("objective", {}).get("taught_by", {}) != spec.config.objective.taught_by:
        return False
    hardware, then = spec.config.hardware, p.hardware
    if (spec.device, spec.precision, hardware.device_count) != (then.device, then.precision, then.device_count):
        return False
    if (hardware.compile, spec.config.trainer.finetune) != (theirs["compile"], p.config["trainer"]["finetune"]):
        return False
    if work.on_cluster:
        return True
    if p.hardware.device_name != device_named(spec.device):
        return False
    # Of a cluster's node, whose processor may only have the same name. (Older records have the launcher in hardware.)
    if "hydra" in p.config or theirs.get("launcher") == "slurm":
        return spec.device != "cpu"
    return spec.device != "cpu" or theirs["cpu_threads"] == spec.config.hardware.cpu_threads


def most_alike(candidates: list[Past], work: Work) -> list[Past]:
    """Those that are done, if any, and on no busy machine, if any, and whose settings are the most like the run's; all
    on one device; latest first."""
    if not candidates:
        return []
    ours, slurm = asdict(work.spec.config), work.spec.slurm

    def likeness(p: Past) -> tuple[bool, bool, int, int]:
        def equal(theirs: dict[str, Any], given: dict[str, Any]) -> int:
            return sum(theirs.get(key) == value for key, value in given.items() if key != "epochs")

        asked = equal(p.config.get("hydra", {}).get("launcher", {}), asdict(slurm) if slurm else {})
        device = equal(p.config["hardware"], ours["hardware"])
        training = sum(equal(p.config[section], ours[section]) for section in ("trainer", "augmentation"))
        return p.done, not p.busy, asked + device, training

    scores = [likeness(p) for p in candidates]
    most = max(scores)
    best = [p for p, score in zip(candidates, scores, strict=True) if score == most]
    return [p for p in best if p.hardware.device_name == best[0].hardware.device_name]


def median_speed(speeds: list[Speed]) -> Speed:
    """Each part's."""
    return Speed(
        median(s.training for s in speeds), median(s.evaluation for s in speeds), median(s.once for s in speeds)
    )


def evidence_told(evidence: list[Past]) -> str:
    word = "record" if evidence[0].done else "unfinished record"
    busy = " (of a busy machine)" if evidence[0].busy else ""
    return f"{len(evidence)} {word}{'s' if len(evidence) > 1 else ''}{busy}"
