"""What the environment says to Weights & Biases: decided once, while planning, so that every job goes by the same.

A key of ``tracking`` that is given beats its variable. docs/wandb.md lists every variable that the client documents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from har_sweep.config.schema import TrackingConfig
from har_sweep.errors import InputError, nearest

DEFAULTS: dict[str, Any] = {
    "mode": "offline", "project": "har_sweep", "tags": [], "job_type": "train", "git": True, "system_metrics": True,
}  # fmt: skip
"""Of the keys that are null where nothing is said; the others stay so."""
OF_A_TRIAL = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_PROJECT", "WANDB_ENTITY")
"""What a W&B agent says to a trial, and the client has to hear."""
_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
_LONGEST_PROJECT, _NOT_IN_A_PROJECT = 128, "/\\#?%:"  # the client refuses others, when the run has begun
_YES, _NO = ("true", "1", "yes", "y", "on"), ("false", "0", "no", "n", "off")
NOT_FOLLOWED = {
    "WANDB_RUN_ID": "a run's id follows from what it is, so that it is there once",
    "WANDB_RESUME": "a run that goes on is always the same run there",
    "WANDB_DATA_DIR": "what waits to be uploaded lies beside its run",
    "WANDB_SAVE_CODE": "no code is sent",
    "WANDB_CONSOLE": "what a run prints is in its run.log, and is not sent",
}
"""Why not, by variable."""


def decided(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> TrackingConfig:
    """The same, with what the environment or a default says in the place of every null.

    Raises
    ------
    InputError
        for a variable that means nothing, a project that cannot be, and a trial that is not where its sweep is.
    """
    if tracking.backend != "wandb":
        return tracking
    said = {key: value for key, value in _said(environment).items() if value is not None}
    trial = {name: environment[name] for name in OF_A_TRIAL if environment.get(name)}
    trial = trial if "WANDB_SWEEP_ID" in trial else {}
    for key in ("project", "entity") if trial else ():
        if (given := getattr(tracking, key)) not in (None, said.get(key)):
            raise InputError(
                f"tracking.{key}={given}: a W&B agent's trial is where its sweep is.", f"Leave tracking.{key} out."
            )
    if trial:
        said = {"mode": "online", **said}
    filled = {key: value for key, value in (DEFAULTS | said).items() if getattr(tracking, key) is None}
    found = replace(tracking, trial=trial, **filled)
    if len(str(found.project)) > _LONGEST_PROJECT or set(_NOT_IN_A_PROJECT) & set(str(found.project)):
        key = "tracking.project" if tracking.project is not None else "WANDB_PROJECT"
        raise InputError(
            f"{key}={found.project} cannot be a project's name at Weights & Biases.",
            f"At most {_LONGEST_PROJECT} characters, none of {' '.join(_NOT_IN_A_PROJECT)}; whose it is says "
            "tracking.entity.",
        )
    return found


def followed(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that say what a run's tracking was decided to be, by the key of each."""
    said = _said(environment) if tracking.backend == "wandb" else {}
    told = [
        key for key, value in said.items() if value not in (None, DEFAULTS.get(key)) and value == getattr(tracking, key)
    ]
    names = {key: name for key, (name, _) in VARIABLES.items()}
    return {key: names[key] if environment.get(names[key]) else "WANDB_DISABLED" for key in told}


def not_followed(tracking: TrackingConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each variable that is set and that nobody goes by."""
    if tracking.backend != "wandb" or tracking.mode == "disabled":
        return []
    names = [name for name in NOT_FOLLOWED if environment.get(name) and name not in tracking.trial]
    return [f"{name} is not followed: {NOT_FOLLOWED[name]}." for name in names]


def _said(environment: Mapping[str, str]) -> dict[str, Any]:
    """What each variable says of its key; None where it is not set, or empty."""
    texts = {key: environment.get(name, "").strip() for key, (name, _) in VARIABLES.items()}
    said = {key: read(VARIABLES[key][0], texts[key]) if texts[key] else None for key, (_, read) in VARIABLES.items()}
    off = environment.get("WANDB_DISABLED", "").strip()
    if off and _is_yes("WANDB_DISABLED", off) and not said["mode"]:
        said["mode"] = "disabled"
    return said


def _mode(name: str, text: str) -> str:
    if text == "shared":
        raise InputError(f"{name}=shared is for runs that several processes write.", "Here one does: set it to online.")
    if text not in _MODES:
        near = nearest(text, _MODES)
        raise InputError(f"{name}={text} is no mode.", near or "Set it to online, offline or disabled.")
    return _MODES[text]


def _is_yes(name: str, text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise InputError(f"{name}={text} is neither true nor false.", "Set it to true, or unset it.")
    return text.lower() in _YES


def _word(name: str, text: str) -> str:
    return text


def _tags(name: str, text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _folder(name: str, text: str) -> str:
    if os.path.exists(text) and not os.path.isdir(text):
        raise InputError(f"{name}={text} is a file, not a folder.", "Set it to a folder, or unset it.")
    return os.path.abspath(text)


def _may(name: str, text: str) -> bool:
    return not _is_yes(name, text)


VARIABLES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "mode": ("WANDB_MODE", _mode), "project": ("WANDB_PROJECT", _word), "entity": ("WANDB_ENTITY", _word),
    "group": ("WANDB_RUN_GROUP", _word), "name": ("WANDB_NAME", _word), "notes": ("WANDB_NOTES", _word),
    "tags": ("WANDB_TAGS", _tags), "job_type": ("WANDB_JOB_TYPE", _word), "dir": ("WANDB_DIR", _folder),
    "git": ("WANDB_DISABLE_GIT", _may), "system_metrics": ("WANDB_X_DISABLE_STATS", _may),
}  # fmt: skip
"""By key of ``tracking``, the variable that speaks for it where it is null, and what reads it."""
