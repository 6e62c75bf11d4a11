"""A cost says how much of its time others took, from counters that are given here: nothing depends on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from har_sweep.cost import disturbance as module
from har_sweep.cost.disturbance import Counters, Disturbance, Meter, Place, SystemCounters, disturbance, wait_for_quiet
from har_sweep.cost.inference import Pass, images_per_second, latency, time_calls, undisturbed, went_through
from har_sweep.cost.nvml import GpuCounters, gpu_handle
from har_sweep.cost.training import TrainingClock
from har_sweep.device.compute import Compute
from har_sweep.train.session import Session

CPU = torch.device("cpu")
TWO = Place(2, 2, 2)


def spent(seconds: float, ours: float, busy: float | None, waited: float | None, **more: Any) -> Counters:
    return Counters(seconds, ours, busy, waited=waited, **more)


@pytest.mark.parametrize(
    ("counted", "place", "share"),
    [
        (spent(10, 20, 20, 0.0), TWO, 0.0),  # alone
        (spent(10, 10, 20, 10.0), TWO, 0.5),  # two busy loops on our two cores
        (spent(10, 10, 20, None), TWO, 0.5),  # the same where nobody counts how long threads wait
        (spent(10, 18, 20, 3.0), TWO, 0.1),  # never more than others used; a tick a core of it is not known
        (spent(10, 2, 12, 0.0), TWO, 0.0),  # others used what we had no use for, while we waited for data
        (spent(10, 10, 20, 0.0), Place(1, 2, 2), 0.0),  # a sister on the core that we left free
        (spent(10, 8, 20, None), Place(1, 2, 2), 0.2),  # and what it took beyond its share
        (spent(10, 20, 40, 0.0), Place(2, 4, 2), 0.35),  # beside us on the other threads of our two cores
        (spent(10, 20, 20, 0.0, stolen=4.0), TWO, 0.2),
        (spent(10, 10, 10, 10.0, throttled=10.0), TWO, 0.5),
        (spent(10, 20, 20, 0.0, slowed=3.0), TWO, 0.3),
        (spent(10, 20, 20, 0.0, device_others=2.5), TWO, 0.25),
        (spent(10, 20, None, 0.0), TWO, None),  # a system that counts nothing
        (spent(10, 20, 20, 0.0, device_others=None), TWO, None),
        (spent(0.05, 0.1, 0.1, None), TWO, None),  # too short for ticks
        (spent(10, 1, 40, 500.0), TWO, 1.0),
    ],
)
def test_what_others_take_is_a_share_of_the_time_of_our_threads(
    counted: Counters, place: Place, share: float | None
) -> None:
    found = disturbance(counted, place).share
    assert found == (None if share is None else pytest.approx(share, abs=0.0021))


def test_who_disturbed_is_told_the_main_causes_alone() -> None:
    busy = disturbance(spent(10, 1, 20, 18.0, stolen=0.2), TWO)
    assert busy.text == "other processes used 1.9 of 2 cores"
    held = disturbance(spent(10, 8, 10, 0.0, stolen=6.0, throttled=4.0), TWO)
    assert held.text == (
        "the host of this virtual machine kept its cores for 30 % of the time and "
        "a limit of processor time (cgroup) held it back for 20 % of the time"
    )
    assert Disturbance().share is None


def test_phases_add_up_and_what_is_unknown_of_one_is_unknown_of_both() -> None:
    quiet, busy = disturbance(spent(30, 60, 60, 0.0), TWO), disturbance(spent(10, 10, 20, 10.0), TWO)
    assert (quiet + busy).share == pytest.approx(0.125)
    assert (quiet + busy).marked
    assert (busy + Disturbance(5.0, None)).share is None
    assert not (busy + Disturbance(5.0, None)).marked


class Machine:
    """Counters that go on as told: ``busy`` of two cores are taken by others, from a run that wants both."""

    def __init__(self, *busy: float) -> None:
        self.busy, self.counted = iter(busy), Counters()

    def go_on(self, seconds: float, busy: float) -> None:
        ours = (2 - busy) * seconds
        self.counted += spent(seconds, ours, 2 * seconds, busy * seconds)

    def now(self) -> float:
        return self.counted.seconds

    def __call__(self) -> Counters:
        return self.counted


def test_a_quiet_moment_is_waited_for_no_longer_than_there_is_patience_and_it_is_said_once() -> None:
    machine, said = Machine(), list[str]()
    times = iter([2.0, 2.0, 0.1])

    def sleep(seconds: float) -> None:
        machine.counted += spent(seconds, 0.0, next(times) * seconds, 0.0)

    meter = Meter(TWO, machine)
    assert wait_for_quiet(meter, 30.0, said.append, sleep)
    assert said == ["other processes used 2.0 of 2 cores"]
    times = iter([2.0] * 4)
    assert not wait_for_quiet(meter, 2.0, said.append, sleep)
    assert next(times, None) is None
    assert not wait_for_quiet(meter, 0.4, said.append, sleep)
    assert not wait_for_quiet(meter, -1.0, said.append, sleep)


def timed(machine: Machine, busy: Iterable[float]) -> list[Any]:
    """Latency on a machine that is so busy in each of the five windows; a call takes as long as others let it."""
    of_window, calls = [0.0, *busy], 0

    def forward(example: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        window = 0 if calls < 5 else 1 + (calls - 5) // 10
        calls += 1
        machine.go_on(0.005 / (1 - of_window[window] / 2), of_window[window])
        return example

    return time_calls(forward, torch.zeros(1), CPU, Meter(TWO, machine), machine.now)


def test_latency_is_that_of_the_undisturbed_windows() -> None:
    windows = timed(Machine(), [0, 1, 0, 1, 1])
    counted = undisturbed(windows)
    assert [window.disturbance.marked for window in windows] == [False, True, False, True, True]
    assert latency(counted) == {"p50": pytest.approx(0.005), "p95": pytest.approx(0.005)}
    assert went_through(counted).share == pytest.approx(0, abs=1e-9)


def test_where_no_window_is_undisturbed_all_count_and_are_marked() -> None:
    windows = timed(Machine(), [1] * 5)
    assert undisturbed(windows) == windows
    assert latency(undisturbed(windows))["p50"] == pytest.approx(0.01)
    assert went_through(undisturbed(windows)).marked


def test_images_a_second_are_those_of_the_undisturbed_windows_of_a_pass() -> None:
    machine = Machine()
    windows = Pass(CPU, Meter(TWO, machine), machine.now)
    for busy in (0, 0, 1, 1, 0):
        machine.go_on(0.25 / (1 - busy / 2), busy)
        windows(25)
    machine.go_on(0.01, 0)  # after the last batch
    found = windows.end()
    assert [window.images for window in found] == [25] * 5
    assert images_per_second(found) == pytest.approx(125 / 1.76)
    assert images_per_second(undisturbed(found)) == pytest.approx(75 / 0.76)


def trained(clock: TrainingClock, machine: Machine, busy: Iterable[float]) -> None:
    for each in busy:
        with clock.waiting():
            pass
        with clock.step(8):
            machine.go_on(0.5 / (1 - each / 2), each)
    clock.pause()


def test_training_tells_its_disturbed_share_and_its_images_a_second_are_of_undisturbed_seconds() -> None:
    machine = Machine()
    clock = TrainingClock(CPU, Meter(TWO, machine), machine.now)
    trained(clock, machine, [0] * 3 + [0, 0, 1, 1, 0, 0])
    machine.go_on(100, 2)  # validation
    first = clock.cost()
    assert first.images_per_second == pytest.approx(16)
    assert first.images_disturbed_share == pytest.approx(0, abs=1e-9)
    assert first.disturbed_share == pytest.approx(1 / 5.5)  # of two seconds half was taken

    resumed = TrainingClock(CPU, Meter(TWO, machine), machine.now)
    resumed.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    assert resumed.cost() == first
    trained(resumed, machine, [1] * 3)
    assert resumed.cost().disturbed_share == pytest.approx(2.5 / 8.5)
    assert resumed.cost().images_per_second == first.images_per_second


def test_a_first_step_makes_nothing_unknown_where_only_a_core_s_ticks_are_counted() -> None:
    """Of less than a tenth of a second nothing would be known."""
    machine = Machine()
    coarse = Meter(TWO, lambda: replace(machine(), waited=None))
    clock = TrainingClock(CPU, coarse, machine.now)
    with clock.waiting():
        machine.go_on(0.01, 0)
    with clock.step(8):
        machine.go_on(0.5, 0)
    trained(clock, machine, [0] * 6)
    assert clock.cost().disturbed_share == pytest.approx(0, abs=1e-9)


def test_training_that_was_disturbed_throughout_has_all_of_its_seconds() -> None:
    machine = Machine()
    clock = TrainingClock(CPU, Meter(TWO, machine), machine.now)
    trained(clock, machine, [1] * 7)
    cost = clock.cost()
    assert cost.images_per_second == pytest.approx(8)
    assert cost.images_disturbed_share == cost.disturbed_share == pytest.approx(0.5)


def test_a_checkpoint_of_before_is_gone_on_from_and_its_disturbance_is_unknown() -> None:
    clock = TrainingClock(CPU, Meter(TWO, Machine()))
    clock.load_state_dict({"seconds": 9.0, "wait_seconds": 1.0, "warm_seconds": 8.0, "warm_images": 80})
    cost = clock.cost()
    assert (cost.seconds, cost.images_per_second) == (9.0, 10.0)
    assert cost.disturbed_share is cost.images_disturbed_share is None


def test_this_system_s_counters_only_go_up() -> None:
    read = SystemCounters()
    before = read()
    assert sum(range(10**6)) > 0
    after = read()
    assert after.seconds > before.seconds
    assert after.ours > before.ours
    assert (after.busy is None) == (before.busy is None)


def test_a_limit_of_the_cgroups_around_counts_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / "step").mkdir(parents=True)
    (job / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 2500000\n")
    (job / "step/cpu.stat").write_text("usage_usec 5\nnr_throttled 0\nthrottled_usec 500000\n")
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    monkeypatch.setattr(module, "_CGROUPS", tmp_path)
    monkeypatch.setattr(module, "_OWN_CGROUP", tmp_path / "cgroup")
    read = SystemCounters()
    assert read().throttled == pytest.approx(3.0)
    (job / "cpu.stat").unlink()
    assert read().throttled == pytest.approx(0.5)


class Nvml(ModuleType):
    """A driver with some processes on its one GPU."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    def __init__(self, use: dict[int, int] | None, pids: Iterable[int] = (), reasons: int = 0) -> None:
        super().__init__("pynvml")
        self.use, self.pids, self.reasons = use, pids, reasons

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid == "GPU-lost":
            raise self.NVMLError("not found")
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.pids]

    def nvmlDeviceGetProcessUtilization(self, handle: object, since: int) -> list[SimpleNamespace]:
        if self.use is None:
            raise self.NVMLError("not supported")
        if not self.use:
            raise self.NVMLError_NotFound("nothing since")
        return [SimpleNamespace(pid=pid, smUtil=share, timeStamp=since + 1) for pid, share in self.use.items()]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:
        return self.reasons


