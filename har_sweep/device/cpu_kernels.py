"""What PyTorch (2.14) computes slowly in bfloat16 on the CPU, done by its own faster parts.

Attention: the fused kernel multiplies matrices itself; oneDNN, behind ``torch.bmm``, is several times as fast, most
of all in the backward pass. Memory stays what it is with the kernel: the attention weights are computed once more in
the backward pass, a few images at a time. With AMX the kernel's forward pass multiplies by oneDNN, too, and is the
faster one.

Depthwise convolutions with strides or kernels above 3 x 3: oneDNN's backward pass takes 3 to 20 times as long as in
float32, so there it is float32, a few images at a time; what is kept for it is bfloat16 as before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from har_sweep.spec.hardware import cpu_device

_WEIGHTS_AT_ONCE = 1 << 20  # 2 MB, which the caches hold
_VALUES_AT_ONCE = 1 << 23  # 32 MB in float32
_AMX = "amx_bf16" in cpu_device().instructions.split()
_fused, _conv2d = F.scaled_dot_product_attention, F.conv2d


@contextmanager
def fast_kernels() -> Iterator[None]:
    """Inside, models under autocast to bfloat16 get the faster ways where they apply."""
    F.scaled_dot_product_attention, F.conv2d = _attention, _convolution  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention, F.conv2d = _fused, _conv2d


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    plain = (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.ndim == 4
        and query.shape[:2] == key.shape[:2]
        and not rest
        and all(option is None or (isinstance(option, (int, float)) and not option) for option in options.values())
    )
    return _Attention.apply(query, key, value) if plain else _fused(query, key, value, *rest, **options)


class _Attention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d)) V for Q [B, H, n, d], K [B, H, m, d], V [B, H, m, e]; no mask, no dropout."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        if _AMX:
            return _fused(query, key, value)
        output = query.new_empty(*query.shape[:3], value.shape[-1])
        for out, q, k, v in _split(query, key, output, query, key, value):
            torch.bmm(_weights(_scaled(q), k), v, out=out)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value = ctx.saved_tensors
        found = tuple(torch.empty_like(each, memory_format=torch.contiguous_format) for each in ctx.saved_tensors)
        for d_q, d_k, d_v, q, k, v, d_out in _split(query, key, *found, query, key, value, gradient):
            q = _scaled(q)
            weights = _weights(q, k)
            d_weights = torch.bmm(d_out, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, k, out=d_q).mul_(1 / math.sqrt(q.shape[-1]))
            torch.bmm(d_scores.transpose(1, 2), q, out=d_k)
            torch.bmm(weights.transpose(1, 2), d_out, out=d_v)
        return found


def _split(query: Tensor, key: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few images of all ``tensors`` [B, H, ...] at a time, as [b * H, ...]: contiguous, since ``torch.bmm`` would
    copy parts of a joint projection, and those that it transposes element by element. What is so is not copied."""
    images = max(1, _WEIGHTS_AT_ONCE // (query.shape[1] * query.shape[2] * key.shape[2]))
    for parts in zip(*(tensor.split(images) for tensor in tensors), strict=True):
        yield tuple(part.contiguous().flatten(0, 1) for part in parts)


def _scaled(query: Tensor) -> Tensor:
    return query * (1 / math.sqrt(query.shape[-1]))


def _weights(scaled_query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(torch.bmm(scaled_query, key.transpose(1, 2)), -1)


def _convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: str | int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    slow = (
        images.device.type == "cpu"
        and images.ndim == 4
        and 1 < groups == images.shape[1] == weight.shape[0]
        and (max(weight.shape[2:]) > 3 or max(_pair(stride)) > 1)
        and not isinstance(padding, str)
        and torch.is_grad_enabled()
        and weight.requires_grad
    )
    if slow:
        return _Depthwise.apply(images, weight, bias, _pair(stride), _pair(padding), _pair(dilation))
    return _conv2d(images, weight, bias, stride, padding, dilation, groups)


class _Depthwise(torch.autograd.Function):
    """A convolution of each channel with its own kernel: images [B, C, H, W], weight [C, 1, h, w], bias [C] or None."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        images = images.to(torch.bfloat16)
        ctx.save_for_backward(images, weight)
        ctx.biases, ctx.geometry = None if bias is None else [len(bias)], geometry
        stride, padding, dilation = geometry
        return _conv2d(images, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        at_once = max(1, _VALUES_AT_ONCE // images[0].numel())
        to_images, of_parts = torch.empty_like(images), []
        for x, dy, dx in zip(*(t.split(at_once) for t in (images, gradient, to_images)), strict=True):
            found, *others = torch.ops.aten.convolution_backward(
                dy.float(), x.float(), weight.float(), ctx.biases, *ctx.geometry, False, [0, 0], len(weight),
                ctx.needs_input_grad[:3],
            )  # fmt: skip
            if found is not None:
                dx.copy_(found)
            of_parts.append(others)
        of_weight, of_bias = (None if of[0] is None else sum(of) for of in zip(*of_parts, strict=True))
        return to_images if ctx.needs_input_grad[0] else None, of_weight, of_bias, None, None, None
