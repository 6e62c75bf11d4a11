"""Parts that are not ours are taken as they are, belong to what a run is, and are refused if they will not do."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from small import SMALL, har_sweep, runs
from torch import nn

from har_sweep.__main__ import main
from har_sweep.config.compose import compose, compose_runs, expand
from har_sweep.config.identity import identify, make_run_id
from har_sweep.config.schema import Config, PathsConfig
from har_sweep.config.targets import check_unchanged, load, targets_of, version_of
from har_sweep.data.sources import list_items
from har_sweep.device.compute import Compute
from har_sweep.errors import InputError, RunFailure
from har_sweep.events import no_progress
from har_sweep.launch.plan import plan
from har_sweep.launch.terminal import Screen
from har_sweep.model.build import build_model
from har_sweep.spec.hub import Hub
from har_sweep.spec.parts import answer, decide
from har_sweep.spec.weights import resolve
from har_sweep.train.augmentation import augment
from har_sweep.train.epoch import draws
from har_sweep.train.optimizer import Schedule, build_optimizer, build_schedule

CPU = Compute(torch.device("cpu"), "fp32", torch.contiguous_format)
NETS = """
from pathlib import Path
import torch
from torch import nn

size = 3

class Small(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 8, 8), nn.Linear(width, classes)
    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))
    def get_classifier(self):
        return self.head

def small(num_classes, width=4):
    return Small(num_classes, width)

def headless(num_classes):
    model = Small(num_classes, 4)
    return nn.Sequential(model.stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head)

def ten_classes(num_classes):
    return Small(10, 4)

def no_module(num_classes):
    return "a model"

def noisy(images, strength=1.0):
    return images.float() + strength * torch.randn(images.shape)

def cut_channels(images):
    return images[:, :1]

def listed(folder, splits=False):
    paths = sorted(Path(folder).rglob("*.png"))
    parts = ["train", "val", "test"]
    return [(str(p), p.parent.name, parts[n % 3]) if splits else (str(p), p.parent.name) for n, p in enumerate(paths)]

def wrong(folder):
    return [("a.png",), ("b.png", "x")]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with modules of their own, which the process stands in."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("nets", None)
    return tmp_path


def config(*overrides: str) -> Config:
    [choice] = expand(list(overrides))
    return compose(choice)


