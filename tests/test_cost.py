"""Costs: the study's static figures, and time, memory and energy that mean what their names say."""

from __future__ import annotations

import copy
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from small import small_spec
from torch import nn

from har_sweep.cost import counted as kept_counts
from har_sweep.cost import energy, inference, static, training
from har_sweep.cost.counted import StaticCost
from har_sweep.cost.disturbance import Counters, Meter, Place
from har_sweep.cost.energy import measured_energy
from har_sweep.cost.inference import latency, percentiles, time_calls
from har_sweep.cost.memory import Peak, memory_now, peak_memory
from har_sweep.cost.static import static_costs
from har_sweep.cost.training import TrainingClock
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute
from har_sweep.run import measure
from har_sweep.spec.run_spec import RunSpec
from har_sweep.train.session import Session

CPU = torch.device("cpu")
INPUT = [3, 224, 224]
MIB = 2**20


@pytest.mark.parametrize(
    ("name", "parameters", "disk_mib", "macs", "macs_without"),
    [
        ("resnet18", 11.18, 42.74, 1.82, 1.82),
        ("vit_base_patch16_224", 85.81, 327.39, 17.58, 16.87),
        ("vit_tiny_patch16_224", 5.53, 21.14, 1.26, 1.08),
    ],
)
def test_static_costs_are_the_studys(
    name: str, parameters: float, disk_mib: float, macs: float, macs_without: float
) -> None:
    cost = static_costs(timm.create_model(name, num_classes=15), INPUT)
    assert round(cost.parameters / 1e6, 2) == round(cost.trainable_parameters / 1e6, 2) == parameters
    assert round(cost.disk_bytes / MIB, 2) == pytest.approx(disk_mib)
    assert cost.macs is not None
    assert cost.macs_without_attention_products is not None
    assert round(cost.macs / 1e9, 2) == macs
    assert round(cost.macs_without_attention_products / 1e9, 2) == macs_without
    assert cost.uncounted_products == []


def test_disk_bytes_are_those_of_a_saved_file(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=15)
    torch.save(model.state_dict(), tmp_path / "archive")  # torch.save writes the file's name into it, at every tensor
    assert static_costs(model.bfloat16(), INPUT).disk_bytes == (tmp_path / "archive").stat().st_size


def test_attention_products_are_those_of_the_formula() -> None:
    """12 layers x 2 x tokens^2 x width."""
    cost = static_costs(timm.create_model("vit_tiny_patch16_224", num_classes=15), INPUT)
    assert cost.macs is not None
    assert cost.macs_without_attention_products is not None
    assert cost.macs - cost.macs_without_attention_products == 12 * 2 * 197**2 * 192


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "tiny_vit_5m_224"])
def test_macs_do_not_depend_on_whether_timm_fuses_attention(name: str) -> None:
    fused = timm.create_model(name, num_classes=15)
    unfused = copy.deepcopy(fused)
    for module in unfused.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    assert static_costs(unfused, INPUT) == static_costs(fused, INPUT)
    assert not any(getattr(module, "fused_attn", False) for module in unfused.modules())


@pytest.mark.parametrize(
    ("name", "gmacs"),  # as published with the models, multiply-adds at 224 x 224
    [("convnext_tiny", 4.47), ("efficientvit_b0", 0.10), ("tiny_vit_5m_224", 1.27), ("mobilenetv4_conv_small", 0.19)],
)
def test_other_models_come_out_as_published(name: str, gmacs: float) -> None:
    cost = static_costs(timm.create_model(name), INPUT)
    assert cost.macs is not None
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.05)
    assert cost.uncounted_products == []


