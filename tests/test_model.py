"""Building models: the catalogue against timm, weights of every kind, heads, and what must be refused."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn
from torch.overrides import TorchFunctionMode

from har_sweep.config.compose import compose, groups
from har_sweep.config.schema import Config
from har_sweep.errors import InputError, RunFailure
from har_sweep.files import keep
from har_sweep.model.build import build_model
from har_sweep.model.head import classifiers, set_train_mode
from har_sweep.model.load import load_tensors
from har_sweep.spec.hub import Hub
from har_sweep.spec.weights import FACTS, ModelPlan, facts_setting, refuse_cut_patches, resolve, timm_facts

NAMED = [name for name in groups()["model"] if name not in ("timm", "custom")]


def tiny(*overrides: str, name: str = "test_resnet") -> Config:
    facts = [
        "model.pretrained_tag=r160_in1k",
        "model.input_size=160",
        "model.mean=[0.5,0.5,0.5]",
        "model.std=[0.5,0.5,0.5]",
    ]
    return compose(["model=timm", f"model.timm_name={name}", "model.weights=scratch", *facts, *overrides])


def build(config: Config, num_classes: int = 15) -> tuple[nn.Module, list[str]]:
    warnings: list[str] = []
    plan = resolve(config.model, Hub(), Path("unused"))
    return build_model(config, plan, num_classes, warnings.append), warnings


def pretrained_plan(file: Path, name: str = "test_resnet") -> ModelPlan:
    """The plan of weights that lie in the Hugging Face cache."""
    config = tiny(name=name)
    cfg = timm_cfg(f"{name}.r160_in1k")
    plan = resolve(config.model, Hub(), Path("unused"))
    return replace(plan, weights="r160_in1k", weights_file=file, mean=cfg.mean, std=cfg.std)


def timm_cfg(name: str) -> PretrainedCfg:
    cfg = get_pretrained_cfg(name, allow_unregistered=False)
    assert cfg is not None
    return cfg


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[key]) for key, tensor in a.state_dict().items())


def test_the_catalogue_is_complete() -> None:
    assert set(NAMED) == {
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vit_tiny", "vit_small", "vit_base", "vit_large",
        "deit3_small", "convnext_tiny", "tf_efficientnet_lite0", "mobilenetv4_conv_small", "tiny_vit_5m",
        "efficientvit_b0",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_a_named_model_is_what_timm_says_and_builds(name: str) -> None:
    config = compose([f"model={name}", "model.weights=scratch", "data=folder", "data.root=images"])  # at its own size
    model = config.model
    cfg = timm_cfg(f"{model.timm_name}.{model.pretrained_tag}")
    assert cfg.input_size == (3, model.input_size, model.input_size)
    assert (list(cfg.mean), list(cfg.std)) == (model.mean, model.std)
    assert cfg.hf_hub_id == f"timm/{model.timm_name}.{model.pretrained_tag}"
    # ImageNet-1k weights, timm's own choice of them where its default is such.
    default = timm_cfg(model.timm_name)
    assert cfg.num_classes == 1000
    assert model.pretrained_tag == default.tag or default.num_classes != 1000
    with torch.device("meta"):
        built, warnings = build(config)
        logits = built(torch.empty(2, 3, model.input_size or 0, model.input_size or 0))
    assert logits.shape == (2, 15)
    assert warnings == []


def test_initialisation_depends_on_the_seed_alone() -> None:
    first, _ = build(tiny("seed=3"))
    torch.rand(7)
    again, _ = build(tiny("seed=3"))
    other, _ = build(tiny("seed=4"))
    assert same(first, again)
    assert not same(first, other)


def test_pretrained_weights_come_with_a_new_head_even_for_as_many_classes(tmp_path: Path) -> None:
    torch.manual_seed(99)
    source = timm.create_model("test_resnet")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    config = tiny("seed=1")
    scratch, _ = build(config, num_classes=1000)
    model = build_model(config, pretrained_plan(tmp_path / "model.safetensors"), 1000, warn=pytest.fail)
    [head], [scratch_head], [source_head] = classifiers(model), classifiers(scratch), classifiers(source)
    assert same(head, scratch_head), "the same seed draws the same head, whatever the backbone starts from"
    assert not same(head, source_head)
    head.load_state_dict(source_head.state_dict())
    assert same(model, source), "and all the rest is the file's"


class Draws(TorchFunctionMode):
    """Counts the numbers that are drawn for weights."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.__name__ in ("normal_", "uniform_", "kaiming_uniform_"):
            self.count += (args[0] if args else kwargs["tensor"]).numel()
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_what_a_file_brings_is_not_drawn_and_what_it_leaves_out_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = timm.create_model(name).state_dict()
    save_file(whole, tmp_path / "whole.safetensors")
    config = tiny("seed=1", name=name)
    with Draws() as draws:
        scratch, _ = build(config)
    assert draws.count > sum(tensor.numel() for tensor in whole.values()) / 2
    with Draws() as draws:
        loaded = build_model(config, pretrained_plan(tmp_path / "whole.safetensors", name), 15, warn=pytest.fail)
    [head] = classifiers(loaded)
    assert draws.count == sum(tensor.numel() for tensor in head.parameters())
    # A few of timm's architectures have weights that their files do not bring.
    left_out = max(scratch.state_dict(), key=lambda name: scratch.state_dict()[name].numel())
    save_file({key: tensor for key, tensor in whole.items() if key != left_out}, tmp_path / "part.safetensors")
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_strict=False))
    partly = build_model(config, pretrained_plan(tmp_path / "part.safetensors", name), 15, warn=pytest.fail)
    want = loaded.state_dict() | {left_out: scratch.state_dict()[left_out]}
    assert all(torch.equal(tensor, want[key]) for key, tensor in partly.state_dict().items())


