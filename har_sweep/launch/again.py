"""Finished runs measured again, each in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from har_sweep.config.check import usable_folders
from har_sweep.data.prepare import prepare_dataset
from har_sweep.errors import InputError, RunFailure, nearest
from har_sweep.events import Tell
from har_sweep.launch.apart import apart
from har_sweep.launch.journal import read_sweeps
from har_sweep.launch.private import check_unexposed, check_writable_runs, refusing_others_folders
from har_sweep.launch.teachers import trusted_teacher
from har_sweep.launch.terminal import Screen
from har_sweep.record.claim import living_owner, take_claim
from har_sweep.record.folder import RunPaths, read_record, runs_named
from har_sweep.record.record import Hardware, Record
from har_sweep.spec.finished import as_planned
from har_sweep.spec.hardware import device_named, find_devices, logical_cores
from har_sweep.spec.precision import Choice, Way, named
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop


def measure_again(names: list[str], folder: Path, patience_seconds: float, screen: Screen) -> int:
    """Measure the runs that are named; 1 if one of them could not be, else 0.

    Raises
    ------
    InputError
        before anything was measured, if one of them cannot be on this machine.
    """
    specs = [_taught_again(spec, screen) for spec in plan_again(find_runs(names, folder), screen)]
    failed = 0
    with screen.live():
        for number, spec in enumerate(specs, 1):
            label = f"[{number}/{len(specs)}] {spec.run_id}"
            work = partial(_measure, spec, patience_seconds)
            failed += apart(work, spec.device, label, spec.paths.log, screen) is None
    rows = [(read_record(spec.paths.record), spec.name, spec.run_id, "done") for spec in specs]
    screen.table("What counts of all that was measured", rows)
    return int(failed > 0)


def find_runs(names: Iterable[str], folder: Path) -> list[RunPaths]:
    """The runs in ``folder`` that are named by their ids, the beginnings of these, or their sweeps; each once.

    Raises
    ------
    InputError
        for a name of none or of several.
    """
    there = runs_named("", folder)
    sweeps = {note.name: [run.run_id for run in note.runs] for note in read_sweeps(folder)}
    found: dict[str, None] = {}
    for name in names:
        runs = [name] if name in there else sweeps.get(name) or runs_named(name, folder)
        if not runs:
            hint = nearest(name, [*there, *sweeps]) or "Name the folder of the runs with paths.runs=FOLDER."
            raise InputError(f"There is no run and no sweep '{name}' in {folder}.", hint)
        if name not in sweeps and len(runs) > 1:
            raise InputError(f"'{name}' may be {', '.join(runs[:6])}.", "Give more of its id, or its sweep's name.")
        found.update(dict.fromkeys(runs))
    return [RunPaths(folder / run) for run in found]


@refusing_others_folders()
def plan_again(runs: list[RunPaths], screen: Screen) -> list[RunSpec]:
    """What is to be measured, in the words of a sweep; raises InputError, of all at once, for what cannot be here."""
    check_writable_runs(runs)
    specs, refused = [], list[InputError]()
    with screen.live():
        for paths in runs:
            try:
                record = read_record(paths.record)
                check_unexposed(paths.record)  # it names code, and the images that go into the cache
                check_measurable(record, paths)
                specs.append(_spec(record, paths, screen))
            except FileNotFoundError:
                refused.append(InputError(f"{paths.folder.name} has not begun.", "Give its sweep's command first."))
            except InputError as e:
                refused.append(e)
    if refused:
        raise InputError("\n".join(f"{e.message} {e.hint}" for e in refused), "Nothing was started.")
    return specs


def check_finished(record: Record, paths: RunPaths) -> None:
    """Refuse what is not finished, or has no weights."""
    run = record.run_id
    if record.status != "done" or living_owner(paths.folder):
        state = "running" if living_owner(paths.folder) else record.status
        raise InputError(f"{run} is {state}, not done.", "The same sweep command goes on with it.")
    if not (paths.model.exists() or paths.onnx.exists()):
        raise InputError(f"{run} has kept no weights.", "Compute it again with trainer.save_model=true rerun=true.")


def check_measurable(record: Record, paths: RunPaths) -> None:
    """Refuse what ``check_finished`` does, and what was measured where this machine is another."""
    check_finished(record, paths)
    run, there = record.run_id, record.hardware
    if record.variant:
        raise InputError(
            f"{run} is a variant of {record.parent}.",
            f"`python -m har_sweep.compact {record.parent} variants={record.variant} rerun=true` makes and measures it "
            "anew.",
        )
    if there.device not in {device.kind for device in find_devices()}:
        raise InputError(f"{run} ran on {there.device}, which this machine lacks.", "Measure it where it ran.")
    if (here := device_named(there.device)) != there.device_name.rpartition(" then ")[2]:
        raise InputError(f"{run} ran on {there.device_name}; this is {here}.", "Measure it where it ran.")
    if there.device == "cpu" and (there.cpu_threads or 0) > logical_cores():
        raise InputError(
            f"{run} ran with {there.cpu_threads} threads; this process may use {logical_cores()}.",
            "Give it as many cores as it had.",
        )


def _spec(record: Record, paths: RunPaths, screen: Screen) -> RunSpec:
    """The run as it was planned, its images too."""
    spec = planned_then(record, paths)
    config = spec.config
    with usable_folders(config.paths):
        sizes = sorted({spec.model.input_size, spec.source_size})
        dataset = prepare_dataset(config.data, config.paths, sizes, screen.progress)
    theirs, ours = record.dataset, (dataset.fingerprint, dataset.split_fingerprint)
    if ours != (theirs.fingerprint, theirs.split_fingerprint):
        raise InputError(f"{record.run_id}: its images are not what they were.", "Bring back those that it was of.")
    return replace(spec, dataset_file=dataset.file)


def planned_then(record: Record, paths: RunPaths) -> RunSpec:
    """The run as it was planned but for its images, from its record; its weights are those that it kept, so that it
    starts from none."""
    config, plan = as_planned(record)
    hardware = replace(config.hardware, device=record.hardware.device, cpu_threads=record.hardware.cpu_threads)
    config = replace(config, hardware=hardware, paths=replace(config.paths, runs=str(paths.folder.parent)))
    return RunSpec(
        run_id=record.run_id,
        name=record.name,
        label=record.run_id,
        config=config,
        overrides=record.overrides,
        sweep=record.sweeps[-1],
        model=plan,
        device=record.hardware.device,
        choice=_choice(record.hardware),
        dataset_file=Path(),
        warnings=(),
        halvings=sum(attempt.outcome == "out_of_memory" for attempt in record.attempts),
    )


def _taught_again(spec: RunSpec, screen: Screen) -> RunSpec:
    """With the teacher that it had, for its training steps; raises InputError if that is not what it was."""
    if spec.config.teacher is None:
        return spec
    teacher = trusted_teacher(spec.config, screen)
    if teacher.identity != spec.config.objective.taught_by:
        raise InputError(f"{spec.run_id}: its teacher is not what it was.", "Bring back the weights that it had.")
    return replace(spec, teacher=teacher)


def _choice(then: Hardware) -> Choice:
    if then.kernels is None:
        return named(then.precision, then.device)
    return Choice(Way(then.precision, then.kernels, then.cuda_graph))


def _measure(spec: RunSpec, patience_seconds: float, tell: Tell) -> None:
    """In the process: measure a run under a claim."""
    from har_sweep.run.remeasure import remeasure

    with claimed(spec.paths) as paths:
        remeasure(replace(spec, claim=paths.claim), tell, Stop(), patience_seconds)


@contextmanager
def claimed(paths: RunPaths) -> Iterator[RunPaths]:
    """A run's folder under a claim of this process, which ends when it loses that; raises RunFailure if another has
    it."""
    claim = take_claim(paths.folder, on_lost=lambda: os.kill(os.getpid(), signal.SIGTERM))
    if claim is None:
        raise RunFailure("claimed", "Another process has the run.", "Give the same command when that is over.")
    with claim:
        yield replace(paths, claim=claim.number)
