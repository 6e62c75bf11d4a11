"""A training step as one CUDA graph: given to the device once, then repeated without Python giving it each kernel."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Backward = Callable[[Tensor, Tensor], Tensor]
"""From inputs and targets to a loss, detached, leaving gradients in the weights."""


class StepGraph:
    """``backward`` for inputs and targets of one shape. The device must have done it once before, for in the first it
    chooses its kernels; nothing is computed while it is captured, so that the step counts only once.

    All that a step has in memory stays reserved for it. PyTorch's random numbers on the device go on as they would.

    Raises
    ------
    NotCapturable
        if the step waits for the device, or draws random numbers on the host, which would be the same ever after.
    torch.OutOfMemoryError
        if there is no memory beside what the device holds.
    """

    def __init__(self, backward: Backward, weights: Iterable[nn.Parameter], inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs.clone(), targets.clone()
        self._graph, before = torch.cuda.CUDAGraph(), _host_draws()
        stream, usual = torch.cuda.Stream(), torch.cuda.current_stream()  # PyTorch's own stays on the first card it saw
        try:
            # Other threads go on meanwhile, as the one that puts batches into page-locked memory.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._loss = backward(self._inputs, self._targets)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as e:
            torch.cuda.set_stream(usual)  # which is not done where the capture cannot be ended
            raise NotCapturable(str(e.__context__ or e)) from e  # the cause, and not that it could not be ended
        if _host_draws() != before:
            raise NotCapturable("it draws random numbers on the host")
        self._gradients = [(weight, weight.grad) for weight in weights if weight.grad is not None]

    @property
    def images(self) -> int:
        """In a batch of its shape."""
        return len(self._targets)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """As ``backward``."""
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._graph.replay()
        for weight, gradient in self._gradients:
            weight.grad = gradient
        return self._loss.clone()


class NotCapturable(RuntimeError):
    """A step that cannot be a graph, and why."""


def _host_draws() -> list[Any]:
    """Where the host's random numbers are."""
    return [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
