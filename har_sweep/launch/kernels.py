"""Whether torch has kernels for this machine's GPU: asked of it once, and kept in ``paths.cache``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from har_sweep.errors import InputError
from har_sweep.files import keep, kept
from har_sweep.launch.ask import Ask, Unanswered
from har_sweep.spec.cuda import refused_by_kernels, torch_build
from har_sweep.spec.hardware import Device


def check_kernels(device: Device, cache_folder: str, ask: Ask) -> None:
    """Raise InputError if torch has none for a device."""
    if device.kind != "cuda" or device.capability == (0, 0):
        return
    architectures = _architectures(Path(cache_folder), ask)
    if refused := refused_by_kernels(device.name, device.capability, architectures, torch_build()):
        raise InputError(*refused)


def _architectures(cache_folder: Path, ask: Ask) -> list[str]:
    """What torch has kernels for; empty if it does not say, as where it finds no GPU that it can use."""
    folder, setting = cache_folder / "kernels", {"torch": torch_build().version}
    if known := kept(folder, setting, list[str]):
        return known
    try:
        found: list[str] = ask("architectures")
    except Unanswered:
        return []
    if found:
        with suppress(OSError):  # else it is asked again
            keep(folder, setting, found)
    return found
