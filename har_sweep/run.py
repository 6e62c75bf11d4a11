"""One run from start to finish. Nobody else knows the order of things."""

from __future__ import annotations

import errno
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf

from har_sweep import checkpoint
from har_sweep import compute as computing
from har_sweep import record as records
from har_sweep.cost.energy import measured_energy
from har_sweep.cost.inference import measure_latency
from har_sweep.cost.memory import memory_now, peak_memory
from har_sweep.cost.static import static_costs
from har_sweep.data import Dataset
from har_sweep.distributed import Link, Ranks, lead
from har_sweep.environment import environment, slurm_job_id
from har_sweep.errors import ClaimLost, InputError, Interrupted, RunFailure
from har_sweep.evaluate import Predictions, forward_of, metrics, predict
from har_sweep.events import Event, Line, Phase, Tell
from har_sweep.learner import is_out_of_memory
from har_sweep.model import build_model
from har_sweep.record import Attempt, InferenceCost, Record, RunError, RunPaths
from har_sweep.spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.tracking import Tracker
from har_sweep.train import Trained, train


def execute(spec: RunSpec, tell: Tell, stop: Stop) -> Record:
    """Train, evaluate and measure one run in this process; its record is on disk from the first moment to the last.

    With several devices this is rank 0, which starts the other ranks unless they are tasks of its SLURM job.

    An error ends the run, not the process: it stands in the record that is returned.

    Raises
    ------
    ClaimLost
        when another process has taken the run over; nothing more is written.
    """
    paths, dataset = spec.paths, Dataset.read(spec.dataset_file)
    with stop.deferred():
        record = begin(spec, dataset)
    if spec.config.trainer.on_oom == "split":
        spec = replace(spec, splits=sum(attempt.outcome == "out_of_memory" for attempt in record.attempts))

    def note(event: Event) -> None:
        """What is told as a warning also stands in the record."""
        if isinstance(event, Line) and event.warning and event.text not in record.warnings:
            record.warnings.append(event.text)
        tell(event)

    def warn(text: str) -> None:
        note(Line(text, warning=True))

    tracker: Tracker | None = None
    try:
        try:
            tell(Phase("Starting"))
            tracker = Tracker(spec.config.tracking, record, paths, warn)
            with lead(spec, stop) as ranks:
                predictions = measure(spec, dataset, record, tracker, ranks, note, warn, stop)
                with stop.deferred():
                    conclude(record, "done", None)
                    paths.check()
                    tracker.finish(record, dataset, predictions)  # first: nobody comes back to a run that is done
                    records.write(record, paths)
                    for leftover in (paths.checkpoint, paths.selected):
                        leftover.unlink(missing_ok=True)
        except ClaimLost:
            raise
        except (Interrupted, KeyboardInterrupt) as asked:
            with stop.deferred():  # another rank may have been asked first
                conclude(record, "interrupted", str(asked) or stop.reason)
                records.write(record, paths)
        except Exception as error:
            record.error = explain(error)
            conclude(record, "failed", record.error.message)
        records.write(record, paths)
        if tracker:
            tracker.close(0 if record.status == "done" else 1)
            records.write(record, paths)  # once more: closing may have warned
    except ClaimLost:
        if tracker:
            tracker.abandon()
        raise
    return record


def measure(
    spec: RunSpec,
    dataset: Dataset,
    record: Record,
    tracker: Tracker,
    ranks: Ranks,
    tell: Tell,
    warn: Callable[[str], None],
    stop: Stop,
) -> dict[str, Predictions]:
    """The story: device, model, static costs, training, predictions, inference costs. Fills ``record``."""
    config, paths, cost = spec.config, spec.paths, record.cost
    compute = computing.prepare(config.hardware, spec.device, spec.precision, ranks)
    record.hardware.device_name, record.hardware.cpu_threads = compute.device_name, torch.get_num_threads()
    baseline_bytes = memory_now(compute.device)

    tell(Phase(f"Building {spec.model.timm_name}"))
    model = build_model(config, spec.model, len(dataset.classes), warn)
    static = asdict(static_costs(model, record.model.input_size))
    if uncounted := static.pop("uncounted_products"):
        warn(f"The MACs leave out the products of {', '.join(uncounted)}: no rule counts them.")
    for name, value in static.items():
        setattr(cost, name, value)
    model = model.to(compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]

    def on_epoch(trained: Trained) -> None:
        record.epochs, record.cost.training = trained.history, trained.cost
        records.write(record, paths)
        tracker.epochs(trained.history)

    tracker.ready()  # lest its start take time from training
    trained = train(model, dataset, spec, compute, ranks, baseline_bytes, tell, on_epoch, stop)
    on_epoch(trained)  # it may have been complete, and told to nobody, when an earlier job died
    record.selected_epoch = trained.best_epoch or config.trainer.epochs

    model.eval()
    if config.trainer.save_model:
        if not paths.selected.exists():  # there was no room for it
            checkpoint.save_weights(model, paths.selected, paths.check)
        paths.check()
        paths.model.unlink(missing_ok=True)
        os.link(paths.selected, paths.model)
    forward = forward_of(model, spec.model, compute)
    size, batch_size, threads = spec.model.input_size, config.trainer.batch_size, config.hardware.loader_threads
    tell(Phase("Predicting the val and test splits"))
    first = torch.zeros(min(batch_size, dataset.counts()["val"]), size, size, 3, dtype=torch.uint8)
    forward(compute.move(first))  # warm-up: the first batch of a shape pays for choosing kernels
    with peak_memory(compute.device, baseline_bytes) as peak, measured_energy(compute.device) as energy:
        val = predict(forward, dataset, "val", size, batch_size, threads, compute)
    predictions = {"val": val, "test": predict(forward, dataset, "test", size, batch_size, threads, compute)}
    record.metrics = {split: metrics(predicted, dataset.classes) for split, predicted in predictions.items()}
    write_predictions(predictions, dataset, paths)

    tell(Phase("Measuring latency"))
    cost.inference = InferenceCost(
        batch_size=batch_size,
        seconds=val.seconds,
        peak_memory_bytes=peak.bytes,
        images_per_second=len(val.labels) / val.seconds,
        latency_seconds={"batch_1": measure_latency(forward, compute.move(first[:1]), compute.device)},
        energy_joules=energy.joules,
    )
    return predictions


