"""A run's record from its first moment to its last."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from omegaconf import OmegaConf

from har_sweep.data.dataset import Dataset
from har_sweep.device.out_of_memory import is_out_of_memory
from har_sweep.errors import FREE_SOME, ClaimLost, InputError, Interrupted, RunFailure, is_disk_full
from har_sweep.events import Event, Line, Tell
from har_sweep.files import redact, redact_text
from har_sweep.record.environment import environment, slurm_job_id
from har_sweep.record.folder import RunPaths, find_record, write_record
from har_sweep.record.record import (
    Attempt,
    DatasetInfo,
    Hardware,
    ModelInfo,
    Record,
    RunError,
    Status,
    close_attempt,
    utc_now,
)
from har_sweep.spec.precision import lacks_bf16
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop


def begin(spec: RunSpec, dataset: Dataset) -> Record:
    """The run's record, new or taken up again where a job before left off, with this job as its latest attempt."""
    paths = spec.paths
    old = find_record(paths)
    if old and old.status != "done":
        record = old
        close_attempt(record, "killed", "It ended without a word.", utc_now(paths.last_seen()))
        record.error, record.finished_at = None, None
    else:
        record = new_record(spec, dataset)
        if old:  # it is computed again
            paths.remove_training()
        elif paths.record.exists():
            damaged = paths.folder / "damaged-record.json"
            paths.link(paths.record, damaged)
            record.warnings.append(f"An earlier record could not be read, and was kept as {damaged.name}.")
    record.status, record.environment = "running", environment(spec.git_commit, spec.git_dirty)
    if spec.sweep not in record.sweeps:
        record.sweeps.append(spec.sweep)
    job = slurm_job_id() or f"pid {os.getpid()}"
    record.attempts.append(Attempt(job=job, host=socket.gethostname(), started_at=utc_now()))
    write_record(record, paths)
    with paths.writing(paths.config, "w") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(record.config)))
    return record


def new_record(spec: RunSpec, dataset: Dataset) -> Record:
    """What is known of a run before it starts."""
    config, size = spec.config, spec.model.input_size
    return Record(
        run_id=spec.run_id,
        status="running",
        name=spec.name,
        sweeps=[spec.sweep],
        seed=config.seed,
        config=redact(asdict(config) | ({"hydra": {"launcher": asdict(spec.slurm)}} if spec.slurm else {})),
        overrides=spec.overrides,
        started_at=utc_now(),
        environment=environment(spec.git_commit, spec.git_dirty),
        hardware=_hardware(spec),
        dataset=DatasetInfo(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            split_fingerprint=dataset.split_fingerprint,
            classes=dataset.classes,
            counts=dataset.counts(),
            synthetic=dataset.synthetic,
            skipped_images=len(dataset.skipped),
            root=str(dataset.root),
            test_is_val=dataset.test_is_val,
        ),
        model=ModelInfo(
            name=config.model.name,
            timm_name=spec.model.timm_name,
            weights=spec.model.weights,
            input_size=[3, size, size],
            weights_requested=config.model.weights,
        ),
        selection=config.trainer.selection,
        warnings=list(spec.warnings),
    )


def _hardware(spec: RunSpec) -> Hardware:
    """As far as it is known before the run's process has opened the device."""
    choice, count = spec.choice, spec.config.hardware.device_count
    return Hardware(
        spec.device, spec.device, count, spec.precision, kernels=choice.way.kernels, cuda_graph=choice.way.graph,
        chosen=choice.why,
        images_per_second=choice.images_per_second,
        measured_batch_size=choice.measured.batch_size if choice.measured else None,
        unaccelerated="bf16" if lacks_bf16(spec.device, spec.precision) else "",
    )  # fmt: skip


def conclude(record: Record, status: Status, why: str | None) -> None:
    """End the run and its attempt."""
    record.status, record.finished_at = status, utc_now()
    record.attempts[-1].ended_at = None  # it may have been closed as done, and not have been written
    close_attempt(record, status, why, record.finished_at)


@contextmanager
def concluding(record: Record, paths: RunPaths, stop: Stop) -> Iterator[None]:
    """Around a run's work: what breaks it off ends the run, not the process, and stands in its record.

    Raises
    ------
    ClaimLost
        when another process has taken the run over; nothing more is written.
    """
    try:
        yield
    except ClaimLost:
        raise
    except (Interrupted, KeyboardInterrupt) as asked:
        with stop.deferred():  # another rank may have been asked first
            conclude(record, "interrupted", str(asked) or stop.reason)
            write_record(record, paths)
    except Exception as error:
        record.error = run_error(error)
        conclude(record, "failed", record.error.message)
    write_record(record, paths)


def noting(record: Record, tell: Tell) -> Tell:
    """``tell``, but what is told as a warning also stands in the record."""

    def note(event: Event) -> None:
        if isinstance(event, Line) and event.warning and event.text not in record.warnings:
            record.warnings.append(event.text)
        tell(event)

    return note


def run_error(error: Exception) -> RunError:
    """What went wrong, in the record's words."""
    trace = redact_text("".join(traceback.format_exception(error)))
    if isinstance(error, RunFailure):
        return RunError(error.kind, error.message, error.hint, trace)
    if isinstance(error, InputError):
        return RunError("input", error.message, error.hint, trace)
    if is_disk_full(error):
        return RunError("disk_full", str(error), FREE_SOME, trace)
    if is_out_of_memory(error):
        return RunError("out_of_memory", str(error), "Try a smaller trainer.batch_size or model.", trace)
    return RunError(type(error).__name__, str(error), "The traceback is in the record and in run.log.", trace)
