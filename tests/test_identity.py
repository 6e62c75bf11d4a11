"""The same run is never computed twice, and two different runs never share a folder."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from har_sweep.config.compose import compose
from har_sweep.config.identity import identify, make_run_id, sweep_name
from har_sweep.config.schema import Config, Key, keys, value_at

DECIDED = {"weights": "a1_in1k", "dataset": "d", "split": "s", "device": "cpu", "precision": "bf16"}


@cache
def default() -> Config:
    return compose([])


def the_id(config: Config, **decided: str) -> str:
    return make_run_id(config.model.name, identify(config, **{**DECIDED, **decided}))


def changed(config: Config, key: Key) -> Config:
    """``config`` with another value at a key."""
    value = value_at(config, key.path)
    if "choices" in key.metadata:
        other: Any = next(c for c in key.metadata["choices"] if c != value)
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, (int, float)):
        other = value + 1
    elif isinstance(value, list):
        other = [*value, 1.0]
    else:
        other = f"{value}x" if isinstance(value, str) else 7
    *sections, name = key.path.split(".")
    section = replace(value_at(config, ".".join(sections)), **{name: other}) if sections else None
    if not sections:
        return replace(config, **{name: other})
    for parent in reversed(sections):
        holder = config if parent == sections[0] else value_at(config, sections[0])
        section = replace(holder, **{parent: section})
    assert isinstance(section, Config)
    return section


ALL_KEYS = list(keys())
# hardware.device and precision count as what `auto` came to, so those two are asked for by name below.
DECIDED_ELSEWHERE = {"hardware.device", "hardware.precision"}


@pytest.mark.parametrize("key", ALL_KEYS, ids=lambda key: key.path)
def test_a_key_changes_the_run_id_exactly_if_it_is_part_of_the_identity(key: Key) -> None:
    config = default()
    matters = key.metadata["identity"] and key.path not in DECIDED_ELSEWHERE
    assert (the_id(changed(config, key)) != the_id(config)) == matters or key.path == "model.name"


def test_what_the_design_leaves_out_is_left_out() -> None:
    outside = {key.path for key in ALL_KEYS if not key.metadata["identity"]}
    assert {"paths.runs", "tracking.mode", "sweep.name", "hardware.loader_threads", "rerun"} <= outside
    inside = {key.path for key in ALL_KEYS if key.metadata["identity"]}
    assert {"seed", "trainer.epochs", "optimizer.lr", "augmentation.rotation_degrees", "model.timm_name"} <= inside


@pytest.mark.parametrize("what", DECIDED)
def test_what_was_decided_is_part_of_the_identity(what: str) -> None:
    config = default()
    assert the_id(config, **{what: "other"}) != the_id(config)


def test_two_ways_to_write_one_number_are_one_run() -> None:
    assert the_id(compose(["optimizer.lr=1e-3"])) == the_id(compose(["optimizer.lr=0.001"])) == the_id(compose([]))


def test_a_run_id_is_the_model_and_ten_hex_digits_and_fit_for_a_path() -> None:
    assert re.fullmatch(r"resnet18-[0-9a-f]{10}", the_id(compose([])))
    assert re.fullmatch(r"a_b-[0-9a-f]{10}", make_run_id("A/b", {}))


def test_ids_last_over_releases() -> None:
    """A change of this value makes every user's finished runs unknown: do it knowingly."""
    assert make_run_id("resnet18", {"b": [1, 0.5], "a": None}) == "resnet18-fc2ad73864"


def test_the_same_command_is_the_same_sweep() -> None:
    assert sweep_name([["seed=0"], ["seed=1"]]) == sweep_name([["seed=0"], ["seed=1"]]) != sweep_name([["seed=0"]])
