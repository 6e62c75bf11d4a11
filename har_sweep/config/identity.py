"""Config -> run id: the same run is never computed twice."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from har_sweep.config.schema import Config, keys, value_at


def identify(config: Config, *, weights: str, dataset: str, split: str, device: str, precision: str) -> dict[str, Any]:
    """Everything that can change what is learned or what it costs, as plain values.

    The arguments are what the config only asks for and the machine, the hub and the files decide: the initial weights
    (a tag, ``sha256:...`` or ``scratch``), the fingerprints of the data's content and split, the device kind and the
    precision.
    """
    chosen = {key.path: value_at(config, key.path) for key in keys() if key.metadata["identity"]}
    neutral = {key.path: key.default for key in keys() if key.metadata.get("neutral")}
    chosen = {path: value for path, value in chosen.items() if path not in neutral or value != neutral[path]}
    chosen |= {"hardware.device": device, "hardware.precision": precision}
    return chosen | {"weights": weights, "dataset": dataset, "split": split}


def make_run_id(model_name: str, identity: dict[str, Any]) -> str:
    """``<model>-<10 hex>`` from the canonical JSON of the identity: sorted keys, shortest floats, no spaces."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
    return f"{re.sub(r'[^a-z0-9._]+', '_', model_name.lower())}-{digest}"


def sweep_name(overrides: list[list[str]]) -> str:
    """A name that the same command gets again: a hash of what it asks for."""
    return "sweep-" + hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:6]
