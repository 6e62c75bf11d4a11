"""Predictions of a split, and the metrics that come from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import nn

from har_sweep.data.batches import batches
from har_sweep.device.compute import Compute, keep_freed_memory, synchronise
from har_sweep.record.record import ClassMetrics, Metrics, confusions
from har_sweep.spec.weights import ModelPlan
from har_sweep.train.augmentation import normalise
from har_sweep.train.session import Session

Forward = Callable[[torch.Tensor], torch.Tensor]
"""uint8 images [B, H, W, 3] on the device -> logits [B, classes] float32: all that evaluating a model needs of it."""


@dataclass(frozen=True)
class Predictions:
    """Of one split, in the dataset's order: ``indices`` [n] into it, ``probabilities`` [n, classes] float32."""

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    seconds: float

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.probabilities).all())

    @property
    def accuracy(self) -> float:
        return float((self.probabilities.argmax(1) == self.labels).mean())

    @property
    def nll(self) -> float:
        """Mean negative log likelihood, in nats; natural with ``label_smoothing`` left out."""
        chosen = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return float(-np.log(np.clip(chosen, np.finfo(np.float32).tiny, None)).mean())


def forward_of(model: nn.Module, model_plan: ModelPlan, compute: Compute) -> Forward:
    """The forward pass of a module, normalisation included: what every model is evaluated and timed by, compiled where
    it is trained so."""
    keep_freed_memory(compute.device)
    called = torch.compile(model) if compute.compiled else model

    @torch.inference_mode()
    def forward(images: torch.Tensor) -> torch.Tensor:
        inputs = normalise(images, model_plan.mean, model_plan.std).contiguous(memory_format=compute.memory_format)
        with compute.autocast():
            logits: torch.Tensor = called(inputs)
        return logits.float()

    return forward


def predict(
    forward: Forward, session: Session, split: str, after_batch: Callable[[int], None] = lambda images: None
) -> Predictions:
    """Run ``forward`` over a split; ``seconds`` covers it whole, the last result included. ``after_batch`` hears how
    many images each batch had."""
    spec, dataset, compute = session.spec, session.dataset, session.compute
    started, logits, indices = time.monotonic(), [], []
    for batch in batches(
        dataset, split, spec.model.input_size, spec.config.trainer.batch_size,
        threads=session.loader_threads, pin=compute.device.type == "cuda",
    ):  # fmt: skip
        logits.append(forward(compute.move(batch.images)))
        indices.append(batch.indices)
        after_batch(len(batch.indices))
    probabilities = torch.cat(logits).softmax(dim=1).cpu().numpy()
    synchronise(compute.device)
    order = np.concatenate(indices)
    return Predictions(order, dataset.labels[order], probabilities, time.monotonic() - started)


def metrics(predictions: Predictions, classes: list[str]) -> Metrics:
    """Everything the record holds about a split. A class that is never predicted has precision 0."""
    labels, probabilities = predictions.labels, predictions.probabilities
    predicted, known = probabilities.argmax(1), np.arange(len(classes))

    def averages(average: str | None) -> tuple[NDArray[np.float64], ...]:
        result = precision_recall_fscore_support(labels, predicted, labels=known, average=average, zero_division=0)
        return tuple(np.asarray(part) for part in result)

    macro, weighted, each = averages("macro"), averages("weighted"), averages(None)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, : min(5, len(classes))]
    return Metrics(
        accuracy=predictions.accuracy,
        top5_accuracy=float((top == labels[:, None]).any(1).mean()),
        precision_macro=float(macro[0]),
        recall_macro=float(macro[1]),
        f1_macro=float(macro[2]),
        precision_weighted=float(weighted[0]),
        recall_weighted=float(weighted[1]),
        f1_weighted=float(weighted[2]),
        nll=predictions.nll,
        ece=expected_calibration_error(labels, probabilities),
        per_class={
            name: ClassMetrics(float(p), float(r), float(f), int(n))
            for name, p, r, f, n in zip(classes, *each, strict=True)
        },
        confusion=confusions(confusion_matrix(labels, predicted, labels=known).tolist()),
    )


def expected_calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int = 15) -> float:
    """Gap between confidence and accuracy, averaged over equal-width bins of confidence by their share of images.

    Naeini, Cooper and Hauskrecht (2015), with the 15 bins of Guo et al. (2017).
    """
    confidence, correct = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=confidence, minlength=bins) - np.bincount(which, weights=correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
