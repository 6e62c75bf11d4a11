"""The device a run computes on, its precision and its memory format, made ready once."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from har_sweep.device.cpu_kernels import fast_kernels
from har_sweep.device.ranks import Ranks
from har_sweep.errors import RunFailure
from har_sweep.spec.cuda import refused_by_kernels, torch_build
from har_sweep.spec.hardware import device_named
from har_sweep.spec.run_spec import RunSpec

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where tensors live and how they are multiplied; ``own_kernels`` are for bf16 on a CPU, ``graph`` is for CUDA."""

    device: torch.device
    precision: str
    memory_format: torch.memory_format
    compiled: bool = False
    own_kernels: bool = True
    graph: bool = False

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Mixed precision for the forward pass; nothing in fp32."""
        if self.precision == "fp32":
            yield
            return
        ours = self.own_kernels and self.device.type == "cpu" and not self.compiled
        faster = fast_kernels() if ours else nullcontext()
        # No weight cache: an optimizer step follows every forward pass, so it would only hold memory.
        with torch.autocast(self.device.type, DTYPES[self.precision], cache_enabled=False), faster:
            yield

    def move(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` on the device; from pinned memory without waiting."""
        return tensor.to(self.device, non_blocking=True)

    def place(self, model: nn.Module) -> nn.Module:
        """``model`` itself, its tensors on the device in the run's memory format."""
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    @property
    def device_name(self) -> str:
        """The device as its maker calls it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else device_named(self.device.type)


def prepare_compute(spec: RunSpec, ranks: Ranks) -> Compute:
    """Set threads, TF32 and determinism for this process as a run wants them, and open its device.

    Raises
    ------
    RunFailure
        ``device_unavailable`` or ``precision_unavailable`` if torch cannot use them: never others in their place.
    """
    config, kind, precision = spec.config.hardware, spec.device, spec.precision
    if threads := ranks.threads(config.cpu_threads):
        torch.set_num_threads(threads)
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not usable:
        raise RunFailure(
            "device_unavailable",
            f"torch {torch.__version__} finds no {kind} device that it can use on {socket.gethostname()}.",
            "Check the driver with `python -m har_sweep.doctor`, what the job asked for, or take hardware=cpu.",
        )
    device = torch.device(kind)
    if kind == "cuda" and ranks.count > 1:
        devices = torch.cuda.device_count()
        device = torch.device(kind, ranks.rank)
        if device.index >= devices:
            raise RunFailure(
                "device_unavailable",
                f"hardware.device_count={ranks.count}, but this process sees {devices} CUDA device(s).",
                "Check CUDA_VISIBLE_DEVICES and what the job asked for, or take a smaller hardware.device_count.",
            )
        torch.cuda.set_device(device)
    if kind == "cuda" and (refused := _refused_by_kernels()):
        raise RunFailure("device_unavailable", *refused)
    if kind == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RunFailure(
            "precision_unavailable",
            f"{torch.cuda.get_device_name()} does not multiply in bf16.",
            "Take hardware.precision=fp16 or fp32, or another constraint on the node's GPU.",
        )
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(config.deterministic)
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    way = spec.choice.way
    return Compute(
        device, precision, formats[config.memory_format], config.compile, way.kernels == "har_sweep", way.graph
    )


def _refused_by_kernels() -> tuple[str, str] | None:
    """What is wrong, and what to do, where torch has no kernels for this process's CUDA device."""
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return refused_by_kernels(name, capability, torch.cuda.get_arch_list(), torch_build())


@cache
def keep_freed_memory(device: torch.device) -> None:
    """Let glibc keep what is freed until ``cost.memory.release``, and take it again for the next step's tensors.

    By default it gives back every block above 32 MB at once, and each step spends 5 to 15 % of its time on getting
    the same pages anew. To be called once what lasts is in its place (weights, an optimizer's state): among what is
    kept it would lie scattered, and large tensors find no room between. On an accelerator nothing is done, nor where
    address space is limited (``ulimit -d``, ``-v``), since what is kept would count as used.
    """
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS)]
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if device.type == "cpu" and set_option and limits == [resource.RLIM_INFINITY] * 2:
        release(device)
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, -1)  # never


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def release(device: torch.device) -> None:
    """Give back what was freed but is kept for later, so that no phase is charged with the memory of another."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "cpu" and sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps freed blocks resident; musl has no such
        if trim is not None:
            trim(0)
