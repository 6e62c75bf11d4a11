"""One run on two devices: what one device learns, whoever is interrupted, and an end for all when one of them dies."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import timm
import torch
from safetensors.torch import load_file
from small import lower_precision, small_spec, what_was_learned
from torch import nn

from har_sweep.config.schema import HardwareConfig
from har_sweep.device import ranks
from har_sweep.device.ranks import Ranks
from har_sweep.errors import InputError
from har_sweep.events import Event, Step
from har_sweep.launch import estimate, speeds
from har_sweep.launch.calibrate import together
from har_sweep.launch.plan import Planned as PlannedRun
from har_sweep.launch.terminal import Screen
from har_sweep.record.folder import read_record
from har_sweep.record.record import Record
from har_sweep.run.execute import execute
from har_sweep.spec import hardware
from har_sweep.spec.hardware import Device, cpu_device, resolve_device
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop

# Of 60 images. Pieces of 3 give one image to a rank and two to the other; the last batch is of 2, in pieces of 1.
UNEVEN = ["trainer.batch_size=29", "trainer.accumulation_steps=10", "trainer.gradient_clip_norm=1", "optimizer=sgd"]
UNEVEN += ["trainer.ema_decay=0.9", "scheduler=cosine", "augmentation.mixup_alpha=0.2", "optimizer.lr=1e-3"]
# oneDNN's batch norm in channels_last rounds more coarsely than PyTorch's, by as much as 1e-5.
UNEVEN += ["hardware.memory_format=contiguous"]
# One image is left for the last batch.
VIT = ["model.timm_name=test_vit", "trainer.batch_size=59", "augmentation.cutmix_alpha=1"]
VIT += ["optimizer=adamw", "optimizer.lr=1e-3"]
RANDOM = ["model.drop_path_rate=0.3", "optimizer=adamw"]
TWO = ["hardware.device_count=2", "hardware.cpu_threads=2"]  # a thread each

Planned = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Plans runs, each in a folder of its own; whether one process would be faster is not measured for each."""

    def spec(*overrides: str) -> RunSpec:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(speeds, "_has_several", lambda spec: False)
            return small_spec(tmp_path_factory.mktemp("run"), "hardware.precision=fp32", "trainer.epochs=2", *overrides)

    return spec


