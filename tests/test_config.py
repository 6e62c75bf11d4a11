"""The command line is understood, mistakes are answered with the nearest right word, and nonsense is refused early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from har_sweep.config import compose, expand, groups
from har_sweep.errors import InputError
from har_sweep.schema import keys


@pytest.mark.parametrize("model", [name for name in groups()["model"] if name != "timm"])
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


def test_paper_is_the_study_s_recipe() -> None:
    config = compose(["experiment=paper", "model=vit_base"])
    trainer, augmentation = config.trainer, config.augmentation
    assert (config.data.source, trainer.epochs, trainer.batch_size, trainer.selection) == ("har", 5, 32, "last")
    assert (config.scheduler.name, config.scheduler.warmup_epochs, trainer.label_smoothing) == ("constant", 0, 0)
    assert (augmentation.name, augmentation.horizontal_flip, augmentation.crop_scale) == ("paper", 0.5, None)
    assert config.model.weights == "pretrained"


@pytest.mark.parametrize("option", groups()["augmentation"])
@pytest.mark.parametrize("mix", [[], ["augmentation.mixup_alpha=0.2", "augmentation.cutmix_alpha=1.0"]])
def test_every_augmentation_composes_with_mixup_and_cutmix(option: str, mix: list[str]) -> None:
    assert compose([f"augmentation={option}", *mix]).augmentation.mixup_alpha == (0.2 if mix else 0.0)


@pytest.mark.parametrize("group", sorted(set(groups()) - {"data", "model"}))
def test_every_option_of_every_group_composes(group: str) -> None:
    for option in groups()[group]:
        compose([f"{group}={option}"])


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
        (["trainer.accumulation_steps=64"], "trainer.accumulation_steps=64"),
        (["augmentation.crop_scale=[0.9,0.1]"], "augmentation.crop_scale"),
        (["model.std=[0.5,0.5,0]"], "model.std"),
        (["data=csv"], "data=csv"),
        (["data=folder"], "data=folder"),
        (["model=timm"], "model.timm_name"),
        (["hardware.device_count=2"], "hardware.device_count=2"),
        (["seed=-1"], "seed=-1"),
        (["model=resnet18=3[("], "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_by_name_and_with_a_way_out(overrides: list[str], named: str) -> None:
    with pytest.raises(InputError) as e:
        compose(overrides)
    assert named in e.value.message
    assert e.value.hint


def har_sweep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "har_sweep", *arguments], cwd=cwd, capture_output=True, text=True)


def test_help_lists_every_key_and_option(tmp_path: Path) -> None:
    shown = har_sweep("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert [key.path for key in keys() if f"  {key.path}=" not in shown.stdout] == []
    assert "mobilenetv4_conv_small" in shown.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--mulltirun"], ["trainer.epoch=1"], ["--cfg", "model=vit_base"]])
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
