"""A network as an ONNX file: written from PyTorch, and run by ONNX Runtime."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from har_sweep.errors import InputError, first_line
from har_sweep.spec.weights import ModelPlan
from har_sweep.train.evaluate import Forward

OPSET = 18  # the exporter's own; ONNX Runtime 1.14 and whatever is newer runs it
INPUT, OUTPUT = "images", "logits"
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes of each node which module it comes from
_MODEL = "model"


class Shipped(nn.Module):
    """uint8 RGB images [B, H, W, 3] -> logits [B, classes] float32: a model that needs no preparation but resizing."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, plan: ModelPlan) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (plan.mean, plan.std))
        self.model = model
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.permute(0, 3, 1, 2).float() * self.scale + self.shift)
        return logits


def write_onnx(model: nn.Module, plan: ModelPlan, file: Path, metadata: Mapping[str, str]) -> None:
    """Write a float32 model on the CPU, in evaluation mode, with any number of images in a batch.

    ``metadata`` is what ``InferenceSession.get_modelmeta().custom_metadata_map`` then says.

    Raises
    ------
    InputError
        if the exporter cannot, with its own reason, or is not installed.
    """
    check_installed("onnxscript")
    example = torch.zeros(2, plan.input_size, plan.input_size, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():  # of the exporter's own deprecations
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                Shipped(model, plan).eval(), (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as e:  # whatever a model's own code raises when it is traced
        why = first_line(e)
        raise InputError(
            f"{plan.timm_name} cannot be exported to ONNX: {why}.", "Leave out what is made from ONNX."
        ) from e
    assert exported is not None
    exported.model.metadata_props.update(metadata)
    exported.save(file, external_data=False)


def open_onnx(file: Path | bytes, cuda: bool = False) -> Any:
    """An ``onnxruntime.InferenceSession`` with as many threads as torch has, or on the first CUDA device.

    Raises
    ------
    InputError
        if ONNX Runtime is not installed, or cannot compute there.
    """
    check_installed("onnxruntime")
    import onnxruntime

    provider = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise InputError(
            "This ONNX Runtime cannot compute on CUDA.",
            "Put onnxruntime-gpu in its place: pip uninstall onnxruntime; pip install onnxruntime-gpu",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=[provider])
    session.disable_fallback()  # to the processor, when a run fails
    if session.get_providers()[0] != provider:  # whose libraries could not be loaded
        raise InputError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load its part for CUDA: it would compute on the processor.",
            f"Install an onnxruntime-gpu that is built for torch's CUDA ({torch.version.cuda}).",
        )
    return session


def onnx_forward(session: Any) -> Forward:
    """What an ONNX file of ours answers, through a session of ``open_onnx``."""

    def forward(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.cpu().numpy()})
        return torch.from_numpy(logits)

    return forward


def layers(file: Path) -> dict[str, str]:
    """The model's modules in the order of computing, as PyTorch names them -> the tensor in the file that each gives.

    Of modules within one another only the innermost are there.
    """
    import onnx

    found: dict[str, str] = {}
    for node in onnx.load(file, load_external_data=False).graph.node:
        noted = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES)
        scopes = ast.literal_eval(noted) if noted else []
        if len(scopes) > 2 and scopes[-2].startswith(f"{_MODEL}."):
            found[scopes[-2].removeprefix(f"{_MODEL}.")] = node.output[0]
    inner = set(found)
    return {layer: tensor for layer, tensor in found.items() if not any(n.startswith(f"{layer}.") for n in inner)}


def tensors(file: Path, names: list[str], images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """What tensors inside the network are for some images, of those that the file still has under these names."""
    import onnx

    network = onnx.load(file)
    there = {name for node in network.graph.node for name in node.output}
    known = [name for name in names if name in there]
    network.graph.output.extend(onnx.ValueInfoProto(name=name) for name in known)
    session = open_onnx(network.SerializeToString())
    return dict(zip(known, session.run(known, {INPUT: images}), strict=True))


def check_installed(package: str) -> None:
    """Raise InputError if a package that only this needs is not there."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise InputError(f"{package} is not installed.", "pip install 'har_sweep[compact]'")
