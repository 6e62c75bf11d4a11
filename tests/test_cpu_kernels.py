"""Attention and depthwise convolutions on the CPU: the faster way is the same function, and only where it applies."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from har_sweep.device import cpu_kernels
from har_sweep.device.cpu_kernels import fast_kernels


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


@pytest.mark.parametrize("at_once", [1, cpu_kernels._WEIGHTS_AT_ONCE])
@pytest.mark.parametrize("keys", [50, 20])
@pytest.mark.parametrize("amx", [False, True])
def test_output_and_gradients_are_those_of_pytorch_as_far_as_bfloat16_goes(
    at_once: int, keys: int, amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernels, "_WEIGHTS_AT_ONCE", at_once)
    monkeypatch.setattr(cpu_kernels, "_AMX", amx)
    exact = attended([tensor.detach().double().requires_grad_() for tensor in qkv(torch.bfloat16, keys=keys)])
    with fast_kernels():
        found = attended(qkv(torch.bfloat16, keys=keys))
    assert [tensor.dtype for tensor in found] == [torch.bfloat16] * 4
    for ours, theirs in zip(found, exact, strict=True):
        assert error(ours, theirs) < 0.01  # PyTorch's own: 0.004
    assert torch.equal(found[0], attended(qkv(torch.bfloat16, keys=keys))[0]) == amx  # it was PyTorch's forward pass


def test_parts_of_a_joint_projection_attend_as_tensors_of_their_own() -> None:
    joint = torch.randn(3, 50, 3, 4, 16, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    query, key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)
    with fast_kernels():
        output, *gradients = attended([part.detach().clone().requires_grad_() for part in (query, key, value)])
        together = F.scaled_dot_product_attention(query, key, value)
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
        (together.double() * weights).sum().backward()
    assert torch.equal(together, output)
    assert joint.grad is not None
    assert torch.equal(joint.grad, torch.stack(gradients).permute(1, 3, 0, 2, 4))


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
    with fast_kernels():
        found = attended(qkv(dtype), **options)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_defaults_that_are_spelt_out_do_not_keep_it_away() -> None:
    """timm gives ``dropout_p=0.0`` and sometimes a mask that is None."""
    with fast_kernels():
        short = attended(qkv(torch.bfloat16))
        spelt = attended(qkv(torch.bfloat16), attn_mask=None, dropout_p=0.0, is_causal=False)
    assert all(torch.equal(a, b) for a, b in zip(short, spelt, strict=True))
    assert not torch.equal(short[1], attended(qkv(torch.bfloat16))[1])  # it was not PyTorch's kernel


def convolved(layer: nn.Conv2d, channels_last: bool = False) -> list[Tensor]:
    """The output in bfloat16 (or float64, of a layer that is), and the gradients of images, weight and bias."""
    dtype = layer.weight.dtype
    images = torch.randn(5, layer.in_channels, 14, 14, generator=torch.Generator().manual_seed(0)).bfloat16().to(dtype)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    images.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float64):
        output = layer(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    (output.double() * weights).sum().backward()
    found = (output.detach(), images.grad, *(parameter.grad for parameter in layer.parameters()))
    return [tensor for tensor in found if tensor is not None]


def layer(**options: Any) -> nn.Conv2d:
    """Sixteen channels, each convolved by itself; its weights are those of bfloat16."""
    torch.manual_seed(0)
    made = nn.Conv2d(16, 16, **{"kernel_size": 5, "padding": 2, "groups": 16} | options)
    return made.bfloat16().float()


@pytest.mark.parametrize("at_once", [1, 2 * 16 * 14 * 14, cpu_kernels._VALUES_AT_ONCE])
@pytest.mark.parametrize("options", [{}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"bias": False, "dilation": 2}])
@pytest.mark.parametrize("channels_last", [False, True])
def test_depthwise_convolutions_are_those_of_pytorch_as_far_as_bfloat16_goes(
    at_once: int, options: dict[str, Any], channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernels, "_VALUES_AT_ONCE", at_once)
    exact = convolved(layer(**options).double())
    with fast_kernels():
        found = convolved(layer(**options), channels_last)
    assert found[0].dtype == torch.bfloat16
    assert len(found) == len(exact) == (3 if options.get("bias") is False else 4)
    for ours, theirs in zip(found, exact, strict=True):
        assert error(ours, theirs) < 0.01
    assert error(found[2], exact[2]) < 0.002 < error(convolved(layer(**options))[2], exact[2])  # it was not PyTorch's


@pytest.mark.parametrize(
    "options",
    [{"groups": 1}, {"groups": 8}, {"kernel_size": 3, "padding": 1}, {"padding": "same"}],
    ids=["dense", "grouped", "3 x 3", "padding by name"],
)
def test_other_convolutions_are_left_to_pytorch(options: dict[str, Any]) -> None:
    expected = convolved(layer(**options))
    with fast_kernels():
        found = convolved(layer(**options))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_a_frozen_depthwise_convolution_still_hands_on_its_gradient() -> None:
    frozen = layer().requires_grad_(False)
    with fast_kernels():
        _, to_images = convolved(frozen)
    assert error(to_images, convolved(layer().double())[1]) < 0.01


def test_pytorchs_own_are_back_afterwards() -> None:
    before = F.scaled_dot_product_attention, F.conv2d
    with suppress(KeyError), fast_kernels():
        assert F.scaled_dot_product_attention is not before[0]
        assert F.conv2d is not before[1]
        raise KeyError
    assert (F.scaled_dot_product_attention, F.conv2d) == before
