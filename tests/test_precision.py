"""``hardware.precision=auto``: what is fastest here, measured once, kept, and never at the price of what is learned."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from small import SMALL, small_spec

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from contention import busy_cores

from har_sweep.config import check
from har_sweep.config.check import check_launcher
from har_sweep.config.compose import compose_runs
from har_sweep.config.schema import HardwareConfig, SlurmLauncher
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute
from har_sweep.doctor.finding import PROBLEM
from har_sweep.doctor.machine import devices, precision
from har_sweep.errors import InputError
from har_sweep.files import keep
from har_sweep.launch import ask, calibrate, speeds
from har_sweep.launch import plan as planning
from har_sweep.launch.ask import Unanswered
from har_sweep.launch.calibrate import _shared, race
from har_sweep.launch.cards import take_cards
from har_sweep.launch.estimate import estimate
from har_sweep.launch.gradients import LATE, Gradients, Turns, cosine, gradient_of
from har_sweep.launch.kernels import check_kernels
from har_sweep.launch.plan import Planned, plan
from har_sweep.launch.speeds import warnings_of_several, ways_of
from har_sweep.launch.stopwatch import Watch
from har_sweep.launch.sweep import announce
from har_sweep.launch.terminal import Screen
from har_sweep.run.lifecycle import new_record
from har_sweep.spec import hardware
from har_sweep.spec.cuda import Build, refused_by_kernels, torch_build
from har_sweep.spec.hardware import Device, cpu_device, find_devices, nvidia_driver, resolve_device
from har_sweep.spec.precision import FEW_ROUNDS, Choice, Figures, Measured, Way, choose, named, ways
from har_sweep.spec.run_spec import RunSpec

FP32, OURS, TORCHS = Way("fp32"), Way("bf16", "har_sweep"), Way("bf16")
AUTO = "hardware.precision=auto"


def measured(*figures: Figures) -> Measured:
    return Measured(figures, 0.01, 0.5, 16, 16)


def images(way: Way, *per_second: float, **others: Any) -> Figures:
    return Figures(way, tuple(1 / rate for rate in per_second), **others)


def chosen(*figures: Figures) -> Way:
    return choose(measured(*figures)).way


# The rule.


def test_the_fastest_is_taken_and_said_with_its_figures() -> None:
    amx = choose(measured(images(FP32, 23.9, 24, 23.8), images(OURS, 70, 71, 69), images(TORCHS, 50, 51, 49)))
    assert (amx.way, amx.why) == (OURS, "fastest here: 70 images/s against 23.9 in fp32, 50 in bf16")
    no_amx = choose(measured(images(FP32, 23.9, 24, 23.8), images(OURS, 14.9, 15, 14.8)))
    assert (no_amx.way, no_amx.why) == (FP32, "fastest here: 23.9 images/s against 14.9 in bf16 by our kernels")
    assert no_amx.images_per_second == pytest.approx({"fp32": 23.9, "bf16_har_sweep": 14.9})


def test_a_narrow_margin_takes_fp32_and_is_not_called_the_fastest() -> None:
    narrow = choose(measured(images(FP32, 20, 20, 20), images(OURS, 21.5, 21.6, 21.4)))
    assert (narrow.way, narrow.why[:33]) == (FP32, "no other is clearly faster here: ")
    assert chosen(images(FP32, 20, 20, 20), images(OURS, 22.5, 22.6, 22.4)) == OURS
    mixed = choose(measured(images(FP32, 20, 20, 2, 2, 20), images(OURS, 24, 24, 2, 2, 30)))
    assert mixed.why.startswith("no other is faster in enough of the rounds: 20 images/s against 24 in bf16")
    few = choose(measured(images(FP32, 20), images(OURS, 28)))
    assert few.why == "no other is faster by enough to tell in 1 round: 20 images/s against 28 in bf16 by our kernels"


def test_noise_flips_nothing() -> None:
    """Rounds are compared one by one, so a load that slows a whole round is no lead, nor is one lucky round."""
    assert chosen(images(FP32, 20, 5, 20, 6), images(OURS, 20, 5, 20, 6)) == FP32
    assert chosen(images(FP32, 20, 20, 2, 20), images(OURS, 20, 20, 20, 20)) == FP32
    assert chosen(images(FP32, 20, 20, 2, 2, 20, 20), images(OURS, 18, 18, 20, 20, 19, 19)) == FP32
    assert chosen(images(FP32, 20, 20, 20, 20), images(OURS, 40, 40, 4, 40)) == OURS
    assert chosen(images(FP32, 20), images(OURS, 28)) == FP32  # of a single round more is asked
    assert chosen(images(FP32, 20), images(OURS, 40)) == OURS


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"loss_difference": 0.06}, "its loss is 6 % off"),
        ({"gradient_cosine": 0.3}, "its gradient has a cosine of 0.30 with fp32's"),
        ({"gradient_cosine": float("nan")}, "its gradient has a cosine of nan with fp32's"),
        ({"error": "its loss is no number"}, "its loss is no number"),
    ],
)
def test_what_does_not_compute_what_fp32_does_is_no_choice(spoilt: dict[str, Any], why: str) -> None:
    alone = choose(measured(images(FP32, 20, 20, 20), images(OURS, 60, 60, 60, **spoilt)))
    assert (alone.way, alone.why) == (FP32, f"bf16 by our kernels is no choice: {why}")
    assert chosen(images(FP32, 20, 20, 20), images(OURS, 60, 60, 60, **spoilt), images(TORCHS, 30, 30, 30)) == TORCHS


def test_a_way_that_raised_is_told_and_leaves_the_others() -> None:
    found = choose(measured(images(FP32, 20, 20, 20), Figures(OURS, error="no kernel"), images(TORCHS, 30, 30, 30)))
    assert found.way == TORCHS
    assert found.why == "fastest here: 30 images/s against 20 in fp32; bf16 by our kernels is no choice: no kernel"


def test_our_kernels_stay_unless_torchs_are_faster() -> None:
    assert chosen(images(FP32, 20, 20, 20), images(OURS, 40, 40, 40), images(TORCHS, 40.5, 40.5, 40.5)) == OURS
    assert chosen(images(FP32, 20, 20, 20), images(OURS, 40, 40, 40), images(TORCHS, 44, 44, 44)) == TORCHS
    unsteady = images(TORCHS, 60, 60, 15, 15)  # faster in the middle, but not clearly faster than fp32
    assert chosen(images(FP32, 20, 20, 20, 20), images(OURS, 25, 25, 25, 25), unsteady) == OURS


def test_a_graph_takes_a_torch_that_survives_a_capture_which_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["hardware.device=cuda", "hardware.cuda_graph=true"]
    monkeypatch.setattr(check, "version", {"torch": "2.14.0+cu130"}.__getitem__)
    compose_runs([given])
    monkeypatch.setattr(check, "version", {"torch": "2.9.1"}.__getitem__)
    with pytest.raises(InputError, match=r"cuda_graph=true does not go with torch 2\.9\.1; it takes 2\.14"):
        compose_runs([given])


def test_what_the_user_named_is_computed_by_our_kernels_on_a_cpu_alone(draft: Draft) -> None:
    spec = draft("bf16")
    assert (named("bf16").way, ways_of(spec)) == (OURS, (OURS,))
    assert (named("bf16", "cuda").way, ways_of(replace(spec, device="cuda"))) == (TORCHS, (TORCHS,))


@pytest.mark.parametrize("hindrance", ["hardware.device=cpu", "hardware.compile=true", "hardware.device_count=2"])
def test_a_graph_that_cannot_be_is_refused_by_name(hindrance: str) -> None:
    with pytest.raises(InputError, match=f"cuda_graph=true does not go with {hindrance}"):
        compose_runs([["hardware.device=cuda", "hardware.cuda_graph=true", hindrance]])
    compose_runs([["hardware.device=cuda", "hardware.cuda_graph=null", hindrance]])


def test_a_graph_is_taken_for_speed_alone_and_precision_is_judged_by_the_best_of_each() -> None:
    graph, in_graph = Way("fp32", graph=True), Way("bf16", graph=True)
    launches_bind = [images(FP32, 20, 20, 20), images(TORCHS, 20, 20, 20), images(graph, 30, 30, 30)]
    assert chosen(*launches_bind, images(in_graph, 40, 40, 40)) == in_graph
    assert chosen(*launches_bind, images(in_graph, 31, 31, 31)) == graph
    assert chosen(*launches_bind, images(in_graph, 60, 60, 60, gradient_cosine=0.1)) == graph
    assert chosen(images(FP32, 20, 20, 20), images(graph, 20.4, 20.4, 20.4)) == FP32
    assert chosen(images(TORCHS, 20, 20, 20), images(in_graph, 30, 30, 30)) == in_graph  # bf16 was named


def test_only_what_is_computed_in_hardware_is_measured() -> None:
    assert ways(Device("cpu", "", None, bf16=False)) == (FP32,)
    assert ways(Device("mps", "", None, bf16=False)) == (FP32,)
    assert ways(Device("cpu", "", None, bf16=True)) == (FP32, OURS, TORCHS)
    assert ways(Device("cpu", "", None, bf16=True), compiled=True) == (FP32, TORCHS)
    assert ways(Device("cuda", "", None, bf16=True, fp16=True)) == (FP32, Way("bf16"))
    assert ways(Device("cuda", "T4", None, bf16=False, fp16=True)) == (FP32, Way("fp16"))
    graphs = (Way("fp32", graph=True), Way("bf16", graph=True))
    assert ways(Device("cuda", "", None, bf16=True, fp16=True), graph=None) == (FP32, Way("bf16"), *graphs)


# The measurement.


class Stage:
    """Steps that take the time they are said to, by a clock of their own."""

    def __init__(self, seconds_an_image: dict[Way, float], first_step: float = 0.0, each_step: float = 0.0) -> None:
        self.now, self.steps = 0.0, list[tuple[Way, int]]()
        self._seconds, self._first, self._each = seconds_an_image, first_step, each_step

    def run(self, most: int, deadline: float) -> tuple[dict[Way, tuple[float, ...]], int]:
        def step(way: Way) -> Callable[[int], None]:
            def taken(count: int) -> None:
                new = (way, count) not in self.steps
                self.steps.append((way, count))
                self.now += self._seconds[way] * count + self._first * new + self._each

            return taken

        return race({w: step(w) for w in self._seconds}, 2, most, lambda: deadline - self.now, self._watching)

    @contextmanager
    def _watching(self) -> Iterator[Watch]:
        began, watch = self.now, Watch()
        yield watch
        watch.seconds = self.now - began


def test_a_slow_first_step_of_a_size_does_not_count() -> None:
    stage = Stage({FP32: 0.01, OURS: 0.008}, first_step=0.5)
    times, count = stage.run(16, 20.0)
    assert count == 16
    assert times[FP32] == pytest.approx([0.01] * len(times[FP32]))
    assert times[OURS] == pytest.approx([0.008] * len(times[FP32]))
    assert len(times[FP32]) >= 3


def test_batches_grow_to_what_there_is_time_for() -> None:
    stage = Stage({FP32: 0.1, OURS: 0.1})
    times, count = stage.run(64, 6.0)
    assert 2 < count < 64
    assert len(times[FP32]) >= 3
    assert stage.now < 7.0


def test_batches_grow_on_where_few_images_take_as_long_as_many() -> None:
    stage = Stage({FP32: 0.0001, OURS: 0.00005}, each_step=0.05)
    times, count = stage.run(64, 4.0)
    assert count == 64
    assert len(times[FP32]) >= 3
    assert stage.now < 4.2


def test_of_one_way_that_is_timed_alone_whole_batches_are_foretold_where_there_is_no_time_for_them() -> None:
    stage = Stage({FP32: 0.024}, each_step=0.064)  # ViT-Ti's on two cores, whose batches of 10 are 1.2 times as slow
    times, count = stage.run(32, 2.0)
    assert 2 < count < 32
    assert times[FP32] == pytest.approx([0.024 + 0.064 / 32] * len(times[FP32]))
    assert stage.now < 2.3


def test_one_more_image_of_a_step_is_foretold_to_take_half_of_the_mean_at_least() -> None:
    """What small batches seem to show of large ones is not all believed, for an estimate would be too short."""
    stage = Stage({FP32: 0.005}, each_step=0.3)
    times, count = stage.run(32, 3.0)
    assert 2 < count < 32
    step = 0.3 + 0.005 * count
    assert times[FP32] == pytest.approx([(step + (32 - count) * step / count / 2) / 32] * len(times[FP32]))


def test_a_model_too_slow_for_more_is_measured_by_one_step_each() -> None:
    stage = Stage({FP32: 1.0, OURS: 0.6})
    times, count = stage.run(64, 4.0)
    assert (times, count) == ({FP32: (1.0,), OURS: (0.6,)}, 2)
    assert len(stage.steps) == 2


def test_what_is_far_behind_gets_no_third_step() -> None:
    stage = Stage({FP32: 0.01, OURS: 0.5, TORCHS: 0.009})
    times, _ = stage.run(16, 4.0)
    assert [way for way, _ in stage.steps].count(OURS) == 2
    assert times[OURS] == pytest.approx((0.5,))
    assert len(times[TORCHS]) == len(times[FP32]) >= 3


# What is kept of it.


@pytest.fixture
def bf16_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor that says it multiplies bf16, whatever this one does."""
    monkeypatch.setattr(hardware, "find_devices", lambda: (replace(cpu_device(), bf16=True),))
    speeds._machine.cache_clear()
    yield
    speeds._machine.cache_clear()


