"""Who teaches the runs of a sweep, and whether they can."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from har_sweep.config.schema import Config
from har_sweep.config.targets import targets_of
from har_sweep.data.dataset import Dataset
from har_sweep.errors import InputError
from har_sweep.files import atomic, short_hash
from har_sweep.launch.ask import Ask, Unanswered
from har_sweep.launch.private import check_unexposed
from har_sweep.launch.terminal import Screen
from har_sweep.spec.run_spec import RunSpec
from har_sweep.spec.teacher import TeacherPlan, check_classes, find_teacher

TEMPERATURE = 4.0
ON_TRUST = (
    "{name} teaches by its weights alone, which do not say which classes they know: that these are the images' own, in "
    "the order of their names, is taken on trust."
)


def with_teachers(drafts: list[RunSpec], screen: Screen) -> list[RunSpec]:
    """Each run with its teacher decided, and what follows from that in its config; those without one as they are.

    Raises
    ------
    InputError
        if a teacher cannot be had, is not finished, or knows other classes.
    """
    return [_with_teacher(draft, screen) if draft.config.teacher else draft for draft in drafts]


def _with_teacher(draft: RunSpec, screen: Screen) -> RunSpec:
    config, objective = draft.config, draft.config.objective
    teacher = trusted_teacher(config, screen)
    check_classes(teacher, Dataset.read(draft.dataset_file).classes)
    by_logits = objective.kind in ("logits", "token")
    temperature = (objective.temperature or TEMPERATURE) if by_logits else None
    decided = replace(objective, temperature=temperature, taught_by=teacher.identity)
    trusting = [ON_TRUST.format(name=teacher.name)] if by_logits and not teacher.run_id else []
    return replace(
        draft,
        config=replace(config, objective=decided, teacher=teacher.given),
        teacher=teacher,
        warnings=(*draft.warnings, *trusting),
    )


def trusted_teacher(config: Config, screen: Screen) -> TeacherPlan:
    """As ``find_teacher``; refuses one whose record names code, where others could have put that."""
    teacher = find_teacher(config, screen.progress)
    if teacher.run_id and targets_of(teacher.config) and teacher.model.weights_file:
        check_unexposed(teacher.model.weights_file.parent)
    return teacher


def check_teachers(drafts: list[RunSpec], ask: Ask, screen: Screen) -> None:
    """Let each teacher answer once beside each model that it shall teach, unless that was seen before.

    Raises
    ------
    InputError
        naming the first that cannot.
    """
    for seen, spec in {_seen(spec, spec.teacher): spec for spec in reversed(drafts) if spec.teacher}.items():
        if seen.exists():
            continue
        what = f"{spec.teacher.name if spec.teacher else ''} can teach {spec.config.model.name}"
        screen.progress(f"Looking whether {what}, about 10 s, once", 0, 0)
        try:
            if why := ask("teacher_refusal", spec):
                raise InputError(*why)
        except Unanswered as e:
            screen.warn(f"Whether {what} could not be seen while planning ({e}).")
            continue
        with atomic(seen) as out:
            out.write(what.encode())


def _seen(spec: RunSpec, teacher: TeacherPlan | None) -> Path:
    """The file that says that a teacher has answered beside a model before."""
    model, config = spec.model, spec.config
    setting = [
        importlib.metadata.version("timm"), model.timm_name, model.input_size, config.model.arguments,
        config.objective.kind, teacher and teacher.identity, len(Dataset.read(spec.dataset_file).classes),
    ]  # fmt: skip
    return Path(config.paths.cache) / "fits" / short_hash(setting)


def check_none_is_computed_again(specs: Sequence[RunSpec]) -> None:
    """Refuse a teacher that its own student's sweep would compute again meanwhile.

    Raises
    ------
    InputError
        naming it.
    """
    if not specs[0].config.rerun:
        return
    asked = {spec.run_id for spec in specs}
    for spec in specs:
        if spec.teacher and spec.teacher.run_id in asked:
            raise InputError(
                f"{spec.teacher.run_id} shall teach, and rerun=true computes it again in the same sweep.",
                "Compute it again by a command of its own first.",
            )