def test_position_embeddings_are_interpolated_to_another_input_size(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    plan = replace(pretrained_plan(tmp_path / "model.safetensors", "test_vit"), input_size=96)
    model = build_model(tiny(name="test_vit"), plan, 15, warn=pytest.fail)
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 15)
    own = tiny("model.input_size=96", f"model.weights='{tmp_path / 'model.safetensors'}'", name="test_vit")
    from_file, warnings = build(own)
    assert warnings == []
    assert torch.equal(model.pos_embed, from_file.pos_embed)  # type: ignore[arg-type]


def test_a_normalisation_that_is_not_the_weights_own_is_said(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "model.safetensors")
    plan = replace(pretrained_plan(tmp_path / "model.safetensors"), mean=(0.1, 0.2, 0.3))
    warnings: list[str] = []
    build_model(tiny(), plan, 15, warnings.append)
    assert len(warnings) == 1
    assert "model.mean is [0.1, 0.2, 0.3]" in warnings[0]


def test_cached_weights_that_are_broken_fail_with_what_to_delete(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"not weights")
    with pytest.raises(RunFailure) as caught:
        build_model(tiny(), pretrained_plan(file), 15, warn=pytest.fail)
    assert str(file) in caught.value.hint


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "module.", "_orig_mod.", "module._orig_mod.", "half"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_users_file_is_loaded_whatever_wraps_it(tmp_path: Path, wrap: str, suffix: str) -> None:
    torch.manual_seed(7)
    source = timm.create_model("test_resnet", num_classes=15)
    state: dict[str, Any] = source.state_dict()
    if wrap.endswith("."):
        state = {wrap + key: tensor for key, tensor in state.items()}
    elif wrap == "half":
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        source = source.half().float()
    file = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save({wrap: state, "epoch": 3} if wrap in ("state_dict", "model") else state, file)
    else:
        save_file(state, file)
    config = tiny(f"model.weights='{file}'")
    model, warnings = build(config)
    assert warnings == []
    [head], [source_head], [scratch_head] = classifiers(model), classifiers(source), classifiers(build(tiny())[0])
    assert same(head, scratch_head)
    assert not same(head, source_head), "the head is replaced, though it would fit"
    head.load_state_dict(source_head.state_dict())
    assert same(model, source), "and all the rest is the file's"


def test_keys_that_do_not_fit_are_all_listed(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    missing, misshapen = [key for key in state if key.endswith("bn1.weight")][:2]
    del state[missing]
    state[misshapen] = torch.zeros(3)
    state["ema.decay"] = torch.zeros(1)
    save_file(state, tmp_path / "mine.safetensors")
    _, [warning] = build(tiny(f"model.weights='{tmp_path / 'mine.safetensors'}'"))
    assert f"1 missing: {missing};" in warning
    assert "1 unknown to the model: ema.decay;" in warning
    assert f"1 of another shape: {misshapen} [3] for [" in warning


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(InputError, match=r"brings only 0% of ResNet's tensors"):
        build(tiny(f"model.weights='{tmp_path / 'vit.safetensors'}'"))


@pytest.mark.parametrize(
    ("rename", "suffix", "hint"),
    [
        (lambda key: f"student.{key}", ".pth", "All its names begin with 'student.'"),
        (lambda key: f"{key.count('.')}.{key}", ".pth", "convert_weights.py FILE TIMM_NAME"),
        (lambda key: f"{key.count('.')}.{key}", ".safetensors", "convert the file that it was made of"),
        (lambda key: f"features.7.{key}", ".pth", "Its names seem to be torchvision's."),
    ],
)
def test_the_right_tensors_under_other_names_are_told_from_other_ones(
    tmp_path: Path, rename: Callable[[str], str], suffix: str, hint: str
) -> None:
    state = {rename(key): tensor for key, tensor in timm.create_model("test_resnet").state_dict().items()}
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    with pytest.raises(InputError, match="brings only 0%") as refused:
        build(tiny(f"model.weights='{file}'"))
    assert hint in refused.value.hint


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path, save: Any) -> None:
    file = tmp_path / "evil.pth"
    save({"conv1.weight": torch.zeros(1), "more": Payload(tmp_path / "executed")}, file)
    with pytest.raises(InputError, match="is refused"):
        load_tensors(file)
    assert not (tmp_path / "executed").exists()
    torch.load(file, weights_only=False) if save is torch.save else pickle.loads(file.read_bytes())
    assert (tmp_path / "executed").exists(), "the trap itself works"


