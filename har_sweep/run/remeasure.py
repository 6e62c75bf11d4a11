"""What a finished run costs, measured again from its weights."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from har_sweep.cost.disturbance import Disturbance, wait_for_quiet
from har_sweep.cost.training import TrainingClock
from har_sweep.data.dataset import Dataset
from har_sweep.device.ranks import Ranks
from har_sweep.errors import Damaged, RunFailure
from har_sweep.events import Line, Phase, Tell
from har_sweep.model.build import build_model
from har_sweep.model.head import set_train_mode
from har_sweep.model.load import load_own
from har_sweep.record.folder import RunPaths, read_record, write_record
from har_sweep.record.record import (
    DISTURBED,
    InferenceCost,
    Measurement,
    Record,
    TrainingCost,
    same_accuracy,
    utc_now,
)
from har_sweep.run.measure import Measured, measure, tell_waiting
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.checkpoint import Trained
from har_sweep.train.epoch import draws, epoch_batches, measured_costs, train_step
from har_sweep.train.evaluate import forward_of
from har_sweep.train.learner import Learner
from har_sweep.train.objective import build_objective
from har_sweep.train.session import Session

_FEWEST_STEPS, _STEP_SECONDS = 8, 3.0


def remeasure(spec: RunSpec, tell: Tell, stop: Stop, patience_seconds: float) -> None:
    """Measure a finished run again and put that into its record.

    Raises
    ------
    RunFailure
        if its weights are not those that it was finished with; the record is as it was.
    ClaimLost
        as every writer of a run's files.
    """
    paths, record = spec.paths, read_record(spec.paths.record)
    tell(Phase(f"Building {spec.model.timm_name}"))
    session = Session.begin(spec, Dataset.read(spec.dataset_file), Ranks(), tell, stop)
    model = session.compute.place(finished_model(session)).eval()
    began = time.monotonic()
    measured = measure(forward_of(model, spec.model, session.compute), session, patience_seconds)
    check_same(record, measured, session.dataset, paths)
    training, went_through = None, measured.disturbed
    if record.hardware.device_count == 1:
        tell(Phase("Measuring training steps"))
        left = patience_seconds - (time.monotonic() - began)
        wait_for_quiet(session.meter(), left, partial(tell_waiting, session))
        training, of_steps = time_steps(model, session)
        went_through = max(went_through, of_steps, key=lambda found: found.share or 0.0)
    else:
        tell(Line("Steps of training on several devices are not measured again.", warning=True))
    device, threads = session.compute.device_name, torch.get_num_threads()
    new = Measurement(utc_now(), device, spec.precision, threads, measured.inference, training)
    add_measurement(record, new)
    write_record(record, paths)
    tell(Line(f"Latency {1000 * new.inference.latency_seconds['batch_1']['p50']:.3g} ms (p50, batch 1)."))
    if went_through.marked:
        tell(Line(f"Measured while {went_through.text}: it is marked, too.", warning=True))


def finished_model(session: Session) -> nn.Module:
    """A finished run's network, float32 on the CPU; raises RunFailure if its weights do not fit it."""
    spec = session.spec
    model = build_model(spec.config, spec.model, len(session.dataset.classes), session.warn)
    try:
        load_own(model, spec.paths.model)
    except Damaged as e:
        raise _other_weights(str(e)) from e
    return model


def check_same(record: Record, measured: Measured, dataset: Dataset, paths: RunPaths) -> None:
    """Raise RunFailure unless the weights answer as those did that the run was finished with, but for rounding: image
    by image where its predictions are there, else in their accuracy."""
    kept = pd.read_parquet(paths.predictions, columns=["split", "prediction"]) if paths.predictions.exists() else None
    for split, predicted in measured.predictions.items():
        then, images = record.metrics[split].accuracy, len(predicted.labels)
        if not same_accuracy(predicted.accuracy, then, images):
            raise _other_weights(f"{100 * predicted.accuracy:.2f} % of {split} are right, and were {100 * then:.2f} %")
        if kept is not None:
            answers = np.array(dataset.classes)[predicted.probabilities.argmax(1)]
            same = float((answers == kept.loc[kept["split"] == split, "prediction"].to_numpy()).mean())
            if not same_accuracy(same, 1.0, images):
                raise _other_weights(f"they answer {100 * (1 - same):.2f} % of {split} otherwise")


def _other_weights(why: str) -> RunFailure:
    return RunFailure(
        "weights_differ", f"Its weights are not those that it was finished with: {why}.", "rerun=true computes it anew."
    )


def time_steps(model: nn.Module, session: Session) -> tuple[TrainingCost, Disturbance]:
    """What training costs over about 3 s of steps, at least 8 of them or all that the run had; ``model`` learns."""
    spec, compute = session.spec, session.compute
    config, trainer = spec.config, spec.config.trainer
    clock, trained, began = TrainingClock(compute.device, session.meter()), Trained(), time.monotonic()
    objective = build_objective(model, spec, len(session.dataset.classes), compute, clock.teaching)
    learner = Learner(objective, config, compute, session.ranks, session.steps, session.tell, spec.halvings)
    set_train_mode(model, config)
    with measured_costs(trained, clock, session) as costs:
        while trained.epoch < trainer.epochs:
            stream = epoch_batches(session, trained.epoch)
            with closing(stream):
                for step in range(session.steps):
                    with clock.waiting():
                        batch = next(stream)
                    generator = draws(config.seed, trained.epoch, step)
                    with costs.step(len(batch.labels), learner.captures(len(batch.labels))):
                        train_step(learner, batch.images, batch.labels, generator, session)
                    trained.step += 1
                    if trained.step >= _FEWEST_STEPS and time.monotonic() - began >= _STEP_SECONDS:
                        break
                else:
                    trained.epoch += 1
                    continue
            break
        costs.add_up()
    return trained.cost, trained.disturbed


def add_measurement(record: Record, new: Measurement) -> None:
    """Keep a measurement in the record; of all the best undisturbed one is what inference, and a step, cost.

    Memory stays the run's own, which others do not disturb: after training there is more in use than after loading.
    """
    cost, hardware = record.cost, record.hardware
    if not record.measurements and cost.inference:
        of_the_run = (record.finished_at or "", hardware.device_name, hardware.precision, hardware.cpu_threads)
        record.measurements.append(Measurement(*of_the_run, cost.inference, replace(cost.training)))
    record.measurements.append(new)

    def dearness(inference: InferenceCost) -> tuple[float, float]:
        return _taken(inference.disturbed_share), inference.latency_seconds["batch_1"]["p50"]

    best_inference = min((measurement.inference for measurement in record.measurements), key=dearness)
    cost.inference = replace(best_inference, peak_memory_bytes=record.measurements[0].inference.peak_memory_bytes)
    trainings = [m.training for m in record.measurements if m.training and m.training.images_per_second]
    if trainings:
        best = min(trainings, key=lambda one: (_taken(one.images_disturbed_share), -(one.images_per_second or 0.0)))
        cost.training.images_per_second = best.images_per_second
        cost.training.images_disturbed_share = best.images_disturbed_share


def _taken(share: float | None) -> float:
    """How disturbed a measurement was, 0 where that is not marked."""
    return share if share is not None and share > DISTURBED else 0.0
