"""What runs will cost: told by records where there are any, else by MACs and a speed, and never by guessing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from small import small_spec

from har_sweep.cost.counted import counted_costs
from har_sweep.cost.inference import thoroughness
from har_sweep.data.dataset import Dataset
from har_sweep.events import Event, Step
from har_sweep.launch import ask, speeds
from har_sweep.launch.estimate import Estimate, cheapness, estimate
from har_sweep.launch.plan import Planned
from har_sweep.launch.sweep import forecast
from har_sweep.launch.terminal import Screen
from har_sweep.record.folder import RunPaths, read_record, write_record
from har_sweep.record.record import Record
from har_sweep.run.execute import execute
from har_sweep.spec.hardware import device_named
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.units import device_time

CPU = device_named("cpu")
SLURM_CPU = ["hydra/launcher=slurm", "hardware.device=cpu", "hardware.precision=fp32"]
SLURM_CUDA = ["hydra/launcher=slurm", "hardware.device=cuda", "hardware.precision=bf16"]
# In the records that tests edit: seconds for an image in training, for one in evaluation, and for what a run does once.
TRAINING, EVALUATION, ONCE = 0.5, 0.125, 7.0

Like = Callable[..., RunSpec]
Remember = Callable[..., Record]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A run that was really executed, as if nobody had disturbed it."""
    spec = small_spec(tmp_path_factory.mktemp("real"))
    record = execute(spec, lambda event: None, Stop())
    assert record.status == "done"
    record.cost.training.disturbed_share = 0.0
    write_record(record, spec.paths)
    return spec


@pytest.fixture
def like(real: RunSpec, tmp_path: Path) -> Like:
    """Plans a run like the real one, into a runs folder of the test's own."""
    paths = real.config.paths

    def planned(*overrides: str) -> RunSpec:
        return small_spec(tmp_path, f"paths.data={paths.data}", f"paths.cache={paths.cache}", *overrides)

    return planned


@pytest.fixture
def remember(real: RunSpec, tmp_path: Path) -> Remember:
    """Puts a copy of the real record among the test's runs, with times that are easily calculated, and edited."""

    def write(run_id: str, slower: float = 1, edit: Callable[[Record], object] = lambda record: None) -> Record:
        record = read_record(real.paths.record)
        images, record.run_id = record.dataset.counts, run_id
        for epoch in record.epochs:
            epoch.seconds = slower * (images["train"] * TRAINING + images["val"] * EVALUATION)
        record.cost.training.compile_seconds = ONCE / 2
        record.epochs[0].seconds += ONCE / 2
        record.cost.training.seconds = slower * len(record.epochs) * images["train"] * TRAINING
        record.cost.device_hours = taken(images, len(record.epochs), slower) / 3600
        edit(record)
        write_record(record, RunPaths(tmp_path / "runs" / run_id))
        return record

    return write


def taken(
    images: dict[str, int],
    epochs: int,
    slower: float = 1,
    once: float = ONCE,
    training: float = TRAINING,
    evaluation: float = EVALUATION,
) -> float:
    evaluated = epochs * images["val"] + images["val"] + images["test"]
    return slower * (epochs * images["train"] * training + evaluated * evaluation) + once


def new(*specs: RunSpec) -> list[Planned]:
    return [Planned(spec, "new") for spec in specs]


def seconds(estimated: Estimate) -> float:
    assert estimated.device_hours is not None, estimated.basis
    return 3600 * estimated.device_hours


def test_another_seed_takes_what_the_run_really_took(real: RunSpec) -> None:
    took = read_record(real.paths.record).cost.device_hours
    (again,) = estimate(new(small_spec(real.paths.folder.parent.parent, "seed=1")), Screen())
    assert again.device_hours == pytest.approx(took)
    assert again.basis == f"1 record of test_resnet on {CPU}"


def test_training_and_validation_grow_with_epochs_and_the_rest_does_not(like: Like, remember: Remember) -> None:
    images = remember("one").dataset.counts
    six, sixty = estimate(
        new(like("trainer.epochs=6"), like("trainer.epochs=60", "hardware.price_per_device_hour=36")), Screen()
    )
    assert seconds(six) == pytest.approx(taken(images, 6))
    assert six.price is None
    assert seconds(sixty) == pytest.approx(taken(images, 60))
    assert sixty.price == pytest.approx(taken(images, 60) / 100)


