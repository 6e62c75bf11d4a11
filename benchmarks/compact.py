"""Variants of a network against the network itself, and against the way they are usually made by hand.

    python benchmarks/compact.py [--models resnet18,vit_tiny_patch16_224] [--size 224]

Ours is what `python -m har_sweep.compact` measures: the file that one would ship, asked through `Forward` with uint8
images. The plain way is a script as people write it: torch.onnx.export of the bare network, onnxruntime's own
quantize_dynamic or quantize_static with random images, normalised in NumPy before each call. All compute batches of 16,
in processes of their own that take turns; whose answers are further from PyTorch's is told beside it.
Weights are random: speed does not depend on them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from turns import PAIRS, Answer, Pairs, result, rivals, table, take_turns

BATCH_SIZE, CLASSES, SECONDS = 16, 15, 2.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(timm_name: str, size: int) -> Any:
    import timm
    import torch

    torch.manual_seed(0)
    fitting: dict[str, Any] = {"img_size": size} if "vit" in timm_name else {}
    return timm.create_model(timm_name, num_classes=CLASSES, **fitting).eval()


def images(size: int, count: int = BATCH_SIZE) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def timed(answer: Answer, ask: Any) -> None:
    """First the answers, then the seconds of an image, over about ``SECONDS`` each time."""
    answer(ask())
    while True:
        began, rounds = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            ask()
            rounds += 1
        answer((time.perf_counter() - began) / (rounds * BATCH_SIZE))


def by_torch(answer: Answer, timm_name: str, size: int) -> None:
    """The network as a run measures it, in float32."""
    import torch

    from har_sweep.compact.onnx_file import Shipped
    from har_sweep.spec.weights import ModelPlan

    plan = ModelPlan(timm_name, None, size, MEAN, STD, "scratch", None)
    shipped, batch = Shipped(network(timm_name, size), plan), torch.from_numpy(images(size))

    def ask() -> Any:
        with torch.inference_mode():
            return shipped(batch).numpy()

    timed(answer, ask)


def ours(answer: Answer, file: str, size: int) -> None:
    """A file of ours, by ONNX Runtime."""
    import torch

    from har_sweep.compact.onnx_file import onnx_forward, open_onnx

    forward, batch = onnx_forward(open_onnx(Path(file))), torch.from_numpy(images(size))
    timed(answer, lambda: forward(batch).numpy())


def plain(answer: Answer, file: str, size: int) -> None:
    """A file of a script's, by ONNX Runtime as it is."""
    import onnxruntime

    session, batch = onnxruntime.InferenceSession(file), images(size)

    def ask() -> Any:
        pixels = (batch.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return session.run(None, {"input": pixels.transpose(0, 3, 1, 2)})[0]

    timed(answer, ask)


def write_ours(timm_name: str, size: int, folder: Path) -> dict[str, Path]:
    """By what `har_sweep.compact` writes files with."""
    from har_sweep.compact.files import quantise
    from har_sweep.compact.onnx_file import write_onnx
    from har_sweep.compact.variants import VARIANTS
    from har_sweep.spec.weights import ModelPlan

    found = {name: folder / f"{name}.onnx" for name in ("onnx", "int8_dynamic", "int8_static")}
    write_onnx(
        network(timm_name, size), ModelPlan(timm_name, None, size, MEAN, STD, "scratch", None), found["onnx"], {}
    )
    for name in ("int8_dynamic", "int8_static"):
        quantise(VARIANTS[name], found["onnx"], found[name], iter([images(size)] * 8))
    return found


def write_plain(timm_name: str, size: int, folder: Path) -> dict[str, Path]:
    """As a script does it."""
    import torch
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    found = {name: folder / f"plain-{name}.onnx" for name in ("onnx", "int8_dynamic", "int8_static")}
    torch.onnx.export(
        network(timm_name, size), (torch.randn(2, 3, size, size),), found["onnx"], input_names=["input"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), external_data=False,
    )  # fmt: skip

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"input": np.random.randn(BATCH_SIZE, 3, size, size).astype(np.float32)}] * 8)

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_dynamic(found["onnx"], found["int8_dynamic"])
    quantize_static(found["onnx"], found["int8_static"], Reader())
    return found


def off(found: Any, wanted: Any) -> float:
    """How far answers are from PyTorch's, as a share of what tells the classes apart."""
    from har_sweep.compact.files import distance

    return distance(found, wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet18,vit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    rows, ratios = [], {}
    for timm_name in args.models.split(","):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):
                files = write_ours(timm_name, args.size, Path(folder))
                others = write_plain(timm_name, args.size, Path(folder))
            for name in files:
                with rivals(
                    (ours, str(files[name]), args.size), (plain, str(others[name]), args.size),
                    (by_torch, timm_name, args.size),
                ) as asks:  # fmt: skip
                    wanted = [ask() for ask in asks]
                    took = take_turns(*asks, pairs=PAIRS)
                against_plain, against_torch = Pairs(took[0], took[1]), Pairs(took[0], took[2])
                size = files["onnx"].stat().st_size / files[name].stat().st_size
                ratios[f"{timm_name} {name}"] = {
                    "against_plain": against_plain.ratio, "against_torch": against_torch.ratio, "smaller": size,
                }  # fmt: skip
                rows.append([
                    timm_name, name, f"{1 / against_torch.ours[0]:.3g}", f"{against_torch.ratio:.2f}",
                    f"{against_plain.ratio:.2f}", f"{size:.2f}",
                    *(f"{100 * off(found, wanted[2]):.2g} %" for found in wanted[:2]),
                ])  # fmt: skip
    columns = ["model", "variant", "images/s", "times our PyTorch", "times the plain way", "times smaller"]
    table(f"Variants, batches of {BATCH_SIZE} at {args.size} px", [*columns, "off", "plain way off"], rows)
    result(compact=ratios)


if __name__ == "__main__":
    main()
