"""Variants of finished runs: first what is to be made is decided, then each is made and scored."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from har_sweep.compact.variants import VARIANTS, Variant, chosen_variants
from har_sweep.errors import InputError
from har_sweep.events import Tell
from har_sweep.files import digest
from har_sweep.launch.again import claimed, find_runs, plan_again
from har_sweep.launch.apart import apart
from har_sweep.launch.private import check_writable_runs
from har_sweep.launch.terminal import Screen
from har_sweep.record.folder import RunPaths, find_record, is_done, read_record
from har_sweep.spec.hardware import device_of
from har_sweep.spec.run_spec import RunSpec


@dataclass(frozen=True)
class Planned:
    """A finished run, its variants that are to be made and those that are there already, each with its folder."""

    spec: RunSpec
    to_make: dict[str, RunPaths]
    there: dict[str, RunPaths]


def compact(
    names: list[str], given: str | None, folder: Path, patience_seconds: float, rerun: bool, screen: Screen
) -> int:
    """Make variants of the runs that are named, ``given`` or the usual ones; 1 if one could not be made, else 0.

    Raises
    ------
    InputError
        before anything was made, if one of the runs cannot have them.
    """
    planned = plan_variants(names, given, folder, rerun, screen)
    failed = sum(make_of(plan, patience_seconds, screen) for plan in planned)
    rows = []
    for plan in planned:
        rows.append((read_record(plan.spec.paths.record), plan.spec.name, plan.spec.run_id, "done"))
        for name, paths in (plan.there | plan.to_make).items():
            if record := find_record(paths):
                rows.append((record, f"{plan.spec.name} {name}", record.run_id, record.status))
    screen.table("Runs and their variants", rows)
    screen.say("`python -m multirun_analysis` puts them on the same front.")
    return int(failed > 0)


def plan_variants(names: list[str], given: str | None, folder: Path, rerun: bool, screen: Screen) -> list[Planned]:
    """What is to be made; raises InputError for what cannot be, of all runs at once before anything is."""
    specs = plan_again(find_runs(names, folder), screen)
    planned = []
    for spec in specs:
        record = read_record(spec.paths.record)
        variants = chosen_variants(given, record, device_of(spec.device))
        if not variants:
            raise InputError(
                f"{device_of(spec.device).name} has no instructions that a variant of {spec.run_id} would profit from, "
                "as far as is known.",
                "Name what to try: variants=onnx,int8_dynamic",
            )
        folders = {variant.name: variant_paths(spec, variant) for variant in variants}
        there = {name: paths for name, paths in folders.items() if is_done(paths) and not rerun}
        check_writable_runs(folders.values())
        planned.append(Planned(spec, {n: p for n, p in folders.items() if n not in there}, there))
    return planned


def variant_paths(spec: RunSpec, variant: Variant) -> RunPaths:
    """A variant's folder beside its parent's, named by the parent's weights and by how it is made."""
    identity = f"{spec.run_id} {variant.name} {digest(spec.paths.model).hex()}"
    short = hashlib.sha256(identity.encode()).hexdigest()[:10]
    name = re.sub(r"[^a-z0-9._]+", "_", f"{spec.config.model.name}_{variant.name}".lower())
    return RunPaths(spec.paths.folder.parent / f"{name}-{short}")


def make_of(plan: Planned, patience_seconds: float, screen: Screen) -> int:
    """Make and score the variants of a run; returns how many could not be."""
    if not plan.to_make:
        return 0
    spec, failed = plan.spec, 0
    with screen.live():
        made = apart(partial(_make, spec, plan.to_make), "cpu", spec.run_id, spec.paths.log, screen)
        if made is None:
            return len(plan.to_make)
        for why in made.value.values():
            screen.warn(f"{spec.run_id}  {why}")
        for name, paths in plan.to_make.items():
            if name in made.value:
                failed += 1
                continue
            work = partial(_score, spec, name, paths, patience_seconds)
            failed += apart(work, spec.device, f"{spec.run_id} {name}", paths.log, screen) is None
    return failed


def _make(spec: RunSpec, folders: dict[str, RunPaths], tell: Tell) -> dict[str, str]:
    from har_sweep.compact.score import make_files

    for paths in folders.values():
        paths.folder.mkdir(exist_ok=True)
    return make_files(spec, folders, tell)


def _score(spec: RunSpec, name: str, paths: RunPaths, patience_seconds: float, tell: Tell) -> None:
    from har_sweep.compact.score import score

    with claimed(paths) as own:
        score(spec, VARIANTS[name], own, patience_seconds, tell)
