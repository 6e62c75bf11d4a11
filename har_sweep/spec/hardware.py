"""What this machine has, told without importing torch, so that planning stays quick."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from har_sweep.config.schema import HardwareConfig
from har_sweep.errors import InputError


@dataclass(frozen=True)
class Device:
    """A device that could run a run. ``memory_bytes`` is its own, or the machine's for a CPU."""

    kind: str
    name: str
    memory_bytes: int | None
    bf16: bool


@cache
def find_devices() -> tuple[Device, ...]:
    """The devices of this machine, the fastest kind first; the CPU is always the last."""
    found = list(_nvidia())
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        found.append(Device("mps", "Apple GPU", None, bf16=False))
    return (*found, cpu_device())


def device_named(kind: str) -> str:
    """The name of this machine's first device of a kind."""
    return next((device.name for device in find_devices() if device.kind == kind), kind)


@cache
def cpu_device() -> Device:
    """This machine's processor; ``bf16`` where it multiplies bfloat16 in hardware."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = [line.partition(":") for line in info.read_text(errors="replace").splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in reversed(pairs) if key.strip()}
        name = fields.get("model name", name)
        flags = set(fields.get("flags", fields.get("Features", "")).split())
    bf16 = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return Device("cpu", name, psutil.virtual_memory().total, bf16)


def _nvidia() -> list[Device]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library: no NVIDIA device
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            Device(
                "cuda",
                pynvml.nvmlDeviceGetName(handle),
                pynvml.nvmlDeviceGetMemoryInfo(handle).total,
                bf16=pynvml.nvmlDeviceGetCudaComputeCapability(handle)[0] >= 8,
            )
            for handle in handles
        ]
    finally:
        pynvml.nvmlShutdown()


def resolve_hardware(config: HardwareConfig) -> tuple[str, str]:
    """What ``auto`` means here, on this machine: ``(device kind, precision)``.

    Raises
    ------
    InputError
        if the devices asked for are not here, or do not compute in the precision asked for.
    """
    here = {device.kind: device for device in reversed(find_devices())}
    kind = find_devices()[0].kind if config.device == "auto" else config.device
    if kind not in here:
        raise InputError(
            f"hardware.device={kind}: this machine has {', '.join(here)}.",
            "Use hardware=auto, or check the driver with `python -m har_sweep.doctor`.",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(visible.split(",")) if visible and kind == "cuda" else sum(d.kind == kind for d in find_devices())
    if config.device_count > count and kind != "cpu":  # a CPU counts for as many as it is asked to be
        raise InputError(
            f"hardware.device_count={config.device_count}: this machine has {count} {kind} device(s).",
            f"Take hardware.device_count={count} or less.",
        )
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if here[kind].bf16 else "fp32"
    if precision == "fp16" and kind != "cuda":
        raise InputError(
            f"hardware.precision=fp16 does not train on {kind}.", "Use hardware.precision=auto, bf16 or fp32."
        )
    return kind, precision


def logical_cores() -> int:
    """What this process may use of the processor's cores, each counted as often as it runs threads at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """The processor's cores that this process may use."""
    return min(logical_cores(), psutil.cpu_count(logical=False) or logical_cores())
