"""A finished run as a ``Forward``: the one place that knows what is behind it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from har_sweep.compact.forward import variant_forward
from har_sweep.compact.variants import VARIANTS
from har_sweep.device.compute import prepare_compute
from har_sweep.device.ranks import Ranks
from har_sweep.errors import Damaged, InputError
from har_sweep.model.build import build_model
from har_sweep.model.load import load_own
from har_sweep.train.evaluate import Forward, forward_of
from har_sweep.use.run import FinishedRun


def forward_of_run(run: FinishedRun, warn: Callable[[str], None]) -> tuple[Forward, torch.device]:
    """What a run, or a variant of one, answers, and the device that it wants images on.

    Raises
    ------
    RunFailure
        if torch cannot use the device.
    InputError
        if the weights cannot be read.
    """
    spec, paths, compute = run.spec, run.paths, prepare_compute(run.spec, Ranks())
    if run.record.variant:
        variant, model = VARIANTS[run.record.variant], None
        if variant.runtime == "torch":
            model = build_model(spec.config, spec.model, len(run.record.dataset.classes), warn)
        file = paths.onnx if model is None else paths.model
        return variant_forward(variant, file, model, spec.model, compute), compute.device
    return forward_of(compute.place(load_model(run, warn)), spec.model, compute), compute.device


def load_model(run: FinishedRun, warn: Callable[[str], None]) -> nn.Module:
    """The network with the run's weights, float32 on the CPU, in evaluation mode; raises as ``forward_of_run``."""
    spec, file = run.spec, run.paths.model
    model = build_model(spec.config, spec.model, len(run.record.dataset.classes), warn)
    try:
        load_own(model, file)
    except Damaged as e:
        raise InputError(f"{file} cannot be used: {e}.", "Bring it back, or compute the run with rerun=true.") from e
    return model.eval()
