"""What is drawn on the CPU, sent to a device that does not wait for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device (float64 as float32). From pinned memory, because other copies wait for the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