def test_what_others_took_of_a_run_is_no_part_of_the_next_one(like: Like, remember: Remember) -> None:
    """A quarter as here, or nearly all, where the run is measured instead; of a cluster's there is nothing else."""

    def busy(share: float) -> Callable[[Record], object]:
        return lambda record: setattr(record.cost.training, "disturbed_share", share)

    images = remember("a little", 4 / 3, busy(0.25)).dataset.counts
    (estimated,) = estimate(new(like()), Screen())
    assert seconds(estimated) == pytest.approx(taken(images, 3, once=0.75 * ONCE))
    assert estimated.basis == f"1 record of test_resnet on {CPU}"
    remember("a little", 20, busy(0.95))
    (estimated,) = estimate(new(like()), Screen())
    assert estimated.basis == f"its steps on this machine ({CPU}, fp32)"
    assert seconds(estimated) < taken(images, 3)
    (estimated,) = estimate(new(like(*SLURM_CPU)), Screen())
    assert seconds(estimated) == pytest.approx(taken(images, 3, once=0.05 * ONCE))
    assert estimated.basis == f"1 record (of a busy machine) of test_resnet on {CPU}"
    remember("quiet")
    (estimated,) = estimate(new(like(*SLURM_CPU)), Screen())
    assert seconds(estimated) == pytest.approx(taken(images, 3))
    (estimated,) = estimate(new(like()), Screen())
    assert seconds(estimated) == pytest.approx(taken(images, 3))
    assert estimated.basis == f"1 record of test_resnet on {CPU}"


def test_a_compiled_run_does_not_take_what_one_did_that_was_not(like: Like, remember: Remember) -> None:
    remember("plain")
    (estimated,) = estimate(new(like("hardware.compile=true")), Screen())
    assert estimated.basis == f"its steps on this machine ({CPU}, fp32, not compiled)"


def test_the_latest_five_records_count_by_their_median(like: Like, remember: Remember) -> None:
    for year, slower in enumerate([90, 90, 90, 90, 90, 90, 1, 2, 3, 4, 50], 2020):
        remember(f"of-{year}", slower, lambda r, y=year: setattr(r, "finished_at", f"{y}-01-01T00:00:00.000Z"))
    (estimated,) = estimate(new(like()), Screen())
    assert seconds(estimated) == pytest.approx(taken(remember("one").dataset.counts, 3, slower=3))
    assert estimated.basis == f"5 records of test_resnet on {CPU}"


def test_records_of_the_same_settings_come_first(like: Like, remember: Remember) -> None:
    images = remember("one").dataset.counts
    remember("other", 90, lambda r: r.config["trainer"].update(batch_size=4))
    same, other = estimate(new(like(), like("trainer.batch_size=4")), Screen())
    assert seconds(same) == pytest.approx(taken(images, 3))
    assert seconds(other) == pytest.approx(taken(images, 3, slower=90))


def test_a_run_on_several_devices_takes_the_hours_of_all(like: Like, remember: Remember) -> None:
    def on_four_gpus(record: Record) -> None:
        record.hardware = replace(record.hardware, device="cuda", device_name="GPU", device_count=4, precision="bf16")
        record.cost.device_hours = 4 * (record.cost.device_hours or 0)

    images = remember("four", 1, on_four_gpus).dataset.counts
    four, one = estimate(new(like(*SLURM_CUDA, "hardware.device_count=4"), like(*SLURM_CUDA)), Screen())
    assert seconds(four) == pytest.approx(4 * taken(images, 3))
    assert four.basis == "1 record of test_resnet on GPU"
    assert one.device_hours is None


def test_on_a_cluster_the_device_of_the_latest_record_counts(like: Like, remember: Remember) -> None:
    def on(name: str, year: int) -> Callable[[Record], None]:
        def edit(record: Record) -> None:
            record.hardware = replace(record.hardware, device="cuda", device_name=name, precision="bf16")
            record.finished_at = f"{year}-01-01T00:00:00.000Z"

        return edit

    for year in (2020, 2021, 2022):
        remember(f"old-{year}", 90, on("Old GPU", year))
    images = remember("new", 1, on("New GPU", 2023)).dataset.counts
    (estimated,) = estimate(new(like(*SLURM_CUDA)), Screen())
    assert seconds(estimated) == pytest.approx(taken(images, 3))
    assert estimated.basis == "1 record of test_resnet on New GPU"


