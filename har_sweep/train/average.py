"""The moving average of a model's weights, which is evaluated in their place."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """``module`` has the exponential moving average of a model's weights and buffers: ``decay * average + (1 - decay) *
    model`` after each update but the first, which takes the model's as they are.

    torch's AveragedModel does so too, but for each update sends its counter to the device, which has to wait, and works
    on integers one by one. These (counts, places in a table) are taken from the model here, for their means are none.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self._decay, self._updates = copy.deepcopy(model), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model as it is now into the average; on a device nothing waits for it."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        averaged = [pair for pair in pairs if self._updates and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not self._updates or not pair[0].is_floating_point()]
        if averaged:
            torch._foreach_lerp_([mean for mean, _ in averaged], [now for _, now in averaged], 1 - self._decay)
        if copied:
            torch._foreach_copy_([mean for mean, _ in copied], [now for _, now in copied])
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self._updates = state["updates"]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]
