"""What a finished run answers about pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from har_sweep.data.batches import picture_batches
from har_sweep.errors import InputError
from har_sweep.events import Counted, Line, Phase, Tell
from har_sweep.spec.hardware import logical_cores
from har_sweep.use.forward import forward_of_run
from har_sweep.use.run import FinishedRun

MOST_IMAGES = 128  # in a batch: several are in memory at once


@dataclass(frozen=True)
class Answers:
    """Of the pictures at ``indices`` [n]: the places of their likeliest ``classes`` [n, k], the likeliest first, and
    the ``probabilities`` [n, k] of these. ``broken`` has the others, by their index, and why they cannot be used."""

    indices: NDArray[np.int64]
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    broken: dict[int, str] = field(default_factory=dict)


def answer(run: FinishedRun, files: Sequence[Path], top: int, tell: Tell) -> Answers:
    """The ``top`` classes of each picture, in batches of the run's own size; raises what ``forward_of_run`` does."""
    tell(Phase(f"Building {run.spec.model.timm_name}"))
    forward, device = forward_of_run(run, lambda text: tell(Line(text, warning=True)))
    config, broken = run.spec.config, dict[int, str]()
    stream = picture_batches(
        files, run.spec.model.input_size, min(MOST_IMAGES, config.trainer.batch_size),
        int(config.data.max_megapixels * 1e6), logical_cores(), ahead=device.type == "cuda",
    )  # fmt: skip
    parts = list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]()
    done = 0
    tell(Counted("Predicting", 0, len(files)))
    with closing(stream):
        for batch in stream:
            if len(batch.indices):
                found = forward(batch.images.to(device, non_blocking=True)).softmax(dim=1).cpu().numpy()
                if not np.isfinite(found).all():
                    file = run.paths.onnx if run.paths.onnx.exists() else run.paths.model
                    raise InputError(
                        f"{file} cannot be used: what its weights answer is not finite.",
                        "If it is damaged, bring it back, or compute the run with rerun=true.",
                    )
                best = np.argsort(-found, axis=1, kind="stable")[:, :top]
                parts.append((batch.indices, best, np.take_along_axis(found, best, axis=1)))
            broken |= batch.broken
            done += len(batch.indices) + len(batch.broken)
            tell(Counted("Predicting", done, len(files)))
    if not parts:
        nothing = np.empty((0, top))
        return Answers(np.empty(0, np.int64), nothing.astype(np.int64), nothing.astype(np.float32), broken)
    indices, classes, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Answers(indices, classes, probabilities, broken)
