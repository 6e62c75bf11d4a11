"""How a device says that its memory is not enough."""

from __future__ import annotations

import torch

# What is said where there is no exception of its own for it: by PyTorch's allocator and oneDNN on the CPU; by CUDA,
# cuBLAS and cuDNN, which take memory beside PyTorch's allocator (cuDNN finds no engine if it gets none to work in).
OUT_OF_MEMORY = (
    "can't allocate memory", "could not create a primitive", "could not create a memory",
    "out of memory", "STATUS_ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was missing, on whatever device."""
    named = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return named or any(sign in str(error) for sign in OUT_OF_MEMORY)
