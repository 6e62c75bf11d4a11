"""A finished model teaches another: what it is shown, what is learned, what it costs, and who is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from made_runs import block_of, write_run
from safetensors.torch import load_file, save_file
from small import small_spec, what_was_learned
from test_cuda import META, Watch
from test_distributed import TWO, UNEVEN, differences
from test_distributed import run as run_on_ranks
from torch import nn

from har_sweep.config.compose import compose, compose_runs
from har_sweep.config.identity import identify, make_run_id
from har_sweep.config.schema import ObjectiveConfig
from har_sweep.console import Console
from har_sweep.cost.training import TrainingClock
from har_sweep.data.dataset import Dataset
from har_sweep.device.compute import Compute
from har_sweep.device.ranks import Ranks
from har_sweep.errors import InputError
from har_sweep.events import Event, Step, tell_nobody
from har_sweep.launch import again, calibrate, plan, speeds
from har_sweep.launch import estimate as estimates
from har_sweep.launch.plan import Planned
from har_sweep.launch.terminal import Screen
from har_sweep.launch.twins import propose_twins
from har_sweep.model.build import build_model
from har_sweep.record.record import Record
from har_sweep.run.execute import execute
from har_sweep.spec.precision import Figures, Measured, Way
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.augmentation import normalise
from har_sweep.train.learner import Learner
from har_sweep.train.objective import Objective, Teacher, build_objective

CPU = Compute(torch.device("cpu"), "fp32", torch.contiguous_format)
# Another size and normalisation than the student's, and another number of features.
TEACHER = ["model.timm_name=test_vit", "model.input_size=32", "model.mean=[0.4,0.5,0.6]", "model.std=[0.2,0.3,0.4]"]
TEACHER += ["trainer.epochs=1", "optimizer=adamw"]
WEIGHTS_OF_TEACHER = ["objective.teacher_model=test_vit", "objective.teacher_input_size=32"]
Plan = Callable[..., RunSpec]


@contextmanager
def answered_here() -> Iterator[Callable[..., Any]]:
    """What a process with torch would be asked, asked of this one, which has it."""
    yield lambda name, *args: getattr(calibrate, name)(*args)


@pytest.fixture(autouse=True)
def _no_process_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "asking_torch", answered_here)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    spec = small_spec(tmp_path_factory.mktemp("teacher"), *TEACHER)
    assert run(spec).status == "done"
    return spec


@pytest.fixture
def distilled(teacher: RunSpec, tmp_path: Path) -> Plan:
    """Plans runs that the teacher shall teach; it lies in a copy of its folder that may be changed."""

    def planned(*overrides: str, folder: str = "whole") -> RunSpec:
        runs = tmp_path / folder / "runs"
        if not runs.exists():
            shutil.copytree(teacher.paths.folder.parent, runs)
        by = [] if any(o.startswith("teacher=") for o in overrides) else [f"teacher={teacher.run_id}"]
        return small_spec(runs.parent, "objective=distill", "trainer.epochs=2", *by, *overrides)

    return planned


def run(spec: RunSpec, until: tuple[int, int] | None = None) -> Record:
    """Execute, to the end or ``until`` a step of an epoch."""
    stop = Stop()

    def tell(event: Event) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == until:
            stop()

    return execute(spec, tell, stop)


def images_of(count: int, size: int) -> torch.Tensor:
    return torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def answers_of(teacher: RunSpec, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and features of the teacher as its own evaluation has them, of images [B, 64, 64, 3] at its 32 pixels."""
    model: Any = timm.create_model("test_vit", num_classes=15, img_size=32)
    model.load_state_dict(load_file(teacher.paths.model))
    pixels = nn.functional.interpolate(images.permute(0, 3, 1, 2).float() / 255, 32, mode="bilinear", antialias=True)
    shown = (pixels - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.no_grad():
        features = model.eval().forward_features(shown)
        return model.forward_head(features), model.forward_head(features, pre_logits=True)


def test_the_loss_is_the_labels_and_the_teacher_s_answers_to_what_it_should_see(
    teacher: RunSpec, distilled: Plan
) -> None:
    images, generator = images_of(4, 64), torch.Generator().manual_seed(2)
    logits, features = answers_of(teacher, images)
    targets = torch.rand(4, 15, generator=generator).softmax(1)  # as mixup gives them
    soft = 0.9 * targets + 0.1 / 15

    def entropy(answers: torch.Tensor) -> torch.Tensor:
        return -(soft * answers.softmax(1).log()).sum(1).mean()

    def divergence(answers: torch.Tensor, temperature: float) -> torch.Tensor:
        p, q = (logits / temperature).softmax(1), (answers / temperature).softmax(1)
        return temperature**2 * (p * (p / q).log()).sum(1).mean()

    def loss(*overrides: str) -> tuple[float, Any]:
        spec = distilled("trainer.label_smoothing=0.1", "objective.weight=0.3", *overrides)
        model = build_model(spec.config, spec.model, 15, lambda text: None)
        objective = build_objective(model, spec, 15, CPU)
        inputs = normalise(images, spec.model.mean, spec.model.std)
        forward = objective.trained.train()
        torch.manual_seed(0)
        answers = forward(inputs)
        torch.manual_seed(0)
        return objective.loss(forward, inputs, targets).item(), answers

    found, own = loss("objective.temperature=3")
    assert found == pytest.approx((0.7 * entropy(own) + 0.3 * divergence(own, 3.0)).item(), rel=1e-4)
    found, (own, projected) = loss("objective.kind=features")
    assert projected.shape == features.shape
    assert found == pytest.approx((0.7 * entropy(own) + 0.3 * ((projected - features) ** 2).mean()).item(), rel=1e-4)
    deit = ["model.timm_name=deit_tiny_distilled_patch16_224", "model.input_size=64", "optimizer=adamw"]
    found, (own, by_token) = loss("objective.kind=token", *deit)
    assert found == pytest.approx((0.7 * entropy(own) + 0.3 * divergence(by_token, 4.0)).item(), rel=1e-4)


def test_under_bf16_the_teacher_s_share_is_no_coarser_than_the_logits(teacher: RunSpec, distilled: Plan) -> None:
    spec = distilled("objective.weight=1")
    model = build_model(spec.config, spec.model, 15, lambda text: None)
    objective = build_objective(model, spec, 15, replace(CPU, precision="bf16"))
    own = torch.randn(8, 15, generator=torch.Generator().manual_seed(3)).bfloat16()
    taught = own + torch.linspace(0, 0.3, 15).bfloat16()
    objective._teacher = lambda inputs: taught.float()  # type: ignore[assignment]
    with replace(CPU, precision="bf16").autocast():
        found = objective.loss(lambda inputs: own, own, torch.zeros(8, dtype=torch.int64)).item()
    p, q = ((each.double() / 4).softmax(1) for each in (taught, own))
    assert found == pytest.approx((16 * (p * (p / q).log()).sum(1).mean()).item(), rel=0.01)


def test_a_teacher_of_the_student_s_size_and_normalisation_sees_the_very_same(teacher: RunSpec) -> None:
    seen = Teacher(nn.Identity(), teacher.model, teacher.model, CPU, nullcontext).seen
    inputs = torch.rand(2, 3, 32, 32)
    assert torch.equal(seen(inputs), inputs)


def test_an_update_with_a_teacher_never_waits_for_the_device(teacher: RunSpec, tmp_path: Path) -> None:
    """On a device that only knows shapes."""
    spec, compute = small_spec(tmp_path), Compute(META, "fp32", torch.channels_last)
    with META:
        own, theirs = (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 15)) for _ in range(2))
    config = ObjectiveConfig(kind="logits", weight=0.5, temperature=4.0)
    teaching = Teacher(theirs, teacher.model, spec.model, compute, nullcontext)
    objective = Objective(own, spec.config.trainer, config, teaching)
    learner = Learner(objective, spec.config, compute, Ranks(), 4, tell_nobody, 0)
    inputs, labels = torch.zeros(16, 3, 64, 64, device=META), torch.zeros(16, dtype=torch.int64, device=META)
    for _ in range(2):  # the first makes the optimizer's state
        with Watch() as watch:
            learner.learn(inputs, labels)
    assert not watch.waits


