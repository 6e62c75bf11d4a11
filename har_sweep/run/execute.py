"""One run from start to finish. Nobody else knows the order of things."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from har_sweep.cost.static import costs_of
from har_sweep.data.dataset import Dataset
from har_sweep.device.crew import Link
from har_sweep.device.out_of_memory import is_out_of_memory
from har_sweep.device.ranks import Ranks, lead
from har_sweep.errors import Damaged, Interrupted, RunFailure
from har_sweep.events import Line, Phase, Tell, tell_nobody
from har_sweep.model.build import build_model
from har_sweep.record.folder import write_record
from har_sweep.record.record import Metrics, Record, same_accuracy
from har_sweep.run.lifecycle import begin, conclude, concluding, noting, run_error
from har_sweep.run.measure import Measured, measure, warn_of_disturbance, write_predictions
from har_sweep.run.tracking import Tracker
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.checkpoint import Trained, check_weights, keep_weights
from har_sweep.train.evaluate import forward_of
from har_sweep.train.loop import train
from har_sweep.train.session import Session

MOST_PATIENCE_SECONDS = 30.0  # of waiting for a quiet moment to measure inference
PATIENCE_SHARE = 0.1  # and no more than this share of its training: many short runs shall not take twice as long


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
        note = noting(record, tell)
        tracker = Tracker(spec.config.tracking, record, paths, lambda text: note(Line(text, warning=True)))
    if spec.config.trainer.on_oom == "split":
        spec = replace(spec, halvings=sum(attempt.outcome == "out_of_memory" for attempt in record.attempts))
    with tracker, concluding(record, paths, stop):
        tell(Phase("Starting"))
        with lead(spec.config.hardware.device_count, stop, partial(assist_training, spec)) as ranks:
            session = Session.begin(spec, dataset, ranks, note, stop)
            measured = compute(session, record, tracker)
            with stop.deferred():
                conclude(record, "done", None)
                paths.check()
                tracker.finish(record, dataset, measured.predictions)  # first: nobody comes back to a run that is done
                write_record(record, paths)
                paths.remove_training()
    write_record(record, paths)  # once more: closing the tracking may have warned
    return record


def compute(session: Session, record: Record, tracker: Tracker) -> Measured:
    """The story: device, model, static costs, training, predictions, inference costs; ``record`` tells it."""
    spec, device = session.spec, session.compute
    record.hardware.device_name, record.hardware.cpu_threads = device.device_name, torch.get_num_threads()

    session.tell(Phase(f"Building {spec.model.timm_name}"))
    classes = len(session.dataset.classes)
    model = build_model(spec.config, spec.model, classes, session.warn)
    static = asdict(costs_of(spec, model, classes))
    if uncounted := static.pop("uncounted_products"):
        session.warn(f"The MACs leave out the products of {', '.join(uncounted)}: no rule counts them.")
    if why := static.pop("not_counted"):
        session.warn(f"The MACs are unknown, since the model cannot be traced: {why}.")
    record.cost = replace(record.cost, **static)
    model = device.place(model)

    def on_epoch(trained: Trained) -> None:
        whole = sum(epoch.seconds for epoch in trained.history)
        record.epochs, record.cost.training = trained.history, replace(trained.cost, seconds_with_validation=whole)
        record.hardware.device_name = " then ".join(trained.devices) or device.device_name
        write_record(record, spec.paths)
        tracker.epochs(trained.history)

    tracker.ready()  # lest its start take time from training
    trained = train(model, session, on_epoch)
    on_epoch(trained)  # it may have been complete, and told to nobody, when an earlier job died
    record.selected_epoch = trained.selected_epoch

    model.eval()
    if spec.config.trainer.save_model:
        keep(model, trained, session)
    patience_seconds = min(MOST_PATIENCE_SECONDS, PATIENCE_SHARE * trained.cost.seconds)
    measured = measure(forward_of(model, spec.model, device), session, patience_seconds)
    check_metrics(measured.metrics["val"], trained, session)
    record.metrics, record.cost.inference = measured.metrics, measured.inference
    warn_of_disturbance({"training": trained.disturbed, "inference": measured.disturbed}, session)
    write_predictions(measured.predictions, session.dataset, spec.paths)
    return measured


def keep(model: nn.Module, trained: Trained, session: Session) -> None:
    """The selected weights, which training has written, under the name that they will be found by."""
    paths = session.spec.paths
    try:
        file = check_weights(trained, paths)
    except Damaged:  # or there was no room for them
        file = keep_weights(model.state_dict(), trained, session)
    paths.link(file, paths.model)


def check_metrics(val: Metrics, trained: Trained, session: Session) -> None:
    """Raise RunFailure unless the selected weights give on val what they gave in their epoch, but for rounding.

    Then nothing that was kept is gone on from.
    """
    epoch, paths = trained.history[trained.selected_epoch - 1], session.spec.paths
    if epoch.val_accuracy is None or same_accuracy(val.accuracy, epoch.val_accuracy, session.dataset.counts()["val"]):
        return
    paths.remove_training()
    paths.remove(paths.model)
    raise RunFailure(
        "weights_differ",
        f"The selected weights classify {100 * val.accuracy:.2f}% of val rightly; epoch {epoch.epoch}, which they "
        f"should be of, had {100 * epoch.val_accuracy:.2f}%.",
        "They were taken out of the run's folder; the same command trains anew.",
    )


def assist_training(spec: RunSpec, link: Link, stop: Stop) -> None:
    """The part of a rank above 0: the same model, trained along with rank 0, which is told of any failure."""
    config, ranks = spec.config, Ranks(link.rank, spec.config.hardware.device_count, link)
    try:
        session = Session.begin(spec, Dataset.read(spec.dataset_file), ranks, tell_nobody, stop)
        model = build_model(config, spec.model, len(session.dataset.classes), session.warn)
        model = session.compute.place(model)
        torch.manual_seed(int(np.random.SeedSequence([config.seed, ranks.rank]).generate_state(1)[0]))
        train(model, session, lambda trained: None)
    except Interrupted:
        link.stopped(stop.reason)
    except Exception as error:
        link.failed(run_error(error), follows=isinstance(error, RuntimeError) and not is_out_of_memory(error))
    link.wait_for_end()
