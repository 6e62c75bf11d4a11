"""What this machine has, told without importing torch, so that planning stays quick."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil

from har_sweep.config.schema import HardwareConfig
from har_sweep.errors import InputError
from har_sweep.spec.cuda import refused_by_driver, torch_build

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user says how many torch computes with
_ONEDNN = (
    "(?i)default|all|sse41|avx|avx2(_vnni(_2)?)?|avx512_core(_vnni|_bf16|_fp16|_amx(_fp16)?)?|avx10_[0-9]+(_[a-z0-9]+)*"
)
# By these a user keeps oneDNN, ATen and MKL from a processor's newer instructions: what they may be. Others are ignored
# by those libraries.
LIMITS = {
    "ONEDNN_MAX_CPU_ISA": _ONEDNN,
    "DNNL_MAX_CPU_ISA": _ONEDNN,
    "ATEN_CPU_CAPABILITY": "default|avx2|avx512|vsx|zvector|sve[0-9]*",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2|AVX|AVX2(_E1)?|AVX512(_MIC)?(_E[0-9])?",
}


@dataclass(frozen=True)
class Device:
    """A device that could run a run. ``memory_bytes`` is its own, or the machine's for a CPU; None if it is not told.

    ``bf16`` and ``fp16`` say what it multiplies in hardware; ``instructions`` are a processor's for vectors and
    matrices, of which a hypervisor may hide some; ``uuid`` and ``capability`` (0.0 if it is not told) are NVIDIA's.
    """

    kind: str
    name: str
    memory_bytes: int | None
    bf16: bool
    fp16: bool = False
    instructions: str = ""
    uuid: str = ""
    capability: tuple[int, int] = (0, 0)

    @property
    def int8(self) -> bool:
        """Whether a processor multiplies bytes and adds up in one instruction; without it sums of bytes saturate."""
        return not {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"}.isdisjoint(self.instructions.split())


@cache
def find_devices() -> tuple[Device, ...]:
    """The devices of this machine, the fastest kind first; the CPU is always the last."""
    found = list(_nvidia()[1])
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        found.append(Device("mps", "Apple GPU", None, bf16=False))
    return (*found, cpu_device())


def device_of(kind: str) -> Device:
    """This machine's first device of a kind, or one of which nothing is known."""
    return next((device for device in find_devices() if device.kind == kind), Device(kind, kind, None, bf16=False))


def device_named(kind: str) -> str:
    """The name of this machine's first device of a kind."""
    return device_of(kind).name


@cache
def cpu_device() -> Device:
    """This machine's processor; ``bf16`` where it multiplies bfloat16 in hardware. One whose newer instructions may
    not be used is named so, since it computes as another would."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = [line.partition(":") for line in info.read_text(errors="replace").splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in reversed(pairs) if key.strip()}
        name = fields.get("model name", name)
        flags = set(fields.get("flags", fields.get("Features", "")).split())
    limits = [f"{limit}={os.environ[limit]}" for limit in LIMITS if os.environ.get(limit)]
    flags -= _forbidden(flags)
    name = ", ".join([name, *limits])
    bf16 = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    vectors = sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma", "sve", "asimd", "i8mm", "bf16")))
    return Device("cpu", name, psutil.virtual_memory().total, bf16, instructions=" ".join(vectors))


def _forbidden(flags: set[str]) -> set[str]:
    """The processor's instructions for bfloat16 that oneDNN may not use, by which PyTorch multiplies."""
    most = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "default").upper()
    if most in ("DEFAULT", "ALL") or "AMX" in most:
        return set()
    bf16 = any(name in most for name in ("BF16", "FP16", "AVX10"))
    return {flag for flag in flags if flag.startswith("amx") or (flag == "avx512_bf16" and not bf16)}


