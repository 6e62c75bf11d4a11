"""A finished model that teaches another: built as it was, with the very weights that were planned with."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import nn

from har_sweep.errors import Damaged, InputError
from har_sweep.model.build import build_model
from har_sweep.model.load import load_own, load_teacher_file
from har_sweep.spec.teacher import TeacherPlan
from har_sweep.spec.weights import check_weights_file


def build_teacher(plan: TeacherPlan, num_classes: int, but_classifier: bool) -> nn.Module:
    """The teacher on the CPU in float32, for evaluation alone; random draws are left as they were.

    ``but_classifier``: of a file of weights the classifier is not asked for.

    Raises
    ------
    InputError
        if the weights are not of this model, or not for so many classes.
    RunFailure
        ``weights_damaged`` if they are gone or changed since the run was planned; what ``build_model`` raises.
    """
    file = plan.model.weights_file
    assert file is not None
    check_weights_file(plan.model)
    with drawing_apart():
        scratch = replace(plan.model, weights="scratch", weights_file=None)
        model = build_model(plan.config, scratch, num_classes, lambda text: None)
    if plan.run_id:
        try:
            load_own(model, file)
        except Damaged as e:
            raise InputError(
                f"The weights of the teacher {plan.run_id} do not load: {e}",
                "rerun=true with its own command computes it again.",
            ) from e
    else:
        load_teacher_file(model, file, but_classifier)
    return model.eval().requires_grad_(False)


def drawing_apart() -> AbstractContextManager[None]:
    """Inside, random draws leave the process's generators as they were, its GPU's as well: a seed is set for all."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else [])