@pytest.mark.parametrize(
    ("name", "content"), [("a.safetensors", b"\x08\0\0\0\0\0\0\0{}"), ("a.pth", b""), ("a.pth", b"PK\3\4 cut off")]
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_tensors(tmp_path / name)


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no tensors"):
        load_tensors(tmp_path / "list.pth")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_head_only_training_moves_nothing_but_the_head(name: str) -> None:
    config = tiny("trainer.finetune=head", name=name)
    model, _ = build(config)
    before = copy.deepcopy(model)
    set_train_mode(model, config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.randn(4, 3, 160, 160)).square().mean().backward()
    optimizer.step()
    [head], [head_before] = classifiers(model), classifiers(before)
    assert head.training
    assert not same(head, head_before)
    head.load_state_dict(head_before.state_dict())
    assert same(model, before), "neither weights nor BatchNorm statistics of the backbone may change"


def test_full_training_trains_everything() -> None:
    config = tiny()
    model, _ = build(config)
    model.eval()
    set_train_mode(model, config)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


def test_stochastic_depth_reaches_the_model_or_is_refused() -> None:
    model, _ = build(tiny("model.drop_path_rate=0.3", name="test_vit"))
    assert any("drop_path" in name.lower() and isinstance(m, timm.layers.DropPath) for name, m in model.named_modules())
    with pytest.raises(InputError, match=r"model\.drop_path_rate"):
        build(tiny("model.drop_path_rate=0.3", name="densenet121"))


@pytest.mark.parametrize("name", ["levit_128s", "xcit_nano_12_p16_224"])  # refuses when run, refuses when built
def test_an_input_size_that_the_architecture_refuses_fails_with_a_hint(name: str) -> None:
    with pytest.raises(RunFailure) as caught:
        build(tiny("model.input_size=100", name=name))
    assert caught.value.kind == "input_size"
    assert "100 x 100" in caught.value.message
    assert "model.input_size" in caught.value.hint


def test_a_want_of_memory_is_not_taken_for_a_wrong_size_or_damaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: Any, **__: Any) -> nn.Module:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("timm.create_model", hungry)
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        build(tiny())
    assert not isinstance(caught.value, RunFailure)


def test_patches_that_leave_a_rim_unseen_are_refused_with_the_sizes_that_fit() -> None:
    with pytest.raises(InputError, match=r"model\.input_size=100 is not a multiple of 16") as e:
        build(tiny("model.input_size=100", name="test_vit"))
    assert "96 or 112" in e.value.hint


def test_a_rim_that_an_architecture_leaves_out_at_its_own_size_is_its_own_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As vit_so400m_patch14_siglip_384 does, which is too large for a test."""
    monkeypatch.setattr("har_sweep.model.build.patch_side", lambda model: 14)
    own = max(timm_facts("test_vit")["input_size"])
    assert own % 14
    build(tiny(f"model.input_size={own}", name="test_vit"))
    refuse_cut_patches("test_vit", own, own, 14)
    refuse_cut_patches("test_vit", None, own, 14)


def test_timm_knows_which_models_take_a_drop_path() -> None:
    assert [timm_facts(name)["drop_path"] for name in ("test_resnet", "dla46_c")] == [True, False]


@pytest.mark.parametrize(
    ("chosen", "asked", "near"),
    [
        (["model=timm", "model.timm_name=vit_small_patch14_dinov2", "model.input_size=128"], "", "126 or 140"),
        (["model=vit_tiny", "model.input_size=100"], "augreg_in21k_ft_in1k", "96 or 112"),
    ],
)
def test_such_patches_are_refused_while_planning(chosen: list[str], asked: str, near: str, tmp_path: Path) -> None:
    model = compose([*chosen, "model.weights=scratch"]).model
    name = ".".join(filter(None, (model.timm_name, asked)))
    keep(tmp_path / FACTS, facts_setting(name), timm_facts(name))
    with pytest.raises(InputError, match=f"{model.input_size} is not a multiple") as e:
        resolve(model, Hub(), tmp_path)
    assert near in e.value.hint


def test_an_unknown_architecture_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        build(tiny(name="test_resnt"))
    assert "test_resnt" in caught.value.message
    assert "test_resnet" in caught.value.hint
