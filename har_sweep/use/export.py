"""The story of ``export``: a finished run's network as files that others use without this code."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from har_sweep.errors import InputError
from har_sweep.events import Tell
from har_sweep.files import from_here
from har_sweep.launch.terminal import Screen
from har_sweep.use.folder import becoming, check_replaceable
from har_sweep.use.run import FinishedRun, find_finished
from har_sweep.use.work import in_process


def export(name: str, folder: Path, to: Path | None, screen: Screen) -> None:
    """Write a run's export to a folder that is whole or not there; an earlier export is replaced.

    Raises
    ------
    InputError
        if the run or the folder cannot be used, or a file answers otherwise than the run; nothing is left of it then.
    Failed
        as ``in_process``.
    """
    run = find_finished(name, folder, device="cpu")
    if run.record.variant:
        raise InputError(
            f"{run.record.run_id} is a variant of {run.record.parent}, and its file is complete as it is: "
            f"{from_here(run.paths.folder)}.",
            f"Take it from there, or export {run.record.parent}.",
        )
    target = (to or Path("exports") / run.record.run_id).absolute()
    check_replaceable(target)
    with becoming(target) as staging:
        said = in_process(partial(_write, run, staging), "cpu", run.record.run_id, screen)
    screen.say(f"{from_here(target)}: {', '.join(sorted(file.name for file in target.iterdir()))}. {said}".strip())


def _write(run: FinishedRun, staging: Path, tell: Tell) -> str:
    from har_sweep.use.files import write_files

    return write_files(run, staging, tell)
