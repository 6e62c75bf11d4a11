"""The images and weights that a sweep would read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from har_sweep.doctor.finding import NOTE, OK, PROBLEM, Check, distinct

if TYPE_CHECKING:
    from har_sweep.config.schema import Config


def datasets(configs: list[Config]) -> Iterator[Check]:
    """Whether each dataset is where the sweep will look; images are listed, not read."""
    from har_sweep.errors import InputError

    for data, paths in distinct((config.data, config.paths) for config in configs):
        if data.source == "sample":
            yield Check("data", OK, "sample: synthetic, drawn by har_sweep when first used")
        elif data.source == "hub":
            if importlib.util.find_spec("datasets"):
                yield Check("data", NOTE, f"{data.hub_name}: looked up when the sweep starts")
            else:
                yield Check("data", PROBLEM, "data=hub needs a package more: datasets", "pip install 'har_sweep[hub]'")
        else:
            from har_sweep.data.sources import list_items
            from har_sweep.data.sources.listing import problems

            try:
                found = list_items(data, paths)
            except InputError as e:
                yield Check("data", PROBLEM, e.message, e.hint)
            else:
                broken = [f"{path}: {why}" for path, why in found.broken()]
                if broken and data.on_error == "fail":
                    finding = f"{data.name}: {problems(broken, 'broken image', 'broken images')}"
                    yield Check("data", PROBLEM, finding, "Repair or remove them, or set data.on_error=skip.")
                else:
                    yield Check("data", OK, f"{data.name}: {len(found.items)} images")


def weights(configs: list[Config], hub_problem: str) -> Iterator[Check]:
    """Whether timm knows each model, and its weights are on this machine, or can be had."""
    from har_sweep.config.check import usable_folders
    from har_sweep.errors import InputError
    from har_sweep.spec.weights import WORDS, ask_at_once, asks_about, facts_of, is_cached, on_command_line

    with suppress(OSError):  # told below
        ask_at_once([config.model for config in configs], Path(configs[0].paths.cache))
    for model, paths in distinct((config.model, config.paths) for config in configs):
        subject = f"weights of {model.name}"
        fetch = f"`python -m har_sweep.prefetch {on_command_line(model)}`"
        try:
            if asked := asks_about(model):
                with usable_folders(paths):
                    facts_of(asked, Path(paths.cache))
            cached = is_cached(model)
        except InputError as e:
            yield Check(subject, PROBLEM, e.message, e.hint)
            continue
        if model.weights == "scratch":
            yield Check(subject, OK, "none needed: model.weights=scratch")
        elif cached:
            yield Check(subject, OK, "on this machine")
        elif model.weights not in WORDS:
            yield Check(subject, PROBLEM, f"there is no file {model.weights}", "Correct model.weights.")
        elif not hub_problem:
            ahead = f"{fetch} fetches them ahead."
            yield Check(subject, NOTE, "not cached: downloaded when the sweep starts", ahead)
        elif model.weights == "if_available":
            yield Check(
                subject, NOTE, "not cached, and the hub is away: starts from scratch", "Prefetch them for more."
            )
        else:
            yield Check(
                subject,
                PROBLEM,
                f"not cached, and the hub is away: {hub_problem}",
                f"With network, {fetch}; or model.weights=FILE, or scratch.",
            )
