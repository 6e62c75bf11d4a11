"""Whether files of weights fit the models that shall start from them: seen while planning, once a file."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from har_sweep.errors import InputError
from har_sweep.files import atomic, short_hash
from har_sweep.launch.ask import Ask, Unanswered
from har_sweep.launch.terminal import Screen
from har_sweep.spec.run_spec import RunSpec


def check_weights(specs: list[RunSpec], ask: Ask, screen: Screen) -> None:
    """Build each model that shall start from a file of the user's, unless it was seen before that it can be.

    Raises
    ------
    InputError
        naming all of them that cannot be.
    """
    asked = {_seen(spec): spec for spec in reversed(specs) if spec.model.weights.startswith("sha256:")}
    refused = list[tuple[str, str]]()
    for seen, spec in reversed(asked.items()):
        if seen.exists():
            continue
        file, model = spec.config.model.weights, spec.config.model.name
        screen.progress(f"Looking whether {file} fits {model}, about 10 s, once", 0, 0)
        try:
            if why := ask("refusal", spec):
                refused.append(why)
                continue
        except Unanswered as e:
            screen.warn(f"Whether {file} fits {model} could not be seen while planning ({e}).")
            continue
        with atomic(seen) as out:
            out.write(spec.model.timm_name.encode())
    if refused:
        several = "\n".join(f"{message} {hint}" for message, hint in refused)
        raise InputError(*refused[0]) if len(refused) == 1 else InputError(several, "Nothing was started.")


def _seen(spec: RunSpec) -> Path:
    """The file that says that a run's model was built from its weights before."""
    model, config = spec.model, spec.config.model
    version = importlib.metadata.version("timm")
    setting = [version, model.weights, model.timm_name, model.input_size, config.drop_path_rate, config.arguments]
    return Path(spec.config.paths.cache) / "fits" / short_hash(setting)