def test_what_is_done_costs_nothing_and_what_was_begun_what_is_left(like: Like, remember: Remember) -> None:
    images = remember("one").dataset.counts
    spec, stop = like("seed=1", "hardware.price_per_device_hour=1"), Stop()

    def tell(event: Event) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == (2, 1):
            stop()

    assert execute(spec, tell, stop).status == "interrupted"
    done, begun = estimate([Planned(spec, "done"), Planned(spec, "interrupted")], Screen())
    assert (done.device_hours, done.price) == (0, 0)
    assert seconds(begun) == pytest.approx(taken(images, 2))
    assert begun.basis == f"1 record of test_resnet on {CPU}; 2 of 3 epochs are left"
    assert cheapness([Planned(spec, "done"), Planned(spec, "interrupted")], Screen()) == [0, seconds(begun)]
    spec.paths.checkpoint.unlink()
    (from_the_start,) = estimate([Planned(spec, "interrupted")], Screen())
    assert seconds(from_the_start) == pytest.approx(taken(images, 3))


def test_where_no_run_is_done_its_own_epochs_tell(like: Like, remember: Remember) -> None:
    def half_done(record: Record) -> None:
        record.status, record.epochs = "interrupted", record.epochs[:2]
        record.cost.training.seconds *= 2 / 3

    spec = like()
    images = remember(spec.run_id, 1, half_done).dataset.counts
    spec.paths.checkpoint.touch()
    (estimated,) = estimate([Planned(spec, "interrupted")], Screen())
    assert seconds(estimated) == pytest.approx(taken(images, 1, once=0))
    assert estimated.basis == f"1 unfinished record of test_resnet on {CPU}; 1 of 3 epochs are left"


