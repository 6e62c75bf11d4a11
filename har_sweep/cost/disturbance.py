"""How much of a run's time others took, from what the system counts anyway: other processes, the host of a virtual
machine, a limit of processor time, heat.

What is lost to other processes is what they used of the cores beyond those that the run left free; where the system
also counts how long the run's threads stood ready and were not run (Linux), it is no more than that.
"""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import psutil

from har_sweep.record.record import DISTURBED
from har_sweep.spec.hardware import cores, logical_cores

CROWDED = 0.25  # share of the time that others take: with more, threads wait for each other more than they compute
TICK_SECONDS = 0.01  # in which the kernel accounts for a core's time
TICKS_NEEDED = 10  # of a phase of which nothing finer is known
SHARED_CORE = 0.35  # what the second thread on a core takes from the first: the two get about 1.3 times one's speed
POLL_SECONDS = 0.5
_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_HEAT = "/sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_total_time_ms"


@dataclass(frozen=True)
class Counters:
    """What was counted of a phase, or up to a moment: all in seconds, None where nobody counts it.

    ``ours`` is the processor time of this process and its helpers, ``busy`` anybody's on the cores that we may use;
    ``stolen`` the host kept of these. ``waited`` our threads stood ready, ``throttled`` they were held back for a limit
    of their cgroups, ``slowed`` the device was for heat or want of power; ``device_others`` is what other processes
    used of an accelerator.
    """

    seconds: float = 0.0
    ours: float = 0.0
    busy: float | None = 0.0
    stolen: float = 0.0
    waited: float | None = 0.0
    throttled: float = 0.0
    slowed: float = 0.0
    device_others: float | None = 0.0

    def __add__(self, other: Counters) -> Counters:
        return self._with(other, operator.add)

    def __sub__(self, before: Counters) -> Counters:
        return self._with(before, lambda now, then: max(0.0, now - then))  # a helper that ended took its count along

    def _with(self, other: Counters, merge: Callable[[float, float], float]) -> Counters:
        def merged(name: str) -> Any:
            one, another = getattr(self, name), getattr(other, name)
            return None if one is None or another is None else merge(one, another)

        return Counters(*(merged(each.name) for each in fields(self)))


@dataclass(frozen=True)
class Place:
    """What a run computes with: how many threads, on cores that run so many at once (``logical``)."""

    threads: int
    logical: int = field(default_factory=logical_cores)
    physical: int = field(default_factory=cores)


@dataclass(frozen=True)
class Disturbance:
    """Of a phase: how many of its ``seconds`` were ``lost``, by cause (None if that is not known), and how many core
    seconds ``others`` used of those of ``cores`` cores."""

    seconds: float = 0.0
    lost: dict[str, float] | None = field(default_factory=dict)
    others: float = 0.0
    cores: int = 0

    def __add__(self, other: Disturbance) -> Disturbance:
        lost = None
        if self.lost is not None and other.lost is not None:
            causes = [*self.lost, *(cause for cause in other.lost if cause not in self.lost)]
            lost = {cause: self.lost.get(cause, 0.0) + other.lost.get(cause, 0.0) for cause in causes}
        return Disturbance(self.seconds + other.seconds, lost, self.others + other.others, max(self.cores, other.cores))

    @property
    def share(self) -> float | None:
        """Of its time that was taken: 0 undisturbed, 0.5 half. None if that is not known."""
        if self.lost is None or not self.seconds:
            return None
        return min(1.0, sum(self.lost.values()) / self.seconds)

    @property
    def marked(self) -> bool:
        """Whether what was measured in it is not to be compared."""
        return self.share is not None and self.share > DISTURBED

    @property
    def text(self) -> str:
        """Why it was disturbed: ``other processes used 1.9 of 2 cores``."""
        lost = self.lost or {}
        others = max(self.others, lost.get("others", 0.0))  # ticks are too coarse for a short phase
        shares = {cause: f"{100 * lost[cause] / self.seconds:.0f} % of the time" for cause in lost}
        told = {
            "others": f"other processes used {others / (self.seconds or 1):.1f} of {self.cores} cores",
            "gpu": f"other processes used the GPU for {shares.get('gpu')}",
            "host": f"the host of this virtual machine kept its cores for {shares.get('host')}",
            "limit": f"a limit of processor time (cgroup) held it back for {shares.get('limit')}",
            "heat": f"heat or want of power slowed the device down for {shares.get('heat')}",
        }
        most = max(lost.values(), default=0.0)
        return " and ".join(text for cause, text in told.items() if lost.get(cause, 0.0) > most / 4)


