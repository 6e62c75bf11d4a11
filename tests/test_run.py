"""One run: the same bits for the same seed, the same bits after any interruption, and a record that tells all."""

from __future__ import annotations

import gc
import json
import math
import re
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score
from small import lower_precision, small_spec, what_was_learned
from torch.utils._python_dispatch import TorchDispatchMode

from har_sweep import measure
from har_sweep.cost.disturbance import POLL_SECONDS, Counters, SystemCounters
from har_sweep.cost.energy import measured_energy
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute
from har_sweep.device.ranks import Ranks
from har_sweep.errors import Interrupted
from har_sweep.events import Event, Line, Phase, Step
from har_sweep.launch.state import RunState
from har_sweep.launch.terminal import DISTURBED_SIGN, Screen
from har_sweep.record.folder import read_record
from har_sweep.record.record import Measurement, Record, TrainingCost, flatten
from har_sweep.run import execute as execution
from har_sweep.run.execute import execute
from har_sweep.run.remeasure import add_measurement, remeasure
from har_sweep.spec.hardware import device_named
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train import checkpoint, loop, session
from har_sweep.train import epoch as training
from har_sweep.train.augmentation import augment
from har_sweep.train.session import Session

CPU = torch.device("cpu")


def run(spec: RunSpec, tell: Callable[[Event], None] = lambda event: None) -> Record:
    return execute(spec, tell, Stop())


def run_to(spec: RunSpec, epoch: int, step: int) -> Record:
    """Execute until a step is done, then be asked to stop."""
    stop = Stop()

    def tell(event: Event) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == (epoch, step):
            stop()

    return execute(spec, tell, stop)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    spec = small_spec(tmp_path_factory.mktemp("undisturbed"))
    assert run(spec).status == "done"
    return spec


def test_the_same_seed_gives_the_same_bits_whatever_the_number_of_loader_threads(
    undisturbed: RunSpec, tmp_path: Path
) -> None:
    spec = small_spec(tmp_path, "hardware.loader_threads=4")
    assert spec.run_id == undisturbed.run_id
    run(spec)
    assert what_was_learned(spec) == what_was_learned(undisturbed)


def test_another_seed_gives_another_model(undisturbed: RunSpec, tmp_path: Path) -> None:
    spec = small_spec(tmp_path, "seed=1")
    run(spec)
    assert spec.paths.model.read_bytes() != undisturbed.paths.model.read_bytes()