def test_models_without_a_record_go_by_their_macs_at_the_speed_of_others(
    like: Like, remember: Remember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a node, which is not here to be measured: a model that was never run is counted; one that cannot be is said
    to be unknown, and the others go on."""
    wide = like("model.input_size=96", *SLURM_CPU)
    broken = replace(wide, model=replace(wide.model, timm_name="no_such_model"))
    record = remember("one")

    def other(year: int, macs: int | None = record.cost.macs) -> Callable[[Record], None]:
        def edit(record: Record) -> None:
            record.model.timm_name, record.finished_at, record.cost.macs = "other", f"{year}-01-01T00:00:00.000Z", macs

        return edit

    remember("older", 90, other(2098))
    remember("latest", 3, other(2099))
    remember("not-counted", 90, other(2100, None))
    estimated, unknown = estimate(new(wide, broken), Screen())
    counted = counted_costs(wide, len(Dataset.read(wide.dataset_file).classes))
    assert counted
    macs = counted.macs or 0
    assert macs == pytest.approx((96 / 64) ** 2 * (record.cost.macs or 0), rel=0.01)
    ratio = 2 * macs / (record.cost.macs or 0)  # 2 is the median of what the others are slower
    assert seconds(estimated) == pytest.approx(taken(record.dataset.counts, 3, slower=ratio))
    assert estimated.basis == f"MACs, at the speed of 2 records of other models on {CPU}"
    assert unknown.device_hours is None
    assert "timm has no model 'no_such_model'" in unknown.basis
    monkeypatch.setattr(ask, "ProcessPoolExecutor", pytest.fail)  # what was counted is not asked for again
    assert estimate(new(wide), Screen()) == [estimated]


def test_a_model_without_a_record_is_measured_on_this_machine_and_once(
    like: Like, remember: Remember, real: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of other models and hardware do not count; of what stands for a node, that is said."""
    remember("other", 90, lambda r: setattr(r.model, "timm_name", "other"))
    remember("elsewhere", 1, lambda r: setattr(r.hardware, "device_name", "Another CPU"))
    remember("one-thread", 1, lambda r: r.config["hardware"].update(cpu_threads=1))
    remember("head", 1, lambda r: r.config["trainer"].update(finetune="head"))
    local, longer, node = like(), like("trainer.epochs=30"), like(*SLURM_CPU, "hardware.device_count=2")
    monkeypatch.setattr(speeds, "TIMING_SECONDS", 0.5)
    for file in Path(local.config.paths.cache).glob("speeds/*"):
        file.unlink()
    here, there, more = estimate(new(local, node, longer), Screen())
    assert here.basis == f"its steps on this machine ({CPU}, fp32)"
    assert there.basis == f"its steps on this machine ({CPU}, fp32), not on the node"
    kept = [json.loads(file.read_bytes()) for file in Path(local.config.paths.cache).glob("speeds/*")]
    (measured,) = (k["found"] for k in kept if k["setting"]["batch"] == [local.config.trainer.batch_size, 1])
    each = {
        "training": median(measured["figures"][0]["training_seconds"]),
        "evaluation": measured["evaluation_seconds"],
    }
    images, once = read_record(real.paths.record).dataset.counts, measured["once_seconds"]
    assert once > thoroughness(torch.device("cpu")).seconds  # building the model comes on top
    for estimated, spec in ((here, local), (more, longer)):
        assert seconds(estimated) == pytest.approx(taken(images, spec.config.trainer.epochs, once=once, **each))
    monkeypatch.setattr(ask, "ProcessPoolExecutor", None)
    assert estimate(new(local, node, longer), Screen()) == [here, there, more]


def test_what_cannot_be_known_is_said_with_what_to_do(like: Like) -> None:
    (unknown,) = estimate(new(like(*SLURM_CUDA, "hardware.price_per_device_hour=1")), Screen())
    assert (unknown.device_hours, unknown.price) == (None, None)
    assert "no record of a run on cuda in bf16" in unknown.basis
    assert "Run any of these models for an epoch first" in unknown.basis


def test_cheapest_first_goes_by_macs_and_measures_nothing(like: Like, remember: Remember) -> None:
    macs = remember("one", 1, lambda r: r.hardware.__setattr__("device", "mps")).cost.macs or 0
    specs = like(), like("trainer.epochs=1"), like(*SLURM_CUDA, "trainer.epochs=2")
    images = Dataset.read(specs[0].dataset_file).counts()

    def cost(epochs: int) -> int:
        return macs * (3 * epochs * images["train"] + epochs * images["val"] + images["val"] + images["test"])

    assert cheapness([*new(*specs), Planned(specs[0], "done")], Screen()) == [cost(3), cost(1), cost(2), 0]


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (0, "no device time"),
        (8.7e-05, "less than a device second"),
        (0.0031, "about 11 device seconds"),
        (0.0167, "about 1 device minute"),
        (0.5, "about 30 device minutes"),
        (1.25, "about 1.2 device hours"),
        (12_345, "about 12,000 device hours"),
    ],
)
def test_an_estimate_is_told_in_the_unit_that_people_would_take(hours: float, told: str) -> None:
    assert device_time(hours) == told


def test_a_forecast_of_a_small_run_is_in_words(real: RunSpec, capsys: pytest.CaptureFixture[str]) -> None:
    spec = small_spec(real.paths.folder.parent.parent, "seed=5", "hardware.price_per_device_hour=1e-3")
    forecast([Planned(spec, "new")], Screen())
    said = capsys.readouterr().out
    assert re.search(
        r"1 x test_resnet scratch: (about \S+|less than a) device \w+, less than 0.01 in money, from", said
    ), said
    assert re.search(r"In all (about \S+|less than a) device \w+ and less than 0.01 in money\. Nothing was", said), said


def test_a_process_that_dies_is_told() -> None:
    with ask.asking_torch() as asked, pytest.raises(ask.Unanswered, match="died"):
        asked("count_macs", Lethal())


class Lethal:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_planning_by_records_imports_no_torch(real: RunSpec) -> None:
    script = (
        "import sys; from pathlib import Path; from small import small_spec\n"
        "from har_sweep.launch.estimate import estimate; from har_sweep.launch.plan import Planned\n"
        "from har_sweep.launch.terminal import Screen\n"
        "(known,) = estimate([Planned(small_spec(Path(sys.argv[1]), 'seed=5'), 'new')], Screen())\n"
        "assert known.device_hours and 'torch' not in sys.modules"
    )
    folder = real.paths.folder.parent.parent
    child = subprocess.run(
        [sys.executable, "-c", script, folder], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
