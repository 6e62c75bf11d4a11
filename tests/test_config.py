"""The command line is understood, mistakes are answered with the nearest right word, and nonsense is refused early."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from small import SMALL

from har_sweep.__main__ import main
from har_sweep.config import compose as configs
from har_sweep.config.compose import Composed, compose, compose_all, compose_runs, expand
from har_sweep.config.schema import keys, value_at
from har_sweep.config.tree import groups
from har_sweep.errors import InputError

MORE = "hydra.launcher.additional_parameters"
SLURM = "hardware=slurm_cpu"

OPEN = {"timm", "custom", "distill"}  # options that name nothing by themselves


@pytest.mark.parametrize("model", sorted(set(groups()["model"]) - OPEN))
def test_each_model_brings_its_optimizer_and_the_command_line_beats_it(model: str) -> None:
    own = compose([f"model={model}"])
    expected = ("adam", 1e-3) if model.startswith("resnet") else ("adamw", own.model.default_lr.adamw)
    assert (own.optimizer.name, own.optimizer.lr) == expected
    told = compose([f"model={model}", "optimizer=sgd", "optimizer.lr=0.5"])
    assert (told.optimizer.name, told.optimizer.lr) == ("sgd", 0.5)


def test_the_study_s_learning_rates() -> None:
    assert compose(["model=resnet18"]).optimizer.lr == 1e-3
    assert compose(["model=vit_base"]).optimizer.lr == 1e-4


def test_a_group_s_optimizer_brings_its_own_learning_rate() -> None:
    assert compose(["optimizer=sgd", "model=vit_base"]).optimizer.lr == 1e-2


# The notebook's, with PyTorch's defaults where it says nothing. What is left out here cannot be chosen otherwise: the
# last, partial batch of an epoch is always trained on, all layers are, and only the last one is new.
IMAGENET = {"model.mean": [0.485, 0.456, 0.406], "model.std": [0.229, 0.224, 0.225], "model.input_size": 224}
RECIPE: dict[str, object] = {
    "data.source": "har", "data.split": "train_test", "data.val_fraction": 0.15, "data.test_fraction": 0.15,
    **IMAGENET, "model.weights": "pretrained", "model.drop_path_rate": 0.0,
    "augmentation.horizontal_flip": 0.5, "augmentation.rotation_degrees": 10.0, "augmentation.crop_scale": None,
    "augmentation.cache_scale": 1.0, "augmentation.randaugment_ops": 0, "augmentation.mixup_alpha": 0.0,
    "augmentation.cutmix_alpha": 0.0, "augmentation._target_": None,
    "optimizer.betas": [0.9, 0.999], "optimizer.weight_decay_spares": None, "optimizer.layer_decay": None,
    "scheduler.name": "constant", "scheduler.warmup_epochs": 0.0,
    "trainer.epochs": 5, "trainer.batch_size": 32, "trainer.accumulation_steps": 1, "trainer.label_smoothing": 0.0,
    "trainer.gradient_clip_norm": None, "trainer.ema_decay": None, "trainer.selection": "last",
    "trainer.finetune": "full",
    "hardware.device_count": 1, "hardware.precision": "fp32", "hardware.memory_format": "contiguous",
    "hardware.compile": False, "hardware.deterministic": False,
}  # fmt: skip
ADAMW = {"optimizer.name": "adamw", "optimizer.lr": 1e-4, "optimizer.weight_decay": 0.01, "hardware.tf32": False}
RECIPES: dict[str, dict[str, object]] = {
    "resnet18": {
        "model.timm_name": "resnet18", "model.pretrained_tag": "tv_in1k", "hardware.tf32": True,
        "optimizer.name": "adam", "optimizer.lr": 1e-3, "optimizer.weight_decay": 0.0,
    },
    "vit_base": {
        "model.timm_name": "vit_base_patch16_224", "model.pretrained_tag": "augreg2_in21k_ft_in1k", **ADAMW,
    },
    "vit_tiny": {
        "model.timm_name": "vit_tiny_patch16_224", "model.pretrained_tag": "augreg_in21k_ft_in1k", **ADAMW,
    },
}  # fmt: skip


@pytest.mark.parametrize("model", RECIPES)
def test_paper_is_the_study_s_recipe(model: str) -> None:
    config, wanted = compose(["experiment=paper", f"model={model}"]), RECIPE | RECIPES[model]
    assert {key: value_at(config, key) for key in wanted} == wanted
    # Whatever else is part of what a run is, is as the schema has it, and so says nothing.
    rest = {key.path: key.default for key in keys() if key.metadata["identity"] and key.path not in wanted}
    rest = {key: value for key, value in rest.items() if key not in ("model.name", "seed", "hardware.device")}
    assert {key: value_at(config, key) for key in rest} == rest


def test_paper_s_wishes_for_a_model_give_way_to_the_command_line() -> None:
    assert compose(["experiment=paper", "model.pretrained_tag=a1_in1k"]).model.pretrained_tag == "a1_in1k"
    assert compose(["model=resnet18"]).model.pretrained_tag == "a1_in1k"


def test_two_parts_have_one_share() -> None:
    with pytest.raises(InputError, match=r"data.val_fraction=0.15 and data.test_fraction=0.2 differ"):
        compose(["data.split=train_test", "data.test_fraction=0.2"])
    compose(["data.split=train_test", "data.val_fraction=0.6", "data.test_fraction=0.6"])


@pytest.mark.parametrize("option", groups()["augmentation"])
@pytest.mark.parametrize("mix", [[], ["augmentation.mixup_alpha=0.2", "augmentation.cutmix_alpha=1.0"]])
def test_every_augmentation_composes_with_mixup_and_cutmix(option: str, mix: list[str]) -> None:
    assert compose([f"augmentation={option}", *mix]).augmentation.mixup_alpha == (0.2 if mix else 0.0)


@pytest.mark.parametrize("group", sorted(set(groups()) - {"data", "model"}))
def test_every_option_of_every_group_composes(group: str) -> None:
    for option in set(groups()[group]) - OPEN:
        compose([f"{group}={option}"])


@pytest.mark.parametrize(
    ("option", "missing"),
    [
        ("model=custom", "model._target_"),
        ("optimizer=custom", "optimizer._target_"),
        ("optimizer=timm", "optimizer."),
        ("scheduler=custom", "scheduler._target_"),
        ("data=custom", "data._target_"),
        ("objective=distill", "teacher"),
    ],
)
def test_an_option_that_names_nothing_says_what_to_add(option: str, missing: str) -> None:
    with pytest.raises(InputError, match=missing) as e:
        compose([option])
    assert f"{missing}" in e.value.hint


def test_every_key_is_documented() -> None:
    assert [key.path for key in keys() if not key.metadata["doc"]] == []


def test_a_sweep_is_the_product_of_its_choices() -> None:
    runs = expand(["model=resnet18,vit_base", "seed=0,1,2", "trainer.epochs=1"])
    assert len(runs) == 6
    assert ["model=vit_base", "seed=1", "trainer.epochs=1"] in runs


def test_a_list_value_is_no_sweep() -> None:
    assert expand(["model.mean=[0.5,0.5,0.5]"]) == [["model.mean=[0.5,0.5,0.5]"]]


def test_an_experiment_brings_its_own_sweep_and_the_command_line_beats_it() -> None:
    swept = [compose(run).model.name for run in expand(["experiment=vit_sizes"])]
    assert swept == ["vit_tiny", "vit_small", "vit_base", "vit_large"]
    assert [compose(run).model.name for run in expand(["experiment=vit_sizes", "model=vit_tiny"])] == ["vit_tiny"]
    assert len(expand(["experiment=resnet_sizes"])) == 5


@pytest.mark.parametrize(
    ("wrong", "named", "near"),
    [
        ("trainer.epoch=3", "trainer.epoch", "trainer.epochs"),
        ("epochs=3", "epochs", "trainer.epochs"),
        ("modle=resnet18", "modle", "model"),
        ("model=resnet19", "resnet19", "resnet18"),
        ("+model.timmname=x", "model.timmname", "model.timm_name"),
        ("augmentation=papr", "papr", "paper"),
        ("data.on_error=skipp", "data.on_error=skipp", "skip"),
        ("trainer.selection=beste", "trainer.selection=beste", "best"),
        ("hydra.launcher.partitoin=gpu", "hydra.launcher.partitoin", "hydra.launcher.partition"),
    ],
)
def test_a_misspelt_word_answers_with_the_nearest_right_one(wrong: str, named: str, near: str) -> None:
    with pytest.raises(InputError) as e:
        compose([wrong])
    assert named in e.value.message
    assert f"'{near}'" in e.value.hint


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["trainer.batch_size=0"], "trainer.batch_size=0"),
        (["trainer.epochs=many"], "trainer.epochs"),
        (["data.val_fraction=1.2"], "data.val_fraction=1.2"),
        (["data.val_fraction=0.6", "data.test_fraction=0.5"], "leave no training images"),
        (["hardware=cpu", "hardware.precision=fp16"], "hardware.precision=fp16"),
        (["optimizer.lr=0"], "optimizer.lr=0"),
        (["optimizer.lr=nan"], "optimizer.lr=nan"),
        (["optimizer.lr=inf"], "optimizer.lr=inf is not finite"),
        (["optimizer=custom", "optimizer._target_=a.B", "optimizer.lr=1", "+optimizer.x=[1,inf]"], "is not finite"),
        (["model.arguments=3"], "model.arguments=3"),
        (["augmentation._target_=true"], "augmentation._target_=True"),
        (["data.split_seed=99999999999999999999"], "data.split_seed"),
        (["optimizer.betas=[2,3]"], "optimizer.betas=[2.0, 3.0]"),
        (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9] must be two numbers"),
        (["optimizer=sgd", "optimizer.betas=[0.9,0.99]"], "optimizer.betas=[0.9, 0.99] is not for"),
        (["optimizer=adam", "optimizer.momentum=0.9"], "optimizer.momentum=0.9 is not for"),
        (["optimizer=sgd", "optimizer.momentum=0"], "optimizer.nesterov=true needs momentum"),
        (["augmentation.crop_ratio=[0,0]"], "augmentation.crop_ratio"),
        (["augmentation.crop_ratio=[2,1]"], "augmentation.crop_ratio"),
        ([f"model.name={'x' * 400}"], "model.name=xxxxxxxxxxxxxxxxxxxx... is 400 bytes long"),
        ([f"data.name='{'ä' * 60}'"], "is 120 bytes long"),
        ([f"sweep.name={'x' * 400}"], "is 400 bytes long"),
        (["sweep.name=../../x"], "sweep.name='../../x' cannot be the name of a folder"),
        (["sweep.name=.."], "sweep.name"),
        (["sweep.name='a\x1b[2J'"], "sweep.name='a\\x1b[2J'"),
        (["data.root='a\0b'"], "data.root='a\\x00b' is no text"),
        (["data.root=\udcff"], "data.root"),
        (["trainer.accumulation_steps=64"], "trainer.accumulation_steps=64"),
        (["augmentation.crop_scale=[0.9,0.1]"], "augmentation.crop_scale"),
        (["model.std=[0.5,0.5,0]"], "model.std"),
        (["sweep.name=../mine"], "sweep.name='../mine'"),
        (["sweep.name=-x"], "sweep.name='-x'"),
        (["data=csv"], "data=csv"),
        (["data.root=photos"], "data.root=photos does nothing with data=sample"),
        (["data=folder", "data.root=photos", "data.csv=x.csv"], "data.csv=x.csv does nothing with data=folder"),
        (["data=folder", "data.root=photos", "data.delimiter=tab"], "data.delimiter=tab"),
        (["data=har", "data.images_per_class=3"], "data.images_per_class=3 does nothing with data=har"),
        (["data.hub_name=a/b"], "data.hub_name=a/b"),
        (["data=folder"], "data=folder"),
        (["model=timm"], "model.timm_name"),
        (["hardware=mps", "hardware.device_count=2"], "hardware.device_count=2"),
        (["seed=-1"], "seed=-1"),
        (["model=resnet18=3[("], "cannot be read"),
        (["model=null"], "model 'null'"),
        (["model=glob(vit*)"], "model=glob(vit*)"),
        (["hydra.launcher=3"], "sets a whole section"),
        (["hydra.searchpath=[file://" + "x" * 300 + "]"], "there is no folder"),
        ([SLURM, f"{MORE}=${{seed}}"], MORE),
        (
            ["hardware=slurm_cpu", "hydra.launcher.additional_parameters.licenses=a"],
            "hydra.launcher.additional_parameters.licenses",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name_and_with_a_way_out(overrides: list[str], named: str) -> None:
    with pytest.raises(InputError) as e:
        compose(overrides)
    assert named in e.value.message
    assert e.value.hint


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        ("0", "(the most that an image may have, in millions of pixels; larger ones are broken) must be above 0.0"),
        ("1e9", "at most 1,000,000.0."),
        ("nan", "must be a number."),
        ("many", "You wrote 'data.max_megapixels=many' (the most that an image may have"),
    ],
)
def test_a_wrong_number_is_told_what_it_is_for(value: str, way_out: str) -> None:
    with pytest.raises(InputError, match=r"data\.max_megapixels") as e:
        compose([f"data.max_megapixels={value}"])
    assert way_out in e.value.hint


def test_what_a_source_alone_reads_goes_to_it_in_a_sweep_over_sources() -> None:
    runs = expand(["data=sample,folder", "data.root=photos", "data.images_per_class=3"])
    assert runs == [["data=sample", "data.images_per_class=3"], ["data=folder", "data.root=photos"]]
    with pytest.raises(InputError, match=r"data\.root") as e:
        compose(["data.root=photos"])
    assert e.value.hint.startswith("Write data=folder")
    for option in ("folder", "har"):
        compose([f"data={option}", "data.root=photos"])


def test_a_tilde_that_nothing_opens_is_told_and_one_in_quotes_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as e:
        compose(["data.root=~/photos"])
    assert "write $HOME" in e.value.hint
    monkeypatch.setenv("HOME", "/home/alice")
    paths = compose(["paths.runs='~/runs'", "paths.cache='/~/cache'"]).paths
    assert (paths.runs, paths.cache) == ("/home/alice/runs", "/~/cache")


def test_a_dict_takes_entries_of_any_name() -> None:
    [added] = compose_runs([["hardware=slurm_cpu", f"+{MORE}.licenses=matlab:1", f"++{MORE}.mail-type=FAIL"]])
    assert added.slurm
    assert added.slurm.additional_parameters == {"licenses": "matlab:1", "mail-type": "FAIL"}


@pytest.mark.parametrize("wrong", [[f"{MORE}.a=1"], [f"+{MORE}={{a:1}}", f"+{MORE}.a=2"]])
def test_a_dict_s_entry_that_cannot_be_set_so_is_told_how(wrong: list[str]) -> None:
    with pytest.raises(InputError) as e:
        compose(["hardware=slurm_cpu", *wrong])
    assert f"{MORE}.a" in e.value.message
    assert "++" in e.value.hint


def outcomes(choices: list[list[str]]) -> tuple[list[str], list[str]]:
    """What ``compose_runs`` of all and of one after the other come to: the configs, or the error."""

    def told(compose_them: Callable[[], list[Composed]]) -> list[str]:
        try:
            return [repr((run.config, run.slurm)) for run in compose_them()]  # repr tells 1 from 1.0 and from True
        except InputError as e:
            return [e.message, e.hint]

    return told(lambda: compose_runs(choices)), told(
        lambda: [run for choice in choices for run in compose_runs([choice])]
    )


def each(*values: str, beside: tuple[str, ...] = ()) -> list[list[str]]:
    """Choices that differ in their first override only."""
    return [[value, *beside] for value in values]


REFERS = "hardware=slurm_cpu", f"+{MORE}.comment=run ${{seed}}"


@pytest.mark.parametrize(
    "choices",
    [
        expand(["model=resnet18,vit_base", "seed=0,1", "trainer.epochs=2"]),
        [["model=vit_base", "seed=1"], ["seed=2", "model=vit_base"], ["model=vit_base", "seed=3"], ["model=vit_base"]],
        # what an interpolation of the tree refers to: by one key, by a part of a text, over two steps
        each("data.default_weights=scratch", "data.default_weights=pretrained"),
        each("model.default_lr.adam=0.1", "model.default_lr.adam=0.2", "model.default_lr.adam=0.3"),
        each("model.default_lr.adam=0.1", "model.default_lr.adam=0.2", beside=("optimizer.lr=0.5",)),
        each("paths.data=a", "paths.data=b", beside=("data=har",)),
        each("model.timm_name=a", "model.timm_name=b", beside=("model=timm", "++sweep.name=${model.name}")),
        # interpolations typed on the command line, alone and inside of lists and dicts
        each("seed=1", "seed=${trainer.epochs}", "seed=2", "seed=${trainer.batch_size}"),
        each("model.weights=scratch", "model.weights=${tracking.backend}", "model.weights=${data.default_weights}"),
        each("seed=1", "seed=2", beside=("++sweep.name=${seed}", "++tracking.entity=${sweep.name}")),
        each("seed=1", "seed=2", beside=REFERS),
        each(
            "model.drop_path_rate=0.1", "model.drop_path_rate=0.2", beside=("model.mean=[${.drop_path_rate},0.5,0.5]",)
        ),
        each("tracking.project=a", "tracking.project=b", beside=("++sweep.name=${..tracking.project}",)),
        each("tracking.project=a", "tracking.project=b", beside=("++sweep.name=${oc.select:tracking.project}",)),
        each("data.name=project", "data.name=backend", beside=("++sweep.name=${tracking.${data.name}}",)),
        # values that are no plain words
        each("model.pretrained_tag=x", "model.pretrained_tag=null", "model.pretrained_tag='null'"),
        each("sweep.name='a=b, [c]'", 'sweep.name="d"', "sweep.name=1", "sweep.name=true", "sweep.name=''"),
        each("optimizer.lr=1", "optimizer.lr=1e-3", "optimizer.lr='2'"),
        each("model.mean=[0.1,0.2,0.3]", "model.mean=null", "model.mean=[0.5,0.5,0.5]", beside=("seed=1",)),
        each(
            f"{MORE}={{licenses:x}}",
            f"{MORE}={{}}",
            beside=("hardware=slurm_example_a100", "seed=1"),
        ),
        # overrides that touch the same key
        [
            ["seed=1", "seed=2"],
            ["seed=3", "seed=4"],
            ["seed=3", "++seed=5"],
            ["++seed=6", "seed=7"],
            ["++seed=6", "seed=8"],
        ],
        each("trainer.epochs=1", "trainer.epochs=2", beside=("trainer={epochs:3}",)),
        each("trainer={epochs:3}", "trainer={epochs:4}", beside=("trainer.epochs=2",)),
        each("seed=1", "seed=2", beside=("~seed",)),
        each("seed=1", "seed=2", beside=(SLURM, f"+{MORE}={{a:1}}", f"++{MORE}.a=2")),
        # an experiment's values and those that beat them
        each("trainer.epochs=1", "trainer.epochs=2", beside=("experiment=paper",)),
        each("experiment=paper", "experiment=vit_sizes", beside=("trainer.batch_size=8", "model=vit_tiny")),
        # errors: of a type, a range, a choice, a key, a value that is missing, and one that another value brings about
        each("seed=1", "seed=x"),
        each("seed=1", "seed=-1", "seed=x"),
        each("seed=1", "seed=null"),
        each("seed=1", "++seed=2", "+seed=3"),
        each("seed=1", "seed@x=2"),
        each("seed=1", "seed=[1]"),
        each("sweep.name=a", "sweep.name={a:1}"),
        each("seed=1", "seed=1,2"),
        each("seed=1", "sed=2"),
        each("model.name=x", "model.name=???"),
        each("model.name=x", "model.name=${nothing}"),
        each("optimizer.lr=0.1", "optimizer.lr=${optimizer.lr}"),
        each("data.val_fraction=0.1", "data.val_fraction=0.6", beside=("data.test_fraction=0.5",)),
        each("seed=1", "seed=2", beside=(SLURM, f"+{MORE}.a=${{seed}}", f"~{MORE}.a=1")),
    ],
    ids=lambda choices: " | ".join(" ".join(choice) for choice in choices),
)
def test_a_sweep_s_configs_are_those_of_its_runs_alone(choices: list[list[str]]) -> None:
    together, alone = outcomes(choices)
    assert together == alone


OVERRIDES = {
    "model": ["model=resnet18", "model=vit_tiny", "model=timm"],
    "optimizer": ["optimizer=sgd", "optimizer=adam"],
    "optimizer.lr": ["optimizer.lr=0.5", "optimizer.lr=${model.default_lr.sgd}", "optimizer.lr=many"],
    "model.timm_name": ["model.timm_name=a", "model.timm_name=${model.weights}", "++model.timm_name=b"],
    "model.weights": ["model.weights=scratch", "model.weights='${sweep.name}'", "model.weights=null"],
    "model.default_lr.sgd": ["model.default_lr.sgd=0.3", "model.default_lr.sgd=1", "~model.default_lr.sgd"],
    "model.std": ["model.std=[0.1,0.1,0.1]", "model.std=null", "model.std=[${optimizer.lr},0.1,0.1]"],
    "sweep.name": ["sweep.name=a", "sweep.name=null", "sweep.name='1'", "++sweep.name=${seed}", "sweep={name:b}"],
    "seed": ["seed=0", "seed=1", "seed=${trainer.epochs}", "seed=-1", "+seed=3"],
    "trainer.epochs": ["trainer.epochs=1", "trainer.epochs=7", "trainer={epochs:4}"],
    "hardware": ["hardware=slurm_cpu", "hardware=slurm_example_a100"],
    "more": [f"+{MORE}.a=1", f"+{MORE}.a=${{seed}}", f"++{MORE}.a=${{sweep.name}}"],
}


@st.composite
def sweeps(draw: st.DrawFn) -> list[list[str]]:
    """Some choices of the same few keys in the same order, so that most can share what is composed."""
    given_keys = draw(st.lists(st.sampled_from(sorted(OVERRIDES)), min_size=2, max_size=5))
    return [[draw(st.sampled_from(OVERRIDES[key])) for key in given_keys] for _ in range(draw(st.integers(2, 4)))]


@given(sweeps())
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_sweep_s_configs_are_those_of_its_runs_alone(choices: list[list[str]]) -> None:
    together, alone = outcomes(choices)
    assert together == alone


def test_the_configs_of_a_sweep_share_nothing_that_one_could_change() -> None:
    first, second, third = compose_all([["seed=1"], ["seed=2"], ["seed=3"]])
    second.augmentation.crop_ratio.append(9.0)
    second.trainer.epochs = 77
    assert (first.augmentation, first.trainer) == (third.augmentation, third.trainer)
    assert 9.0 not in first.augmentation.crop_ratio


def test_a_hundred_seeds_of_a_model_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[list[str]] = []
    real = configs.hydra_compose

    def counting(name: str, overrides: list[str], **kwargs: Any) -> DictConfig:
        composed.append(overrides)
        return real(name, overrides, **kwargs)

    monkeypatch.setattr(configs, "hydra_compose", counting)
    runs = compose_all(expand(["model=resnet18,vit_base", SLURM, f"+{MORE}.a=b", "seed=range(0,100)"]))
    assert [(run.model.name, run.seed) for run in runs][::50] == [
        ("resnet18", 0), ("resnet18", 50), ("vit_base", 0), ("vit_base", 50),
    ]  # fmt: skip
    assert len(composed) == 2


def test_a_tree_of_the_user_s_may_have_a_group_named_like_a_key(tmp_path: Path) -> None:
    for file, text in {
        "seed/1.yaml": "# @package _global_\nseed: 11",
        "seed/2.yaml": "# @package _global_\nseed: 22",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - /seed: '1'",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    own_tree = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"]
    assert [run.seed for run in compose_all([[*own_tree, "seed='1'"], [*own_tree, "seed='2'"]])] == [11, 22]


def har_sweep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "har_sweep", *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["--help"], ["launch.dry_run=true"]])
def test_when_nobody_reads_any_more_it_ends_without_a_word_as_what_a_shell_ends_does(
    arguments: list[str], tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-m", "har_sweep", *arguments]
        done = subprocess.run(command, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 128 + signal.SIGPIPE
    assert not re.search("Traceback|BrokenPipe", done.stderr)


def test_help_lists_every_key_and_option(tmp_path: Path) -> None:
    shown = har_sweep("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert [key.path for key in keys() if f"  {key.path}=" not in shown.stdout] == []
    assert "mobilenetv4_conv_small" in shown.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--mulltirun"], ["trainer.epoch=1"], ["--cfg", "job", "model=vit_base"]]
)
def test_help_and_wrong_options_answer_without_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from har_sweep.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'wandb', 'pandas', 'sklearn'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["--mulltirun"], ["trainer.epoch=1"], ["model=resnet18,vit_base"], ["seed=0=1"]])
def test_bad_input_exits_2_and_leaves_nothing_behind(arguments: list[str], tmp_path: Path) -> None:
    shown = har_sweep(*arguments, cwd=tmp_path)
    assert shown.returncode == 2
    assert "Traceback" not in shown.stdout + shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_m_is_told_to_add_it(tmp_path: Path) -> None:
    assert "-m" in har_sweep("model=resnet18,vit_base", cwd=tmp_path).stdout


# --- several models in one sweep -------------------------------------------------------------------------------------

TWO = "model=resnet18,vit_tiny"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (
            [TWO, "model.weights={resnet18:w/a.safetensors,vit_tiny:'b c.pth'}"],
            [{"model=resnet18", "model.weights=w/a.safetensors"}, {"model=vit_tiny", "model.weights=b c.pth"}],
        ),
        ([TWO, "optimizer.lr={vit_tiny:0.5}"], [{"model=resnet18"}, {"model=vit_tiny", "optimizer.lr=0.5"}]),
        ([TWO, "optimizer={resnet18:sgd}"], [{"model=resnet18", "optimizer=sgd"}, {"model=vit_tiny"}]),
        (
            ["model=resnet18,vit_tiny", "seed={vit_tiny:[1,2]}"],
            [{"model=resnet18"}, {"model=vit_tiny", "seed=1"}, {"model=vit_tiny", "seed=2"}],
        ),
        (
            ["model=timm", "model.timm_name=a,b", "seed={a:1,b:2}"],
            [{"model=timm", "model.timm_name=a", "seed=1"}, {"model=timm", "model.timm_name=b", "seed=2"}],
        ),
        (
            ["model=resnet18,vit_tiny", "model.mean={resnet18:[0,0,0]}"],
            [{"model=resnet18", "model.mean=[0,0,0]"}, {"model=vit_tiny"}],
        ),
        (
            ["sweep.pairs=[{model:resnet18,optimizer.lr:0.1},{model:vit_tiny,optimizer.lr:0.2}]", "seed=0,1"],
            [
                {"model=resnet18", "optimizer.lr=0.1", "seed=0"},
                {"model=vit_tiny", "optimizer.lr=0.2", "seed=0"},
                {"model=resnet18", "optimizer.lr=0.1", "seed=1"},
                {"model=vit_tiny", "optimizer.lr=0.2", "seed=1"},
            ],
        ),
        (
            [TWO, "seed=0,1,2", "sweep.exclude=[{model:vit_tiny,seed:[1,2]}]"],
            [
                {"model=resnet18", "seed=0"},
                {"model=resnet18", "seed=1"},
                {"model=resnet18", "seed=2"},
                {"model=vit_tiny", "seed=0"},
            ],
        ),
        (
            ["model=resnet18,timm", "model.timm_name=mobilenetv2_100"],
            [{"model=resnet18"}, {"model=timm", "model.timm_name=mobilenetv2_100"}],
        ),
        (
            ["model=resnet18,custom", "model._target_=nets.small", "+model.width=3"],
            [{"model=resnet18"}, {"model=custom", "model._target_=nets.small", "+model.width=3"}],
        ),
        (
            ["objective=labels,distill", "teacher=a,b", "objective.weight=0.7"],
            [
                {"objective=labels"},
                {"objective=distill", "teacher=a", "objective.weight=0.7"},
                {"objective=distill", "teacher=b", "objective.weight=0.7"},
            ],
        ),
    ],
)
def test_a_sweep_s_choices_go_to_the_models_they_are_for(asked: list[str], meant: list[set[str]]) -> None:
    runs = [set(run) for run in expand(asked)]
    assert sorted(runs, key=sorted) == sorted(meant, key=sorted)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([TWO, "optimizer.lr={vit_tny:0.5}"], "entry for vit_tny"),
        (["model.weights={resnet18:a.pth}"], "entry for resnet18"),
        ([TWO, "sweep.exclude=[{model:vit_tiny,seed:3}]"], "leaves out nothing"),
        ([TWO, "sweep.exclude=[{model:[vit_tiny,resnet18]}]"], "leaves out every run"),
        ([TWO, "sweep.pairs=3"], "is not a list of choices"),
        (["seed=0,1", "sweep.pairs=[{seed:3}]"], "seed is given both by itself and in sweep.pairs"),
        (["seed=range(0,1e400)"], "has no end"),
        (["seed=range(0,10,0)"], "has no end"),
        (["seed=range(0,1000000000)"], "more than 100,000 values"),
        (["seed=range(0,1000)", "trainer.epochs=range(1,1001)"], "1,000,000 runs"),
        (["model=resnet18", "model.timm_name=resnet34"], "under the name of resnet18"),
        (["model.timm_name=resnet34"], "under the name of the default model"),
        (["model=[resnet18,vit_tiny]"], "is a list"),
        (["model=mobilenetv2_100"], "no model 'mobilenetv2_100'"),
    ],
)
def test_what_would_mean_something_else_is_refused(asked: list[str], told: str) -> None:
    with pytest.raises(InputError) as e:
        expand(asked)
    assert told in e.value.message
    assert e.value.hint


def test_a_name_that_only_timm_has_points_to_it() -> None:
    with pytest.raises(InputError) as e:
        expand(["model=mobilenetv2_100"])
    assert "model=timm model.timm_name=mobilenetv2_100" in e.value.hint


@pytest.mark.parametrize("several", ["sweep.pairs=[{seed:0},{seed:1}]", "seed={resnet18:[0,1]}"])
def test_several_runs_need_the_word_for_it(several: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=resnet18", several]) == 2
    assert "Add -m" in capsys.readouterr().out


def test_pairs_and_exclusions_in_an_experiment_s_section_are_not_ignored(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/own.yaml").write_text("# @package _global_\nsweep:\n  exclude: [{seed: 1}]\n")
    with pytest.raises(InputError, match=r"sweep\.exclude"):
        compose([f"hydra.searchpath=[file://{tmp_path}]", "experiment=own"])


def test_a_model_file_without_a_name_is_named_after_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/own.yaml").write_text("timm_name: convnext_nano\n")
    assert compose([f"hydra.searchpath=[file://{tmp_path}]", "model=own"]).model.name == "convnext_nano"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs: [1,", r"line \d, column \d+: .*expected (the )?node content"),
        ("epochs: 1\nepochs: 2\n", "line 2, column 1: found duplicate key epochs"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed"),
        ("a: \x07\n", "(special|control) characters are not allowed"),
        ("a: &x [*x]\n", "it refers to itself|recursive aliases are not supported"),
        ("Spaß: 1".encode("latin-1"), "'utf-8' codec can't decode"),
        ("3\n", "Invalid loaded object type: int"),
        ("defaults: 3\n", "Invalid defaults list in 'trainer/own'"),
    ],
)
def test_a_file_that_is_no_config_is_named_with_the_place(tmp_path: Path, text: str | bytes, told: str) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match="trainer/own") as e:
        compose([f"hydra.searchpath=[file://{tmp_path}]", "trainer=own"])
    assert re.search(told, e.value.message)
    assert e.value.hint


@pytest.mark.parametrize("key", ["paths.cache", "paths.data", "paths.runs", "hydra.sweep.dir"])
def test_a_folder_that_cannot_be_used_is_named_with_its_key(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["-m", *SMALL, "launch.dry_run=true", f"{key}=file/below"]) == 2
    assert f"{key}=file/below cannot be" in capsys.readouterr().out


def test_a_misspelt_key_in_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/own.yaml").write_text("epohcs: 3\n")
    with pytest.raises(InputError, match=r"trainer/own.*trainer\.epohcs") as e:
        compose([f"hydra.searchpath=[file://{tmp_path}]", "trainer=own"])
    assert "'trainer.epochs'" in e.value.hint