def optimizer_of(model: nn.Module, *overrides: str) -> torch.optim.Optimizer:
    return build_optimizer(model, config(*overrides).optimizer, CPU)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[torch.Tensor]:
    """The weights after some steps on the same pictures."""
    torch.manual_seed(1)
    for _ in range(steps):
        model(torch.randn(4, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=3, img_size=32)


# --- arguments beside a target, and misspelt keys everywhere else ----------------------------------------------------


def test_what_stands_beside_a_target_are_its_arguments() -> None:
    chosen = config("optimizer._target_=torch.optim.RMSprop", "optimizer.lr=0.01", "+optimizer.alpha=0.9").optimizer
    assert (chosen.name, chosen.lr, chosen.arguments) == ("RMSprop", 0.01, {"alpha": 0.9})


def test_a_file_of_ones_own_has_its_arguments_beside_its_target(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    text = "_target_: torch.optim.RMSprop\nlr: ${model.default_lr.adam}\nalpha: 0.9\n"
    (tmp_path / "optimizer" / "rmsprop.yaml").write_text(text)
    given = [f"hydra.searchpath=[file://{tmp_path}]", "optimizer=rmsprop"]
    assert compose(given).optimizer.arguments == {"alpha": 0.9}
    assert compose([*given, "optimizer.alpha=0.5"]).optimizer.arguments == {"alpha": 0.5}


def test_an_argument_with_the_name_of_a_key_has_a_place_of_its_own() -> None:
    chosen = config("model._target_=nets.small", "+model.arguments.name=deep")
    assert (chosen.model.name, chosen.model.arguments) == ("small", {"name": "deep"})


@pytest.mark.parametrize("wrong", ["+optimizer.weight_decy=1", "optimizer.weight_decy=1", "+model.drop_path=0.1"])
def test_without_a_target_a_misspelt_key_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match=r"There is no key '(optimizer\.weight_decy|model\.drop_path)'") as e:
        config(wrong)
    assert "Did you mean" in e.value.hint


@pytest.mark.parametrize("key", ["optimizer=adam", "scheduler=cosine", "data=sample", "model=resnet18"])
def test_two_names_for_one_part_are_refused(key: str) -> None:
    group = key.split("=")[0]
    with pytest.raises(InputError, match="both say which") as e:
        config(key, f"{group}._target_=a.b")
    assert f"{group}=custom" in e.value.hint


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["scheduler._target_=a.b", "scheduler.warmup_epochs=1"], "scheduler.warmup_epochs=1"),
        (["scheduler.interval=epoch"], "scheduler.interval=epoch"),
        (["scheduler.name=plateau"], "scheduler.name=plateau"),
        (["scheduler.name=stp"], "scheduler.name=stp"),
        (["model._target_=a.b", "model.drop_path_rate=0.1"], "model.drop_path_rate=0.1"),
        (["optimizer.layer_decay=1.5"], "optimizer.layer_decay=1.5"),
        (["optimizer.layer_decay=0"], "optimizer.layer_decay=0"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(overrides: list[str], named: str) -> None:
    with pytest.raises(InputError) as e:
        config(*overrides)
    assert named in e.value.message
    assert e.value.hint


# --- part of what a run is -------------------------------------------------------------------------------------------


def test_planning_tells_what_a_target_is_without_importing_it() -> None:
    code = (
        "import sys; from har_sweep.config.targets import version_of; "
        "print(version_of('torch.optim.RMSprop'), version_of('timm.optim.Lamb'), 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == [f"torch=={torch.__version__.split('+')[0]}", f"timm=={timm.__version__}", "False"]


def test_a_file_s_content_and_all_of_a_package_s_are_what_a_target_is(here: Path) -> None:
    before = version_of("nets.small")
    assert before.startswith("sha256:")
    (here / "nets.py").write_text(NETS + "\n")
    assert version_of("nets.small") != before
    (here / "mine").mkdir()
    for name in ("__init__", "a", "b"):
        (here / "mine" / f"{name}.py").write_text("")
    before = version_of("mine.a.net")
    (here / "mine" / "b.py").write_text("x = 1")
    assert version_of("mine.a.net") != before


def test_what_a_file_imports_from_beside_it_is_part_of_what_a_target_is_and_nothing_else_there(here: Path) -> None:
    (here / "nets.py").write_text("def late():\n    from blocks import deep\n" + NETS)
    (here / "blocks").mkdir()
    for name, text in {"__init__": "", "deep": "from .norm import x", "norm": "import scale", "other": ""}.items():
        (here / "blocks" / f"{name}.py").write_text(text)
    (here / "scale.py").write_text("x = 1")
    known = [version_of("nets.small")]
    for file in ("blocks/__init__", "blocks/deep", "blocks/norm", "scale"):
        with (here / f"{file}.py").open("a") as module:
            module.write("\n# changed")
        known.append(version_of("nets.small"))
    assert len(set(known)) == 5
    (here / "blocks" / "other.py").write_text("x = 1")
    assert version_of("nets.small") == known[-1]


def test_targets_within_arguments_count_too(here: Path) -> None:
    nested = "+augmentation.transforms=[{_target_:nets.Small,classes:1,width:2},{_target_:nets.small}]"
    chosen = config("augmentation._target_=torchvision.transforms.v2.Compose", nested)
    assert targets_of(chosen) == ["torchvision.transforms.v2.Compose", "nets.Small", "nets.small"]


def test_another_version_or_argument_is_another_run() -> None:
    decided = {"weights": "w", "dataset": "d", "split": "s", "device": "cpu", "precision": "fp32"}

    def the_id(chosen: Config) -> str:
        return make_run_id(chosen.model.name, identify(chosen, **decided))

    first = config("optimizer._target_=a.B", "optimizer.lr=1")
    others = [
        config("optimizer._target_=a.B", "optimizer.lr=1", "+optimizer.c=1"),
        config("optimizer._target_=a.C", "optimizer.lr=1"),
        replace(first, targets={"a.B": "a==2"}),
    ]
    assert len({the_id(each) for each in [first, *others]}) == 4


def test_a_run_whose_code_has_changed_since_it_was_planned_is_not_computed(here: Path) -> None:
    planned = replace(config("model._target_=nets.small"), targets={"nets.small": version_of("nets.small")})
    check_unchanged(planned)
    (here / "nets.py").write_text(NETS + "# better\n")
    with pytest.raises(RunFailure, match=r"nets\.small has changed") as e:
        check_unchanged(planned)
    assert e.value.kind == "target"


# --- refused while planning ------------------------------------------------------------------------------------------


def asked(section: str, target: str | None, *given: str, name: str = "") -> str:
    """What planning's child process says of a part."""
    return answer([json.dumps({"section": section, "target": target, "name": name, "given": given})])


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (("model", "nts.small"), "there is no module 'nts'"),
        (("model", "nets.smal"), "nets has no 'smal'"),
        (("model", "nets.NETS"), "nets has no 'NETS'"),
        (("model", "nets.small", "widht"), "takes no argument 'widht'"),
        (("model", "nets.noisy"), "num_classes"),
        (("model", "nets.size"), "is no function or class, but int"),
        (("optimizer", "nets.small"), "is no Optimizer"),
        (("optimizer", "torch.optim.LBFGS", "lr"), "wants closure in each step"),
        (("optimizer", "torch.optim.RMSprop", "lr", "betas"), "takes no argument 'betas'"),
        (("scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"), "wants metrics in each step"),
        (("scheduler", "torch.optim.lr_scheduler.StepLR"), "step_size"),
    ],
)
def test_a_target_that_will_not_do_is_told_in_a_sentence(here: Path, question: tuple[str, ...], told: str) -> None:
    assert told in asked(*question)


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (("optimizer", None, "lr"), "Did you mean 'lamb'?"),
        (("optimizer", None, "betas"), "takes none"),
        (("optimizer", None, "lr"), "second derivatives"),
        (("scheduler", None, "decay_rat"), "Did you mean 'decay_rate'?"),
        (("scheduler", None, "min_lr"), "scheduler.final_lr_fraction"),
    ],
)
def test_a_name_of_timm_s_that_will_not_do_is_told_in_a_sentence(question: tuple[Any, ...], told: str) -> None:
    names = {"Did you mean 'lamb'?": "lambb", "takes none": "rmsproptf", "second derivatives": "adahessian"}
    assert told in asked(*question, name=names.get(told, "step"))


