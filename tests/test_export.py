"""An exported run gives the run's answers where there is nothing of ours, and is whole or not there."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from small import small_spec

from har_sweep import export
from har_sweep.compact.onnx_file import write_onnx
from har_sweep.errors import InputError, system_errors_told
from har_sweep.events import Tell, tell_nobody
from har_sweep.model.build import build_model
from har_sweep.record.description import read_description
from har_sweep.record.folder import read_record
from har_sweep.record.record import same_accuracy
from har_sweep.spec.run_spec import RunSpec
from har_sweep.use import files
from har_sweep.use.card import wilson, write_card
from har_sweep.use.run import FinishedRun

DOCS = Path(__file__).parent.parent / "docs" / "using_a_model.md"


def at_once(work: Callable[[Tell], Any], device: str, label: str, screen: object) -> Any:
    """Work that would be done apart, in this process, which has torch already."""
    return work(tell_nobody)


@pytest.fixture(scope="module")
def exported(finished: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("har_sweep.use.export.in_process", at_once)
        assert export.main([str(finished.paths.folder), "--to", str(folder)]) == 0
    return folder


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports in this process, whose ONNX file is there already."""
    monkeypatch.setattr("har_sweep.use.export.in_process", at_once)
    monkeypatch.setattr(
        files, "write_onnx", lambda model, plan, file, described: shutil.copy(exported / "model.onnx", file)
    )


@pytest.fixture
def pictures(finished: RunSpec) -> dict[Path, str]:
    """The run's test images and its answers."""
    table = pd.read_parquet(finished.paths.predictions)
    table = table[table["split"] == "test"]
    root = Path(read_record(finished.paths.record).dataset.root).expanduser()
    return {root / path: answer for path, answer in zip(table["path"], table["prediction"], strict=True)}


def share_of(answers: list[str], pictures: dict[Path, str]) -> float:
    return float(np.mean([one == other for one, other in zip(answers, pictures.values(), strict=True)]))


def test_what_the_system_refuses_is_told_with_the_command_s_own_way_to_another_place() -> None:
    with pytest.raises(InputError) as e, system_errors_told("Give another folder, with --to FOLDER."):
        raise PermissionError(errno.EACCES, "Permission denied", "/there")
    assert (e.value.message, e.value.hint) == ("Permission denied: /there.", "Give another folder, with --to FOLDER.")


