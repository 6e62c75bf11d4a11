"""What distilled runs are to be compared with: the same training without a teacher."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from har_sweep.config.schema import ObjectiveConfig
from har_sweep.data.dataset import Dataset
from har_sweep.launch.plan import Planned, identified
from har_sweep.launch.terminal import Screen
from har_sweep.record.folder import is_done
from har_sweep.spec.run_spec import RunSpec


def propose_twins(planned: list[Planned], screen: Screen) -> None:
    """Say which distilled runs have no undistilled twin, neither in their sweep nor done in the runs folder, and what
    to type for it."""
    here = {p.spec.run_id for p in planned}
    twins = {p.spec.run_id: undistilled(p.spec) for p in planned if p.spec.teacher}
    alone = [p.spec for p in planned if p.spec.run_id in twins and _is_missing(twins[p.spec.run_id], here)]
    if alone:
        runs = "A distilled run has" if len(alone) == 1 else f"{len(alone)} distilled runs have"
        screen.warn(
            f"{runs} no undistilled twin of as many epochs, without which nothing shows what the teacher was good "
            f"for. It is one command more: {twins_command(alone)}"
        )


def _is_missing(twin: RunSpec, here: set[str]) -> bool:
    return twin.run_id not in here and not is_done(twin.paths)


def undistilled(spec: RunSpec) -> RunSpec:
    """The run's twin, which learns from the labels alone."""
    config = replace(spec.config, objective=ObjectiveConfig(), teacher=None)
    return identified(replace(spec, config=config, teacher=None), Dataset.read(spec.dataset_file))


def twins_command(specs: Sequence[RunSpec]) -> str:
    """What to type for the undistilled twins of some runs: in one command where they differ in one key at most."""
    asked = list(dict.fromkeys(tuple(o for o in spec.overrides if not _is_left_out(o)) for spec in specs))
    columns = [list(dict.fromkeys(column)) for column in zip(*asked, strict=False)]
    varied = [column for column in columns if len(column) > 1]
    if len({len(line) for line in asked}) > 1 or len(varied) > 1:
        return " ; ".join(shlex.join(["python", "-m", "har_sweep", *line]) for line in asked)
    words = [column[0] + "".join("," + other.partition("=")[2] for other in column[1:]) for column in columns]
    return shlex.join(["python", "-m", "har_sweep", *(["-m"] if varied else []), *words])


def _is_left_out(override: str) -> bool:
    key = override.partition("=")[0].lstrip("+~")
    return key in ("objective", "teacher", "launch.dry_run") or key.startswith("objective.")
