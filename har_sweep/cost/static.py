"""Costs that follow from the architecture alone: parameters, size on disk, multiply-adds."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import torch
from torch import nn
from torch.utils.serialization import config as serialization

from har_sweep.cost.counted import StaticCost, counted_costs, keep_costs
from har_sweep.errors import first_line
from har_sweep.spec.run_spec import RunSpec

_ATTENTION = "aten::scaled_dot_product_attention"
# Operations made of products, unlike activations, sums and the like, which no one counts.
_PRODUCTS = re.compile(r"mm|matmul|conv|linear|einsum|attention|encoder_layer|lstm|gru|rnn|dot|fft|cdist|bilinear")


def costs_of(spec: RunSpec, model: nn.Module, classes: int) -> StaticCost:
    """``static_costs`` of a run's model: counted once where they can be kept."""
    found = counted_costs(spec, classes)
    if found is None:
        found = static_costs(model, [3, spec.model.input_size, spec.model.input_size])
        keep_costs(spec, classes, found)
    return found


def static_costs(model: nn.Module, input_size: list[int]) -> StaticCost:
    """Count a model's costs on a float32 copy of it on the CPU; the model itself is left as it is.

    Parameters
    ----------
    input_size
        [channels, height, width]

    Returns
    -------
    StaticCost
        ``macs_without_attention_products`` is fvcore's own count, which does not know fused attention; ``macs`` adds
        queries x keys x (query dimension + value dimension) for every head. Both are the same whether or not timm
        fuses attention here. ``disk_bytes`` is the size of the float32 ``state_dict`` as ``torch.save`` writes it.
    """
    by_operator, uncounted, not_counted = dict[str, int](), list[str](), ""
    try:
        by_operator, uncounted = _macs(model, input_size)
    except Exception as e:  # whatever a model's own code raises when it is traced
        not_counted = first_line(e)
    macs = None if not_counted else sum(by_operator.values())
    attention = by_operator.get(_ATTENTION.removeprefix("aten::"), 0)
    return StaticCost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        disk_bytes=_disk_bytes(model),
        macs=macs,
        macs_without_attention_products=None if macs is None else macs - attention,
        uncounted_products=uncounted,
        not_counted=not_counted,
    )


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _macs(model: nn.Module, input_size: list[int]) -> tuple[dict[str, int], list[str]]:
    """Multiply-adds by operator, and the operators with products that are not among them."""
    from fvcore.nn import FlopCountAnalysis

    # The copy shares weights that already are float32 on the CPU, so that a large model does not take twice its memory.
    copies: dict[int, Any] = {id(p): nn.Parameter(_float32(p), requires_grad=False) for p in model.parameters()}
    copies |= {id(b): _float32(b).clone() for b in model.buffers()}
    counted = copy.deepcopy(model, copies).eval()
    for module in counted.modules():
        if hasattr(module, "fused_attn"):  # timm's switch; unfused, the products cannot be told from other products
            module.fused_attn = True  # type: ignore[assignment]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        analysis = FlopCountAnalysis(counted, torch.zeros(1, *input_size))
        analysis.set_op_handle(_ATTENTION, _attention_macs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        by_operator, uncounted = analysis.by_operator(), analysis.unsupported_ops()
    return {name: int(n) for name, n in by_operator.items()}, sorted(filter(_PRODUCTS.search, uncounted))


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Of softmax(Q K^T) V: queries [..., n, d], keys [..., m, d], values [..., m, e]: n x m x (d + e) a head."""
    query, key, value = (each.type().sizes() for each in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


class _ByteCounter:
    """A file that keeps nothing but the number of bytes written to it."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.count += size
        return size

    def flush(self) -> None: ...


def _disk_bytes(model: nn.Module) -> int:
    counter = _ByteCounter()
    state = model.state_dict()
    state.update({name: _float32(tensor) for name, tensor in state.items()})  # keeps the metadata, which is saved too
    with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        torch.save(state, counter)  # type: ignore[arg-type]
    return counter.count
