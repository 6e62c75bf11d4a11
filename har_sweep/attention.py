"""Attention in bfloat16 on the CPU, where PyTorch's own fused kernel takes twice as long as its parts.

The kernel (2.14) multiplies matrices itself; oneDNN, behind ``torch.matmul``, is several times as fast, most of all in
the backward pass. Memory stays what it is with the kernel: the attention weights are computed once more in the backward
pass, a few images at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_WEIGHTS_AT_ONCE = 1 << 20  # 2 MB, which the caches hold
_fused = F.scaled_dot_product_attention


@contextmanager
def fast_attention() -> Iterator[None]:
    """Inside, models that call ``scaled_dot_product_attention`` get the faster way where it applies."""
    F.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = _fused


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
        return torch.cat([_weights(_scaled(q), k) @ v for q, k, v in _split(query, key, value)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        found = []
        for q, k, v, d_out in _split(*ctx.saved_tensors, gradient):
            q = _scaled(q)
            weights = _weights(q, k)
            d_scores = torch._softmax_backward_data(d_out @ v.transpose(-2, -1), weights, -1, weights.dtype)
            found.append((_scaled(d_scores @ k), d_scores.transpose(-2, -1) @ q, weights.transpose(-2, -1) @ d_out))
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _split(query: Tensor, key: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    images = max(1, _WEIGHTS_AT_ONCE // (query.shape[1] * query.shape[2] * key.shape[2]))
    return list(zip(*(tensor.split(images) for tensor in (query, key, *others)), strict=True))


def _scaled(tensor: Tensor) -> Tensor:
    return tensor * (1 / math.sqrt(tensor.shape[-1]))


def _weights(scaled_query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(scaled_query @ key.transpose(-2, -1), -1)
