"""The file of each variant, made from a finished run's network and compared with it before anybody may use it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from har_sweep.compact.forward import variant_forward
from har_sweep.compact.onnx_file import INPUT, layers, tensors, write_onnx
from har_sweep.compact.variants import Variant
from har_sweep.data.batches import batches
from har_sweep.device.compute import DTYPES
from har_sweep.errors import RunFailure
from har_sweep.events import Phase
from har_sweep.record.folder import RunPaths
from har_sweep.spec.hardware import device_of
from har_sweep.train.augmentation import normalise
from har_sweep.train.checkpoint import description
from har_sweep.train.session import Session

CALIBRATION_IMAGES, CALIBRATION_BATCH = 128, 16  # of training, by which static int8 scales its activations
COMPARED_IMAGES = 64  # of val, on which a file's answers are compared with the network's
_LAYER_BOUND = 5.0  # times as far off as the layer before: there it went wrong
_PRODUCTS = ["Conv", "MatMul", "Gemm"]
_BETWEEN = ["Add", "Relu", "Clip", "MaxPool", "GlobalAveragePool", "ReduceMean"]


@dataclass(frozen=True)
class Network:
    """A finished run's ``model``, float32 on the CPU in evaluation mode, with the images that files are compared on,
    uint8 [n, size, size, 3], and where its ONNX file lies while variants are made of it."""

    model: nn.Module
    session: Session
    images: torch.Tensor
    folder: Path

    @property
    def onnx(self) -> Path:
        """Its ONNX file, written when it is first asked for."""
        file = self.folder / "model.onnx"
        if not file.exists():
            self.session.tell(Phase("Writing the network as ONNX"))
            write_onnx(self.model, self.session.spec.model, file, description(self.session).metadata())
        return file


def make_file(variant: Variant, network: Network, paths: RunPaths) -> None:
    """Write a variant's file into its folder, and compare what it answers with the network.

    Raises
    ------
    RunFailure
        if its answers are further off than its precision explains; then there is no file.
    InputError
        if the network cannot be exported.
    """
    network.session.tell(Phase(f"Making {variant.name}"))
    if variant.runtime == "torch":
        file, dtype = paths.model, DTYPES[variant.precision]
        state = {name: _as(tensor, dtype) for name, tensor in network.model.state_dict().items()}
        paths.save(file, lambda path: save_file(state, path, metadata=description(network.session).metadata()))
    else:
        file = paths.onnx
        paths.save(file, lambda path: _write(variant, network, path))
    try:
        check_answers(variant, network, file)
    except BaseException:
        paths.remove(file)
        raise


def _as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()


def _write(variant: Variant, network: Network, path: Path) -> None:
    if variant.precision == "fp32":
        path.write_bytes(network.onnx.read_bytes())
        return
    import onnx

    quantise(variant, network.onnx, path, _training_images(network.session))
    made = onnx.load(path)
    onnx.helper.set_model_props(made, description(network.session).metadata())
    onnx.save(made, path)


def quantise(variant: Variant, whole: Path, path: Path, images: Iterator[NDArray[np.uint8]]) -> None:
    """Write the network of an ONNX file with products in int8; batches of ``images`` scale the activations of those
    that are not scaled as they come."""
    import onnx
    from onnxruntime import quantization

    prepared = whole.with_name("prepared.onnx")
    if not prepared.exists():
        quantization.quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    options: dict[str, Any] = {"per_channel": True, "reduce_range": not device_of("cpu").int8}  # lest sums saturate
    if variant.name == "int8_dynamic":
        quantization.quantize_dynamic(prepared, path, op_types_to_quantize=["MatMul", "Gemm"], **options)
        return
    # x86 has instructions for products of unsigned with signed bytes: a ResNet-18 was 2.9 times as fast as in float32
    # with these, and no faster with signed ones (AVX-512 VNNI, ONNX Runtime 1.32).
    unsigned = platform.machine().lower() in ("x86_64", "amd64")
    nodes = list(onnx.load(prepared).graph.node)
    quantization.quantize_static(
        prepared, path, _Calibration(images), op_types_to_quantize=_operators(nodes),
        nodes_to_exclude=_of_pixels(nodes), **options,
        activation_type=quantization.QuantType.QUInt8 if unsigned else quantization.QuantType.QInt8,
    )  # fmt: skip


def _of_pixels(nodes: Sequence[Any]) -> list[str]:
    """The names of the nodes before the first with weights, which only prepare the pixels."""
    return [node.name for node in takewhile(lambda node: node.op_type not in _PRODUCTS, nodes)]


def _operators(nodes: Sequence[Any]) -> list[str]:
    """What is computed in int8: in a network of convolutions all that lies between them; of one with attention only
    its products, as sums and norms between them would lose too much."""
    attends = any(node.op_type == "Softmax" for node in nodes)
    return _PRODUCTS if attends else [*_PRODUCTS, *_BETWEEN]


class _Calibration:
    """Images, as ONNX Runtime asks for them."""

    def __init__(self, images: Iterator[NDArray[np.uint8]]) -> None:
        self._images = images

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        images = next(self._images, None)
        return None if images is None else {INPUT: images}


def _training_images(session: Session) -> Iterator[NDArray[np.uint8]]:
    spec = session.spec
    stream = batches(session.dataset, "train", spec.model.input_size, CALIBRATION_BATCH, order=(spec.config.seed, 0))
    with closing(stream):
        for batch in islice(stream, CALIBRATION_IMAGES // CALIBRATION_BATCH):
            yield batch.images.numpy()


def images_to_compare(session: Session) -> torch.Tensor:
    """Some of val, uint8 [n, size, size, 3]."""
    stream = batches(session.dataset, "val", session.spec.model.input_size, COMPARED_IMAGES)
    with closing(stream):
        return next(stream).images


@torch.inference_mode()
def check_answers(variant: Variant, network: Network, file: Path) -> None:
    """Raise RunFailure if a file's logits are further from the network's than the variant's bound."""
    plan, images = network.session.spec.model, network.images
    inputs = normalise(images, plan.mean, plan.std)
    wanted = network.model(inputs).float().numpy()
    forward = variant_forward(variant, file, network.model, plan, network.session.compute)
    found = forward(images).cpu().numpy()
    error = distance(found, wanted)
    if error <= variant.error_bound:
        return
    where = ""
    if variant.runtime == "onnxruntime" and (layer := _first_wrong(network, file, inputs)):
        where = f" The first layer that differs is {layer}."
    raise RunFailure(
        "answers_differ",
        f"{variant.name} does not answer as the network does: its logits are {100 * error:.3g} % off, where "
        f"{variant.precision} explains {100 * variant.error_bound:g} %.{where}",
        "It is left out. Other variants may do.",
    )