def ranks_above_0(process: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes of a run's other ranks."""
    children = (process or psutil.Process()).children()
    servers = [child for child in children if "multiprocessing.forkserver" in " ".join(child.cmdline())]
    return [rank for server in servers for rank in server.children()]


def run(spec: RunSpec, at: Callable[[Step, Stop], None] = lambda step, stop: None) -> Record:
    """Execute here as rank 0, and call ``at`` after each step; a SIGTERM to this process is the run's."""
    stop = Stop()

    def tell(event: Event) -> None:
        if isinstance(event, Step):
            at(event, stop)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return execute(spec, tell, stop)
    finally:
        signal.signal(signal.SIGTERM, before)
        assert not ranks_above_0()


def differences(one: Record, two: Record) -> list[float]:
    """Of the losses and val accuracies of all epochs."""
    return [
        abs((getattr(a, name) or 0) - (getattr(b, name) or 0))
        for a, b in zip(one.epochs, two.epochs, strict=True)
        for name in ("train_loss", "val_loss", "val_accuracy")
    ]


@pytest.mark.parametrize("recipe", [UNEVEN, VIT], ids=["with batch norm", "without"])
def test_two_processes_learn_what_one_does_and_one_writes_it(planned: Planned, recipe: list[str]) -> None:
    one, two = planned(*recipe, "hardware.cpu_threads=1"), planned(*recipe, *TWO)
    alone, together = run(one), run(two)
    assert together.status == "done", together.error
    found = differences(alone, together)
    assert max(found) < 1e-5, found
    assert len({epoch.train_loss for epoch in together.epochs}) == 2
    assert together.hardware.device_count == 2
    assert together.cost.parameters == alone.cost.parameters
    attempt = together.attempts[0]
    seconds = pd.Timestamp(attempt.ended_at) - pd.Timestamp(attempt.started_at)
    assert together.cost.device_hours == pytest.approx(2 * seconds.total_seconds() / 3600)
    assert sorted(f.name for f in two.paths.folder.iterdir()) == sorted(f.name for f in one.paths.folder.iterdir())
    size: dict[str, Any] = {} if recipe is UNEVEN else {"img_size": two.model.input_size}
    timm.create_model(two.model.timm_name, num_classes=15, **size).load_state_dict(load_file(two.paths.model))


@pytest.fixture(scope="module")
def undisturbed(planned: Planned) -> RunSpec:
    spec = planned(*RANDOM, *TWO)
    assert run(spec).status == "done"
    return spec


def test_whatever_ends_a_rank_ends_the_run_which_then_goes_on_to_the_same_bits(
    undisturbed: RunSpec, planned: Planned
) -> None:
    spec = planned(*RANDOM, *TWO)
    assert spec.run_id == undisturbed.run_id
    steps: list[tuple[int, int]] = []

    def stop_rank_1() -> None:
        ranks_above_0()[0].terminate()

    def kill_rank_1() -> None:
        ranks_above_0()[0].kill()

    def stop_all() -> None:
        for process in (*ranks_above_0(), psutil.Process()):
            process.terminate()

    def after_the_first_step(do: Callable[[], None]) -> Record:
        first = True

        def at(step: Step, stop: Stop) -> None:
            nonlocal first
            steps.append((step.epoch, step.step))
            if first:
                do()
            first = False

        return run(spec, at)

    assert after_the_first_step(stop_rank_1).status == "interrupted"
    killed = after_the_first_step(kill_rank_1)
    assert killed.error
    assert killed.error.kind == "killed"
    assert "rank 1 of 2 died: SIGKILL" in killed.error.message
    assert after_the_first_step(stop_all).status == "interrupted"
    record = after_the_first_step(lambda: None)
    assert [attempt.outcome for attempt in record.attempts] == ["interrupted", "failed", "interrupted", "done"]
    assert [attempt.error for attempt in record.attempts[::2]] == ["rank 1: SIGTERM", "SIGTERM"]
    assert steps.count((1, 1)) == 1  # a checkpoint was gone on from
    assert what_was_learned(spec) == what_was_learned(undisturbed)


def _execute(spec: RunSpec) -> None:
    execute(spec, lambda event: None, Stop())


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_no_rank_outlives_rank_0(planned: Planned) -> None:
    spec = planned(*RANDOM, *TWO, "trainer.epochs=1000", "trainer.selection=last")
    rank_0 = get_context("spawn").Process(target=_execute, args=(spec,))
    rank_0.start()
    while not spec.paths.checkpoint.exists():  # the test's own time-out is the limit
        assert rank_0.is_alive()
        time.sleep(0.1)
    others = ranks_above_0(psutil.Process(rank_0.pid))
    assert len(others) == 1
    rank_0.kill()
    rank_0.join()
    while not all(map(_ended, others)):  # here, too
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_rank_without_memory_ends_the_run_and_says_what_to_do(planned: Planned) -> None:
    def starve_rank_1(step: Step, stop: Stop) -> None:
        if step.step == 1:
            process = ranks_above_0()[0]
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            used_bytes = 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
            # Room for the next batch, not for what is kept of a forward pass (0.4 GB); and for what must not fail.
            limit_bytes = used_bytes + 100 * 2**20
            process.rlimit(psutil.RLIMIT_DATA, (limit_bytes, limit_bytes))

    record = run(planned(*TWO, "model.input_size=256", "trainer.batch_size=40"), starve_rank_1)
    assert record.error
    assert record.error.kind == "out_of_memory"
    assert record.error.message.startswith("Rank 1 of 2: Out of memory with batches of 20 images")
    assert "trainer.accumulation_steps=2" in record.error.hint


def test_a_loss_that_is_no_number_ends_all_ranks(planned: Planned) -> None:
    record = run(planned(*TWO, "optimizer=sgd", "optimizer.lr=1e30"))
    assert record.error
    assert record.error.kind == "non_finite_loss"


def test_what_several_processes_train_together_is_measured_and_a_sweep_warns_where_one_is_faster(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    rate = together(planned(*RANDOM, *TWO), 0.1)
    assert rate > 0
    assert torch.get_num_threads() == threads
    assert not ranks_above_0()
    monkeypatch.setattr(speeds, "TIMING_SECONDS", 0.1)
    monkeypatch.setattr(speeds, "WORTH_ITS_DEVICES", 1e9)
    two = small_spec(tmp_path, *RANDOM, *TWO, f"paths.cache={tmp_path}")
    warned = re.compile(r"2 processes train test_resnet in batches of 16 at \S+ images/s, one at \S+: take")
    assert any(map(warned.match, two.warnings)), two.warnings
    monkeypatch.setattr(estimate, "measured_together", lambda *_: 0.01)
    (estimated,) = estimate.estimate([PlannedRun(two, "new")], Screen())
    assert (estimated.device_hours or 0) > 2 * 48 / 0.01 / 3600


def test_more_devices_than_there_are_are_refused_unless_slurm_has_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one_gpu = Device("cuda", "A GPU", 2**30, bf16=True)
    monkeypatch.setattr(hardware, "find_devices", lambda: (one_gpu, cpu_device()))
    with pytest.raises(InputError, match=r"device_count=2: this machine has 1 cuda device"):
        resolve_device(HardwareConfig(device="cuda", device_count=2))
    assert resolve_device(HardwareConfig(device="cpu", device_count=2)).kind == "cpu"
    monkeypatch.undo()
    spec = small_spec(tmp_path, "hardware=slurm_gpu", "hardware.device_count=8", "hardware.precision=fp16")
    assert (spec.device, spec.precision) == ("cuda", "fp16")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("recipe", [UNEVEN, VIT], ids=["with batch norm", "without"])
def test_two_gpus_learn_what_one_does(planned: Planned, recipe: list[str]) -> None:
    exact = [*recipe, "hardware.device=cuda", "hardware.tf32=false", "hardware.deterministic=true"]
    alone, together = run(planned(*exact)), run(planned(*exact, *TWO))
    assert together.status == "done", together.error
    assert max(differences(alone, together)) < 1e-4
    counted = alone.cost.training.energy_joules, together.cost.training.energy_joules
    assert all(counted) or counted == (None, None)  # where the driver does not count it


def _kill_rank_1(step: Step, stop: Stop) -> None:
    if (step.epoch, step.step) == (2, 1):
        ranks_above_0()[0].kill()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_run_on_two_gpus_ends_with_a_killed_rank_and_goes_on(planned: Planned, compiled: str) -> None:
    precision = f"hardware.precision={lower_precision()}"
    spec = planned(*TWO, "hardware.device=cuda", precision, f"hardware.compile={compiled}")

    rank_0 = get_context("spawn").Process(target=run, args=(spec, _kill_rank_1))
    rank_0.start()
    rank_0.join(300)
    assert rank_0.exitcode == 0
    error = read_record(spec.paths.record).error
    assert error
    assert error.kind == "killed"
    assert run(spec).status == "done"


def test_torch_before_2_13_is_told_by_its_own_name_to_leave_buffers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def of_2_11(
        module: nn.Module, device_ids: Any = None, broadcast_buffers: bool = True,
        find_unused_parameters: bool = False, gradient_as_bucket_view: bool = False,
    ) -> None:  # fmt: skip
        told.update(broadcast_buffers=broadcast_buffers)

    monkeypatch.setattr(ranks, "DistributedDataParallel", of_2_11)
    Ranks(0, 2).parallel(nn.Linear(1, 1), torch.device("cpu"))
    assert told == {"broadcast_buffers": False}
