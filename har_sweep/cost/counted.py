"""What was counted of an architecture, kept in ``paths.cache/costs/``: planning reads it without loading torch."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_sweep.files import keep, kept
from har_sweep.spec.run_spec import RunSpec

VERSION = 1  # of how it is counted; what another one has counted is not taken


@dataclass(frozen=True)
class StaticCost:
    """Multiply-adds (MACs) are of one image; ``uncounted_products`` names operations whose products they leave out.

    ``not_counted`` is why there are none, of a model that cannot be traced.
    """

    parameters: int
    trainable_parameters: int
    disk_bytes: int
    macs: int | None
    macs_without_attention_products: int | None
    uncounted_products: list[str]
    not_counted: str = ""


def counted_costs(spec: RunSpec, classes: int) -> StaticCost | None:
    """Those of a run's model, if they were kept."""
    return None if _may_change(spec) else kept(_folder(spec), _setting(spec, classes), StaticCost)


def keep_costs(spec: RunSpec, classes: int, found: StaticCost) -> None:
    """Keep what was counted of a run's model, if it is one of timm's; a run goes on where nothing can be kept."""
    if not found.not_counted and not _may_change(spec):
        with suppress(OSError):
            keep(_folder(spec), _setting(spec, classes), found)


def _may_change(spec: RunSpec) -> bool:
    """Whether the model is somebody's own code, which no version tells apart."""
    return spec.config.model._target_ is not None


def _folder(spec: RunSpec) -> Path:
    return Path(spec.config.paths.cache) / "costs"


def _setting(spec: RunSpec, classes: int) -> dict[str, Any]:
    model = spec.model
    return {
        "model": [model.timm_name, model.weights, model.input_size, classes, spec.config.trainer.finetune],
        "packages": [importlib.metadata.version(name) for name in ("torch", "timm", "fvcore")],
        "counts": VERSION,
    }
