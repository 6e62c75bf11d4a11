"""Attention on the CPU: the faster way is the same function, and only where it applies."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from har_sweep import attention
from har_sweep.attention import fast_attention


def qkv(dtype: torch.dtype, images: int = 3, queries: int = 50, keys: int = 50) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(images, 4, tokens, 16) for tokens in (queries, keys, keys)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def attended(inputs: list[Tensor], **options: Any) -> list[Tensor]:
    """The output and the gradients of a sum that weighs each element differently."""
    query, key, value = inputs
    output = F.scaled_dot_product_attention(query, key, value, **options)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    (output.double() * weights).sum().backward()
    return [output.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("at_once", [1, attention._WEIGHTS_AT_ONCE])
@pytest.mark.parametrize("keys", [50, 20])
def test_output_and_gradients_are_those_of_pytorch_as_far_as_bfloat16_goes(
    at_once: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_WEIGHTS_AT_ONCE", at_once)
    exact = attended([tensor.detach().double().requires_grad_() for tensor in qkv(torch.bfloat16, keys=keys)])
    with fast_attention():
        found = attended(qkv(torch.bfloat16, keys=keys))
    assert [tensor.dtype for tensor in found] == [torch.bfloat16] * 4
    for ours, theirs in zip(found, exact, strict=True):
        assert error(ours, theirs) < 0.01  # PyTorch's own: 0.004


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {"is_causal": True}),
        (torch.bfloat16, {"scale": 0.5}),
        (torch.bfloat16, {"attn_mask": torch.ones(50, 50).tril().bool()}),
    ],
    ids=["float32", "causal", "scale", "mask"],
)
def test_what_it_does_not_know_is_left_to_pytorch(dtype: torch.dtype, options: dict[str, Any]) -> None:
    expected = attended(qkv(dtype), **options)
    with fast_attention():
        found = attended(qkv(dtype), **options)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_defaults_that_are_spelt_out_do_not_keep_it_away() -> None:
    """timm gives ``dropout_p=0.0`` and sometimes a mask that is None."""
    with fast_attention():
        short = attended(qkv(torch.bfloat16))
        spelt = attended(qkv(torch.bfloat16), attn_mask=None, dropout_p=0.0, is_causal=False)
    assert all(torch.equal(a, b) for a, b in zip(short, spelt, strict=True))
    assert not torch.equal(short[1], attended(qkv(torch.bfloat16))[1])  # it was not PyTorch's kernel


def test_pytorchs_own_is_back_afterwards() -> None:
    before = F.scaled_dot_product_attention
    with suppress(KeyError), fast_attention():
        assert F.scaled_dot_product_attention is not before
        raise KeyError
    assert F.scaled_dot_product_attention is before
