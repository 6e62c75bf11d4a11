"""Energy, where the hardware counts it: NVML on NVIDIA, RAPL for the CPU on Linux."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from har_sweep.cost.memory import repeatedly
from har_sweep.cost.nvml import gpu_handle
from har_sweep.device.compute import synchronise

_POWERCAP = Path("/sys/class/powercap")
_SAMPLE_SECONDS = 30.0


class Energy:
    """The energy used in a phase; may be read while it goes on."""

    def __init__(self, counter: Callable[[], float | None] | None) -> None:
        self._counter = counter
        self._joules: float | None = None
        self._lock = threading.Lock()

    @property
    def joules(self) -> float | None:
        """None where nothing counts it."""
        self.sample()
        return self._joules

    def sample(self) -> None:
        with self._lock:
            if self._counter is not None:
                self._joules = self._counter()

    def close(self) -> None:
        """The phase is over: what is used later is not in it."""
        self.sample()
        self._counter = None


@contextmanager
def measured_energy(device: torch.device, powercap: Path = _POWERCAP) -> Iterator[Energy]:
    """Measure the energy that the device uses during the phase.

    It is the whole device's (the GPU board's, or all of the CPU's packages'), whoever else computes on it.
    """
    counter: Callable[[], float | None] | None = None
    if device.type == "cuda":
        counter = _nvml_counter(device)
    elif device.type == "cpu":
        counter = _rapl_counter(powercap)
    energy = Energy(counter)
    try:
        # RAPL's counters wrap within the hour at full load, so they are also read in between.
        with repeatedly(energy.sample, _SAMPLE_SECONDS):
            yield energy
        synchronise(device)
    finally:
        energy.close()


def _nvml_counter(device: torch.device) -> Callable[[], float | None] | None:
    """Joules of the GPU since this call; None where the driver does not say."""
    import pynvml

    handle = gpu_handle(device)
    if handle is None:
        return None
    try:
        start = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None

    def joules() -> float | None:
        try:
            return (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - start) / 1e3
        except pynvml.NVMLError:  # the driver may have been exchanged meanwhile
            return None

    return joules


def _rapl_counter(powercap: Path) -> Callable[[], float | None] | None:
    """Joules of all CPU packages since this call."""
    try:
        packages = [
            folder
            for folder in sorted(powercap.glob("intel-rapl:*"))
            if (folder / "name").read_text().startswith("package")
        ]
        ranges = {folder: int((folder / "max_energy_range_uj").read_text()) for folder in packages}
        last = {folder: int((folder / "energy_uj").read_text()) for folder in packages}
    except OSError:  # since CVE-2020-8694 most systems let only root read energy_uj
        return None
    if not packages:
        return None
    used = dict.fromkeys(packages, 0)

    def joules() -> float | None:
        for folder in packages:
            try:
                now = int((folder / "energy_uj").read_text())
            except OSError:  # the module may have been removed meanwhile
                return None
            # The counter runs up to and including its range, and then starts at 0 again.
            used[folder] += now - last[folder] + (ranges[folder] + 1 if now < last[folder] else 0)
            last[folder] = now
        return sum(used.values()) / 1e6

    return joules