def test_a_run_without_a_teacher_has_the_id_that_it_had_and_one_with_another_teacher_another(
    teacher: RunSpec, distilled: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "check_teachers", lambda *of_many: None)  # which takes a second each
    decided = {"weights": "a1_in1k", "dataset": "d", "split": "s", "device": "cpu", "precision": "bf16"}
    assert (
        make_run_id("resnet18", identify(compose([]), **decided)) == "resnet18-30ee9f70b4"
    )  # of before there were any
    plain = small_spec(tmp_path, "trainer.epochs=2")
    first = distilled()
    assert first.name == "test_resnet scratch (distilled)"
    assert (first.config.objective.temperature, first.config.teacher) == (4.0, teacher.run_id)
    same = distilled(f"teacher={teacher.run_id[:-4]}", "objective.temperature=4")
    others = [distilled("objective.weight=0.9"), distilled("objective.temperature=1"), distilled("seed=1")]
    others.append(distilled("objective.kind=features"))
    state = load_file(first.paths.folder.parent / teacher.run_id / "model.safetensors")
    save_file({name: tensor + 0 for name, tensor in state.items()}, tmp_path / "same.safetensors")
    save_file(
        {name: tensor * 1.5 for name, tensor in state.items()},
        first.paths.folder.parent / teacher.run_id / "model.safetensors",
    )
    others += [distilled(), distilled(f"teacher={tmp_path / 'same.safetensors'}", *WEIGHTS_OF_TEACHER)]
    assert same.run_id == first.run_id
    assert len({plain.run_id, first.run_id, *(spec.run_id for spec in others)}) == 2 + len(others)


