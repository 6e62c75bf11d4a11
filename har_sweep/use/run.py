"""The finished run that is named, and where on this machine it computes: decided without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from har_sweep.compact.variants import VARIANTS, refused
from har_sweep.config.schema import Config
from har_sweep.errors import InputError
from har_sweep.launch.again import check_finished, find_runs, planned_then
from har_sweep.launch.private import check_unexposed
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.record.record import Record
from har_sweep.spec.hardware import find_devices
from har_sweep.spec.precision import named
from har_sweep.spec.run_spec import RunSpec


@dataclass(frozen=True)
class FinishedRun:
    """``spec`` is the run as it was planned, but for where it computes now. ``note`` says that this is elsewhere."""

    record: Record
    paths: RunPaths
    spec: RunSpec
    note: str = ""


def find_finished(name: str, folder: Path, device: str | None) -> FinishedRun:
    """The run that is named by its id, the beginning of it, or its own folder, on a kind of device of this machine: by
    default that which it ran on, else the fastest here.

    Raises
    ------
    InputError
        if there is no such run, it is not finished or has no weights, or there is no such device.
    """
    own = RunPaths(Path(name))
    found = [own] if own.record.is_file() else find_runs([name], folder)
    if len(found) > 1:
        raise InputError(f"'{name}' are {len(found)} runs.", f"Name one of them: {found[0].folder.name}, say.")
    (paths,) = found
    record = read_record(paths.record)
    check_finished(record, paths)
    spec, note = _placed(planned_then(record, paths), record, device)
    if spec.config.targets:
        check_unexposed(paths.record)  # it names code
    return FinishedRun(record, paths, spec, note)


def _placed(spec: RunSpec, record: Record, asked: str | None) -> tuple[RunSpec, str]:
    """The run on a device of this machine: as it ran, where the device can; else in float32, which is said."""
    here = {device.kind: device for device in reversed(find_devices())}
    kind = asked or (spec.device if spec.device in here else find_devices()[0].kind)
    if kind not in here:
        raise InputError(f"--device {kind}: this machine has {', '.join(here)}.", "Take one of these.")
    device, then = here[kind], record.hardware.device_name.rpartition(" then ")[2]
    if record.variant:
        if why := refused(VARIANTS[record.variant], device):
            raise why
        as_it_ran, choice = True, named("fp32")  # its file says how it is computed
    else:
        can = spec.precision == "fp32" or device.name == then or getattr(device, spec.precision)
        as_it_ran = kind == spec.device and can
        choice = spec.choice if as_it_ran else named("fp32")
    compiled = spec.config.hardware.compile and as_it_ran
    hardware = replace(spec.config.hardware, device=kind, cpu_threads=None, compile=compiled)
    config = replace(spec.config, hardware=hardware, targets=_of_the_model(spec.config))
    placed = replace(spec, device=kind, choice=choice, config=config)
    note = f"It ran on {then} in {spec.precision}, and answers on {device.name} in {choice.way.precision}."
    return placed, "" if as_it_ran else note


def _of_the_model(config: Config) -> dict[str, str]:
    """The version of the user's own model; what else was the user's own, training alone needed."""
    return {target: version for target, version in config.targets.items() if target == config.model._target_}
