"""One run from start to finish. Nobody else knows the order of things."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch

from har_sweep.cost.energy import measured_energy
from har_sweep.cost.inference import measure_latency
from har_sweep.cost.memory import memory_now, peak_memory
from har_sweep.cost.static import static_costs
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import prepare_compute
from har_sweep.device.crew import Link
from har_sweep.device.ranks import Ranks, lead
from har_sweep.errors import ClaimLost, Interrupted
from har_sweep.events import Event, Line, Phase, Tell
from har_sweep.model.build import build_model
from har_sweep.record.folder import write_record
from har_sweep.record.record import (
    InferenceCost,
    Record,
)
from har_sweep.run.lifecycle import begin, conclude, explain
from har_sweep.run.measure import write_predictions
from har_sweep.run.tracking import Tracker
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train import checkpoint
from har_sweep.train.evaluate import Predictions, forward_of, metrics, predict
from har_sweep.train.learner import is_out_of_memory
from har_sweep.train.loop import Trained, train


def execute(spec: RunSpec, tell: Tell, stop: Stop) -> Record:
    """Train, evaluate and measure one run in this process; its record is on disk from the first moment to the last.

    With several devices this is rank 0, which starts the other ranks.

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
            with lead(spec.config.hardware.device_count, stop, partial(assist_training, spec)) as ranks:
                predictions = measure(spec, dataset, record, tracker, ranks, note, warn, stop)
                with stop.deferred():
                    conclude(record, "done", None)
                    paths.check()
                    tracker.finish(record, dataset, predictions)  # first: nobody comes back to a run that is done
                    write_record(record, paths)
                    for leftover in (paths.checkpoint, paths.selected):
                        leftover.unlink(missing_ok=True)
        except ClaimLost:
            raise
        except (Interrupted, KeyboardInterrupt) as asked:
            with stop.deferred():  # another rank may have been asked first
                conclude(record, "interrupted", str(asked) or stop.reason)
                write_record(record, paths)
        except Exception as error:
            record.error = explain(error)
            conclude(record, "failed", record.error.message)
        write_record(record, paths)
        if tracker:
            tracker.close(0 if record.status == "done" else 1)
            write_record(record, paths)  # once more: closing may have warned
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
    compute = prepare_compute(config.hardware, spec.device, spec.precision, ranks)
    record.hardware.device_name, record.hardware.cpu_threads = compute.device_name, torch.get_num_threads()
    baseline_bytes = memory_now(compute.device)

    tell(Phase(f"Building {spec.model.timm_name}"))
    model = build_model(config, spec.model, len(dataset.classes), warn)
    static = asdict(static_costs(model, record.model.input_size))
    if uncounted := static.pop("uncounted_products"):
        warn(f"The MACs leave out the products of {', '.join(uncounted)}: no rule counts them.")
    if why := static.pop("not_counted"):
        warn(f"The MACs are unknown, since the model cannot be traced: {why}.")
    for name, value in static.items():
        setattr(cost, name, value)
    model = model.to(compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]

    def on_epoch(trained: Trained) -> None:
        record.epochs, record.cost.training = trained.history, trained.cost
        write_record(record, paths)
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
        compute = prepare_compute(config.hardware, spec.device, spec.precision, ranks)
        model = build_model(config, spec.model, len(dataset.classes), lambda text: None)
        model = model.to(compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]
        torch.manual_seed(int(np.random.SeedSequence([config.seed, ranks.rank]).generate_state(1)[0]))
        train(model, dataset, spec, compute, ranks, 0, lambda event: None, lambda trained: None, stop)
    except Interrupted:
        link.stopped(stop.reason)
    except Exception as error:
        link.failed(explain(error), follows=isinstance(error, RuntimeError) and not is_out_of_memory(error))
    link.wait_for_end()