class Torch:
    """Stands for the process with torch: answers with figures and counts the questions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Measured | Exception) -> None:
        self.asked: list[RunSpec] = []

        @contextmanager
        def asking() -> Iterator[Callable[..., Any]]:
            def answered(name: str, spec: RunSpec, *rest: Any) -> Measured:
                assert name == "measure"
                self.asked.append(spec)
                if isinstance(answer, Exception):
                    raise answer
                return answer

            yield answered

        for module in (ask, planning):
            monkeypatch.setattr(module, "asking_torch", asking)


FASTER = measured(images(FP32, 20, 20, 20), images(OURS, 60, 60, 60), images(TORCHS, 40, 40, 40))
Draft = Callable[..., RunSpec]


@pytest.fixture
def asked(bf16_here: None, monkeypatch: pytest.MonkeyPatch) -> Torch:
    return Torch(monkeypatch, FASTER)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return small_spec(tmp_path_factory.mktemp("base"))


@pytest.fixture
def draft(base: RunSpec, tmp_path: Path) -> Draft:
    """A run before its precision is chosen, with a cache of the test's own."""

    def make(precision: str = "auto", **trainer: Any) -> RunSpec:
        config = replace(
            base.config,
            hardware=replace(base.config.hardware, precision=precision),
            trainer=replace(base.config.trainer, **trainer),
            paths=replace(base.config.paths, cache=str(tmp_path)),
        )
        return replace(base, config=config)

    return make


