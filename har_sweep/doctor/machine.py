"""Devices, cores, memory and disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from har_sweep.doctor.finding import NOTE, OK, PROBLEM, Check, distinct
from har_sweep.units import byte_size

if TYPE_CHECKING:
    from har_sweep.config.schema import Config
    from har_sweep.cost.disturbance import Disturbance

DISK_NEEDED_BYTES = 2 * 2**30  # a checkpoint of ViT-B with its optimizer takes 1 GiB, and the next is written beside it
MEMORY_WISHED_BYTES = 4 * 2**30


def devices(configs: list[Config]) -> Iterator[Check]:
    """What could compute, and whether it is what the sweep asks for."""
    from har_sweep.errors import InputError
    from har_sweep.launch.ask import asking_torch
    from har_sweep.launch.kernels import check_kernels
    from har_sweep.spec.hardware import find_devices, resolve_device

    found = find_devices()
    for device in found:
        memory = f", {byte_size(device.memory_bytes)}" if device.memory_bytes else ""
        yield Check(device.kind, OK, f"{device.name}{memory}, {'bf16' if device.bf16 else 'no bf16'}")
    if found[0].kind == "cpu":
        yield Check("GPU", NOTE, "none: sweeps run on the CPU", "With an NVIDIA GPU, `nvidia-smi` should list it.")
    with asking_torch() as ask:
        for asked, cache in distinct((config.hardware, config.paths.cache) for config in configs):
            try:
                check_kernels(resolve_device(asked), cache, ask)
            except InputError as e:
                yield Check("hardware", PROBLEM, e.message, e.hint)


def precision(configs: list[Config]) -> Iterator[Check]:
    """What ``hardware.precision=auto`` comes to for a small model, from what was measured here, now or before."""
    from har_sweep.errors import InputError
    from har_sweep.launch.ask import Unanswered, asking_torch
    from har_sweep.launch.speeds import measured, small_run, ways_of
    from har_sweep.spec.hardware import resolve_device
    from har_sweep.spec.precision import choose

    for hardware, cache in distinct((config.hardware, config.paths.cache) for config in configs):
        if hardware.precision != "auto":
            continue
        try:
            spec = small_run(resolve_device(hardware).kind, hardware, cache)
            if len(ways_of(spec)) == 1:
                yield Check("precision", OK, f"fp32: {spec.device} has nothing faster in hardware")
                continue
            with asking_torch() as ask:
                choice = choose(measured(spec, ways_of(spec), ask, lambda: None))
            yield Check("precision", OK, f"{spec.model.timm_name} in {choice.way}, {choice.why}")
        except InputError:
            continue  # which `devices` tells
        except (Unanswered, OSError) as e:
            yield Check("precision", NOTE, f"could not be measured: {e}", "Name hardware.precision=fp32 or bf16.")


def cuda_in_torch() -> Check | None:
    """Whether torch, asked in a process of its own, can use the GPU that the driver shows; None without one."""
    from har_sweep.spec.hardware import find_devices

    if find_devices()[0].kind != "cuda":
        return None
    code = "import torch; torch.zeros(1, device='cuda'); print('CUDA', torch.version.cuda)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if asked.returncode == 0:
        return Check("torch on the GPU", OK, asked.stdout.strip())
    return Check(
        "torch on the GPU",
        PROBLEM,
        f"does not work: {(asked.stderr.strip().splitlines() or [f'status {asked.returncode}'])[-1]}",
        "Where no line above says why, update the driver, or use hardware=cpu.",
    )


def machine() -> Iterator[Check]:
    """CPU threads and main memory."""
    import psutil

    from har_sweep.spec.hardware import THREADS, logical_cores

    said = [f", as far as {name}={os.environ[name]} lets them" for name in THREADS if os.environ.get(name)]
    yield Check("CPU threads", OK, f"{logical_cores()} of {os.cpu_count()} usable{''.join(said)}")
    memory = psutil.virtual_memory()
    finding = f"{byte_size(memory.available)} of {byte_size(memory.total)} available"
    if memory.available < MEMORY_WISHED_BYTES:
        yield Check("memory", NOTE, finding, "Large models may not fit: close programs, or lower trainer.batch_size.")
    else:
        yield Check("memory", OK, finding)


def watch_load() -> Callable[[], Check]:
    """Watch from now on; calling what it returns tells the ``load`` since, of half a second at least."""
    import time

    from har_sweep.cost.disturbance import POLL_SECONDS, Meter, Place
    from har_sweep.spec.hardware import cores

    meter, began = Meter(Place(cores())), time.monotonic()

    def seen() -> Check:
        time.sleep(max(0.0, began + POLL_SECONDS - time.monotonic()))
        return load(meter.prospect())

    return seen


def load(found: Disturbance) -> Check:
    """What others use of the processor, and whether costs that are measured beside them would be marked."""
    if found.share is None:
        return Check("load", NOTE, "not known: this system does not count it", "See to it that sweeps are alone here.")
    finding = f"other processes use {found.others / found.seconds:.1f} of {found.cores} cores"
    if not found.marked:
        return Check("load", OK, finding)
    return Check(
        "load", NOTE, f"{finding}: what is measured now would be marked as disturbed",
        "End what else runs here, or `python -m har_sweep.measure RUN` when it is over.",
    )  # fmt: skip


def disk(configs: list[Config]) -> Iterator[Check]:
    """Free space where records, caches and data go."""
    for name in ("runs", "cache", "data"):
        for path in distinct(Path(getattr(config.paths, name)).absolute() for config in configs):
            yield _disk(f"paths.{name}", path)


def _disk(key: str, path: Path) -> Check:
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        return Check(key, PROBLEM, f"{path}: {there} is a file", f"Choose another folder: {key}=FOLDER")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(key, PROBLEM, f"{there} cannot be written", f"Choose another folder: {key}=FOLDER")
    free = shutil.disk_usage(there).free
    finding = f"{byte_size(free)} free in {path}"
    if free < DISK_NEEDED_BYTES:
        return Check(key, PROBLEM, finding, f"Free {byte_size(DISK_NEEDED_BYTES)} or choose another disk: {key}=FOLDER")
    return Check(key, OK, finding)
