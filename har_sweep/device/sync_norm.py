"""Batch norm over all ranks' images on the CPU, which PyTorch has for CUDA alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class CpuSyncBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all ranks' images, as ``SyncBatchNorm`` has it for CUDA alone."""

    process_group: dist.ProcessGroup | None = None  # all ranks

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        x, group = input.float(), self.process_group
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        images = torch.tensor([x.numel() // x.shape[1]], dtype=torch.float64)
        sums = _AllReduce.apply(torch.cat([x.sum(dims, dtype=torch.float64), images]), group)
        total = sums[-1].detach()
        if total == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        mean = sums[:-1] / total
        centred = x - mean.float().view(shape)
        variance = _AllReduce.apply(centred.square().sum(dims, dtype=torch.float64), group) / total
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.float(), rate)
                self.running_var.lerp_((variance * total / (total - 1)).float(), rate)
        scale = (variance + self.eps).rsqrt().float()
        if self.affine:
            return torch.addcmul(self.bias.view(shape), centred, (scale * self.weight).view(shape)).to(input.dtype)
        return (centred * scale.view(shape)).to(input.dtype)


class CpuSyncBatchNormAct(CpuSyncBatchNorm):
    """The same for timm's batch norm that includes dropout and an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(input)))


class _AllReduce(torch.autograd.Function):
    """The ranks' sum; its gradient is the sum of their gradients. PyTorch's own is deprecated, or not public."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup | None) -> torch.Tensor:
        ctx.group, total = group, tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
