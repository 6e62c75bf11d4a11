"""What a model starts from: the real Hugging Face client and real timm, against a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from loopback import REPO, TINY, LoopbackHub, environment, loopback_hub
from safetensors.torch import load_file, save_file
from small import SMALL

from har_sweep.config.compose import compose, compose_runs
from har_sweep.errors import InputError, RunFailure
from har_sweep.launch.plan import plan
from har_sweep.launch.terminal import Screen
from har_sweep.model.build import build_model
from har_sweep.model.head import classifiers
from har_sweep.spec.hub import Hub
from har_sweep.spec.weights import FACTS, ModelPlan, check_weights_file, resolve


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny architecture with 1,000 classes, as the hub would have them."""
    torch.manual_seed(123)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    return path


@pytest.fixture
def hub(tiny_weights: Path) -> Iterator[LoopbackHub]:
    with loopback_hub({REPO: tiny_weights.read_bytes()}) as server:
        yield server


PLAN = """
import dataclasses, json, sys
from pathlib import Path
from har_sweep.config.compose import compose, compose_runs
from har_sweep.errors import InputError
from har_sweep.spec.hub import Hub
from har_sweep.spec.weights import resolve
hub, answers, told = Hub(timeout_seconds=1.0), [], []
for overrides in json.loads(sys.argv[2]):
    try:
        model = compose(overrides).model
        answer = dataclasses.asdict(resolve(model, hub, Path(sys.argv[1]), lambda *now: told.append(now)))
    except InputError as e:
        answer = {"message": e.message, "hint": e.hint}
    answers.append(answer)
assert not {"torch", "timm"} & set(sys.modules), "planning must not import torch or timm"
print(json.dumps({"answers": answers, "told": told}, default=str))
"""