def choices(*drafts: RunSpec) -> list[Choice]:
    with ask.asking_torch() as answer:
        return speeds.choices(list(drafts), answer, Screen())


def ways_chosen(*drafts: RunSpec) -> list[Way]:
    return [choice.way for choice in choices(*drafts)]


def test_one_question_serves_all_runs_of_a_model_and_every_later_sweep(asked: Torch, draft: Draft) -> None:
    alike = draft(), replace(draft(), config=replace(draft().config, seed=1)), draft(batch_size=8), draft(epochs=9)
    assert ways_chosen(*alike) == [OURS] * 4
    assert ways_chosen(*alike[::-1]) == [OURS] * 4
    assert len(asked.asked) == 1
    assert ways_chosen(draft(), draft(finetune="head")) == [OURS] * 2
    assert len(asked.asked) == 2  # fewer gradients: another question


def test_what_the_user_names_is_not_measured_and_is_part_of_what_a_run_is(asked: Torch, tmp_path: Path) -> None:
    auto, bf16, fp32 = (small_spec(tmp_path, f"hardware.precision={word}") for word in ("auto", "bf16", "fp32"))
    assert auto.run_id == bf16.run_id != fp32.run_id
    assert len(asked.asked) == 1


def test_a_sweep_asks_once_for_each_model_and_says_how_many(
    asked: Torch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*SMALL, AUTO, *(f"paths.{name}={tmp_path}/{name}" for name in ("runs", "cache", "data"))]
    runs = compose_runs([[*given, f"model.input_size={size}", f"seed={size}"] for size in (32, 64, 32)])
    assert [p.spec.precision for p in plan(runs, Screen())] == ["bf16"] * 2
    assert len(asked.asked) == 2
    assert "Measuring which precision is fastest here for test_resnet (2/2), about 5 s" in capsys.readouterr().out


def test_what_cannot_be_kept_decides_all_the_same_and_is_said(
    asked: Torch, draft: Draft, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "speeds").touch()  # no folder can be there
    assert ways_chosen(draft()) == [OURS]
    said = " ".join(capsys.readouterr().out.split())
    assert "Which precision is fastest here for test_resnet is not kept: it is measured again." in said


