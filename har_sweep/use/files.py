"""The files of an export, each compared with the run before anybody sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from har_sweep.compact.files import distance
from har_sweep.compact.onnx_file import onnx_forward, open_onnx, write_onnx
from har_sweep.data.decode import PREPROCESSING, DecodeError, decode, resize
from har_sweep.errors import InputError, is_disk_full
from har_sweep.events import Line, Phase, Tell
from har_sweep.files import atomic_file
from har_sweep.record.description import describe
from har_sweep.record.record import same_accuracy
from har_sweep.spec.weights import takes
from har_sweep.train.augmentation import normalise
from har_sweep.use.card import licence_of, write_card
from har_sweep.use.folder import CARD, CONFIG, ONNX, WEIGHTS
from har_sweep.use.forward import load_model
from har_sweep.use.run import FinishedRun

MOST_COMPARED = 64  # pictures
_LOGITS_BOUND = 1e-3  # of float32 by another runtime, as a share of what tells classes apart
_NEAR = {"fp32": 0.005, "bf16": 0.05, "fp16": 0.01}  # probabilities that the run's precision could not tell apart


@dataclass(frozen=True)
class Pictures:
    """Some of the run's own, the test's if it has one, with the ``probabilities`` [n, classes] that it gave them."""

    images: list[Image.Image]
    probabilities: NDArray[np.float32]


def write_files(run: FinishedRun, folder: Path, tell: Tell) -> str:
    """Write an export's files into a folder; returns what they were compared on.

    Raises
    ------
    InputError
        if one cannot be written or answers otherwise than the run, with what to do.
    """
    try:
        return _write_files(run, folder, tell)
    except Exception as e:
        if not is_disk_full(e):
            raise
        raise InputError(
            f"The disk became full while {folder.parent} was written to.",
            "Free some, or name a folder on another disk with --to. Nothing half written was left.",
        ) from e


def _write_files(run: FinishedRun, folder: Path, tell: Tell) -> str:
    def warn(text: str) -> None:
        tell(Line(text, warning=True))

    plan = run.spec.model
    tell(Phase(f"Building {plan.timm_name}"))
    model = load_model(run, warn)
    own = own_pictures(run)
    if not own.images:
        warn("Its test images or its answers are not at hand: files are compared on made-up pictures.")
    pixels = squares(own.images, plan.input_size)
    wanted = logits(model, run, pixels)
    if own.images:
        check_record(run, own, wanted)
    described = replace(describe(run.record, run.paths.model), preprocessing=PREPROCESSING).metadata()

    tell(Phase("Writing ONNX"))
    atomic_file(folder / ONNX, lambda file: write_onnx(model, plan, file, described))
    check_same(ONNX, onnx_forward(open_onnx(folder / ONNX))(pixels).numpy(), wanted)

    tell(Phase("Writing what timm loads"))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    atomic_file(folder / WEIGHTS, lambda file: save_file(state, file, described))
    if target := run.spec.config.model._target_:
        warn(f"timm does not know {target}, so there is no {CONFIG} for it.")
    else:
        atomic_file(folder / CONFIG, lambda file: write_config(model, run, file))
        check_same(CONFIG, timms_logits(folder, own.images, pixels), wanted)
    atomic_file(folder / CARD, lambda file: write_card(run, file, len(own.images)))
    return f"They answer {len(own.images)} pictures of its own as it does." if own.images else ""


def own_pictures(run: FinishedRun) -> Pictures:
    """Test images that are still there, evenly drawn from all of them."""
    config, record = run.spec.config, run.record
    if not run.paths.predictions.exists():
        return Pictures([], np.empty((0, len(record.dataset.classes)), np.float32))
    table = pd.read_parquet(run.paths.predictions)
    table = table[table["split"] == ("val" if record.dataset.test_is_val else "test")]
    table = table.iloc[np.unique(np.linspace(0, len(table) - 1, MOST_COMPARED).astype(int))]
    root, images, kept = Path(record.dataset.root).expanduser(), list[Image.Image](), list[Any]()
    for path, probabilities in zip(table["path"], table["probabilities"], strict=True):
        try:
            images.append(decode(root / path, int(config.data.max_megapixels * 1e6)))
            kept.append(probabilities)
        except DecodeError:
            continue
    return Pictures(images, np.array(kept, np.float32))


def squares(images: Sequence[Image.Image], size: int) -> torch.Tensor:
    """uint8 [n, size, size, 3]; made-up ones where there are none."""
    if images:
        return torch.from_numpy(np.stack([resize(image, size) for image in images]))
    return torch.randint(0, 256, (8, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def logits(model: nn.Module, run: FinishedRun, pixels: torch.Tensor) -> NDArray[np.float32]:
    """PyTorch's own, in float32."""
    plan = run.spec.model
    parts = [model(normalise(some, plan.mean, plan.std)).float().numpy() for some in pixels.split(32)]
    return np.concatenate(parts)


def check_record(run: FinishedRun, own: Pictures, found: NDArray[np.float32]) -> None:
    """Raise InputError unless the weights answer as the run did, but where it could hardly tell two classes apart."""
    near = _NEAR[run.record.hardware.precision]
    rows, then, now = np.arange(len(found)), own.probabilities.argmax(1), found.argmax(1)
    differ = own.probabilities[rows, then] - own.probabilities[rows, now] > near
    if not same_accuracy(float(1 - differ.mean()), 1.0, len(found)):
        raise InputError(
            f"Of {len(found)} images {differ.sum()} are answered otherwise than {run.record.run_id} answered them.",
            "Its weights or its images are not those that it was finished with: bring them back.",
        )


def check_same(name: str, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Raise InputError if a file's logits are further from PyTorch's than float32 explains."""
    error = distance(found, wanted)
    if not error <= _LOGITS_BOUND:
        raise InputError(
            f"{name} does not answer as the run does: its logits are {100 * error:.3g} % off.",
            "Nothing was written. Another version of torch, onnx or timm may do better.",
        )


def write_config(model: nn.Module, run: FinishedRun, file: Path) -> None:
    """As timm's folders on the hub have it: the architecture, the labels, and how pictures are prepared."""
    plan, size, classes = run.spec.model, run.spec.model.input_size, run.record.dataset.classes
    theirs: Any = model.pretrained_cfg
    kept = {key: theirs[key] for key in ("classifier", "first_conv", "fixed_input_size") if key in theirs}
    tree = {
        "architecture": plan.timm_name,
        "num_classes": len(classes),
        "num_features": model.num_features,
        "label_names": classes,
        "model_args": {"img_size": size} if takes(plan.timm_name, img_size=size) else {},
        "pretrained_cfg": {
            **kept, "input_size": [3, size, size], "num_classes": len(classes), "mean": plan.mean, "std": plan.std,
            "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash", "label_names": classes,
            **({"license": licence} if (licence := licence_of(run)) else {}),
        },
    }  # fmt: skip
    file.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", "utf-8")


@torch.inference_mode()
def timms_logits(folder: Path, images: Sequence[Image.Image], pixels: torch.Tensor) -> NDArray[np.float32]:
    """What timm makes of a folder and of the pictures, by its own transform."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    shown = images or [Image.fromarray(each) for each in pixels.numpy()]
    return np.concatenate(
        [model(some).numpy() for some in torch.stack([transform(image) for image in shown]).split(32)]
    )
