"""A finished run as it was planned, from its record."""

from __future__ import annotations

import msgspec

from har_sweep.config.schema import Config
from har_sweep.errors import InputError
from har_sweep.record.record import Record
from har_sweep.spec.weights import ModelPlan


def as_planned(record: Record) -> tuple[Config, ModelPlan]:
    """The run's config, and its model, which starts from nothing: its weights are those that it kept.

    Raises
    ------
    InputError
        if the config is none of this version.
    """
    try:
        config = msgspec.convert(record.config, Config)
    except msgspec.MsgspecError as e:
        raise InputError(
            f"{record.run_id} is of another version of har_sweep: {e}.", "Compute it again with rerun=true."
        ) from e
    model = config.model
    return config, ModelPlan(
        timm_name=record.model.timm_name,
        pretrained_tag=model.pretrained_tag,
        input_size=record.model.input_size[-1],
        mean=tuple(model.mean or ()),
        std=tuple(model.std or ()),
        weights="scratch",
        weights_file=None,
    )