def test_what_will_do_is_asked_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config("model._target_=light.small", f"paths.cache={here}/cache")
    (here / "light.py").write_text("def small(num_classes): ...")
    assert decide([chosen], no_progress) == [{"light.small": version_of("light.small")}]
    with monkeypatch.context() as without:
        without.setattr(subprocess, "run", None)
        decide([chosen], no_progress)
    # Of another length: Python takes a file of the same length and second for the one that it compiled.
    (here / "light.py").write_text("def larger(num_classes): ...")
    with pytest.raises(InputError, match="light has no 'small'"):
        decide([chosen], no_progress)


# --- optimizers and schedules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "direct"),
    [
        (["optimizer=adam"], partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.999), fused=True)),
        (["optimizer=adamw"], partial(torch.optim.AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True)),
        (
            ["optimizer=sgd"],
            partial(torch.optim.SGD, lr=1e-2, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True),
        ),
        (
            ["optimizer=adam", "optimizer.name=sgd", "optimizer.betas=null"],
            partial(torch.optim.SGD, lr=1e-3, fused=True),
        ),
        (
            ["optimizer._target_=torch.optim.RMSprop", "optimizer.lr=1e-3", "+optimizer.alpha=0.5"],
            partial(torch.optim.RMSprop, lr=1e-3, alpha=0.5),
        ),
        (
            ["optimizer=timm", "optimizer.name=lamb", "optimizer.lr=1e-3"],
            partial(timm.optim.Lamb, lr=1e-3, weight_decay=0.0),
        ),
    ],
)
def test_an_optimizer_learns_what_it_learns_when_called_by_hand(overrides: list[str], direct: Any) -> None:
    ours, theirs = vit(), vit()
    by_name = stepped(ours, optimizer_of(ours, *overrides))
    by_hand = stepped(theirs, direct(theirs.parameters()))
    assert all(map(torch.equal, by_name, by_hand))