@pytest.mark.parametrize(
    ("driver", "others", "slowed"),
    [
        (Nvml({}, [os.getpid()]), 0.0, 0.0),  # alone
        (Nvml({1: 40, os.getpid(): 60}, [1, os.getpid()]), 4.0, 0.0),
        (Nvml({}, [1, os.getpid()]), 0.0, 0.0),  # somebody is there, and does nothing
        (Nvml(None, [1, os.getpid()]), None, 0.0),  # somebody is there, and it is not told what he does
        (Nvml({}, [4711]), 0.0, 0.0),  # in a container: ourselves, under another number
        (Nvml({}, [4711, 4712]), None, 0.0),
        (Nvml({}, [os.getpid()], reasons=0x04), 0.0, 0.0),  # at its limit of power, as it should be
        (Nvml({}, [os.getpid()], reasons=0x40), 0.0, 10.0),  # hot
    ],
)
def test_a_gpu_tells_who_else_computes_on_it_and_whether_it_is_slowed(
    monkeypatch: pytest.MonkeyPatch, driver: Nvml, others: float | None, slowed: float
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    times = iter([100.0, 106.0, 110.0])
    read = GpuCounters("handle", lambda: next(times))
    read()
    assert read() == (others if others is None else pytest.approx(others), slowed)


def test_of_a_slice_of_a_gpu_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GpuCounters(None)() == (None, 0.0)


@pytest.mark.parametrize(
    ("name", "uuid", "handle"),
    [("NVIDIA A100", "1", "GPU-1"), ("NVIDIA A100", "lost", None), ("NVIDIA A100 MIG 1g.5gb", "1", None)],
)
def test_a_run_on_a_gpu_counts_who_uses_it_by_the_driver_and_on_a_slice_of_one_does_not_know(
    name: str, uuid: str, handle: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, unasked = torch.device("cuda", 0), SimpleNamespace()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name=name, uuid=uuid))
    monkeypatch.setitem(sys.modules, "pynvml", Nvml({1: 40, os.getpid(): 60}, [1, os.getpid()]))
    assert gpu_handle(device) == handle
    session = Session(unasked, unasked, Compute(device, "fp32", torch.channels_last))  # type: ignore[arg-type]
    others = session.meter().lap().device_others
    assert (others is None) == (handle is None)
    assert others != 0


@pytest.mark.gpu
def test_a_real_gpu_answers() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    torch.ones(1, device=device)
    others, slowed = GpuCounters(gpu_handle(device))()
    assert others is None or others >= 0
    assert slowed >= 0


def test_a_helper_that_ends_takes_nothing_back() -> None:
    before = Counters(10.0, 8.0, 12.0, 0.0, 3.0, 0.0, 0.0, 0.0)
    assert (replace(before, seconds=11.0, waited=1.0) - before).waited == 0.0
    assert (replace(before, busy=None) - before).busy is None
