"""Who teaches: a finished run, or a file of weights; decided while planning, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from har_sweep.config.schema import Config, ModelConfig
from har_sweep.errors import InputError, first_line
from har_sweep.events import Progress
from har_sweep.record.folder import RunPaths, read_record, runs_named
from har_sweep.spec.finished import as_planned
from har_sweep.spec.weights import SUFFIXES, ModelPlan, content_of, facts_of, refuse_cut_patches

HOW = "teacher= takes a finished run's id, its beginning or its folder, or a file of weights."


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher decided to the last detail.

    ``config`` is what its model is built from; ``model`` has its file of weights, by its whole path, and their
    ``sha256:...``. ``run_id`` and ``classes`` are empty where only the weights are known; ``given`` is what names it
    without doubt.
    """

    config: Config
    model: ModelPlan
    given: str
    run_id: str = ""
    classes: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """All of it that can change what is learned."""
        plan = self.model
        if self.run_id:
            return {"run": self.run_id, "weights": plan.weights}
        seen = {"input_size": plan.input_size, "mean": list(plan.mean), "std": list(plan.std)}
        return {"model": plan.timm_name, "weights": plan.weights, **seen}

    @property
    def name(self) -> str:
        """For people."""
        return self.run_id or f"{self.model.timm_name} from {self.model.weights[:19]}"


def find_teacher(config: Config, progress: Progress) -> TeacherPlan:
    """The teacher of a run that has one.

    Raises
    ------
    InputError
        if there is none, or it cannot teach.
    """
    text, objective = str(config.teacher), config.objective
    if Path(text).suffix in SUFFIXES and not Path(text).is_dir():
        return _file(config, text, progress)
    for key in ("teacher_model", "teacher_input_size"):
        if (value := getattr(objective, key)) is not None:
            raise InputError(
                f"objective.{key}={value} is for a file of weights, and teacher={text} is a run, which has its own.",
                "Leave it out.",
            )
    return _run(text, Path(config.paths.runs))


def _run(text: str, runs: Path) -> TeacherPlan:
    folder = Path(text) if RunPaths(Path(text)).record.exists() else None
    if folder is None:
        named = runs_named(text, runs)
        if not named:
            raise InputError(f"teacher={text}: there is no such run in {runs}.", HOW)
        if len(named) > 1:
            raise InputError(f"teacher={text} may be {', '.join(named[:6])}.", "Give more of its id.")
        folder = runs / named[0]
    paths = RunPaths(folder.absolute())
    record = read_record(paths.record)
    run = record.run_id
    if record.variant:
        raise InputError(
            f"teacher={text}: {run} is a variant ({record.variant}) of {record.parent}.",
            f"Let that teach: teacher={record.parent}.",
        )
    if record.status != "done":
        raise InputError(
            f"teacher={text}: {run} is {record.status}, not done.",
            "Give its own sweep's command first, to its end; then this one again.",
        )
    if not paths.model.exists():
        raise InputError(
            f"teacher={text}: {run} has kept no weights.", "Compute it again with trainer.save_model=true rerun=true."
        )
    config, model = as_planned(record)
    model = replace(model, weights=content_of(paths.model), weights_file=paths.model)
    given = run if paths.folder == (runs / run).absolute() else str(paths.folder)
    return TeacherPlan(config, model, given, run, tuple(record.dataset.classes))


def _file(config: Config, text: str, progress: Progress) -> TeacherPlan:
    objective, file = config.objective, Path(text).expanduser().absolute()
    if objective.teacher_model is None:
        raise InputError(
            f"teacher={text} are weights, and nothing says of which model.", "Add objective.teacher_model=NAME, timm's."
        )
    try:
        weights = content_of(file)
    except OSError as e:
        raise InputError(f"teacher={text} cannot be read: {first_line(e)}.", f"Check the path. {HOW}") from e
    name, size = objective.teacher_model, objective.teacher_input_size
    try:
        facts = facts_of(name, Path(config.paths.cache), progress)
        refuse_cut_patches(name, size, max(facts["input_size"]), facts["patch"])
    except InputError as e:
        raise InputError(f"objective.teacher_model={name}: {e.message}", e.hint) from e
    plan = ModelPlan(
        timm_name=name.partition(".")[0],
        pretrained_tag=None,
        input_size=size or max(facts["input_size"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        weights=weights,
        weights_file=file,
    )
    model = ModelConfig(name=name, timm_name=plan.timm_name, weights="scratch", input_size=plan.input_size)
    trainer = replace(config.trainer, finetune="full")
    return TeacherPlan(replace(config, model=model, trainer=trainer, targets={}), plan, str(file))


def check_classes(teacher: TeacherPlan, classes: Sequence[str]) -> None:
    """Refuse a teacher of other classes, or of these in another order.

    Raises
    ------
    InputError
        naming the difference.
    """
    theirs, ours = teacher.classes, tuple(classes)
    if not theirs or theirs == ours:
        return
    unknown, foreign = [c for c in ours if c not in theirs], [c for c in theirs if c not in ours]
    differences = [f"it does not know {_few(unknown)}"] if unknown else []
    differences += [f"it knows {_few(foreign)}, of which there are no images here"] if foreign else []
    if not differences:
        place = next(n for n, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other)
        differences = [f"its class {place + 1} is {theirs[place]}, and here it is {ours[place]}"]
    raise InputError(
        f"The teacher {teacher.name} has learned other classes: {'; '.join(differences)}.",
        "Its answers would mean something else here: take a teacher that was trained on these images.",
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
