"""A model on val and test: predictions, metrics, and what inference costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from har_sweep.cost.energy import measured_energy
from har_sweep.cost.inference import measure_latency
from har_sweep.cost.memory import peak_memory
from har_sweep.data.dataset import Dataset
from har_sweep.events import Phase
from har_sweep.record.folder import RunPaths
from har_sweep.record.record import InferenceCost, Metrics
from har_sweep.train.evaluate import Forward, Predictions, metrics, predict
from har_sweep.train.session import Session


@dataclass(frozen=True)
class Measured:
    """What is known of a model that predicts, by split where it is of one."""

    predictions: dict[str, Predictions]
    metrics: dict[str, Metrics]
    inference: InferenceCost


def measure(forward: Forward, session: Session) -> Measured:
    """Predict val and test with ``forward``, whatever is behind it, and measure what that costs."""
    spec, dataset, compute = session.spec, session.dataset, session.compute
    size, batch_size = spec.model.input_size, spec.config.trainer.batch_size
    session.tell(Phase("Predicting the val and test splits"))
    first = torch.zeros(min(batch_size, dataset.counts()["val"]), size, size, 3, dtype=torch.uint8)
    forward(compute.move(first))  # warm-up: the first batch of a shape pays for choosing kernels
    with (
        peak_memory(compute.device, session.memory_baseline_bytes) as peak,
        measured_energy(compute.device) as energy,
    ):
        val = predict(forward, session, "val")
    predictions = {"val": val, "test": predict(forward, session, "test")}

    session.tell(Phase("Measuring latency"))
    inference = InferenceCost(
        batch_size=batch_size,
        seconds=val.seconds,
        peak_memory_bytes=peak.bytes,
        images_per_second=len(val.labels) / val.seconds,
        latency_seconds={"batch_1": measure_latency(forward, compute.move(first[:1]), compute.device)},
        energy_joules=energy.joules,
    )
    found = {split: metrics(predicted, dataset.classes) for split, predicted in predictions.items()}
    return Measured(predictions, found, inference)


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
