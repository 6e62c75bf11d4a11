"""Whether parts that are not ours will do: asked while planning, of a child process that imports them."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from har_sweep.config.schema import Config
from har_sweep.config.sections import OURS, SECTIONS, settings_of
from har_sweep.config.targets import WANTED, load, targets_of, version_of
from har_sweep.errors import InputError, nearest
from har_sweep.events import Progress
from har_sweep.files import PACKAGE, keep, kept


def decide(configs: list[Config], progress: Progress) -> list[dict[str, str]]:
    """Refuse what is not ours and will not do; of each config the versions of its targets, for ``Config.targets``.

    A child process imports what is named, once for each version; what it found is kept in ``paths.cache``.

    Raises
    ------
    InputError
        if a target or a name of timm's does not exist, does not take its arguments, or is no such part.
    """
    versions, questions = list[dict[str, str]](), list[str]()
    for config in configs:
        if config.targets:
            raise InputError("targets cannot be given: it is filled in while planning.", "Leave it out.")
        versions.append({target: version_of(target) for target in targets_of(config)})
        questions += _questions(config)
    if questions:
        _ask(list(dict.fromkeys(questions)), Path(configs[0].paths.cache), progress)
    return versions


def _questions(config: Config) -> list[str]:
    """About each part that is not ours, as JSON; ``version`` says when to ask again."""
    questions = []
    for name in SECTIONS:
        part = getattr(config, name)
        foreign = name in OURS and part.name not in OURS[name]
        if (part._target_ or foreign) and name != "data":  # whose listing follows, in this process
            given = settings_of(part) if name == "optimizer" else part.arguments
            version = version_of(part._target_ or "timm")
            question = {"section": name, "target": part._target_, "name": part.name, "given": sorted(given)}
            questions.append(json.dumps({**question, "version": version}, sort_keys=True))
    return questions


def _ask(questions: list[str], cache_folder: Path, progress: Progress) -> None:
    folder = cache_folder / "parts"
    if not (new := [question for question in questions if not kept(folder, json.loads(question), bool)]):
        return
    named = [asked["target"] or asked["name"] for asked in map(json.loads, new)]
    progress(f"Looking at {', '.join(named)}, about 6 s, once", 0, 1)
    code = "import sys; from har_sweep.spec.parts import answer; print(answer(sys.argv[1:]))"
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent.resolve()), os.environ.get("PYTHONPATH")]))
    child = subprocess.run(
        [sys.executable, "-c", code, *new], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise InputError(
            f"{', '.join(named)} cannot be looked at: {last}", "Import it in Python to see the whole error."
        )
    if wrong := json.loads(child.stdout.splitlines()[-1]):
        raise InputError(wrong["message"], wrong["hint"])
    for question in new:
        keep(folder, json.loads(question), True)


def answer(questions: list[str]) -> str:
    """In the child: what speaks against the first part that will not do, as JSON; empty if all will."""
    for asked in map(json.loads, questions):
        try:
            _examine(asked["section"], asked["target"], asked["name"], asked["given"])
        except InputError as e:
            return json.dumps({"message": e.message, "hint": e.hint})
    return "{}"


def _examine(section: str, target: str | None, name: str, given: list[str]) -> None:
    if target:
        part = load(target)
        if not callable(part):
            raise InputError(
                f"{section}._target_={target} is no function or class, but {type(part).__name__}.", WANTED[section]
            )
        if section in ("optimizer", "scheduler"):
            _examine_torch_class(section, target, part)
        _examine_arguments(section, target, part, given)
    elif section == "optimizer":
        _examine_timm_optimizer(name, given)
    else:
        from timm.scheduler.scheduler_factory import create_scheduler_v2

        _examine_arguments(section, name, create_scheduler_v2, given, set_by_us=TIMM_SCHEDULE_KEYS)


PASSED = {"model": ((), {"num_classes": 0}), "optimizer": ((None,), {}), "scheduler": ((None,), {})}
"""What we call each part with, beside the user's arguments."""
TIMM_SCHEDULE_KEYS = {
    "optimizer": "optimizer", "sched": "scheduler.name", "num_epochs": "trainer.epochs",
    "min_lr": "scheduler.final_lr_fraction", "warmup_epochs": "scheduler.warmup_epochs", "step_on_epochs": None,
    "updates_per_epoch": None, "patience_epochs": None, "plateau_mode": None,
}  # fmt: skip
"""The arguments of timm's scheduler factory that are ours to give, and the key that each follows from."""


