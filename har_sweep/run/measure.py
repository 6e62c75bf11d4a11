"""A trained model on val and test: predictions, metrics, and what inference costs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from har_sweep.data.dataset import Dataset
from har_sweep.files import atomic_file
from har_sweep.record.folder import RunPaths
from har_sweep.train.evaluate import Predictions


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
    atomic_file(paths.predictions, pd.concat(frames, ignore_index=True).to_parquet, paths.check)