def plan_in_child(home: Path, *overrides: list[str], **variables: str) -> dict[str, Any]:
    """Plan in a fresh process, whose Hugging Face client reads its environment as a user's does."""
    command = [sys.executable, "-c", PLAN, str(home / "cache"), json.dumps(overrides)]
    child = subprocess.run(command, env=environment(home, **variables), capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    answers: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return answers


def test_pretrained_comes_from_the_hub_once_and_ends_in_the_model(
    tmp_path: Path, hub: LoopbackHub, tiny_weights: Path
) -> None:
    overrides = [*TINY, "model.weights=pretrained"]
    first = plan_in_child(tmp_path, overrides, HF_ENDPOINT=hub.url)
    planned = first["answers"][0]
    plan = ModelPlan(**planned | {"weights_file": Path(planned["weights_file"])})
    size = tiny_weights.stat().st_size
    assert plan.weights == "r160_in1k"
    assert first["told"][-1] == ["timm/test_vit.r160_in1k/model.safetensors", size, size]

    hub.asked.clear()
    again = plan_in_child(tmp_path, overrides, HF_ENDPOINT=hub.url)
    assert again["answers"][0]["weights_file"] == str(plan.weights_file)
    assert hub.asked == [], "what is cached must not ask the hub"

    model = build_model(compose(overrides), plan, num_classes=15, warn=pytest.fail)
    given = load_file(tiny_weights)
    built = model.state_dict()
    assert built["head.weight"].shape == (15, 64)
    assert all(torch.equal(given[key], built[key]) for key in built if not key.startswith("head."))
    assert len(classifiers(model)) == 1

    assert plan.weights_file
    content = bytearray(plan.weights_file.read_bytes())
    content[-1] ^= 1
    plan.weights_file.write_bytes(content)
    with pytest.raises(RunFailure, match=r"model.safetensors does not hold the weights that the run was planned with"):
        build_model(compose(overrides), plan, num_classes=15, warn=pytest.fail)


def test_a_connection_cut_within_a_file_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    content = os.urandom(25_000_000)  # more than two of the client's chunks
    with loopback_hub({REPO: content}) as hub:
        hub.cuts = [15_000_000]
        plan = plan_in_child(tmp_path, [*TINY, "model.weights=pretrained"], HF_ENDPOINT=hub.url)["answers"][0]
    assert Path(plan["weights_file"]).read_bytes() == content
    starts = [wanted for method, _, wanted in hub.asked if method == "GET"]
    assert len(starts) == 2
    assert starts[1] == "bytes=10485760-", "what came before the cut must not be asked for again"


def test_a_download_that_breaks_off_is_one_clear_error_and_works_the_next_time(
    tmp_path: Path, hub: LoopbackHub, tiny_weights: Path
) -> None:
    hub.cuts = [1000] * 6  # one more than the client tries by itself
    overrides = [*TINY, "model.weights=pretrained"]
    sweep = [overrides, [*TINY, "model.timm_name=test_resnet", "model.weights=if_available"]]
    broken, fallen_back = plan_in_child(tmp_path, *sweep, HF_ENDPOINT=hub.url)["answers"]
    assert "test_vit" in broken["message"]
    assert "broke off" in broken["message"]
    assert "har_sweep.prefetch model=timm model.timm_name=test_vit" in broken["hint"]
    assert fallen_back["weights"] == "scratch"
    assert not any("test_resnet" in path for _, path, _ in hub.asked), "a hub that broke off is not asked again"
    plan = plan_in_child(tmp_path, overrides, HF_ENDPOINT=hub.url)["answers"][0]
    assert Path(plan["weights_file"]).read_bytes() == tiny_weights.read_bytes()


def test_what_the_hub_does_not_have_is_an_error_or_a_loud_scratch(tmp_path: Path) -> None:
    with loopback_hub({}) as hub:
        answers = plan_in_child(
            tmp_path,
            [*TINY, "model.weights=pretrained"],
            [*TINY, "model.weights=if_available"],
            HF_ENDPOINT=hub.url,
        )["answers"]
    assert "the hub has no repository timm/test_vit.r160_in1k" in answers[0]["message"]
    assert "model=timm model.timm_name=test_vit" in answers[0]["hint"]
    assert answers[1]["weights"] == "scratch"
    assert answers[1]["weights_file"] is None
    assert "SCRATCH" in answers[1]["warnings"][0]


def test_a_hub_that_does_not_answer_is_asked_once_a_sweep(tmp_path: Path) -> None:
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def count() -> None:
            while True:
                try:
                    connections.append(silent.accept())
                except OSError:
                    return

        threading.Thread(target=count, daemon=True).start()
        answers = plan_in_child(
            tmp_path,
            ["model=resnet18", "model.weights=if_available"],
            ["model=vit_base", "model.weights=if_available"],
            ["model=vit_tiny", "model.weights=pretrained"],
            HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )["answers"]
        silent.shutdown(socket.SHUT_RDWR)
    assert len(connections) == 1
    assert [a["weights"] for a in answers[:2]] == ["scratch", "scratch"]
    assert "vit_tiny" in answers[2]["message"]
    assert "python -m har_sweep.prefetch model=vit_tiny" in answers[2]["hint"]


def test_offline_asks_nobody(tmp_path: Path, hub: LoopbackHub) -> None:
    overrides = [*TINY, "model.weights=pretrained"]
    answer = plan_in_child(tmp_path, overrides, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")["answers"][0]
    assert "HF_HUB_OFFLINE is set" in answer["message"]
    assert hub.asked == []


def test_timm_is_asked_for_what_the_config_leaves_out_and_its_answer_is_kept(tmp_path: Path) -> None:
    overrides = ["model=timm", "model.timm_name=vit_base_patch16_384.augreg_in1k", "model.weights=scratch"]
    overrides.append("model.input_size=null")  # of the sample it is 48
    first = plan_in_child(tmp_path, overrides, overrides, HF_HUB_OFFLINE="1")
    plan = first["answers"][0]
    assert (plan["timm_name"], plan["pretrained_tag"], plan["input_size"]) == (
        "vit_base_patch16_384", "augreg_in1k", 384,
    )  # fmt: skip
    assert plan["mean"] == [0.5, 0.5, 0.5]
    assert len(first["told"]) == 1, "the second plan must find the answer kept"
    assert facts_kept(tmp_path) == ["vit_base_patch16_384.augreg_in1k"]


def facts_kept(folder: Path) -> list[str]:
    """The models of which is kept in a folder's cache what timm said."""
    return sorted(json.loads(file.read_bytes())["setting"]["name"] for file in (folder / "cache" / FACTS).iterdir())


def test_timm_is_asked_once_about_all_models_of_a_sweep_and_a_wrong_name_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "test_vit", "vit_bse_patch16_384", "test_resnet"
    paths = [f"paths.{key}={tmp_path / key}" for key in ("runs", "cache")]
    with pytest.raises(InputError) as refused:
        plan(compose_runs([[*SMALL, f"model.timm_name={name}", "model.std=null", *paths] for name in names]), Screen())
    assert "timm has no model 'vit_bse_patch16_384'" in refused.value.message
    assert "vit_base_patch16_384" in refused.value.hint
    assert capsys.readouterr().out.count("Asking timm about") == 1
    assert facts_kept(tmp_path) == ["test_resnet", "test_vit"]


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:weights", "timm/resnet18.a1_in1k"])
def test_addresses_are_not_architectures(tmp_path: Path, name: str) -> None:
    config = compose(["model=timm", f"model.timm_name='{name}'", "model.weights=scratch"])
    with pytest.raises(InputError, match="not one of timm's architectures"):
        resolve(config.model, Hub(), tmp_path)


def plan_here(tmp_path: Path, *overrides: str) -> ModelPlan:
    return resolve(compose([*TINY, *overrides]).model, Hub(), tmp_path)


def test_a_local_file_is_known_by_its_content(tmp_path: Path, tiny_weights: Path) -> None:
    copy = tmp_path / "another name.safetensors"
    copy.write_bytes(tiny_weights.read_bytes())
    digest = "sha256:" + hashlib.sha256(tiny_weights.read_bytes()).hexdigest()
    for file in (tiny_weights, copy):
        plan = plan_here(tmp_path, f"model.weights='{file}'")
        assert (plan.weights, plan.weights_file) == (digest, file)
    copy.write_bytes(tiny_weights.read_bytes() + b"x")
    assert plan_here(tmp_path, f"model.weights='{copy}'").weights != digest
    with pytest.raises(RunFailure, match="does not hold the weights that the run was planned with"):
        check_weights_file(plan)


@pytest.mark.parametrize(
    ("weights", "message", "hint"),
    [
        ("pretraned", "model.weights=pretraned is neither", "Did you mean 'pretrained'?"),
        ("{folder}/modl.safetensors", "there is no {folder}/modl.safetensors", "Did you mean '{folder}/model.safetens"),
        ("{folder}/no/such/x.pth", "there is no {folder}/no", "Check the path"),
        ("{folder}/notes.txt", "is not a file of weights", ".safetensors"),
    ],
)
def test_wrong_weights_name_what_is_right(
    tmp_path: Path, tiny_weights: Path, weights: str, message: str, hint: str
) -> None:
    folder = str(tiny_weights.parent)
    (tiny_weights.parent / "notes.txt").write_text("not weights")
    with pytest.raises(InputError) as caught:
        plan_here(tmp_path, f"model.weights='{weights.format(folder=folder)}'")
    assert message.format(folder=folder) in caught.value.message
    assert hint.format(folder=folder) in caught.value.hint


def test_files_that_do_not_fit_are_refused_while_planning_and_what_fits_is_looked_into_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"paths.{key}={tmp_path / key}" for key in ("runs", "cache")]
    wrong, tensors = list[Path](), {"one": torch.zeros(3)}
    for name in ("a", "b"):
        wrong.append(tmp_path / f"{name}.safetensors")
        save_file(tensors, wrong[-1])
        tensors["two"] = torch.ones(3)
    right = tmp_path / "right.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), right)
    with pytest.raises(InputError) as refused:
        plan(compose_runs([[*SMALL, *paths, f"model.weights='{file}'"] for file in (*wrong, right)]), Screen())
    assert all(f"{file} brings only 0%" in refused.value.message for file in wrong)
    assert str(right) not in refused.value.message
    assert f"Looking whether {right} fits" in capsys.readouterr().out
    plan(compose_runs([[*SMALL, *paths, f"model.weights='{right}'"]]), Screen())
    assert "Looking whether" not in capsys.readouterr().out