@pytest.mark.parametrize(
    "overrides",
    [
        ["augmentation.mixup_alpha=0.2", "trainer.accumulation_steps=3", "trainer.label_smoothing=0.1"],
        ["objective.kind=features", "trainer.ema_decay=0.9", "optimizer=adamw", "trainer.gradient_clip_norm=1"],
        ["trainer=head", "trainer.epochs=2", "trainer.batch_size=16"],
    ],
    ids=["logits", "features", "head only"],
)  # fmt: skip
def test_a_distilled_run_goes_on_to_the_same_bits_and_tells_its_teacher_s_time(
    distilled: Plan, overrides: list[str]
) -> None:
    whole, cut = distilled(*overrides), distilled(*overrides, folder="cut")
    record = run(whole)
    assert record.status == "done", record.error
    training = record.cost.training
    assert 0 < (training.teacher_seconds or 0) < training.compute_seconds
    assert record.cost.parameters == sum(
        p.numel() for p in timm.create_model("test_resnet", num_classes=15).parameters()
    )
    assert run(cut, until=(2, 1)).status == "interrupted"
    assert run(cut).status == "done"
    assert what_was_learned(cut) == what_was_learned(whole)


def test_two_processes_are_taught_as_one_is(distilled: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_has_several", lambda spec: False)  # whether one would be faster is another test's
    recipe = [*UNEVEN, "objective.kind=features", "trainer.epochs=1"]
    one, two = distilled(*recipe, "hardware.cpu_threads=1"), distilled(*recipe, *TWO, folder="two")
    alone, together = run_on_ranks(one), run_on_ranks(two)
    assert together.status == "done", together.error
    assert max(differences(alone, together)) < 1e-5


def test_the_teacher_s_time_is_that_of_its_answers_but_for_what_a_first_step_takes_longer() -> None:
    now = 0.0
    clock = TrainingClock(torch.device("cpu"), now=lambda: now)
    for step in range(6):
        with clock.waiting():
            pass
        with clock.step(10):
            with clock.teaching():
                now += 7.0 if step == 0 else 2.0
            now += 3.0
    assert clock.cost().teacher_seconds == 12.0
    assert clock.cost().seconds == 30.0
    resumed = TrainingClock(torch.device("cpu"), now=lambda: now)
    resumed.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    assert resumed.cost().teacher_seconds == 12.0


def test_an_estimate_counts_the_teacher_s_time(
    distilled: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(spec: RunSpec, ways: tuple[Way, ...], *rest: Any) -> Measured:
        evaluation = 0.05 if spec.model.timm_name == "test_vit" else 0.02
        return Measured((Figures(ways[0], (0.1,)),), evaluation, 0.0, 16, 16)

    @contextmanager
    def asking() -> Iterator[Callable[..., Any]]:
        yield lambda name, *args: measured(*args)

    monkeypatch.setattr(estimates, "asking_torch", asking)
    spec = distilled("trainer.epochs=1", f"paths.cache={tmp_path / 'cache'}")
    (found,) = estimates.estimate([Planned(spec, "new")], Screen())
    counts = Dataset.read(spec.dataset_file).counts()
    seconds = counts["train"] * (0.1 + 0.05) + (2 * counts["val"] + counts["test"]) * 0.02
    assert 3600 * (found.device_hours or 0) == pytest.approx(seconds)
    assert "its steps and its teacher on this machine" in found.basis


def change_record(spec: RunSpec, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(spec.paths.record.read_text())
    change(record)
    spec.paths.record.write_text(json.dumps(record))


def swap_classes(record: dict[str, Any]) -> None:
    classes = record["dataset"]["classes"]
    classes[0], classes[1] = classes[1], classes[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: change_record(s, lambda r: r.update(status="interrupted")), "is interrupted, not done"),
        (lambda s: s.paths.model.unlink(), "has kept no weights"),
        (lambda s: change_record(s, lambda r: r.update(parent="whole-1", variant="int8")), "is a variant"),
        (lambda s: change_record(s, lambda r: r["dataset"]["classes"].append("yawning")), "it knows yawning"),
        (lambda s: change_record(s, lambda r: r["dataset"]["classes"].pop()), "it does not know"),
        (lambda s: change_record(s, swap_classes), "its class 1 is"),
        (lambda s: s.paths.model.write_bytes(b"nothing"), "do not load"),
        (lambda s: save_file({"a": torch.zeros(1)}, s.paths.model), "do not load"),
        (lambda s: s.paths.record.write_text("{"), "is not a run's record"),
    ],
)  # fmt: skip
def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_started(
    teacher: RunSpec, distilled: Plan, change: Callable[[RunSpec], object], told: str
) -> None:
    folder = distilled().paths.folder.parent
    change(replace(teacher, config=replace(teacher.config, paths=replace(teacher.config.paths, runs=str(folder)))))
    with pytest.raises(InputError, match=told) as e:
        distilled()
    assert e.value.hint
    assert [entry.name for entry in folder.iterdir()] == [teacher.run_id]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["teacher=nobody"], "there is no such run"),
        (["objective=labels"], "teacher=test_vit-.* is for a teacher"),
        (["objective.kind=token"], "test_resnet has no token"),
        (["objective.kind=token", "trainer.finetune=head"], "do not go together"),
        (["objective.kind=features", "trainer.finetune=head"], "do not go together"),
        (["objective.kind=features", "objective.temperature=2"], "objective.temperature=2.0 is for logits"),
        (["objective.weight=1", "trainer.label_smoothing=0.1"], "trainer.label_smoothing=0.1 does nothing"),
        (["objective.weight=0"], "objective.weight=0"),
        (["objective.weight=1", "objective.kind=features"], "leaves the labels no share"),
        (["++objective.taught_by.run=x"], "filled in while planning"),
        (["objective.teacher_model=resnet18"], "is for a file of weights"),
        (["teacher=there_is_none.safetensors"], "nothing says of which model"),
        (["teacher=there_is_none.safetensors", *WEIGHTS_OF_TEACHER], "cannot be read"),
    ],
)
def test_what_cannot_be_distilled_is_refused_by_name(distilled: Plan, overrides: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told) as e:
        distilled(*overrides)
    assert e.value.hint