def test_every_step_of_every_epoch_augments_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def watched(images: torch.Tensor, *rest: Any) -> Any:
        seeds.append(next(r for r in rest if isinstance(r, torch.Generator)).initial_seed())
        return augment(images, *rest)

    monkeypatch.setattr(training, "augment", watched)
    run(small_spec(tmp_path, "trainer.epochs=2"))
    assert len(seeds) == len(set(seeds)) == 8


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 4), (3, 2), (3, 4)])
def test_an_interrupted_run_goes_on_to_the_same_bits_and_names_another_device(
    undisturbed: RunSpec, tmp_path: Path, epoch: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec(tmp_path)
    interrupted = run_to(spec, epoch, step)
    assert interrupted.status == "interrupted"
    assert spec.paths.checkpoint.exists()
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(Compute, "device_name", "Another 9000")
    record = run(spec, lambda event: steps.append((event.epoch, event.step)) if isinstance(event, Step) else None)
    assert what_was_learned(spec) == what_was_learned(undisturbed)
    assert [attempt.outcome for attempt in record.attempts] == ["interrupted", "done"]
    assert (epoch, step) not in steps  # what was computed is not computed again
    assert record.hardware.device_name == f"{device_named('cpu')} then Another 9000"
    trained = "all of it" if (epoch, step) == (3, 4) else f"it up to step {step % 4} of epoch {epoch + step // 4}"
    assert f"{device_named('cpu')} trained {trained}, and Another 9000 goes on with it" in "".join(record.warnings)
    if epoch == 3:  # of two steps there is no throughput, and the first device's is not the second's
        assert (record.cost.training.images_per_second is None) == (step == 2)
    assert not spec.paths.checkpoint.exists()


def test_epochs_whose_checkpoint_is_not_worth_its_time_are_told_with_the_next_and_a_break_loses_no_bits(
    undisturbed: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "is_worth_it", lambda *_: False)
    spec = small_spec(tmp_path)

    def break_in_epoch_2(event: Event) -> None:
        if isinstance(event, Step) and event.epoch == 2:
            assert not spec.paths.checkpoint.exists()
            raise RuntimeError("broken")

    assert run(spec, break_in_epoch_2).status == "failed"
    assert not read_record(spec.paths.record).epochs  # the first would be told twice
    interrupted = run_to(spec, 2, 4)
    assert (interrupted.status, len(interrupted.epochs)) == ("interrupted", 2)
    steps: list[tuple[int, int]] = []
    run(spec, lambda event: steps.append((event.epoch, event.step)) if isinstance(event, Step) else None)
    assert steps[0] == (3, 1)
    assert what_was_learned(spec) == what_was_learned(undisturbed)


def test_the_best_weights_stay_what_they_were_until_a_checkpoint_is_worth_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "is_best", lambda history: len(history) == 1)
    at_once, later = small_spec(tmp_path / "at once"), small_spec(tmp_path / "later")
    assert run(at_once).selected_epoch == 1
    monkeypatch.setattr(checkpoint, "is_worth_it", lambda *_: False)
    run(later)
    assert what_was_learned(later) == what_was_learned(at_once)


@pytest.mark.parametrize(
    ("device", "save_seconds", "age_seconds", "worth_it"),
    [("cpu", 9.0, 9.0, True), ("cuda", 0.0, 6.0, True), ("cuda", 1.2, 7.2, False), ("cuda", 1.2, 24.1, True)],
)
def test_a_gpu_waits_for_checkpoints_a_twentieth_of_its_time(
    device: str, save_seconds: float, age_seconds: float, worth_it: bool
) -> None:
    assert checkpoint.is_worth_it(device, save_seconds, age_seconds) == worth_it


@pytest.mark.parametrize(
    ("device", "cores", "ranks", "asked", "threads"),
    [
        ("cpu", 16, 1, "null", 1),
        ("cuda", 16, 1, "null", 4),
        ("cuda", 16, 4, "null", 3),
        ("cuda", 1, 1, "null", 1),
        ("cuda", 16, 1, "0", 0),
        ("cpu", 2, 1, "4", 4),
    ],
)
def test_several_threads_gather_for_a_gpu_where_there_are_cores_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, cores: int, ranks: int, asked: str, threads: int
) -> None:
    monkeypatch.setattr(session, "cores", lambda: cores)
    spec = small_spec(tmp_path, f"hardware.loader_threads={asked}")
    compute = Compute(torch.device(device), "fp32", torch.contiguous_format)
    assert Session(spec, Dataset.read(spec.dataset_file), compute, ranks=Ranks(0, ranks)).loader_threads == threads


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler=cosine", "trainer.ema_decay=0.9", "trainer.selection=best"],
        ["optimizer=sgd", "augmentation=randaugment", "augmentation.mixup_alpha=0.2", "augmentation.cutmix_alpha=1"],
        ["augmentation=imagenet", "trainer.accumulation_steps=3", "trainer.gradient_clip_norm=1", "trainer=head"],
        ["hardware.precision=fp32", "trainer.label_smoothing=0.1", "model.drop_path_rate=0.2", "data.cache=stream"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_state_is_in_the_checkpoint(tmp_path: Path, overrides: list[str]) -> None:
    short = ["trainer.epochs=2", "trainer.batch_size=32"]
    whole = small_spec(tmp_path / "whole", *overrides, *short)
    assert run(whole).error is None
    cut = small_spec(tmp_path / "cut", *overrides, *short)
    assert run_to(cut, 2, 1).status == "interrupted"
    run(cut)
    assert what_was_learned(cut) == what_was_learned(whole)


def test_the_record_tells_all(undisturbed: RunSpec) -> None:
    record = read_record(undisturbed.paths.record)
    dataset = Dataset.read(undisturbed.dataset_file)
    assert record.status == "done"
    assert record.error is None
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3]
    assert record.dataset.synthetic
    assert any("synthetic" in warning for warning in record.warnings)
    assert record.dataset.counts == dataset.counts()
    cost = record.cost
    training, inference = cost.training, cost.inference
    assert inference is not None
    assert training.peak_memory_bytes
    assert cost.parameters == cost.trainable_parameters
    assert training.seconds == pytest.approx(training.compute_seconds + training.data_wait_seconds)
    assert training.data_wait_share is not None
    assert 0 <= training.data_wait_share < 1
    assert 0 < inference.latency_seconds["batch_1"]["p50"] <= inference.latency_seconds["batch_1"]["p95"]
    assert cost.device_hours
    assert cost.device_hours * 3600 > training.seconds
    assert record.hardware.precision in ("bf16", "fp32")
    assert undisturbed.paths.config.exists()