def _nvidia() -> tuple[list[Device], list[Device]]:
    """NVIDIA's devices in this machine, as ``nvidia-smi`` lists them, and those that CUDA_VISIBLE_DEVICES leaves."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library: no NVIDIA device
        return [], []
    try:
        uuids, found = [], []
        for number in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):  # one that is lost, or not for this user: it is no card of theirs
                card = pynvml.nvmlDeviceGetHandleByIndex(number)
                device = _nvidia_device(pynvml, card)
                uuids.append(device.uuid)
                part = _first_part(pynvml, card)
                found.append(_nvidia_device(pynvml, part) if part else device)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return found, found
        named = (_named_device(pynvml, name.strip(), uuids, found) for name in visible.split(","))
        return found, [device for device in takewhile(bool, named) if device]  # as CUDA, which stops at a wrong one
    finally:
        pynvml.nvmlShutdown()


def _first_part(pynvml: Any, card: Any) -> Any | None:
    """Of a card that is divided (MIG) its first part, which is all that CUDA sees of it where none is named."""
    with suppress(pynvml.NVMLError):
        if pynvml.nvmlDeviceGetMigMode(card)[0]:
            for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card)):
                with suppress(pynvml.NVMLError):
                    return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
    return None


def _named_device(pynvml: Any, name: str, uuids: list[str], found: list[Device]) -> Device | None:
    """What an entry of ``CUDA_VISIBLE_DEVICES`` names: an index, the beginning of a card's UUID, or a part of a card.

    ``uuids`` are the cards', of which ``found`` are what CUDA computes on.
    """
    if name.isdigit():
        return found[int(name)] if int(name) < len(found) else None
    if name.startswith("MIG-"):
        try:
            return replace(_nvidia_device(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name)), uuid=name)
        except pynvml.NVMLError:
            return None
    matching = [device for uuid, device in zip(uuids, found, strict=True) if name and uuid.startswith(name)]
    return matching[0] if len(matching) == 1 else None


def _nvidia_device(pynvml: Any, handle: Any) -> Device:
    def told(ask: str, unknown: Any) -> Any:
        """What a card tells; some do not know their memory (it is the machine's), or not to everybody."""
        try:
            return getattr(pynvml, ask)(handle)
        except pynvml.NVMLError:
            return unknown

    memory = told("nvmlDeviceGetMemoryInfo", None)
    capability = tuple(told("nvmlDeviceGetCudaComputeCapability", (0, 0)))
    return Device(
        "cuda",
        told("nvmlDeviceGetName", "NVIDIA GPU"),
        memory.total if memory else None,
        bf16=capability >= (8, 0),
        fp16=capability >= (7, 0),
        uuid=told("nvmlDeviceGetUUID", ""),
        capability=(capability[0], capability[1]),
    )


@cache
def nvidia_driver() -> tuple[str, tuple[int, int]] | None:
    """The driver's version, and that of the newest CUDA that it knows; None if nobody tells."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    try:
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())  # 12040 is CUDA 12.4
        return str(pynvml.nvmlSystemGetDriverVersion()), (version // 1000, version % 1000 // 10)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def resolve_device(config: HardwareConfig) -> Device:
    """The device of this machine that a run gets, the first of its kind.

    Raises
    ------
    InputError
        if the devices asked for are not here, do not compute in the precision asked for, or cannot be used by the torch
        that is installed.
    """
    here = {device.kind: device for device in reversed(find_devices())}
    if config.device in ("auto", "cuda") and "cuda" not in here:
        _check_mask()
    kind = find_devices()[0].kind if config.device == "auto" else config.device
    if kind not in here:
        raise InputError(
            f"hardware.device={kind}: this machine has {', '.join(here)}.",
            "Use hardware=auto, or check the driver with `python -m har_sweep.doctor`.",
        )
    if kind == "cuda" and (driver := nvidia_driver()) and (refused := refused_by_driver(torch_build(), *driver)):
        raise InputError(*refused)
    device, alike = here[kind], [each for each in find_devices() if each.kind == kind]
    if config.device_count > len(alike) and kind != "cpu":  # a CPU counts for as many as it is asked to be
        raise InputError(
            f"hardware.device_count={config.device_count}: this machine has {len(alike)} {kind} device(s).",
            f"Take hardware.device_count={len(alike)} or less.",
        )
    if kind == "cpu":
        _check_limits()
    if kind == "cpu" and (config.cpu_threads or 1) > logical_cores():
        raise InputError(
            f"hardware.cpu_threads={config.cpu_threads}: this process may use {logical_cores()} cores.",
            "More threads than cores only wait for each other. Leave it out, which takes them all.",
        )
    if config.precision == "fp16" and kind != "cuda":
        raise InputError(
            f"hardware.precision=fp16 does not train on {kind}.", "Use hardware.precision=auto, bf16 or fp32."
        )
    if config.precision == "bf16" and kind == "cuda" and not device.bf16:
        raise InputError(
            f"hardware.precision=bf16: {device.name} does not multiply in bf16.", "Use hardware.precision=auto or fp16."
        )
    if config.cuda_graph and kind != "cuda":
        raise InputError(f"hardware.cuda_graph=true: this run is on {kind}.", "Leave it at false.")
    kinds = {(each.name, each.bf16, each.fp16): each for each in alike}
    if kind == "cuda" and len(kinds) > 1:
        shown = ",".join(each.uuid for each in alike if each.name == device.name)
        raise InputError(
            f"This machine's GPUs are not alike ({', '.join(name for name, *_ in kinds)}): costs of runs on one could "
            "not be compared with costs of runs on another.",
            f"Name those that shall be used: CUDA_VISIBLE_DEVICES={shown}",
        )
    return device


def _check_mask() -> None:
    """Refuse to take the CPU because the mask names no GPU by mistake."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if mask in ("", "-1") or not (hidden := _nvidia()[0]):
        return
    listed = ", ".join(f"{n} ({device.name}, {device.uuid})" for n, device in enumerate(hidden))
    raise InputError(
        f"CUDA_VISIBLE_DEVICES={mask} names no GPU of this machine, which has {listed}.",
        "Name some of these, unset it to use them all, or take hardware=cpu.",
    )


def _check_limits() -> None:
    """Refuse what would be ignored, and named in records all the same."""
    for name, known in LIMITS.items():
        value = os.environ.get(name)
        if value and not re.fullmatch(known, value):
            raise InputError(
                f"{name}={value} would be ignored: {value} is none of its values.",
                f"Unset it, or take {'avx2' if name == 'ATEN_CPU_CAPABILITY' else 'AVX2'}, for example.",
            )


def logical_cores() -> int:
    """What this process may use of the processor's cores, each counted as often as it runs threads at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """The processor's cores that this process may use."""
    return min(logical_cores(), psutil.cpu_count(logical=False) or logical_cores())