def assist_training(spec: RunSpec, link: Link, stop: Stop) -> None:
    """The part of a rank above 0: the same model, trained along with rank 0, which is told of any failure."""
    config, ranks = spec.config, Ranks(link.rank, spec.config.hardware.device_count, link)
    try:
        dataset = Dataset.read(spec.dataset_file)
        compute = computing.prepare(config.hardware, spec.device, spec.precision, ranks)
        model = build_model(config, spec.model, len(dataset.classes), lambda text: None)
        model = model.to(compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]
        torch.manual_seed(int(np.random.SeedSequence([config.seed, ranks.rank]).generate_state(1)[0]))
        train(model, dataset, spec, compute, ranks, 0, lambda event: None, lambda trained: None, stop)
    except Interrupted:
        link.stopped(stop.reason)
    except Exception as error:
        link.failed(explain(error), follows=isinstance(error, RuntimeError) and not is_out_of_memory(error))
    link.wait_for_end()


def begin(spec: RunSpec, dataset: Dataset) -> Record:
    """The run's record, new or taken up again where a job before left off, with this job as its latest attempt."""
    paths = spec.paths
    if paths.record.exists() and (old := records.read(paths.record)).status != "done":
        record = old
        records.close_attempt(record, "killed", "It ended without a word.", records.now(paths.last_seen()))
        record.error, record.finished_at = None, None
    else:
        for leftover in (paths.checkpoint, paths.selected):  # of a done run that is computed again
            leftover.unlink(missing_ok=True)
        record = new_record(spec, dataset)
    record.status, record.environment = "running", environment(spec.git_commit, spec.git_dirty)
    if spec.sweep not in record.sweeps:
        record.sweeps.append(spec.sweep)
    job = slurm_job_id() or f"pid {os.getpid()}"
    record.attempts.append(Attempt(job=job, host=socket.gethostname(), started_at=records.now()))
    records.write(record, paths)
    with records.atomic(paths.config, "w", paths.check) as file:
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
        config=records.redact(asdict(config)),
        overrides=spec.overrides,
        started_at=records.now(),
        environment=environment(spec.git_commit, spec.git_dirty),
        hardware=records.Hardware(spec.device, spec.device, config.hardware.device_count, spec.precision),
        dataset=records.DatasetInfo(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            split_fingerprint=dataset.split_fingerprint,
            classes=dataset.classes,
            counts=dataset.counts(),
            synthetic=dataset.synthetic,
            skipped_images=len(dataset.skipped),
            root=str(dataset.root),
        ),
        model=records.ModelInfo(
            name=config.model.name,
            timm_name=spec.model.timm_name,
            weights=spec.model.weights,
            input_size=[3, size, size],
            weights_requested=config.model.weights,
        ),
        selection=config.trainer.selection,
        warnings=list(spec.warnings),
    )


def conclude(record: Record, status: records.Status, why: str | None) -> None:
    """End the run and its attempt."""
    record.status, record.finished_at = status, records.now()
    record.attempts[-1].ended_at = None  # it may have been closed as done, and not have been written
    records.close_attempt(record, status, why, record.finished_at)


def write_predictions(predictions: dict[str, Predictions], dataset: Dataset, paths: RunPaths) -> None:
    """One row an image of val and test: path, split, label, prediction (names) and probabilities (in class order)."""
    classes = np.array(dataset.classes)
    frames = [
        pd.DataFrame(
            {
                "path": [dataset.paths[i] for i in predicted.indices],
                "split": split,
                "label": classes[predicted.labels],
                "prediction": classes[predicted.probabilities.argmax(1)],
                "probabilities": list(predicted.probabilities),
            }
        )
        for split, predicted in predictions.items()
    ]
    records.atomic_file(paths.predictions, pd.concat(frames, ignore_index=True).to_parquet, paths.check)


def is_disk_full(error: Exception) -> bool:
    """Whether the disk, or a quota on it, is what was missing; some libraries keep only the system's words."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or any(os.strerror(number) in str(error) for number in full)


def explain(error: Exception) -> RunError:
    """What went wrong, in the record's words."""
    trace = records.redact_text("".join(traceback.format_exception(error)))
    if isinstance(error, RunFailure):
        return RunError(error.kind, error.message, error.hint, trace)
    if isinstance(error, InputError):
        return RunError("input", error.message, error.hint, trace)
    if is_disk_full(error):
        return RunError(
            "disk_full", str(error), "Free some disk and give the same command again; it goes on from here.", trace
        )
    if is_out_of_memory(error):
        return RunError("out_of_memory", str(error), "Try a smaller trainer.batch_size or model.", trace)
    return RunError(type(error).__name__, str(error), "The traceback is in the record and in run.log.", trace)