def test_what_is_measured_beside_another_sweep_on_the_only_card_is_said_and_not_kept(
    asked: Torch, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = contextmanager(lambda cards: iter([(0, "T4 is computed on by another sweep")]))
    monkeypatch.setattr(speeds, "any_card", taken)
    for _ in range(2):
        (choice,) = choices(draft())
        assert (choice.way, choice.why.endswith("; while T4 is computed on by another sweep")) == (OURS, True)
    assert len(asked.asked) == 2


def test_of_two_sweeps_that_measure_at_once_the_first_decides_for_both(
    bf16_here: None, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = draft()
    setting = speeds._setting(spec, ways_of(spec))

    def answered(*_: Any) -> Measured:
        keep(speeds._folder(spec), setting, measured(images(FP32, 20, 20, 20), images(OURS, 21, 21, 21)))
        return FASTER

    found = speeds.measured(spec, ways_of(spec), answered, lambda: None)
    assert choose(found).way == FP32


def test_other_threads_are_another_machine(asked: Torch, draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    ways_chosen(draft())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    speeds._machine.cache_clear()
    ways_chosen(draft())
    assert len(asked.asked) == 2


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "logical_cores", lambda: 2)
    resolve_device(HardwareConfig(device="cpu", cpu_threads=2))
    with pytest.raises(InputError, match=r"hardware\.cpu_threads=3: this process may use 2 cores"):
        resolve_device(HardwareConfig(device="cpu", cpu_threads=3))


def test_what_is_of_gpus_alone_tells_no_runs_on_a_processor_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*(word for word in SMALL if not word.startswith("hardware.device")), "hardware.precision=fp32"]
    monkeypatch.setattr(hardware, "find_devices", lambda: [cpu_device()])
    runs = [[*given, f"paths.runs={tmp_path}", *more] for more in ([], ["hardware.tf32=false"])]
    (one,), (same,) = (plan(compose_runs([run]), Screen()) for run in runs)
    assert (same.spec.run_id, same.spec.label) == (one.spec.run_id, one.spec.label)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "garbage",
        lambda text: text[: len(text) // 2],
        lambda text: "{}",
        lambda text: "[]",
        lambda text: text.replace('"found"', '"other"'),
        lambda text: re.sub(r'("training_seconds": \[\s*)', r"\g<1>9", text, count=1),  # a digit more
        lambda text: text.replace(torch.__version__.partition("+")[0], "1.0.0"),
        lambda text: text.replace(json.dumps(cpu_device().name), '"Another CPU"'),
    ],
)
def test_a_file_that_is_broken_or_of_something_else_is_never_believed(
    spoil: Callable[[str], str], asked: Torch, draft: Draft, tmp_path: Path
) -> None:
    ways_chosen(draft())
    (file,) = (tmp_path / "speeds").iterdir()
    whole = file.read_text()
    file.write_text(spoil(whole))
    assert file.read_text() != whole
    assert ways_chosen(draft()) == [OURS]
    assert len(asked.asked) == 2
    assert file.read_text() == whole


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        ("AVX2", "avx2 avx512_vnni"),
        ("avx512_core_vnni", "avx2 avx512_vnni"),
        ("AVX512_CORE_BF16", "avx2 avx512_bf16 avx512_vnni"),
        ("AVX512_CORE_AMX", "amx_bf16 avx2 avx512_bf16 avx512_vnni"),
        ("", "amx_bf16 avx2 avx512_bf16 avx512_vnni"),
    ],
)
def test_a_processor_that_is_kept_from_its_instructions_is_another_device(
    limit: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("model name : Some CPU\nflags : sse avx2 avx512_vnni avx512_bf16 amx_bf16\n")
    monkeypatch.setattr(hardware, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    found = cpu_device.__wrapped__()
    assert (found.instructions, found.bf16) == (left, "bf16" in left)
    assert found.name == ("Some CPU" if not limit else f"Some CPU, ONEDNN_MAX_CPU_ISA={limit}")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ONEDNN_MAX_CPU_ISA=AVX512", "ONEDNN_MAX_CPU_ISA=avx512_core_amx"),
        ("ATEN_CPU_CAPABILITY=AVX2", "ATEN_CPU_CAPABILITY=avx2"),
        ("MKL_ENABLE_INSTRUCTIONS=avx", "MKL_ENABLE_INSTRUCTIONS=AVX2"),
    ],
)
def test_a_limit_that_the_libraries_would_ignore_is_refused(
    wrong: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*right.split("="))
    resolve_device(HardwareConfig(device="cpu"))
    monkeypatch.setenv(*wrong.split("="))
    with pytest.raises(InputError, match=f"{wrong} would be ignored"):
        resolve_device(HardwareConfig(device="cpu"))