def _examine_torch_class(section: str, target: str, part: Any) -> None:
    import torch

    base = torch.optim.Optimizer if section == "optimizer" else torch.optim.lr_scheduler.LRScheduler
    if not inspect.isclass(part) or not issubclass(part, base):
        raise InputError(f"{section}._target_={target} is no {base.__name__}.", WANTED[section])
    needs = [
        p.name
        for p in list(inspect.signature(part.step).parameters.values())[1:]
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if needs:
        raise InputError(
            f"{section}._target_={target} wants {' and '.join(needs)} in each step, which is not at hand there.",
            "Take another; the learning-rate schedules here depend on the step alone."
            if section == "scheduler"
            else "Take one that needs a single backward pass.",
        )
    if section == "optimizer" and hasattr(part, "eval"):
        raise InputError(
            f"{section}._target_={target} has other weights for evaluation (eval()), which is not supported.",
            "Take another, with trainer.ema_decay for an average of the weights.",
        )


def _examine_timm_optimizer(name: str, given: list[str]) -> None:
    from timm.optim import get_optimizer_class, get_optimizer_info, list_optimizers

    known = [str(each) for each in list_optimizers()]
    if name not in known:
        raise InputError(
            f"There is no optimizer '{name}' (optimizer.name).",
            f"{nearest(name, known)} timm has {', '.join(known)}.".strip(),
        )
    info = get_optimizer_info(name)
    if info.second_order:
        raise InputError(f"optimizer.name={name} needs second derivatives, which are not computed.", "Take another.")
    try:
        part = get_optimizer_class(name, bind_defaults=False)
    except (ImportError, AssertionError) as e:
        raise InputError(f"optimizer.name={name} cannot be had here: {e}.", "Install it, or take another.") from e
    for key, taken in (("betas", info.has_betas), ("momentum", info.has_momentum), ("eps", info.has_eps)):
        if key in given and not taken:
            raise InputError(
                f"optimizer.{key} is set, and {name} takes none.",
                f"Write optimizer=timm optimizer.name={name}, which sets none.",
            )
    _examine_arguments("optimizer", name, part, given)


def _examine_arguments(
    section: str, what: str, part: Any, given: list[str], set_by_us: dict[str, str | None] | None = None
) -> None:
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):  # written in C: the run will tell
        return
    names = [n for n, p in signature.parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in given:
        if set_by_us and key in set_by_us:
            ours = set_by_us[key]
            raise InputError(
                f"{section}.{key} is not for {what} here.", f"Set {ours} instead." if ours else "Leave it out."
            )
        if key not in names and not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            raise InputError(
                f"{what} takes no argument '{key}' ({section}.{key}).",
                f"{nearest(key, names)} It takes {', '.join(names)}.".strip(),
            )
    if set_by_us is not None:
        return
    images = () if inspect.isclass(part) else (None,)
    positional, keywords = PASSED.get(section, (images, {}))
    try:
        signature.bind(
            *positional,
            **{**dict.fromkeys(given), **keywords, **({"total_steps": 0} if "total_steps" in names else {})},
        )
    except TypeError as e:
        raise InputError(
            f"{section}._target_={what} cannot be called: {e}.",
            f"{WANTED[section]} Arguments go beside it: +{section}.NAME=VALUE.",
        ) from e