def test_the_page_s_lines_classify_with_onnx_runtime_alone(
    exported: Path, pictures: dict[Path, str], tmp_path: Path
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "classify.py").write_text(code)
    command = [sys.executable, "classify.py", str(exported / "model.onnx"), *map(str, pictures)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    answers = [re.sub(r".*: (.*) \(.*", r"\1", line) for line in said]
    assert not {"har_sweep", "torch", "timm"} & set(re.findall(r"import (\w+)|from (\w+)", code)[0])
    assert same_accuracy(share_of(answers, pictures), 1.0, len(pictures))


def test_the_onnx_file_takes_any_number_of_images_and_says_what_it_is(finished: RunSpec, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    for images in (1, 3):
        (logits,) = session.run(None, {"images": np.zeros((images, 64, 64, 3), np.uint8)})
        assert logits.shape == (images, 15)
    about = json.loads(session.get_modelmeta().custom_metadata_map["har_sweep"])
    assert about["run_id"] == finished.run_id
    assert about["preprocessing"]["resize"].startswith("squash")
    assert read_description(exported / "model.safetensors") == read_description(finished.paths.model)


def test_timm_loads_the_folder_and_its_own_transform_gives_the_run_s_answers(
    exported: Path, pictures: dict[Path, str]
) -> None:
    model: Any = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    cfg = model.pretrained_cfg
    assert (cfg["crop_mode"], cfg["crop_pct"], cfg["interpolation"]) == ("squash", 1.0, "bilinear")
    assert tuple(cfg["input_size"]) == (3, 64, 64)
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        batch = torch.stack([transform(Image.open(file).convert("RGB")) for file in pictures])
        answers = [cfg["label_names"][place] for place in model(batch).argmax(1)]
    assert same_accuracy(share_of(answers, pictures), 1.0, len(pictures))


def test_a_model_with_a_fixed_input_is_made_by_timm_at_its_own_size(finished: RunSpec, tmp_path: Path) -> None:
    spec = small_spec(tmp_path, "model.timm_name=test_vit", "model.input_size=96")
    model = build_model(spec.config, spec.model, 15, pytest.fail).eval()
    run = FinishedRun(read_record(finished.paths.record), finished.paths, spec)
    save_file(model.state_dict(), tmp_path / files.WEIGHTS)
    files.write_config(model, run, tmp_path / files.CONFIG)
    pixels = files.squares([], 96)
    files.check_same("it", files.timms_logits(tmp_path, [], pixels), files.logits(model, run, pixels))


def test_the_card_tells_data_metrics_costs_and_licence(finished: RunSpec, exported: Path, tmp_path: Path) -> None:
    card, record = (exported / "README.md").read_text(), read_record(finished.paths.record)
    metrics, inference = record.metrics["test"], record.cost.inference
    assert inference
    images = record.dataset.counts["test"]
    low, high = wilson(metrics.accuracy, images)
    for said in [
        f"| test | {images} | {100 * metrics.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f}) |",
        "They are drawn by a program.",
        f"on 1 x {record.hardware.device_name}",
        "It was trained from scratch",
        f"compared with the run's answers on {images} of its images",
    ]:
        assert said in card
    odd = replace(record, dataset=replace(record.dataset, name="a|b <script> [x](y)"))
    write_card(FinishedRun(odd, finished.paths, finished), tmp_path / "card.md", 0)
    assert r"on a\|b \<script\> \[x\]\(y\)" in (tmp_path / "card.md").read_text()
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert "license" not in json.loads((exported / "config.json").read_text())["pretrained_cfg"]
    known = replace(record, model=replace(record.model, weights="r160_in1k"))
    config = replace(finished.config, model=replace(finished.config.model, pretrained_tag="r160_in1k"))
    assert files.licence_of(FinishedRun(known, finished.paths, replace(finished, config=config))) == "apache-2.0"


def wrong_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_mean(model: Any, plan: Any, *rest: Any) -> None:
        write_onnx(model, replace(plan, mean=(0.0, 0.0, 0.0)), *rest)

    monkeypatch.setattr(files, "write_onnx", without_mean)


def wrong_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.data.create_transform
    monkeypatch.setattr(timm.data, "create_transform", lambda **given: create(**{**given, "crop_mode": "center"}))


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)


def other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    load = files.load_model

    def turned(*given: Any) -> Any:
        model: Any = load(*given)
        model.fc.weight.data.neg_()
        return model

    monkeypatch.setattr(files, "load_model", turned)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (wrong_onnx, "model.onnx does not answer as the run does"),
        (wrong_preparation, "config.json does not answer as the run does"),
        (full_disk, "The disk became full"),
        (other_weights, "are answered otherwise than"),
    ],
)
def test_what_goes_wrong_leaves_nothing_and_an_earlier_export_as_it_was(
    finished: RunSpec, exported: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], fault: Callable[[pytest.MonkeyPatch], None], said: str,
) -> None:  # fmt: skip
    earlier = shutil.copytree(exported, tmp_path / "earlier")
    before = {file.name: file.read_bytes() for file in earlier.iterdir()}
    fault(monkeypatch)
    assert export.main([str(finished.paths.folder), "--to", str(earlier)]) == 2
    assert said in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in earlier.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]


def test_an_earlier_export_is_replaced_and_another_folder_is_not(
    finished: RunSpec, exported: Path, quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, mixed = shutil.copytree(exported, tmp_path / "again"), shutil.copytree(exported, tmp_path / "mixed")
    (again / "README.md").write_text("older")
    (mixed / "notes.txt").write_text("mine")
    project = tmp_path / "project"
    project.mkdir()
    (project / "README.md").write_text("mine")
    given = [str(finished.paths.folder), "--to"]
    assert export.main([*given, str(again)]) == 0
    assert (again / "README.md").read_text() == (exported / "README.md").read_text()
    for folder in (mixed, project):
        kept = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert export.main([*given, str(folder)]) == 2
        assert "Name another folder with --to, or remove that one." in capsys.readouterr().out
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "mixed", "project"]


def test_without_its_images_files_are_compared_on_made_up_ones_and_the_card_says_so(
    finished: RunSpec, quick: None, tmp_path: Path
) -> None:
    run = shutil.copytree(finished.paths.folder, tmp_path / "run")
    tree = json.loads((run / "record.json").read_text())
    tree["dataset"]["root"] = str(tmp_path / "gone")
    (run / "record.json").write_text(json.dumps(tree))
    assert export.main([str(run), "--to", str(tmp_path / "model")]) == 0
    assert "the network's answers on made-up pictures" in (tmp_path / "model" / "README.md").read_text()