def test_a_file_of_weights_teaches_logits_only_with_a_classifier_for_these_classes(
    teacher: RunSpec, distilled: Plan, tmp_path: Path
) -> None:
    state = load_file(teacher.paths.model)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("whole", "foreign", "bare", "other")}
    save_file(state, files["whole"])
    save_file({k: v[:7].contiguous() if k.startswith("head.") else v for k, v in state.items()}, files["foreign"])
    save_file({k: v for k, v in state.items() if not k.startswith("head.")}, files["bare"])
    save_file({f"net.{k}": v for k, v in state.items()}, files["other"])
    spec = distilled(f"teacher={files['whole']}", *WEIGHTS_OF_TEACHER)
    assert any("is taken on trust" in warning for warning in spec.warnings)
    assert spec.teacher
    assert spec.teacher.model.weights_file == files["whole"]
    for name in ("foreign", "bare"):
        with pytest.raises(InputError, match=r"has no classifier for these classes: head\.\w+ is"):
            distilled(f"teacher={files[name]}", *WEIGHTS_OF_TEACHER)
        distilled(f"teacher={files[name]}", *WEIGHTS_OF_TEACHER, "objective.kind=features")
    for kind in ("logits", "features"):
        with pytest.raises(InputError, match=r"has no classifier|tensors do not fit"):
            distilled(f"teacher={files['other']}", *WEIGHTS_OF_TEACHER, f"objective.kind={kind}")