def disturbance(spent: Counters, place: Place) -> Disturbance:
    """What the counters of a phase come to, for a run that would have used all of its threads."""
    if not spent.seconds:
        return Disturbance()
    if spent.busy is None or spent.device_others is None or (
        spent.waited is None and spent.seconds < TICKS_NEEDED * TICK_SECONDS
    ):  # fmt: skip
        return Disturbance(spent.seconds, None)
    threads, others = place.threads, max(0.0, spent.busy - spent.ours)

    def beyond(room: int) -> float:
        return max(0.0, others - max(0, room - threads) * spent.seconds)

    crowded = beyond(place.logical)
    shared = SHARED_CORE * max(0.0, beyond(place.physical) - crowded)
    if spent.waited is not None:  # by a tick a core, what others used is not known
        crowded = min(spent.waited, crowded + place.logical * TICK_SECONDS)
    lost = {
        "others": (crowded + shared) / threads,
        "host": spent.stolen / threads,
        "limit": spent.throttled / threads,
        "heat": spent.slowed,
        "gpu": spent.device_others,
    }
    return Disturbance(spent.seconds, {cause: s for cause, s in lost.items() if s}, others, place.logical)


class Meter:
    """Counts from one ``lap`` to the next; ``read`` are the system's counters up to now."""

    def __init__(self, place: Place, read: Callable[[], Counters] | None = None) -> None:
        self.place, self._read = place, read or SystemCounters()
        self._last = self._read()

    def lap(self) -> Counters:
        """What was counted since the last lap, or the beginning."""
        last, self._last = self._last, self._read()
        return self._last - last

    def disturbance(self) -> Disturbance:
        """That of a lap."""
        return disturbance(self.lap(), self.place)

    def prospect(self) -> Disturbance:
        """That which a lap of rest would have had, if the run had computed in it."""
        return disturbance(replace(self.lap(), waited=None), self.place)


def wait_for_quiet(
    meter: Meter, patience_seconds: float, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> bool:
    """Wait until a run would not be disturbed, at most so long; whether it is so. ``say`` hears once who disturbs."""
    for poll in range(int(patience_seconds / POLL_SECONDS)):
        meter.lap()
        sleep(POLL_SECONDS)
        now = meter.prospect()
        if not now.marked:
            return True
        if not poll:
            say(now.text)
    return False


class SystemCounters:
    """This system's, for this process and the helpers that it has now; ``device`` counts those of an accelerator, as
    (seconds that others used of it, seconds that it was slowed)."""

    def __init__(self, device: Callable[[], tuple[float | None, float]] = lambda: (0.0, 0.0)) -> None:
        self._device = device
        self._helpers = psutil.Process().children(recursive=True)
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self._limits = list(_limits())
        self._heat = [file for core in self._cores or () if (file := Path(_HEAT.format(core))).exists()]

    def __call__(self) -> Counters:
        times = psutil.cpu_times(percpu=True)
        times = times if self._cores is None else [times[core] for core in self._cores if core < len(times)]
        known = sum(map(sum, times)) > 0  # some sandboxes only have the names
        counted = [name for name in ("user", "nice", "system", "irq", "softirq") if hasattr(times[0], name)]
        device_others, device_slowed = self._device()
        heat = [int(file.read_text()) / 1e3 for file in self._heat]
        return Counters(
            seconds=time.monotonic(),
            ours=self._ours(),
            busy=sum(getattr(core, name) for core in times for name in counted) if known else None,
            stolen=sum(getattr(core, "steal", 0.0) for core in times),
            waited=waited_seconds([helper.pid for helper in self._helpers]),
            throttled=sum(_number_after(file, name) / unit for file, name, unit in self._limits),
            slowed=device_slowed + (sum(heat) / len(heat) if heat else 0.0),
            device_others=device_others,
        )

    def _ours(self) -> float:
        ended = os.times()
        seconds = time.process_time() + ended.children_user + ended.children_system
        for helper in self._helpers:
            try:
                times = helper.cpu_times()
            except psutil.Error:  # it has ended, or is no more ours to look at
                continue
            seconds += times.user + times.system
        return seconds


def waited_seconds(helpers: Sequence[int] = ()) -> float | None:
    """For which the threads of this process and its ``helpers`` (their ids), added up, were ready and had no core; None
    where the kernel does not count it."""
    nanoseconds = 0
    for pid in ("self", *helpers):
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            if pid == "self":
                return None
            continue
        for thread in threads:
            try:
                nanoseconds += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                if thread == str(os.getpid()):  # a kernel that does not count it
                    return None
    return nanoseconds / 1e9


def _limits() -> Iterator[tuple[Path, str, float]]:
    """The files with the time that this process's cgroups, or those around them, held it back: file, name and unit."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        first = number == "0"  # the first version has a tree for each controller
        if not first and "cpu" not in controllers.split(","):
            continue
        root, name, unit = (_CGROUPS, "throttled_usec", 1e6) if first else (_CGROUPS / "cpu", "throttled_time", 1e9)
        inside = root / path.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(root) and name in _text(folder / "cpu.stat"):
                yield folder / "cpu.stat", name, unit


def _number_after(file: Path, name: str) -> int:
    """That of a line such as ``throttled_usec 12``; 0 without one."""
    words: Sequence[str] = _text(file).split()
    return int(words[words.index(name) + 1]) if name in words else 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