def test_the_metrics_are_those_of_the_predictions(undisturbed: RunSpec) -> None:
    record, table = read_record(undisturbed.paths.record), pd.read_parquet(undisturbed.paths.predictions)
    classes = record.dataset.classes
    assert list(table.columns) == ["path", "split", "label", "prediction", "probabilities"]
    for split, metrics in record.metrics.items():
        rows = table[table.split == split]
        assert len(rows) == record.dataset.counts[split] == sum(count for _, _, count in metrics.confusion)
        assert metrics.accuracy == pytest.approx(accuracy_score(rows.label, rows.prediction))
        assert metrics.f1_weighted == pytest.approx(f1_score(rows.label, rows.prediction, average="weighted"))
        probabilities = np.stack(rows.probabilities.to_list())
        assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
        truth = np.array([classes.index(label) for label in rows.label])
        assert metrics.nll == pytest.approx(-np.log(probabilities[np.arange(len(truth)), truth]).mean(), rel=1e-5)
    best = max(record.epochs, key=lambda epoch: epoch.val_accuracy or 0)
    assert record.selected_epoch == best.epoch
    assert record.metrics["val"].accuracy == best.val_accuracy


def test_the_saved_model_is_the_one_that_predicted(undisturbed: RunSpec) -> None:
    import timm

    from har_sweep.train.evaluate import forward_of, predict

    model = timm.create_model("test_resnet", num_classes=15)
    model.load_state_dict(load_file(undisturbed.paths.model))
    compute = Compute(torch.device("cpu"), undisturbed.precision, torch.channels_last)
    dataset = Dataset.read(undisturbed.dataset_file)
    forward = forward_of(model.eval().to(memory_format=torch.channels_last), undisturbed.model, compute)
    again = predict(forward, Session(undisturbed, dataset, compute), "test")
    table = pd.read_parquet(undisturbed.paths.predictions)
    assert np.array_equal(again.probabilities, np.stack(table[table.split == "test"].probabilities.to_list()))