def test_another_torch_or_machine_measures_anew(asked: Torch, draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    ways_chosen(draft())
    hidden = replace(cpu_device(), bf16=True, instructions="avx512_bf16")  # a hypervisor hid the rest
    monkeypatch.setattr(hardware, "find_devices", lambda: (hidden,))
    speeds._machine.cache_clear()
    ways_chosen(draft())
    assert len(asked.asked) == 2
    monkeypatch.setattr(speeds.importlib.metadata, "version", lambda name: "99")
    speeds._machine.cache_clear()
    ways_chosen(draft())
    assert len(asked.asked) == 3


def test_what_cannot_be_measured_trains_in_fp32_and_says_so(
    bf16_here: None, draft: Draft, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torchs = Torch(monkeypatch, Unanswered("it died"))
    assert ways_chosen(draft()) == [FP32]
    said = "test_resnet trains in fp32: which precision is fastest here could not be measured (it died)"
    assert said in " ".join(capsys.readouterr().out.split())
    ways_chosen(draft())
    assert len(torchs.asked) == 2  # nothing was kept


def test_a_processor_without_bf16_is_asked_nothing(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_devices", lambda: (replace(cpu_device(), bf16=False),))
    torchs = Torch(monkeypatch, FASTER)
    assert ways_chosen(draft()) == [FP32]
    assert not torchs.asked


def test_it_is_really_measured_in_a_process_of_its_own_and_once(
    bf16_here: None, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    (choice,) = choices(draft())
    assert choice.measured
    assert [f.way for f in choice.measured.figures] == [FP32, OURS, TORCHS]
    for f in choice.measured.figures:
        sound = f.images_per_second and f.loss_difference < 0.05 and f.gradient_cosine > 0.9
        assert sound or (f.way != FP32 and f.error.startswith("its first step took"))
    torchs = Torch(monkeypatch, FASTER)
    assert choices(draft()) == [choice]
    (estimated,) = estimate([Planned(replace(draft(), choice=choice), "new")], Screen())
    assert estimated.basis == f"its steps on this machine ({cpu_device().name}, {choice.way.precision})"
    assert not torchs.asked


def test_beside_others_it_is_one_threads_time_that_counts_and_it_is_said(bf16_here: None, draft: Draft) -> None:
    config = draft().config
    spec = replace(draft(), config=replace(config, hardware=replace(config.hardware, cpu_threads=2)))
    with ask.asking_torch() as answer:
        answer("architectures")  # before the loops start: importing torch beside them takes long
        with busy_cores():
            (choice,) = speeds.choices([spec], answer, Screen())
    assert choice.measured
    assert choice.why.endswith(f"; {choice.measured.disturbed}")
    assert "by one thread's time, as other processes used" in choice.measured.disturbed
    assert choices(spec) == [choice]  # kept


def test_what_fails_on_one_thread_leaves_all_to_the_next_question(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, used = draft("fp32"), list[int]()
    spec = replace(spec, config=replace(spec.config, hardware=replace(spec.config.hardware, cpu_threads=2)))

    def fails(*_: object) -> Measured:
        used.append(torch.get_num_threads())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(calibrate, "CROWDED", -1.0)
    monkeypatch.setattr(calibrate, "_timed", fails)
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        calibrate.measure(spec, (FP32,), 1.0)
    assert (used, torch.get_num_threads()) == ([1], threads)


def test_threads_that_are_named_are_of_one_question_alone(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, used = draft("fp32"), list[int]()
    spec = replace(spec, config=replace(spec.config, hardware=replace(spec.config.hardware, cpu_threads=1)))

    def timed(*_: object) -> Measured:
        used.append(torch.get_num_threads())
        return FASTER

    monkeypatch.setattr(calibrate, "_timed", timed)
    torch.set_num_threads(2)
    calibrate.measure(spec, (FP32,), 1.0)
    assert (used, torch.get_num_threads()) == ([1], 2)


def test_without_time_left_a_precision_is_tried_with_one_kind_of_kernels(draft: Draft) -> None:
    computes = {
        way: Compute(torch.device("cpu"), way.precision, torch.channels_last, own_kernels=way.kernels != "torch")
        for way in (FP32, OURS, TORCHS)
    }
    found, _ = Gradients(calibrate._untrained(draft(), 10), computes, 32, 16, lambda: 0.0).checked()
    assert [bool(found[way].training_seconds) for way in computes] == [True, True, False]
    assert choose(measured(*found.values())).way in (FP32, OURS)


@dataclass(frozen=True)
class Modelled(Gradients):
    """A clock and a device whose gradients of a way take so long whatever the images, and so long for one more."""

    costs: dict[Way, tuple[float, float]] = field(default_factory=dict)
    clock: list[float] = field(default_factory=lambda: [0.0])

    def _turn(self, ways: Sequence[Way], count: int) -> tuple[dict[Way, float], float]:
        found = {way: self.costs[way][0] + count * self.costs[way][1] for way in ways}
        self.clock[0] += sum(found.values())
        return found, sum(found.values())


def turns_of(costs: dict[Way, tuple[float, float]], seconds: float = 4.0, few: int = 2, most: int = 32) -> Turns | None:
    clock = [0.0]
    model = Modelled(torch.nn.Identity(), {}, 32, most, lambda: seconds - clock[0], costs, clock)
    found, _ = model._turn(list(costs), few)
    turns = model.turns({way: Figures(way, (took / few,)) for way, took in found.items()}, few)
    assert clock[0] < seconds + LATE
    return turns


def rates(turns: Turns | None, foretold: bool) -> dict[Way, float]:
    assert turns
    return {way: 1 / median(seconds) for way, seconds in turns.seconds_an_image(foretold).items()}


# Seconds whatever the images, and of one more: a Xeon with AMX, two cores.
VIT_B_48PX = {FP32: (0.15, 0.02), OURS: (0.23, 0.006), TORCHS: (0.2, 0.013)}
RESNET18_64PX = {FP32: (0.04, 0.002), OURS: (0.04, 0.001), TORCHS: (0.04, 0.001)}
VIT_B_224PX = {FP32: (0.2, 0.4), OURS: (0.27, 0.13), TORCHS: (0.25, 0.14)}


def test_whole_batches_are_foretold_of_a_large_model_that_mostly_reads_its_weights() -> None:
    """ViT-B at 48 px seemed as fast in float32, and trains 1.6 times as fast in bfloat16."""
    turns = turns_of(VIT_B_48PX)
    assert turns
    assert 4 < turns.count < 32
    assert len(turns.rounds) >= FEW_ROUNDS
    of_few, of_batch = rates(turns, foretold=False), rates(turns, foretold=True)
    assert of_few[OURS] < 1.25 * of_few[FP32]
    constant, one_more = VIT_B_48PX[FP32]
    assert of_batch[FP32] == pytest.approx(32 / (constant + 32 * one_more))
    assert of_few[OURS] < of_batch[OURS]
    figures = [Figures(way, seconds) for way, seconds in turns.seconds_an_image(foretold=True).items()]
    assert chosen(*figures) == OURS


def test_where_whole_steps_can_be_timed_no_gradients_are() -> None:
    assert turns_of(RESNET18_64PX) is None
    assert turns_of(RESNET18_64PX, seconds=0.4)
    faster = {way: (0.7 * constant, 0.6 * one_more) for way, (constant, one_more) in VIT_B_48PX.items()}
    assert turns_of(faster, most=16)  # in whole steps all ways and an update of so many weights would take too long


def test_where_time_is_short_the_first_kernels_of_a_precision_stand_for_it() -> None:
    turns = turns_of(VIT_B_224PX, few=1)
    assert turns
    assert (turns.count, {way for found in turns.rounds for way in found}) == (2, {FP32, OURS})
    told = rates(turns, foretold=False)
    assert told[FP32] < told[TORCHS]  # as far from fp32 as with one image
    slow = turns_of(VIT_B_224PX | {OURS: (2 * 0.25, 2 * 0.14)}, few=1)
    assert slow
    assert OURS not in slow.rounds[0]


@pytest.mark.parametrize(("forward", "few"), [(0.1, 2), (0.36, 1), (1.2, 2)])  # ViT-Ti, B and L of two images at 224 px
def test_one_image_is_checked_only_where_a_turn_of_two_can_follow(
    forward: float, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one alone a large model does little but read its weights, and small ones have time for two and more."""
    monkeypatch.setattr(Gradients, "_forward", lambda *_: forward)
    computes: dict[Way, Any] = dict.fromkeys((FP32, OURS, TORCHS))
    assert Gradients(torch.nn.Identity(), computes, 224, 32, lambda: 4.0 - forward)._few() == few
    assert Gradients(torch.nn.Identity(), computes, 224, 1, lambda: 4.0 - forward)._few() == 1


def test_without_time_for_a_turn_the_images_that_were_checked_count() -> None:
    turns = turns_of(VIT_B_224PX, seconds=2.0, few=1)
    assert turns
    assert (turns.count, turns.rounds) == (1, [])
    assert rates(turns, foretold=True) == rates(turns, foretold=False) == pytest.approx(
        {way: 1 / (constant + one_more) for way, (constant, one_more) in VIT_B_224PX.items()}
    )  # fmt: skip


def test_what_few_images_show_clearly_is_not_foretold(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line through two sizes is less certain than what was measured."""
    compute, first = Compute(torch.device("cpu"), "fp32", torch.channels_last), {FP32: 0.3, OURS: 0.15}
    monkeypatch.setattr(Gradients, "checked", lambda self: ({way: Figures(way) for way in first}, 2))
    for ours, foretold in ((0.2, False), (0.39, True)):
        turns = Turns(2, first, 4, [{FP32: 0.4, OURS: ours}] * 3, 32)
        monkeypatch.setattr(Gradients, "turns", lambda *_, turns=turns: turns)
        model = calibrate._untrained(draft(), 10)
        figures, count = calibrate._trained(model, dict.fromkeys(first, compute), draft(batch_size=32), 4.0)
        assert count == 4
        assert {f.way: f.training_seconds for f in figures} == turns.seconds_an_image(foretold)


@pytest.mark.parametrize(("batch", "asks"), [((8, 32), True), ((8, 8), False)])
def test_a_run_is_not_estimated_by_few_images_that_stood_for_larger_batches(
    batch: tuple[int, int], asks: bool, draft: Draft, capsys: pytest.CaptureFixture[str]
) -> None:
    size, wanted = batch
    few = replace(measured(images(FP32, 20), images(OURS, 60)), batch_size=size, batch_wanted=wanted)
    estimate([Planned(replace(draft(batch_size=8), choice=choose(few)), "new")], Screen())
    assert ("Measuring how fast" in capsys.readouterr().out) is asks


FAULTS = """
import resource, sys
from dataclasses import replace
from har_sweep.config.schema import HardwareConfig
from har_sweep.launch import calibrate, gradients
from har_sweep.launch.speeds import small_run
from har_sweep.spec.precision import Way

def counted(*arguments):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    found = gradient(*arguments)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return found

gradient, gradients.gradient_of = gradients.gradient_of, counted
checked = gradients.Gradients.checked
gradients.Gradients.checked = lambda self: sys.exit(checked(self) and 0)
spec = small_run("cpu", HardwareConfig(), sys.argv[1])
spec = replace(spec, model=replace(spec.model, input_size=32))
print(4 * sum(weight.numel() for weight in calibrate._untrained(spec, 10).parameters()) // resource.getpagesize())
calibrate.measure(spec, (Way("fp32"), Way("bf16", "har_sweep"), Way("bf16")), 60.0)
"""


def test_a_gradient_that_is_compared_with_another_waits_for_no_memory(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS, tmp_path], capture_output=True, text=True, check=True)
    pages, *faults = map(int, ran.stdout.split())
    assert len(faults) == 3
    assert max(faults) < pages / 3


def test_a_model_that_keeps_what_its_weights_make_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("tiny_vit_5m_224", num_classes=10).eval()  # of its biases, in evaluation
    compute, pixels = Compute(torch.device("cpu"), "fp32", torch.contiguous_format), torch.randn(2, 3, 64, 64)
    (one, gradient), (another, same) = (gradient_of(model, compute, pixels) for _ in range(2))
    assert one == another
    assert cosine(gradient, same) == pytest.approx(1)
    with monkeypatch.context() as patch:  # a capture computes anew what a card's first step, before it, has computed
        patch.setattr("har_sweep.launch.gradients.StepGraph", lambda backward, *_: backward)
        assert gradient_of(model, replace(compute, graph=True), pixels)[0] == one


def test_one_threads_time_is_as_if_all_had_shared_it() -> None:
    alone = measured(images(FP32, 20, 22, 21), images(OURS, 40, 44, 42))
    shared = _shared(alone, 4, "by one thread's time, as other processes used 3.9 of 4 cores")
    assert [f.images_per_second for f in shared.figures] == pytest.approx([84, 168])
    assert shared.evaluation_seconds == pytest.approx(alone.evaluation_seconds / 4)
    assert choose(shared).why == (
        "fastest here: 168 images/s against 84 in fp32; by one thread's time, as other processes used 3.9 of 4 cores"
    )


# Where it is told, and what it changes.


def test_the_screen_and_the_record_say_what_was_decided_and_why(
    asked: Torch, draft: Draft, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(draft(), choice=choices(draft())[0])
    announce([Planned(spec, "new")], Screen())
    why = "fastest here: 60 images/s against 20 in fp32, 40 in bf16"
    assert f"test_resnet on cpu in bf16 by our kernels, {why}." in capsys.readouterr().out
    found = new_record(spec, Dataset.read(spec.dataset_file)).hardware
    assert (found.precision, found.kernels, found.chosen, found.measured_batch_size) == ("bf16", "har_sweep", why, 16)
    assert found.images_per_second == pytest.approx({"fp32": 20, "bf16_har_sweep": 60, "bf16": 40})
    named_by_user = replace(spec, choice=named("bf16"))
    found = new_record(named_by_user, Dataset.read(spec.dataset_file)).hardware
    assert (found.kernels, found.chosen, found.images_per_second) == ("har_sweep", "", {})


def test_bf16_by_name_on_a_processor_without_it_is_said_and_marked(
    base: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bf16 in (True, False):
        monkeypatch.setattr("har_sweep.spec.precision.cpu_device", lambda has=bf16: Device("cpu", "Old", None, has))
        spec = small_spec(tmp_path, "hardware.precision=bf16")
        assert any("has no instructions for it" in warning for warning in spec.warnings) == (not bf16)
        found = new_record(spec, Dataset.read(spec.dataset_file)).hardware
        assert found.unaccelerated == ("" if bf16 else "bf16")


def test_the_doctor_measures_a_small_model_and_shows_the_figures(asked: Torch, tmp_path: Path) -> None:
    (run,) = compose_runs([[AUTO, "hardware.device=cpu", f"paths.cache={tmp_path}"]])
    for _ in range(2):
        (check,) = precision([run.config, run.config])
        assert (
            check.finding == "resnet18 in bf16 by our kernels, fastest here: 60 images/s against 20 in fp32, 40 in bf16"
        )
    assert len(asked.asked) == 1


@pytest.mark.parametrize("ours", [True, False])
def test_the_kernels_that_were_chosen_compute(ours: bool) -> None:
    compute = Compute(torch.device("cpu"), "bf16", torch.channels_last, own_kernels=ours)
    before = F.scaled_dot_product_attention
    with compute.autocast():
        assert (F.scaled_dot_product_attention is not before) == ours


def test_a_cluster_is_told_why_its_precision_is_named() -> None:
    (run,) = compose_runs([["hardware=cpu"]])
    with pytest.raises(InputError, match=r"precision=auto is decided by a measurement on the run's own device"):
        check_launcher(run.config, SlurmLauncher())


# NVIDIA's devices, by a library that says what it is told to.


class NVMLError(Exception):
    pass


def card(name: str, capability: Any, uuid: str, memory: Any = 2**34) -> dict[str, Any]:
    return {"Name": name, "CudaComputeCapability": capability, "UUID": uuid, "MemoryInfo": memory}


A100, T4 = card("A100", (8, 0), "GPU-a100"), card("T4", (7, 5), "GPU-t4")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*cards: dict[str, Any], visible: str | None = None, cuda: int = 13000) -> None:
        def tell(what: str) -> Callable[[dict[str, Any]], Any]:
            def told(handle: dict[str, Any]) -> Any:
                if isinstance(handle[what], Exception):
                    raise handle[what]
                return SimpleNamespace(total=handle[what]) if what == "MemoryInfo" else handle[what]

            return told

        def by_index(number: int) -> dict[str, Any]:
            if why := cards[number].get("lost"):
                raise NVMLError(why)
            return cards[number]

        def by_uuid(uuid: str) -> dict[str, Any]:
            found = [part for one in cards for part in one.get("parts", []) if part["UUID"] == uuid]
            if not found:
                raise NVMLError("Not Found")
            return found[0]

        def divided(card: dict[str, Any]) -> list[int]:
            if "parts" not in card:
                raise NVMLError("Not Supported")
            return [1, 1]

        def part_by_index(card: dict[str, Any], number: int) -> dict[str, Any]:
            if number >= len(card["parts"]):
                raise NVMLError("Not Found")
            return card["parts"][number]

        fake: Any = SimpleNamespace(
            NVMLError=NVMLError,
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: len(cards),
            nvmlDeviceGetHandleByIndex=by_index,
            nvmlDeviceGetHandleByUUID=by_uuid,
            nvmlDeviceGetMigMode=divided,
            nvmlDeviceGetMaxMigDeviceCount=lambda card: 7,
            nvmlDeviceGetMigDeviceHandleByIndex=part_by_index,
            nvmlSystemGetDriverVersion=lambda: "580.95.05" if cuda >= 13000 else "550.54.14",
            nvmlSystemGetCudaDriverVersion_v2=lambda: cuda,
            **{f"nvmlDeviceGet{what}": tell(what) for what in A100},
        )
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        find_devices.cache_clear()
        nvidia_driver.cache_clear()

    yield install
    find_devices.cache_clear()
    nvidia_driver.cache_clear()


def gpus() -> list[str]:
    return [device.uuid for device in find_devices() if device.kind == "cuda"]


@pytest.mark.parametrize("why", ["Not Supported", "Insufficient Permissions"])
def test_a_memory_that_is_not_told_is_unknown_and_no_error(nvml: Callable[..., None], why: str) -> None:
    nvml(card("GB10", (12, 1), "GPU-gb10", NVMLError(why)), A100)
    memory = [device.memory_bytes for device in find_devices() if device.kind == "cuda"]
    assert memory == [None, 2**34]


def test_a_card_that_is_lost_or_not_ones_own_hides_no_other(nvml: Callable[..., None]) -> None:
    nvml({**T4, "lost": "GPU is lost"}, A100, {**T4, "lost": "Insufficient Permissions"})
    assert gpus() == ["GPU-a100"]


def test_what_a_card_computes_in_follows_from_its_capability(nvml: Callable[..., None]) -> None:
    nvml(card("P100", (6, 0), "GPU-p100"), card("V100", (7, 0), "GPU-v100"), T4, A100, card("H100", (9, 0), "GPU-h100"))
    found = [(device.bf16, device.fp16) for device in find_devices() if device.kind == "cuda"]
    assert found == [(False, False), (False, True), (False, True), (True, True), (True, True)]


def test_the_device_that_is_visible_decides(nvml: Callable[..., None]) -> None:
    """By index, UUID or the beginning of one; like CUDA, no further than the first name that is wrong."""
    for visible, expected in {
        "1": ["GPU-t4"],
        "1,0": ["GPU-t4", "GPU-a100"],
        "GPU-t4": ["GPU-t4"],
        "GPU-a, 1": ["GPU-a100", "GPU-t4"],
        "0,7,1": ["GPU-a100"],
        "": [],
        "-1": [],
    }.items():
        nvml(A100, T4, visible=visible)
        assert gpus() == expected, visible
    assert resolve_device(HardwareConfig()).kind == "cpu"
    nvml(A100, T4, visible="1")
    assert ways(resolve_device(HardwareConfig())) == (FP32, Way("fp16"))
    with pytest.raises(InputError, match="T4 does not multiply in bf16"):
        resolve_device(HardwareConfig(precision="bf16"))
    part = card("A100 MIG 1g.5gb", (8, 0), "MIG-1", NVMLError("Insufficient Permissions"))
    other = card("A100 MIG 2g.10gb", (8, 0), "MIG-2", 2**33)
    nvml({**A100, "parts": [part, other]}, visible="MIG-2")
    assert gpus() == ["MIG-2"]


@pytest.mark.parametrize("visible", [None, "0", "GPU-a"])
def test_a_card_that_is_divided_is_the_first_of_its_parts_as_torch_calls_it(
    nvml: Callable[..., None], visible: str | None
) -> None:
    part, other = (card(f"A100 MIG {n}g.{5 * n}gb", (8, 0), f"MIG-{n}", 5 * n * 2**30) for n in (1, 2))
    nvml({**A100, "parts": [part, other]}, visible=visible)
    (found,) = (device for device in find_devices() if device.kind == "cuda")
    assert (found.name, found.uuid, found.memory_bytes) == ("A100 MIG 1g.5gb", "MIG-1", 5 * 2**30)


@pytest.mark.parametrize("visible", ["3", "GPU-x", "MIG-x", "all"])
def test_a_mask_that_names_nothing_is_refused_with_what_there_is(nvml: Callable[..., None], visible: str) -> None:
    nvml(A100, T4, visible=visible)
    for device in ("auto", "cuda"):
        with pytest.raises(InputError, match=rf"CUDA_VISIBLE_DEVICES={visible} names no GPU.*0 \(A100, GPU-a100\), 1"):
            resolve_device(HardwareConfig(device=device))
    assert resolve_device(HardwareConfig(device="cpu")).kind == "cpu"


def test_cards_that_are_not_alike_are_not_mixed(nvml: Callable[..., None]) -> None:
    nvml(A100, T4, {**T4, "UUID": "GPU-t4-2"})
    with pytest.raises(InputError, match=r"not alike \(A100, T4\)") as refused:
        resolve_device(HardwareConfig())
    assert "CUDA_VISIBLE_DEVICES=GPU-a100" in refused.value.hint
    nvml(A100, T4, visible="1,1")
    assert resolve_device(HardwareConfig(device_count=2)).name == "T4"


# What this torch can do for them.

ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CUDA_13, CUDA_12 = Build("2.14.1+cu130", "13.0"), Build("2.14.1+cu126", "12.6")


@pytest.mark.parametrize(
    ("capability", "architectures", "remedy"),
    [
        ((7, 0), ARCHITECTURES, "torch==2.14.1 torchvision --index-url https://download.pytorch.org/whl/cu126"),
        ((6, 1), ARCHITECTURES, "Install a torch for CUDA 12.6, which has them for 5.0 to 9.0"),
        ((12, 0), ["sm_80", "sm_90"], "Install a newer torch. Or take hardware=cpu."),
        ((8, 0), ["sm_86", "sm_75"], "Install a newer torch"),  # of a later minor version: no
        ((7, 5), ARCHITECTURES, None),
        ((8, 9), ARCHITECTURES, None),  # by 8.6
        ((12, 1), ARCHITECTURES, None),  # GB10, by 12.0
        ((13, 0), ARCHITECTURES, None),  # by PTX
        ((9, 0), ["sm_80", "sm_90a"], None),
        ((7, 0), [], None),  # it is not told
    ],
)
def test_a_card_that_torch_has_no_kernels_for_is_told_with_what_to_install(
    capability: tuple[int, int], architectures: list[str], remedy: str | None
) -> None:
    refused = refused_by_kernels("Card", capability, architectures, CUDA_13)
    if remedy is None:
        assert refused is None
        return
    assert refused
    assert refused[0].startswith(f"Card has compute capability {capability[0]}.{capability[1]}, for which torch 2.14.1")
    assert remedy in refused[1]


def test_a_card_without_kernels_is_refused_before_anything_starts_and_torch_is_asked_once(
    nvml: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(name: str) -> list[str]:
        asked.append(name)
        return ARCHITECTURES

    @contextmanager
    def asking() -> Iterator[Callable[[str], list[str]]]:
        yield answer

    for module in (ask, planning):
        monkeypatch.setattr(module, "asking_torch", asking)
    nvml(card("Tesla V100", (7, 0), "GPU-v100"))
    paths = [f"paths.cache={tmp_path}/cache", f"paths.runs={tmp_path}/runs", "hardware.device=cuda"]
    composed = compose_runs([[*SMALL, *paths]])
    for _ in range(2):
        with pytest.raises(InputError, match=r"Tesla V100 has compute capability 7\.0.*it has them for 7\.5, 8\.0"):
            plan(composed, Screen())
    problems = [check.finding for check in devices([composed[0].config]) if check.status == PROBLEM]
    assert [problem.split(",")[0] for problem in problems] == ["Tesla V100 has compute capability 7.0"]
    assert asked == ["architectures"]
    (kept,) = (tmp_path / "cache").glob("kernels/*.json")
    kept.write_text("[")  # half written
    check_kernels(resolve_device(HardwareConfig(device="cpu")), str(tmp_path / "cache"), answer)
    assert asked == ["architectures"]
    nvml(T4)
    check_kernels(resolve_device(HardwareConfig()), str(tmp_path / "cache"), answer)
    assert asked == ["architectures"] * 2


def test_a_driver_that_is_too_old_for_torch_is_refused_with_the_one_that_is_needed(
    nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml(A100, cuda=12040)
    monkeypatch.setattr(hardware, "torch_build", lambda: CUDA_13)
    with pytest.raises(
        InputError, match=r"550\.54\.14 is too old for torch 2\.14\.1\+cu130: it knows CUDA 12\.4"
    ) as no:
        resolve_device(HardwareConfig())
    assert no.value.hint.startswith(
        "Install driver 580.65 or newer, or a torch for CUDA 12.6: `pip install torch==2.14.1"
    )
    assert resolve_device(HardwareConfig(device="cpu")).kind == "cpu"
    monkeypatch.setattr(hardware, "torch_build", lambda: CUDA_12)
    assert resolve_device(HardwareConfig()).kind == "cuda"
    monkeypatch.setattr(hardware, "torch_build", lambda: Build("2.14.1+cpu", ""))
    with pytest.raises(InputError, match=r"torch 2\.14\.1\+cpu was built without CUDA"):
        resolve_device(HardwareConfig())
    monkeypatch.setattr(hardware, "torch_build", lambda: Build("", None))  # nothing is known
    assert resolve_device(HardwareConfig()).kind == "cuda"


def test_a_run_on_several_devices_is_warned_where_one_would_be_as_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    rates = {8: 900.0, 256: 1700.0}
    cards = [Device("cuda", "L4", 2**34, bf16=True, uuid=f"GPU-several-{os.getpid()}-{n}") for n in range(2)]
    monkeypatch.setattr(speeds, "find_devices", lambda: cards)

    def answer(name: str, spec: RunSpec, *_: Any) -> Any:
        held = [isinstance(take_cards([card]), str) for card in cards]
        # No other sweep gets those that are measured.
        assert held == ([True, name == "together"] if spec.device == "cuda" else [False, False])
        asked.append(f"{name} {spec.config.hardware.device_count} {spec.config.trainer.batch_size}")
        if spec.config.trainer.batch_size == 64:
            raise Unanswered("out of memory")
        one = measured(images(named(spec.precision).way, 1000.0))
        return rates[spec.config.trainer.batch_size] if name == "together" else one

    base = replace(small_spec(tmp_path, f"paths.cache={tmp_path}"), device="cuda")

    def run(batch: int, count: int) -> RunSpec:
        config, hardware = base.config, replace(base.config.hardware, device_count=count)
        trainer = replace(config.trainer, batch_size=batch)
        return replace(base, config=replace(config, hardware=hardware, trainer=trainer))

    specs = [run(8, 2), run(256, 2), run(8, 1), run(8, 2), replace(run(8, 2), device="cpu"), run(64, 2)]
    slow, fast, alone, again, on_cpu, unknown = warnings_of_several(specs, answer, Screen())
    assert slow == again
    assert slow.startswith(
        "2 GPUs train test_resnet in batches of 8 at 900 images/s, one at 1000: take hardware.device"
    )
    assert fast == alone == ""
    assert on_cpu.startswith("2 processes train test_resnet in batches of 8 at 900 images/s, one at 1000: take")
    assert unknown == "Whether 2 GPUs train test_resnet faster than one could not be measured (out of memory)."
    of_8 = ["measure 1 8", "together 2 8"]
    assert asked == [*of_8, "measure 1 256", "together 2 256", *of_8, "measure 1 64"]
    warnings_of_several(specs[:5], answer, Screen())
    assert len(asked) == 7  # it is kept


def test_the_build_of_torch_is_known_without_importing_it() -> None:
    assert torch_build() == Build(torch.__version__, torch.version.cuda or "")