def test_a_teacher_that_changed_or_went_since_it_was_planned_with_teaches_nobody(
    teacher: RunSpec, distilled: Plan, tmp_path: Path
) -> None:
    done, waiting = distilled("trainer.epochs=1"), distilled("seed=1")
    assert run(done).status == "done"
    screen = Screen(Console(file=StringIO()))
    (spec,) = again.plan_again([replace(done.paths, claim=0)], screen)
    assert again._taught_again(spec, screen).teacher == done.teacher
    weights = done.paths.folder.parent / teacher.run_id / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    record = run(waiting)
    assert record.error
    assert record.error.kind == "weights_damaged"
    with pytest.raises(InputError, match="its teacher is not what it was"):
        again.measure_again([done.run_id], done.paths.folder.parent, 0.0, screen)
    shutil.rmtree(weights.parent)
    error = run(waiting).error
    assert error
    assert error.kind == "weights_damaged"


def test_code_that_a_teacher_s_record_names_is_not_run_where_others_could_have_named_it(
    teacher: RunSpec, distilled: Plan
) -> None:
    folder = distilled().paths.folder.parent / teacher.run_id
    record = json.loads((folder / "record.json").read_text())
    record["config"]["model"]["_target_"] = "theirs.code"
    (folder / "record.json").write_text(json.dumps(record))
    folder.chmod(0o777)
    with pytest.raises(InputError, match=f"Nothing is run from .*{teacher.run_id}"):
        distilled()


def test_a_sweep_does_not_compute_again_who_teaches_in_it(teacher: RunSpec, distilled: Plan) -> None:
    runs = distilled().paths.folder.parent
    own = [*teacher.overrides[: -1 - len(TEACHER)], f"paths.runs={runs}", *TEACHER]
    student = [*distilled().overrides, f"paths.runs={runs}"]
    assert plan.plan(compose_runs([own]), Screen())[0].spec.run_id == teacher.run_id
    with pytest.raises(InputError, match="shall teach, and rerun=true computes it again"):
        plan.plan(compose_runs([[*own, "rerun=true"], [*student, "rerun=true"]]), Screen())


def test_the_undistilled_twin_is_proposed_by_the_command_that_makes_it(distilled: Plan) -> None:
    def proposed(*specs: RunSpec) -> str:
        said = StringIO()
        propose_twins([Planned(spec, "new") for spec in specs], Screen(Console(file=said, width=10_000)))
        return said.getvalue().strip()

    specs = [distilled(f"seed={seed}") for seed in (0, 1)]
    told = proposed(*specs)
    assert "2 distilled runs have no undistilled twin" in told
    command = told.rpartition("python -m har_sweep -m ")[2].split()
    assert "seed=0,1" in command
    assert not [word for word in command if "objective" in word or "teacher" in word]
    overrides = [word.strip("'") for word in command if not word.startswith("seed=")]
    twins = [p.spec for p in plan.plan(compose_runs([[*overrides, f"seed={seed}"] for seed in (0, 1)]), Screen())]
    assert proposed(*specs, *twins) == ""
    assert "A distilled run has" in proposed(*specs, twins[1])


def test_a_distilled_model_is_a_candidate_of_its_own_and_its_teachers_are_trials(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0)  # of before there were teachers
    write_run(tmp_path, seed=1, at={"config/objective/kind": "labels", "config/objective/weight": None})
    for seed, taught in ((0, "a"), (1, "a"), (0, "b")):
        by = {"kind": "logits", "weight": 0.5, "temperature": 4.0, "taught_by/run": taught}
        write_run(tmp_path, seed=seed, val=0.8, at={f"config/objective/{key}": value for key, value in by.items()})
    found = {c.label: (len(c.trials), len(c.rows)) for c in block_of(tmp_path).candidates}
    assert found == {"resnet18": (1, 2), "resnet18 (distilled)": (2, 2)}
    named = {c.label: len(c.trials) for c in block_of(tmp_path, label=("model/name",)).candidates}
    assert named == {"resnet18": 3}
