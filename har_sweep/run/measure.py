"""A model on val and test: predictions, metrics, and what inference costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from har_sweep.cost.disturbance import Disturbance, Meter, wait_for_quiet
from har_sweep.cost.energy import measured_energy
from har_sweep.cost.inference import (
    Pass,
    Window,
    images_per_second,
    latency,
    thoroughness,
    time_calls,
    undisturbed,
    warm_up,
    went_through,
)
from har_sweep.cost.memory import peak_memory
from har_sweep.data.dataset import Dataset
from har_sweep.errors import RunFailure
from har_sweep.events import Phase
from har_sweep.record.folder import RunPaths
from har_sweep.record.record import InferenceCost, Metrics
from har_sweep.train.evaluate import Forward, Predictions, metrics, predict
from har_sweep.train.session import Session


@dataclass(frozen=True)
class Measured:
    """What is known of a model that predicts, by split where it is of one; and what its times went through."""

    predictions: dict[str, Predictions]
    metrics: dict[str, Metrics]
    inference: InferenceCost
    disturbed: Disturbance


def measure(forward: Forward, session: Session, patience_seconds: float) -> Measured:
    """Predict val and test with ``forward``, whatever is behind it, and measure what that costs.

    Times are those of moments in which nobody disturbs; where there were none, they are waited for, at most
    ``patience_seconds``.
    """
    spec, dataset, compute = session.spec, session.dataset, session.compute
    size, batch_size = spec.model.input_size, spec.config.trainer.batch_size
    session.tell(Phase("Predicting the val and test splits"))
    images = dataset.counts()["val"]
    shapes = dict.fromkeys([min(batch_size, images), images % batch_size or batch_size])
    examples = [compute.move(torch.zeros(n, size, size, 3, dtype=torch.uint8)) for n in shapes]
    meter = session.meter()
    with peak_memory(compute.device, session.memory_baseline_bytes) as peak:
        with peak.step(first=True):
            warm_up(forward, examples, compute.device)
        with peak.step(), measured_energy(compute.device) as energy:
            val, of_pass, passes = timed_passes(forward, session, meter)
    predictions = {"val": val, "test": val if dataset.test_is_val else predict(forward, session, "test")}
    for split, predicted in predictions.items():
        if not predicted.finite:
            raise RunFailure(
                "non_finite_answers",
                f"{spec.paths.model}: what these weights answer about {split} images is not finite.",
                "If the file is damaged, bring it back, or compute the run with rerun=true.",
            )

    session.tell(Phase("Measuring latency"))
    one = examples[0][:1].clone()
    of_calls = time_calls(forward, one, compute.device, meter)
    deadline = time.monotonic() + patience_seconds
    while (calls_disturbed := went_through(undisturbed(of_calls)).marked) or went_through(undisturbed(of_pass)).marked:
        if not wait_for_quiet(meter, deadline - time.monotonic(), partial(tell_waiting, session)):
            break
        if calls_disturbed:
            of_calls += time_calls(forward, one, compute.device, meter)
        else:
            of_pass += timed_passes(forward, session, meter)[1]

    of_calls, of_pass = undisturbed(of_calls), undisturbed(of_pass)
    rate = images_per_second(of_pass)
    disturbed = max(went_through(of_calls), went_through(of_pass), key=lambda found: found.share or 0.0)
    unknown = None in (went_through(of_calls).share, went_through(of_pass).share)
    inference = InferenceCost(
        batch_size=batch_size,
        seconds=len(val.labels) / rate,
        peak_memory_bytes=peak.bytes,
        images_per_second=rate,
        latency_seconds={"batch_1": latency(of_calls)},
        energy_joules=None if energy.joules is None else energy.joules / passes,
        disturbed_share=None if unknown else disturbed.share,
    )
    found = {split: metrics(predicted, dataset.classes) for split, predicted in predictions.items()}
    return Measured(predictions, found, inference, disturbed)


def timed_passes(forward: Forward, session: Session, meter: Meter) -> tuple[Predictions, list[Window], int]:
    """Predict val in windows, on CUDA as often as 2 s have room for; the last predictions, all windows, how often."""
    device, windows, passes = session.compute.device, list[Window](), 0
    while not passes or sum(sum(window.seconds) for window in windows) < thoroughness(device).pass_seconds:
        of_pass = Pass(device, meter)
        predictions = predict(forward, session, "val", of_pass)
        windows += of_pass.end()
        passes += 1
    return predictions, windows, passes


def tell_waiting(session: Session, why: str) -> None:
    session.tell(Phase(f"Waiting for a quiet moment to measure: {why}"))


def warn_of_disturbance(phases: dict[str, Disturbance], session: Session, again: str = "") -> None:
    """Say of which phases the costs are not to be compared, why, and what measures them ``again``."""
    disturbed = {phase: found for phase, found in phases.items() if found.marked}
    if disturbed:
        why = sum(disturbed.values(), Disturbance()).text
        session.warn(
            f"What {' and '.join(disturbed)} cost was measured while {why}: it is marked, and not to be compared. "
            f"`{again or f'python -m har_sweep.measure {session.spec.run_id}'}` measures latency and images/s again, "
            "without training."
        )


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
    paths.save(paths.predictions, pd.concat(frames, ignore_index=True).to_parquet)