def test_a_skipped_image_is_counted_in_the_record(undisturbed: RunSpec, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(Path(undisturbed.config.paths.data) / "sample-6", photos)
    (photos / "calling" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    given = ["data=folder", f"data.root={photos}", "data.on_error=skip", "trainer.epochs=1"]
    record = run(small_spec(tmp_path, *given))
    assert record.status == "done"
    assert record.dataset.skipped_images == 1
    assert not record.dataset.synthetic
    assert any("1 broken image" in warning for warning in record.warnings)


def test_a_run_in_the_study_s_manner_tells_its_line_and_that_no_accuracy_is_held_out(tmp_path: Path) -> None:
    lines: list[str] = []
    spec = small_spec(tmp_path, "trainer.epochs=1", "data.split=train_test")
    record = run(spec, lambda e: lines.append(e.text) if isinstance(e, Line) else None)
    line = next(line for line in lines if line.startswith("Epoch [1/1], Loss: "))
    assert line.endswith("%")
    assert ", Val Accuracy: " in line
    assert record.dataset.test_is_val
    assert any("no accuracy is of held-out images" in warning for warning in record.warnings)
    assert record.metrics["val"] == record.metrics["test"]
    training = record.cost.training
    assert training.seconds_with_validation == record.epochs[0].seconds > training.seconds
    table = pd.read_parquet(spec.paths.predictions)
    assert set(table[table.split == "test"].path) == set(table[table.split == "val"].path)


def test_the_loop_waits_for_its_device_only_where_it_reads_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, ``.item()`` empties its queue. Here the GPU's interval is set for the CPU, and scalars are counted."""
    spec = small_spec(tmp_path, "trainer.epochs=1", "trainer.batch_size=2", "trainer.gradient_clip_norm=1")

    class Reads(TorchDispatchMode):
        scalars, images = 0, 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten._local_scalar_dense.default:
                self.scalars += args[0].is_floating_point()  # the seed of the draws is an integer, on the CPU anyway
            return function(*args, **(kwargs or {}))

    moved: list[tuple[int, ...]] = []
    move = Compute.move

    def moving(self: Compute, tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tuple(tensor.shape))
        return move(self, tensor)

    steps: list[int] = []
    monkeypatch.setitem(training.STEPS_BETWEEN_READS, "cpu", training.STEPS_BETWEEN_READS["cuda"])
    monkeypatch.setattr(Compute, "move", moving)

    def tell(event: object) -> None:
        if isinstance(event, Step):
            steps.append(event.step)
        elif isinstance(event, Phase) and "validating" in event.text:
            raise Interrupted("that was the loop")

    with Reads() as reads:
        run(spec, tell)
    last = math.ceil(Dataset.read(spec.dataset_file).counts()["train"] / 2)
    assert steps == [1, 21, last]
    assert reads.scalars == len(steps) + 1  # the epoch's mean
    batches = [shape for shape in moved if len(shape) == 4]
    assert len(batches) == last  # one copy of each
    assert len(moved) == 2 * last  # and one of its labels


@pytest.mark.parametrize("selection", ["last", "best"])
def test_a_finished_training_is_kept_as_its_weights_alone_and_gone_on_from(tmp_path: Path, selection: str) -> None:
    spec = small_spec(tmp_path, "trainer.ema_decay=0.9", f"trainer.selection={selection}")

    def tell(event: object) -> None:
        if isinstance(event, Phase) and "Predicting" in event.text:
            raise Interrupted("after the training")

    assert run(spec, tell).status == "interrupted"
    assert "learner" not in torch.load(spec.paths.checkpoint, weights_only=True)
    weights = spec.paths.model.read_bytes()
    (kept,) = spec.paths.all_selected()
    assert spec.paths.model.samefile(kept)  # written once
    record = run(spec)
    assert (record.status, len(record.epochs), len(record.attempts)) == ("done", 3, 2)
    assert spec.paths.model.read_bytes() == weights
    uncut = small_spec(tmp_path / "uncut", *spec.overrides)
    assert run(uncut).metrics == record.metrics
    assert uncut.paths.model.read_bytes() == weights


def test_a_done_run_s_standing_shows_the_selected_epoch(finished: RunSpec) -> None:
    record = read_record(finished.paths.record)
    record.epochs[-1].val_accuracy = 0.0625  # worse than the one that was selected
    shown = {
        state: RunState(finished.paths, state, record, None, None, None).standing("x").accuracy
        for state in ("done", "running")
    }
    assert shown == {"done": f"{100 * record.metrics['val'].accuracy:.2f}", "running": "6.25"}


def test_last_reports_the_last_epoch(tmp_path: Path) -> None:
    record = run(small_spec(tmp_path, "trainer.selection=last"))
    assert record.selected_epoch == 3
    assert record.metrics["val"].accuracy == record.epochs[-1].val_accuracy


@pytest.mark.parametrize("last_step", [False, True])  # whose loss is still that of the weights before it
def test_a_loss_that_is_no_number_ends_the_run_as_failed_with_a_hint(tmp_path: Path, last_step: bool) -> None:
    whole = ["trainer.epochs=1", "trainer.batch_size=512"] if last_step else []
    record = run(small_spec(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", *whole))
    assert record.status == "failed"
    assert record.error
    assert record.error.kind == "non_finite_loss"
    assert "The loss became nan in epoch 1" in record.error.message
    assert "optimizer.lr" in record.error.hint
    json.loads(small_spec(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", *whole).paths.record.read_text())


def test_micro_batches_give_the_whole_batch_s_gradients(tmp_path: Path) -> None:
    """The same effective batch, to rounding; a model with layer norm, as batch norm sees its micro-batch alone."""
    vit = ["model.timm_name=test_vit", "hardware.precision=fp32", "trainer.epochs=1"]
    losses = []
    for steps in (1, 3):
        record = run(small_spec(tmp_path, *vit, f"trainer.accumulation_steps={steps}"))
        assert record.error is None
        losses.append(record.epochs[0].train_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def _with_little_memory(spec: RunSpec) -> Record:
    """Execute with so little memory left that a batch of large images does not fit."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    used_bytes = int(status["VmData"].split()[0]) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used_bytes + 350 * 2**20, before[1]))
    try:
        return run(spec)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


HUNGRY = ["model.timm_name=test_resnet", "model.input_size=256", "trainer.batch_size=60", "trainer.epochs=1"]
HUNGRY += ["hardware.precision=fp32", "hardware.loader_threads=0"]


def _each_with_little_memory(specs: list[RunSpec]) -> list[Record]:
    """Each in a process of its own, which is forked when everything is imported and nothing is computed yet."""
    gc.freeze()  # as launch/preload.py
    records = []
    for spec in specs:
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            records.append(pool.submit(_with_little_memory, spec).result())
    return records


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_out_of_memory_names_the_batch_to_try_and_split_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is freed goes back to the system, as it does where memory is not limited by what a process has asked for.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    specs = [small_spec(tmp_path, *HUNGRY), small_spec(tmp_path, *HUNGRY, "trainer.on_oom=split")]
    # In a new process: what earlier tests have left in memory would count.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        failed, split = pool.submit(_each_with_little_memory, specs).result()
    assert failed.error
    assert failed.error.kind == "out_of_memory"
    assert "trainer.batch_size=30" in failed.error.hint
    assert split.status == "done", split.error
    assert any("micro-batches" in warning for warning in split.warnings)
    assert math.isfinite(split.epochs[0].train_loss or math.nan)


@contextmanager
def full_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_no_more_than_the_checkpoint(tmp_path: Path) -> None:
    """The file size limit stands for the full disk: the kernel refuses the write in the same place."""
    spec = small_spec(tmp_path, "trainer.selection=last", "trainer.save_model=false")
    with full_disk():
        record = run(spec)
    assert record.status == "done", record.error
    assert any("No checkpoint could be written" in warning for warning in record.warnings)
    assert [file.name for file in spec.paths.folder.glob(".*") if file.name != ".lock"] == []


def test_a_run_that_the_full_disk_ended_goes_on_when_there_is_room(undisturbed: RunSpec, tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    run_to(spec, 1, 1)  # before there were weights to keep
    with full_disk():
        record = run(spec)
    assert record.error
    assert record.error.kind == "disk_full"
    assert run(spec).status == "done"
    assert what_was_learned(spec) == what_was_learned(undisturbed)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(b""), lambda f: f.write_bytes(b"damaged"), flip_a_bit])
@pytest.mark.parametrize("what", ["checkpoint", "weights"])
def test_a_training_begins_anew_where_what_was_kept_of_it_is_damaged(
    undisturbed: RunSpec, tmp_path: Path, what: str, damage: Callable[[Path], object]
) -> None:
    spec = small_spec(tmp_path)
    run_to(spec, 2, 1)
    file = spec.paths.checkpoint if what == "checkpoint" else spec.paths.all_selected()[0]
    damage(file)
    record = run(spec)
    assert record.status == "done", record.error
    assert any(str(file.name) in warning and "begins anew" in warning for warning in record.warnings)
    assert what_was_learned(spec) == what_was_learned(undisturbed)


def test_weights_that_come_back_older_than_they_were_are_not_reported(undisturbed: RunSpec, tmp_path: Path) -> None:
    """As after a share was away: what was written meanwhile is lost, and an earlier file stands there."""
    spec = small_spec(tmp_path)
    overtaken = False

    def tell(event: object) -> None:
        nonlocal overtaken
        if isinstance(event, Line) and "Epoch [3/3]" in event.text:
            (kept,) = {f for f in spec.paths.all_selected() if f.stem != "selected-3"} or spec.paths.all_selected()
            another = small_spec(tmp_path / "another", "seed=7", "trainer.epochs=1", "trainer.selection=last")
            run(another)
            kept.write_bytes(another.paths.model.read_bytes())
            overtaken = True

    failed = run(spec, tell)
    assert overtaken
    assert failed.error
    assert failed.error.kind in ("weights_damaged", "weights_differ")
    assert run(spec).status == "done"
    assert what_was_learned(spec) == what_was_learned(undisturbed)


def test_a_signal_outside_training_interrupts_at_once() -> None:
    with pytest.raises(Interrupted):
        Stop()()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_run_on_cuda_learns_measures_and_resumes(tmp_path: Path, precision: str) -> None:
    if (precision, lower_precision()) == ("bf16", "fp16"):
        pytest.skip("this card does not multiply in bf16")
    cuda = ["hardware.device=cuda", f"hardware.precision={precision}", "trainer.epochs=4"]
    spec = small_spec(tmp_path, *cuda)
    interrupted = run_to(spec, 2, 1)
    assert interrupted.status == "interrupted", interrupted.error
    record = run(spec)
    assert record.status == "done", record.error
    assert (record.hardware.device, record.hardware.precision) == ("cuda", precision)
    assert record.hardware.device_name == torch.cuda.get_device_name()
    assert (record.epochs[-1].train_loss or math.inf) < (record.epochs[0].train_loss or 0)
    training, inference = record.cost.training, record.cost.inference
    assert inference is not None
    assert training.peak_memory_bytes
    assert inference.peak_memory_bytes
    assert training.peak_memory_bytes > inference.peak_memory_bytes
    with measured_energy(torch.device("cuda")) as energy:
        pass
    assert training.energy_joules or energy.joules is None  # where the driver does not count it


@pytest.mark.gpu
def test_out_of_memory_on_cuda_names_the_batch_to_try_and_split_goes_on(tmp_path: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    # All images at once take 900 MiB of tensors, half of them 475 MiB.
    torch.cuda.set_per_process_memory_fraction(700 * 2**20 / total)
    try:
        failed = run(small_spec(tmp_path, *HUNGRY, "hardware.device=cuda"))
        assert failed.error
        assert failed.error.kind == "out_of_memory"
        assert "trainer.batch_size=30" in failed.error.hint
        split = run(small_spec(tmp_path, *HUNGRY, "hardware.device=cuda", "trainer.on_oom=split"))
        assert split.status == "done", split.error
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_cuda_training_does_not_wait_for_the_device_in_every_step(tmp_path: Path) -> None:
    """From one read of the loss to the next there is a single synchronisation, the read itself."""
    spec = small_spec(tmp_path, "hardware.device=cuda", "data.images_per_class=60", "trainer.epochs=2")
    seen: dict[tuple[int, int], int] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def tell(event: Event) -> None:
            if isinstance(event, Step):
                seen[event.epoch, event.step] = sum("synchroniz" in str(warning.message) for warning in caught)

        torch.cuda.set_sync_debug_mode("warn")
        try:
            record = run(spec, tell)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert record.error is None, record.error.traceback
    assert seen[2, 21] - seen[2, 1] == 1


@pytest.fixture
def copies(undisturbed: RunSpec, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the finished run under another id, with other values in its record; returns its folder."""

    def copied(run_id: str, **changes: Any) -> Path:
        folder = shutil.copytree(undisturbed.paths.folder, tmp_path / "runs" / run_id)
        tree = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps({**tree, "run_id": run_id, **changes}))
        return folder

    return copied


def test_a_finished_run_is_measured_again_without_training_and_one_that_is_broken_stops_no_other(
    copies: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    broken, whole = copies("net-b0"), copies("net-a0")
    state = load_file(broken / "model.safetensors")
    state["fc.weight"], state["fc.bias"] = -state["fc.weight"], -state["fc.bias"]
    save_file(state, broken / "model.safetensors")
    before = {folder: read_record(folder / "record.json") for folder in (broken, whole)}
    kept = (whole / "model.safetensors").read_bytes(), (whole / "predictions.parquet").read_bytes()
    assert measure.main(["net-b", "net-a0", "--wait", "0", f"paths.runs={whole.parent}"]) == 1

    assert read_record(broken / "record.json") == before[broken]
    assert "[1/2] net-b0  It failed: Its weights are not those that it was finished with" in (
        said := capfd.readouterr().out
    )
    assert "[2/2] net-a0  Latency " in said
    old, new = before[whole], read_record(whole / "record.json")
    first, second = new.measurements
    assert (first.measured_at, first.inference, first.training) == (
        old.finished_at,
        old.cost.inference,
        old.cost.training,
    )
    assert second.measured_at > first.measured_at
    assert second.device_name == old.hardware.device_name
    assert second.training is not None
    assert second.training.images_per_second
    assert second.training.peak_memory_bytes
    assert new.cost.inference is not None
    assert new.cost.inference.latency_seconds in (m.inference.latency_seconds for m in new.measurements)
    assert (new.metrics, new.epochs, new.attempts) == (old.metrics, old.epochs, old.attempts)
    assert kept == ((whole / "model.safetensors").read_bytes(), (whole / "predictions.parquet").read_bytes())
    assert flatten(new).keys() == flatten(old).keys()


def test_what_cannot_be_measured_here_is_refused_before_anything_is(
    copies: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, hardware = copies("whole"), {"device": "cpu", "device_count": 1, "precision": "fp32", "cpu_threads": 1}
    copies("failed", status="failed")
    (copies("without") / "model.safetensors").unlink()
    copies("elsewhere", hardware={**hardware, "device_name": "Another 9000"})
    copies("larger", hardware={**hardware, "device_name": device_named("cpu"), "cpu_threads": 100_000})
    copies("others", dataset={**json.loads((whole / "record.json").read_text())["dataset"], "fingerprint": "0"})
    copies("open").chmod(0o777)
    before = (whole / "record.json").read_bytes()
    runs = ["whole", "failed", "without", "elsewhere", "larger", "others", "open"]
    assert measure.main([*runs, f"paths.runs={whole.parent}"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    for expected in [
        "failed is failed, not done. The same sweep command goes on with it.",
        "without has kept no weights. Compute it again with trainer.save_model=true rerun=true.",
        f"elsewhere ran on Another 9000; this is {device_named('cpu')}. Measure it where it ran.",
        "larger ran with 100000 threads; this process may use",
        "others: its images are not what they were.",
        "so that somebody else could exchange it.",
    ]:
        assert expected in said
    assert (whole / "record.json").read_bytes() == before

    for given, expected in [
        (["nobody"], f"There is no run and no sweep 'nobody' in {whole.parent}."),
        ([""], "'' may be"),
        ([], "Which run shall be measured?"),
        (["whole", "--wait", "-1"], "--wait -1 is no time to wait."),
        (["whole", "--wait", "inf"], "--wait inf is no time to wait."),
    ]:
        assert measure.main([*given, f"paths.runs={whole.parent}"]) == 2
        assert expected in capsys.readouterr().out


def test_of_several_measurements_the_best_undisturbed_one_counts(undisturbed: RunSpec) -> None:
    record = read_record(undisturbed.paths.record)
    own = record.cost.inference
    assert own is not None

    def measured(latency: float, rate: float, taken: float | None) -> Measurement:
        inference = replace(own, latency_seconds={"batch_1": {"p50": latency, "p95": latency}}, disturbed_share=taken)
        training = TrainingCost(images_per_second=rate, images_disturbed_share=taken)
        return Measurement("2026-01-02T00:00:00.000Z", "cpu", "fp32", 2, inference, training)

    record.cost.inference = replace(own, disturbed_share=0.5, peak_memory_bytes=77)
    record.cost.training = replace(record.cost.training, images_per_second=1.0, images_disturbed_share=0.5)
    counted = []
    for again in [
        measured(0.003, 10, 0.3),
        measured(0.002, 30, 0.05),
        measured(0.001, 90, 0.9),
        measured(0.004, 5, None),
    ]:
        add_measurement(record, again)
        assert record.cost.inference is not None
        latency, rate = record.cost.inference.latency_seconds["batch_1"]["p50"], record.cost.training.images_per_second
        counted.append((latency, rate, record.cost.inference.disturbed_share))
    assert counted == [(0.003, 10, 0.3), (0.002, 30, 0.05), (0.002, 30, 0.05), (0.002, 30, 0.05)]
    assert len(record.measurements) == 5
    assert record.measurements[0].training is not None
    assert record.measurements[0].training.images_per_second == 1.0
    assert record.cost.inference is not None
    assert record.cost.inference.peak_memory_bytes == 77


class Hot(SystemCounters):
    """Half of all time is lost to heat."""

    def __call__(self) -> Counters:
        now = super().__call__()
        return replace(now, slowed=now.slowed + now.seconds / 2)


def waits(told: list[Event]) -> list[Event]:
    return [event for event in told if isinstance(event, Phase) and event.text.startswith("Waiting for a quiet moment")]


def test_a_run_that_is_disturbed_waits_says_so_once_and_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "SystemCounters", Hot)
    monkeypatch.setattr(execution, "PATIENCE_SHARE", 1e9)
    monkeypatch.setattr(execution, "MOST_PATIENCE_SECONDS", 2 * POLL_SECONDS)
    spec, told = small_spec(tmp_path, "trainer.epochs=1"), list[Event]()
    record = run(spec, told.append)
    (said,) = (warning for warning in record.warnings if "was measured while" in warning)
    assert re.match("What training and inference cost was measured while .*heat or want of power slowed", said)
    assert said.endswith(
        f"`python -m har_sweep.measure {spec.run_id}` measures latency and images/s again, without training."
    )
    assert len(waits(told)) == 1
    assert record.cost.inference
    shares = record.cost.training.disturbed_share, record.cost.inference.disturbed_share
    assert min(share or 0.0 for share in (*shares, record.cost.training.images_disturbed_share)) > 0.45
    Screen().table("Runs", [(record, spec.name, spec.run_id, "done")])
    assert capsys.readouterr().out.count(DISTURBED_SIGN) == 4  # what it means, and three costs

    told.clear()
    remeasure(spec, told.append, Stop(), patience_seconds=2 * POLL_SECONDS)
    assert len(waits(told)) == 1  # for inference, and so nothing is left for steps of training
    again = read_record(spec.paths.record).measurements[-1]
    assert (again.inference.disturbed_share or 0.0) > 0.45