def test_biases_and_norms_do_not_decay_where_that_is_asked_for() -> None:
    model = vit()
    groups = optimizer_of(model, "optimizer=adamw", "optimizer.weight_decay_spares=biases_and_norms").param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {decays[id(p)] for p in model.parameters() if p.ndim <= 1} == {0.0}
    assert decays[id(model.head.weight)] == 0.01  # type: ignore[union-attr]
    assert len(optimizer_of(model, "optimizer=adamw").param_groups) == 1


@pytest.mark.parametrize("schedule", ["scheduler=constant", "scheduler.name=poly"])
def test_each_layer_learns_at_a_fraction_of_the_next_one_s_rate(schedule: str) -> None:
    model, chosen = vit(), config("optimizer=adamw_finetune", "optimizer.lr=1", schedule)
    optimizer = build_optimizer(model, chosen.optimizer, CPU)
    build_schedule(optimizer, chosen.scheduler, 5, 2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = [rates[id(block.mlp.fc1.weight)] for block in model.blocks]  # type: ignore[union-attr]
    assert rates[id(model.head.weight)] == 1  # type: ignore[union-attr]
    assert all(lower == pytest.approx(0.75 * upper) for lower, upper in itertools.pairwise(blocks))
    assert blocks[-1] < 1


@pytest.mark.parametrize("chosen", ["optimizer=adam", "optimizer=adamw_finetune", "optimizer.name=lamb"])
@pytest.mark.parametrize("schedule", ["scheduler=constant", "scheduler.name=poly"])
def test_the_new_classifier_learns_at_a_rate_of_its_own(chosen: str, schedule: str) -> None:
    model, settings = vit(), config(chosen, "optimizer.lr=1e-3", "optimizer.head_lr=0.5", schedule)
    optimizer = build_optimizer(model, settings.optimizer, CPU)
    build_schedule(optimizer, settings.scheduler, 5, 2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    head = {id(p) for p in model.head.parameters()}  # type: ignore[union-attr]
    assert [rates[p] for p in head] == pytest.approx([0.5] * len(head))
    assert max(rate for p, rate in rates.items() if p not in head) <= 1e-3
    assert len(rates) == len(list(model.parameters()))


def test_a_head_rate_needs_a_model_that_says_which_layer_is_its_head() -> None:
    with pytest.raises(InputError, match=r"optimizer\.head_lr=0\.1: the model does not say"):
        optimizer_of(nn.Sequential(nn.Linear(2, 2)), "optimizer.head_lr=0.1")


SCHEDULES = [
    ["scheduler=constant", "scheduler.warmup_epochs=0.5"],
    ["scheduler=cosine"],
    ["scheduler.name=step", "+scheduler.decay_epochs=1"],
    ["scheduler.name=poly", "scheduler.final_lr_fraction=0.1", "scheduler.warmup_epochs=1"],
    ["scheduler.name=tanh", "+scheduler.noise=0.1"],
    ["scheduler.name=multistep", "+scheduler.decay_milestones=[1,2]"],
    ["scheduler.name=wsd"],
    ["scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=0.1"],
    ["scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step_size=1", "scheduler.interval=epoch"],
]


@pytest.mark.parametrize("overrides", SCHEDULES, ids=lambda o: o[0])
def test_a_schedule_goes_on_after_a_break_as_if_there_had_been_none(overrides: list[str], tmp_path: Path) -> None:
    chosen, steps, epochs = config(*overrides), 4, 3

    def start() -> tuple[torch.optim.Optimizer, Schedule]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.01)
        return optimizer, build_schedule(optimizer, chosen.scheduler, steps, epochs)

    def go(optimizer: torch.optim.Optimizer, schedule: Schedule, count: int) -> list[float]:
        rates = []
        for _ in range(count):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    whole = go(*start(), steps * epochs)
    optimizer, schedule = start()
    first = go(optimizer, schedule, 5)
    torch.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state")
    saved = torch.load(tmp_path / "state", weights_only=True)
    optimizer, schedule = start()
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    assert first + go(optimizer, schedule, steps * epochs - 5) == whole
    assert len(set(whole)) > 1


# --- transforms ------------------------------------------------------------------------------------------------------


def augmented(*overrides: str, step: int = 0) -> torch.Tensor:
    torch.manual_seed(random.randrange(1000))  # whatever was drawn before
    images = torch.full((2, 8, 8, 3), 128, dtype=torch.uint8)
    chosen = config("augmentation=none", *overrides).augmentation
    return augment(images, torch.zeros(2, dtype=torch.int64), chosen, 8, (0, 0, 0), (1, 1, 1), draws(0, 0, step), 3)[0]


def test_a_transform_draws_the_same_in_the_same_step_and_leaves_other_draws_alone(here: Path) -> None:
    chosen = ["augmentation._target_=nets.noisy", "+augmentation.strength=9"]
    first, again, other = augmented(*chosen), augmented(*chosen), augmented(*chosen, step=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, augmented())
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    augment(images, torch.zeros(1), config(*chosen).augmentation, 8, (0, 0, 0), (1, 1, 1), draws(0, 0, 0), 3)
    assert (torch.rand(1), np.random.rand()) == expected


def test_a_class_is_made_once_with_further_targets_inside() -> None:
    inner = "+augmentation.transforms=[{_target_:torchvision.transforms.v2.RandomInvert,p:1.0}]"
    inverted = augmented("augmentation._target_=torchvision.transforms.v2.Compose", inner)
    assert torch.allclose(inverted, torch.full_like(inverted, 127 / 255))


def test_a_transform_that_makes_something_else_is_told(here: Path) -> None:
    with pytest.raises(InputError, match=r"nets\.cut_channels made torch\.uint8 \[2, 1, 8, 8\]"):
        augmented("augmentation._target_=nets.cut_channels")


# --- models ----------------------------------------------------------------------------------------------------------


def built(here: Path, *overrides: str) -> tuple[nn.Module, list[str]]:
    chosen, warnings = config("model.input_size=32", *overrides), list[str]()
    plan = resolve(chosen.model, Hub(), here / "cache", no_progress)
    return build_model(chosen, plan, 5, warnings.append), [*plan.warnings, *warnings]


def test_a_model_of_ones_own_depends_on_the_seed_and_its_arguments(here: Path) -> None:
    first, warnings = built(here, "model._target_=nets.small", "+model.width=6", "seed=1")
    again, _ = built(here, "model._target_=nets.small", "+model.width=6", "seed=1")
    other, _ = built(here, "model._target_=nets.small", "+model.width=6", "seed=2")
    assert first(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert torch.equal(first.head.weight, again.head.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(first.head.weight, other.head.weight)  # type: ignore[union-attr, arg-type]
    assert len(first.head.weight[0]) == 6  # type: ignore[union-attr, index]
    assert ["ImageNet's are used" in warning for warning in warnings] == [True]


def test_its_head_can_be_trained_alone_where_it_says_which_that_is(here: Path) -> None:
    model, _ = built(here, "model._target_=nets.small", "trainer.finetune=head")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    with pytest.raises(InputError, match="does not say which layer is its classifier"):
        built(here, "model._target_=nets.headless", "trainer.finetune=head")


@pytest.mark.parametrize(
    ("target", "told"),
    [("no_module", "returned str, no nn.Module"), ("ten_classes", r"to \[1, 10\], not to logits \[1, 5\]")],
)
def test_a_function_that_returns_no_such_model_is_told(here: Path, target: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        built(here, f"model._target_=nets.{target}")


def test_timm_has_no_weights_for_it(here: Path) -> None:
    with pytest.raises(InputError, match=r"timm has no weights for model\._target_=nets\.small") as e:
        built(here, "model._target_=nets.small", "model.weights=pretrained")
    assert "scratch" in e.value.hint


def test_what_does_not_exist_is_told_with_what_does(here: Path) -> None:
    with pytest.raises(InputError, match="nets has no 'smal'") as e:
        load("nets.smal")
    assert "'small'" in e.value.hint


# --- listings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [False, True])
def test_a_function_lists_the_images(here: Path, splits: bool) -> None:
    for label in ("cat", "dog"):
        (here / "pictures" / label).mkdir(parents=True)
        for n in range(3):
            (here / "pictures" / label / f"{n}.png").touch()
    given = ["data._target_=nets.listed", f"+data.folder={here}/pictures", f"+data.splits={splits}"]
    listing = list_items(config(*given).data, PathsConfig())
    assert (listing.root, listing.classes, len(listing.items)) == (here / "pictures", ["cat", "dog"], 6)
    assert {item.split for item in listing.items} == ({"train", "val", "test"} if splits else {None})


def test_a_listing_of_another_form_is_told_entry_by_entry(here: Path) -> None:
    with pytest.raises(InputError, match=r"1 entry is of another form:\n  entry 1: \('a\.png',\)"):
        list_items(config("data._target_=nets.wrong", "+data.folder=x").data, PathsConfig())
    with pytest.raises(InputError, match=r"nets\.listed raised TypeError: .*[^.]\.\n"):
        list_items(config("data._target_=nets.listed").data, PathsConfig())


# --- all of it, as a user would --------------------------------------------------------------------------------------


def test_a_run_of_parts_that_are_all_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [o for o in SMALL if not o.startswith("model")]
    given = [
        *small, "model._target_=nets.small", "model.input_size=32", "model.mean=[0,0,0]", "model.std=[1,1,1]",
        "optimizer._target_=torch.optim.RMSprop", "optimizer.lr=1e-3", "augmentation._target_=nets.noisy",
        "scheduler._target_=torch.optim.lr_scheduler.StepLR", "+scheduler.step_size=1", "scheduler.interval=epoch",
    ]  # fmt: skip
    first = har_sweep(*given, cwd=here)
    assert first.returncode == 0, first.stdout + first.stderr
    [record] = runs(here).values()
    assert record.status == "done"
    assert set(record.config["targets"]) == {
        "nets.small", "torch.optim.RMSprop", "torch.optim.lr_scheduler.StepLR", "nets.noisy",
    }  # fmt: skip
    assert [epoch.learning_rate for epoch in record.epochs] == pytest.approx([1e-3, 1e-4, 1e-5])
    for status, said, override in (
        (0, "1 done already", "launch.parallel=1"),
        (2, "nets has no 'smal'", "model._target_=nets.smal"),
    ):
        assert main([*given, override]) == status
        assert said in capsys.readouterr().out
    (here / "nets.py").write_text(NETS + "# another\n")
    [changed] = plan(compose_runs(expand(given)), Screen())
    assert changed.state == "new"