def distance(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The norm of the difference of logits [n, classes], as a share of the norm of what tells classes apart."""
    centred = wanted - wanted.mean(axis=1, keepdims=True)
    spread = float(np.linalg.norm(centred))
    apart = float(np.linalg.norm(found - found.mean(axis=1, keepdims=True) - centred))
    return float(np.nan_to_num(apart / spread if spread else apart, nan=np.inf))


def _first_wrong(network: Network, file: Path, inputs: torch.Tensor) -> str:
    """The first module whose output in the file differs from PyTorch's much more than that of the one before it."""
    wanted: dict[str, NDArray[np.float32]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                wanted[name] = output.float().numpy().copy()  # lest an activation after it works in place

        return hook

    named = layers(network.onnx)
    modules = dict(network.model.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in named if name in modules]
    network.model(inputs[:4])
    for hook in hooks:
        hook.remove()
    found, before = tensors(file, list(named.values()), network.images[:4].numpy()), 1e-3
    for name, tensor in named.items():
        if name not in wanted or tensor not in found or found[tensor].shape != wanted[name].shape:
            continue
        spread = float(np.linalg.norm(wanted[name]))
        error = float(np.linalg.norm(found[tensor] - wanted[name])) / (spread or 1.0)
        if not error <= max(_LAYER_BOUND * before, 0.1):
            return name
        before = max(before, error)
    return ""
