"""What a file of weights says of itself: enough to classify a picture with it, wherever it is copied to."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import safe_open

from har_sweep.errors import InputError
from har_sweep.record.record import Record

FORMAT_VERSION = 1
# One key for all: safetensors writes several in any order, and a run's weights shall be the same to the bit.
_KEY = "har_sweep"


@dataclass(frozen=True)
class Description:
    """``classes`` are in the order of the logits; ``input_size`` is in pixels; ``mean`` and ``std`` are of R, G, B in
    0..1. ``epoch`` is the one that the weights are of. ``preprocessing`` says how a picture becomes the model's input
    (None where the file is from before that was noted)."""

    run_id: str
    timm_name: str
    classes: list[str]
    input_size: int
    mean: list[float]
    std: list[float]
    epoch: int | None
    preprocessing: dict[str, str] | None = None
    format_version: int = FORMAT_VERSION

    def metadata(self) -> dict[str, str]:
        """As safetensors and ONNX keep it beside the tensors."""
        return {_KEY: json.dumps(asdict(self), ensure_ascii=False)}


def read_description(weights: Path) -> Description | None:
    """What a file of weights says of itself; None if it says nothing.

    Raises
    ------
    InputError
        if a newer version of har_sweep wrote it.
    SafetensorError, OSError
        if it cannot be read.
    """
    with safe_open(weights, "np") as file:
        metadata = file.metadata() or {}
    if _KEY not in metadata:
        return None
    tree: dict[str, Any] = json.loads(metadata[_KEY])
    if tree["format_version"] > FORMAT_VERSION:
        raise InputError(f"{weights} describes itself in format {tree['format_version']}.", "Update har_sweep.")
    return msgspec.convert(tree, Description)


def describe(record: Record, weights: Path) -> Description:
    """What a finished run's weights say of themselves, or what its record says, where they are from before they did;
    raises as ``read_description``."""
    model, size = record.config["model"], record.model.input_size[-1]
    return read_description(weights) or Description(
        record.run_id, record.model.timm_name, record.dataset.classes, size, model["mean"], model["std"],
        record.selected_epoch,
    )  # fmt: skip
