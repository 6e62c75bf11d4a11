"""A variant's file as a ``Forward``: what the core evaluates and measures anything by."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from har_sweep.compact.onnx_file import OUTPUT, onnx_forward, open_onnx
from har_sweep.compact.variants import Variant
from har_sweep.device.compute import DTYPES, Compute
from har_sweep.spec.weights import ModelPlan
from har_sweep.train.augmentation import normalise
from har_sweep.train.evaluate import Forward, forward_of


def variant_forward(
    variant: Variant, file: Path, model: nn.Module | None, plan: ModelPlan, compute: Compute
) -> Forward:
    """What a variant's file answers, on the device. ``model`` has the architecture, whatever its weights (None for what
    is not PyTorch's); it is left as it is."""
    if variant.runtime == "onnxruntime":
        return onnx_forward(open_onnx(file, cuda=compute.device.type == "cuda"))
    if variant.runtime == "openvino":
        return _openvino_forward(file)
    assert model is not None
    own = copy.deepcopy(model)
    own.load_state_dict(load_file(file))
    own = compute.place(own.to(DTYPES[variant.precision])).eval()
    if variant.name == "compiled":
        return forward_of(own, plan, replace(compute, precision="fp32", compiled=True))
    return _half_forward(own, DTYPES[variant.precision], plan, compute)


def _half_forward(model: nn.Module, dtype: torch.dtype, plan: ModelPlan, compute: Compute) -> Forward:
    @torch.inference_mode()
    def forward(images: Tensor) -> Tensor:
        inputs = normalise(images, plan.mean, plan.std).contiguous(memory_format=compute.memory_format)
        logits: Tensor = model(inputs.to(dtype))
        return logits.float()

    return forward


def _openvino_forward(file: Path) -> Forward:
    """By OpenVINO, in the precision of the file, with as many threads as torch has. Compiled for each shape that comes:
    for batches of any size its int8 answers are others (2026.4, AVX-512 VNNI: logits 75 % off)."""
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    core = openvino.Core()
    model, requests = core.read_model(file), dict[torch.Size, Any]()

    def forward(images: Tensor) -> Tensor:
        if images.shape not in requests:
            model.reshape(list(images.shape))
            requests[images.shape] = core.compile_model(model, "CPU", settings).create_infer_request()
        results = requests[images.shape].infer([images.cpu().numpy()])
        return torch.from_numpy(results[OUTPUT].copy())

    return forward