def test_counting_leaves_the_model_as_it_was(
    recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    model = timm.create_model("resnet18", num_classes=15).train()
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad = False
    before = copy.deepcopy(model.state_dict())
    needed, state = [p.requires_grad for p in model.parameters()], torch.get_rng_state()
    cost = static_costs(model, INPUT)
    assert cost.trainable_parameters == 512 * 15 + 15 < cost.parameters
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == needed
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert not caplog.records
    assert not [w for w in recwarn if "torch.jit.script" not in str(w.message)]


def test_products_that_fvcore_does_not_know_are_named() -> None:
    class Unusual(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1) + torch.rand(1)
            return torch.cdist(x, x) + torch.baddbmm(x[:, None, :1], x[:, None], x[:, :, None])[:, 0].exp()

    state = torch.get_rng_state()
    assert static_costs(Unusual(), [3, 8, 8]).uncounted_products == ["aten::baddbmm", "aten::cdist"]
    assert torch.equal(state, torch.get_rng_state())  # though its forward pass draws


def test_peak_memory_is_that_of_the_phase_above_the_baseline() -> None:
    kept = torch.ones(16 * MIB, dtype=torch.uint8)
    baseline = memory_now(CPU)
    model = torch.ones(32 * MIB, dtype=torch.uint8)
    with peak_memory(CPU, baseline) as training:
        passing = [torch.ones(MIB, dtype=torch.uint8) for _ in range(96)]
        deadline = time.monotonic() + 60
        while training._most < 120 * MIB and time.monotonic() < deadline:  # until the sampling thread has come by
            time.sleep(0.001)
        top_of_the_heap = passing[-1]  # keeps the freed blocks below it resident
        del passing
    with peak_memory(CPU, baseline) as inference:
        pass
    assert 120 * MIB < training.bytes < 140 * MIB
    assert 28 * MIB < inference.bytes < 44 * MIB  # not what training needed
    del kept, model, top_of_the_heap


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells file pages apart")
def test_pages_of_mapped_files_are_not_memory_of_the_model(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "images").write_bytes(bytes(64 * MIB))
    with peak_memory(CPU, memory_now(CPU)) as peak:
        images = np.memmap(tmp_path / "images", dtype=np.uint8, mode="r")
        assert int(images.max()) == 0
    assert peak.bytes < 16 * MIB


class Hands:
    """A clock that goes on only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def go_on(self, seconds: float) -> None:
        self.now += seconds


def train(clock: TrainingClock, hands: Hands, steps: Sequence[tuple[float, float]]) -> None:
    """Steps of (seconds of waiting, seconds of computing) on 8 images each; the end of the data takes a second."""
    for wait, compute in steps:
        with clock.waiting():
            hands.go_on(wait)
        with clock.step(8):
            hands.go_on(compute)
    with clock.waiting():
        hands.go_on(1.0)
    clock.pause()


def test_the_clock_tells_waiting_from_computing_and_stops_in_a_pause() -> None:
    clock = TrainingClock(CPU, now=(hands := Hands()))
    train(clock, hands, [(1, 2)] * 5)
    hands.go_on(1000)  # validation
    clock.pause()
    train(clock, hands, [(1, 3)] * 5)
    cost = clock.cost()
    assert (cost.seconds, cost.compute_seconds, cost.data_wait_seconds) == (37, 25, 12)
    assert cost.data_wait_share == pytest.approx(12 / 37)
    assert cost.images_per_second == pytest.approx(7 * 8 / (2 * 3 + 1 + 5 * 4 + 1))


def test_the_first_three_steps_are_not_in_the_throughput_and_what_the_first_took_longer_is_a_figure_of_its_own() -> (
    None
):
    clock = TrainingClock(CPU, now=(hands := Hands()))
    train(clock, hands, [(0, 50)] * 3 + [(0, 1)] * 4)
    cost = clock.cost()
    assert cost.images_per_second == pytest.approx(4 * 8 / 5)
    assert cost.compile_seconds == pytest.approx(50 - 5 / 4)
    assert cost.seconds == pytest.approx(155 - (50 - 5 / 4))


def test_the_first_step_of_a_batch_size_is_in_no_throughput() -> None:
    """The last batch of the first epoch may be compiled anew, and chooses its kernels."""
    clock = TrainingClock(CPU, now=(hands := Hands()))
    for epoch in range(2):
        for images in (8, 8, 8, 8, 4):
            with clock.waiting():
                pass
            with clock.step(images) as first:
                assert first == (not epoch and hands.now in (100.0, 134.0))
                hands.go_on((30 if first else 0) + images / 8)
        clock.pause()
        hands.go_on(1000)  # validation
    cost = clock.cost()
    assert cost.images_per_second == pytest.approx(8)
    assert cost.compile_seconds == pytest.approx(60)
    assert cost.seconds == pytest.approx(9)
    resumed = TrainingClock(CPU, now=hands)
    resumed.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    assert resumed.cost() == cost
    resumed.another_device()
    assert resumed.cost().images_per_second is None


def test_too_few_steps_have_no_throughput() -> None:
    clock = TrainingClock(CPU, now=(hands := Hands()))
    assert clock.cost().data_wait_share is None
    train(clock, hands, [(0, 1)] * 3)
    assert clock.cost().images_per_second is None


def test_a_resumed_clock_goes_on_and_warms_up_anew() -> None:
    first = TrainingClock(CPU, now=(hands := Hands()))
    train(first, hands, [(1, 2)] * 5)
    second = TrainingClock(CPU, now=hands)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.cost() == first.cost()
    train(second, hands, [(1, 90)] * 3)
    # Of two first steps, of 2 and 90 s, what is beyond the time of the two that count, with what followed them.
    assert second.cost().compile_seconds == 92 - 8
    assert second.cost().seconds == first.cost().seconds + 274 - 84
    assert second.cost().data_wait_seconds == first.cost().data_wait_seconds + 4
    train(second, hands, [(1, 2)] * 2)
    assert second.cost().images_per_second == pytest.approx((2 + 2) * 8 / (7 + 1 + 7))


def test_the_end_of_the_data_passes_through_the_clock() -> None:
    clock = TrainingClock(CPU, now=(hands := Hands()))
    hands.go_on(2)

    def batches() -> Iterator[int]:
        hands.go_on(2)
        yield from ()

    with pytest.raises(StopIteration), clock.waiting():
        next(batches())
    assert clock.cost().data_wait_seconds == 2


@pytest.mark.parametrize(("seconds", "timed"), [(0.001, 50), (0.02, 25), (1.0, 20)])
def test_latency_is_that_of_enough_warm_calls(seconds: float, timed: int) -> None:
    hands, calls = Hands(), 0

    def forward(example: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        assert torch.is_inference_mode_enabled()
        hands.go_on(10.0 if calls <= 5 else seconds)
        return example

    quiet = Meter(Place(2, 2, 2), Counters)
    windows = time_calls(forward, torch.zeros(1, 2, 2, 3, dtype=torch.uint8), CPU, quiet, hands)
    assert [window.images for window in windows] == [timed / 5] * 5
    assert calls == 5 + timed
    assert latency(windows) == {"p50": pytest.approx(seconds), "p95": pytest.approx(seconds)}


def test_percentiles_interpolate() -> None:
    assert percentiles([float(n) for n in range(1, 102)]) == {"p50": 51.0, "p95": 96.0}
    assert percentiles([3.0, 1.0, 2.0])["p50"] == statistics.median([1.0, 2.0, 3.0])


def powercap(folder: Path, **domains: tuple[str, int]) -> Path:
    """A folder as Linux has it: a name and microjoules for each domain."""
    for domain, (name, microjoules) in domains.items():
        (path := folder / domain.replace("_", ":")).mkdir(parents=True)
        (path / "name").write_text(name + "\n")
        (path / "max_energy_range_uj").write_text("999999999\n")
        (path / "energy_uj").write_text(f"{microjoules}\n")
    return folder


def test_cpu_energy_is_that_of_all_packages_and_survives_a_counter_that_wraps(tmp_path: Path) -> None:
    domains = {
        "intel-rapl_0": ("package-0", 5_000_000),
        "intel-rapl_0_0": ("core", 1_000_000),
        "intel-rapl_1": ("package-1", 999_000_000),
        "intel-rapl_2": ("psys", 7_000_000),
    }
    root = powercap(tmp_path, **domains)
    with measured_energy(CPU, root) as energy:
        (root / "intel-rapl:0/energy_uj").write_text("6000000\n")
        assert energy.joules == pytest.approx(1.0)  # a checkpoint reads it before the end
        (root / "intel-rapl:0/energy_uj").write_text("7500000\n")
        (root / "intel-rapl:0:0/energy_uj").write_text("3000000\n")
        (root / "intel-rapl:1/energy_uj").write_text("2000000\n")  # wrapped: 1 J to its end, 2 J since
        (root / "intel-rapl:2/energy_uj").write_text("99000000\n")
    (root / "intel-rapl:0/energy_uj").write_text("90000000\n")  # after the phase
    assert energy.joules == pytest.approx(2.5 + 3.0)


def test_energy_that_nothing_counts_is_none(tmp_path: Path) -> None:
    with measured_energy(CPU, tmp_path / "missing") as energy:
        pass
    assert energy.joules is None
    root = powercap(tmp_path, **{"intel-rapl_0": ("package-0", 1)})
    (root / "intel-rapl:0/energy_uj").unlink()
    (root / "intel-rapl:0/energy_uj").mkdir()  # cannot be read, whoever asks
    with measured_energy(CPU, root) as energy:
        pass
    assert energy.joules is None
    (root / "intel-rapl:0/energy_uj").rmdir()
    (root / "intel-rapl:0/energy_uj").write_text("1\n")
    with measured_energy(CPU, root) as energy:
        (root / "intel-rapl:0/energy_uj").unlink()  # as its module goes
    assert energy.joules is None


@pytest.mark.gpu
def test_cuda_peak_memory_is_reset_for_every_phase() -> None:
    gc.collect()
    device = torch.device("cuda", torch.cuda.current_device())
    kept = torch.ones(16 * MIB, dtype=torch.uint8, device=device)
    baseline = memory_now(device)
    model = torch.ones(32 * MIB, dtype=torch.uint8, device=device)
    with peak_memory(device, baseline) as training:
        torch.ones(64 * MIB, dtype=torch.uint8, device=device)
        assert training.bytes == 96 * MIB  # a checkpoint reads it before the end
    with peak_memory(device, baseline) as inference:
        torch.ones(8 * MIB, dtype=torch.uint8, device=device)
    assert training.bytes == 96 * MIB
    assert inference.bytes == 40 * MIB
    del kept, model


@pytest.mark.gpu
def test_cuda_energy_grows_with_work() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    matrix = torch.randn(4096, 4096, device=device)
    with measured_energy(device) as energy:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            matrix = torch.tanh(matrix @ matrix)
            torch.cuda.synchronize(device)
    if energy.joules is None:
        pytest.skip("this GPU has no energy counter")
    assert 10 < energy.joules < 2000  # about a second of work


@pytest.mark.gpu
def test_a_wait_that_the_gpu_worked_through_is_not_counted() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    matrix = torch.randn(4096, 4096, device=device)

    def products(count: int) -> None:
        for _ in range(count):
            torch.mm(matrix, matrix)

    def products_per_second() -> float:
        began = time.monotonic()
        products(20)
        torch.cuda.synchronize(device)
        return 20 / (time.monotonic() - began)

    began = time.monotonic()
    while time.monotonic() - began < 1.0:  # until its clocks are up
        per_second = products_per_second()
    hidden, idle = TrainingClock(device), TrainingClock(device)
    for clock, work, wait in ((hidden, 0.1, 0.02), (idle, 0.01, 0.06)):
        for _ in range(10):
            with clock.waiting():
                time.sleep(wait)
            with clock.step(8):
                products(max(1, round(work * per_second)))
        clock.pause()
    # Three waits of ten find the one's device idle: the first, and those after the first and the third step, for which
    # the clock itself waits. The other's device is done after 0.01 s each time.
    assert hidden.cost().data_wait_seconds < 0.1
    assert idle.cost().data_wait_seconds > 0.3
    assert hidden.cost().seconds > 0.7


@pytest.mark.gpu
def test_counting_a_model_on_cuda_leaves_it_there_and_takes_no_memory_there() -> None:
    model = timm.create_model("resnet18", num_classes=15).cuda()
    before = torch.cuda.memory_allocated()
    with peak_memory(torch.device("cuda", torch.cuda.current_device()), before) as peak:
        cost = static_costs(model, INPUT)
    assert round(cost.disk_bytes / MIB, 2) == 42.74
    assert next(model.parameters()).is_cuda
    assert peak.bytes == 0


class Untraceable(nn.Module):
    """Raises when it is traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("not by a tracer\nmore")
        return x


def test_the_macs_of_a_model_that_cannot_be_traced_are_unknown_and_it_is_said_why() -> None:
    cost = static_costs(Untraceable(), INPUT)
    assert (cost.macs, cost.macs_without_attention_products, cost.not_counted) == (None, None, "not by a tracer")


def test_an_architecture_is_counted_once_and_one_of_ones_own_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, counted = small_spec(tmp_path, f"paths.cache={tmp_path}"), list[int]()
    model = timm.create_model(spec.model.timm_name, num_classes=3)
    count = static.static_costs

    def counting(model: nn.Module, input_size: list[int]) -> StaticCost:
        counted.append(input_size[1])
        return count(model, input_size)

    def costs(spec: RunSpec, classes: int = 3) -> StaticCost:
        return static.costs_of(spec, model, classes)

    monkeypatch.setattr(static, "static_costs", counting)
    assert costs(spec) == costs(spec) == count(model, [3, 64, 64])
    assert counted == [64]
    larger = replace(spec, model=replace(spec.model, input_size=96))
    own = replace(spec, config=replace(spec.config, model=replace(spec.config.model, _target_="mine.net")))
    head = replace(spec, config=replace(spec.config, trainer=replace(spec.config.trainer, finetune="head")))
    for other in (larger, own, own, head):
        costs(other)
    costs(spec, classes=4)
    assert counted == [64, 96, 64, 64, 64, 64]
    monkeypatch.setattr(kept_counts, "VERSION", 99)
    costs(spec)
    assert len(counted) == 7
    costs(replace(spec, config=replace(spec.config, paths=replace(spec.config.paths, cache="/dev/null"))))  # no folder
    assert len(counted) == 8


class Held:
    """A step for which the device was held, and what its events say: it was held for 2 s, and then took 0.25."""

    def __init__(self, device: torch.device) -> None: ...

    @contextmanager
    def around(self, host_seconds: float) -> Iterator[None]:
        assert host_seconds == 1.0  # what the host took for the step before
        yield

    def seconds(self) -> tuple[float, float | None]:
        return 2.0, 0.25


def test_the_share_in_which_the_device_waited_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step of a second the device computes for a quarter, and waits for data for as long."""
    hands, gpu = Hands(), torch.device("cuda", 0)
    monkeypatch.setattr(training, "HeldStep", Held)
    monkeypatch.setattr(training, "synchronise", lambda device: None)
    monkeypatch.setattr(TrainingClock, "_mark", lambda clock: None)
    clock = TrainingClock(gpu, now=hands)
    for step in range(7):
        with clock.waiting():
            hands.go_on(0.25 if step > 2 else 0.0)
        with clock.step(8):
            hands.go_on({0: 9.0, 1: 1.0, 2: 1.0 + 2.0}.get(step, 0.75))
    clock.pause()
    cost = clock.cost()
    assert cost.seconds == pytest.approx(1 + 6)  # without the time for which it was held, and that of compiling
    assert cost.host_wait_share == pytest.approx(1 - 0.25 - 1 / 7)
    resumed = TrainingClock(gpu, now=hands)
    resumed.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    assert resumed.cost() == cost
    assert TrainingClock(CPU).cost().host_wait_share is None
    assert hasattr(torch.cuda, "_sleep")  # what holds it


def test_the_memory_of_kernels_that_are_tried_is_not_in_the_peak_unless_there_is_no_other_step() -> None:
    used, peak = 0, 0

    def use(most: int) -> None:
        nonlocal peak
        peak = max(peak, most)

    def forget() -> None:
        nonlocal peak
        peak = used

    def phase(*steps: tuple[bool, int]) -> int:
        forget()
        measured = Peak(lambda: peak, forget)
        for first, most in steps:
            with measured.step(first):
                use(most)
        return measured.bytes

    assert phase((True, 900), (False, 300), (False, 310), (True, 800)) == 310
    assert phase((False, 300), (False, 310)) == 310  # the next epoch's
    assert phase((True, 900)) == 900


def test_energy_that_the_driver_stops_to_tell_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    told: list[int | NVMLError] = [5_000, 6_000, NVMLError("Driver/library version mismatch")]

    def consumption(handle: object) -> int:
        if isinstance(now := told.pop(0) if len(told) > 1 else told[0], NVMLError):
            raise now
        return now

    driver = SimpleNamespace(NVMLError=NVMLError, nvmlDeviceGetTotalEnergyConsumption=consumption)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(energy, "gpu_handle", lambda device: "handle")
    monkeypatch.setattr(energy, "synchronise", lambda device: None)
    with measured_energy(torch.device("cuda", 0)) as used:
        assert used._joules == 1.0
    assert used.joules is None


def test_a_gpu_is_warmed_up_by_time_and_called_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    hands, calls = Hands(), 0
    monkeypatch.setattr(inference, "synchronise", lambda device: None)

    def forward(example: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        hands.go_on(0.002)
        return example

    windows = time_calls(forward, torch.zeros(1), torch.device("cuda", 0), Meter(Place(2, 2, 2), Counters), hands)
    assert sum(sum(window.seconds) for window in windows) == pytest.approx(2.0, rel=0.01)
    assert 0.002 * calls == pytest.approx(2.0 + 1.0, rel=0.02)


def session_of(spec: RunSpec, device: torch.device) -> Session:
    return Session(spec, Dataset.read(spec.dataset_file), Compute(device, "fp32", torch.channels_last))


@pytest.mark.parametrize(("device", "wanted"), [(torch.device("cuda", 0), 4), (CPU, 1)])
def test_a_gpu_predicts_val_until_two_seconds_are_measured_and_a_cpu_once(
    device: torch.device, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands()

    def predict(forward: object, session: object, split: str, after_batch: Callable[[int], None]) -> None:
        hands.go_on(0.6)
        after_batch(10)

    monkeypatch.setattr(inference, "synchronise", lambda device: None)
    monkeypatch.setattr(measure, "predict", predict)
    monkeypatch.setattr(measure, "Pass", partial(inference.Pass, now=hands))
    session = session_of(small_spec(tmp_path), device)
    _, windows, passes = measure.timed_passes(torch.clone, session, Meter(Place(2, 2, 2), Counters))
    assert (passes, sum(window.images for window in windows)) == (wanted, 10 * wanted)
    assert inference.images_per_second(windows) == pytest.approx(10 / 0.6)


def test_each_batch_size_of_val_is_answered_once_before_it_is_timed(tmp_path: Path) -> None:
    session, answered = session_of(small_spec(tmp_path, "trainer.batch_size=4"), CPU), list[int]()

    def forward(images: torch.Tensor) -> torch.Tensor:
        answered.append(len(images))
        return torch.zeros(len(images), len(session.dataset.classes))

    measure.measure(forward, session, 0.0)
    assert session.dataset.counts()["val"] == 15
    assert answered[:6] == [4, 3, 4, 4, 4, 3]
