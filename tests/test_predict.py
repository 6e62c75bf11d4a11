"""A finished run at work: the answers that it gave, for pictures as people have them, however they are named."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from har_sweep import export, predict
from har_sweep.data.decode import PREPROCESSING, decode, resize
from har_sweep.events import tell_nobody
from har_sweep.record.description import describe, read_description
from har_sweep.record.folder import read_record
from har_sweep.spec.run_spec import RunSpec


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is done apart is done in this process, which has torch already."""

    def at_once(work: Callable[..., Any], device: str, label: str, screen: object) -> Any:
        return work(tell_nobody)

    monkeypatch.setattr("har_sweep.use.predict.in_process", at_once)


@pytest.fixture
def copied(finished: RunSpec, tmp_path: Path) -> Path:
    """The run's folder, to be changed."""
    return shutil.copytree(finished.paths.folder, tmp_path / "runs" / finished.run_id)


def of_test(spec: RunSpec) -> pd.DataFrame:
    table = pd.read_parquet(spec.paths.predictions)
    return table[table["split"] == "test"]


def root_of(spec: RunSpec) -> Path:
    return Path(read_record(spec.paths.record).dataset.root).expanduser()


def answered(run: Path, *words: object, capsys: pytest.CaptureFixture[str], status: int = 0) -> dict[str, Any]:
    assert predict.main([str(run), *map(str, words), "--json", "-"]) == status
    tree: dict[str, Any] = json.loads(capsys.readouterr().out)
    return tree


def test_the_test_images_get_the_record_s_probabilities_to_the_bit(
    finished: RunSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recorded, classes = of_test(finished), read_record(finished.paths.record).dataset.classes
    recorded[["path"]].rename(columns={"path": "file"}).to_csv(tmp_path / "files.csv", index=False)
    root = root_of(finished)
    given = [str(finished.paths.folder), str(tmp_path / "files.csv"), "--column", "file", "--root", str(root)]
    assert predict.main([*given, "--top", "1000", "--json", "-"]) == 0
    told = capfd.readouterr()
    found = json.loads(told.out)
    assert "Loading torch and timm" in told.err
    assert found["run"] == finished.run_id
    assert [image["path"] for image in found["images"]] == list(recorded["path"])
    for image, wanted, best in zip(found["images"], recorded["probabilities"], recorded["prediction"], strict=True):
        probabilities = {each["class"]: each["probability"] for each in image["classes"]}
        assert [probabilities[name] for name in classes] == [float(p) for p in wanted]
        assert image["classes"][0]["class"] == best


def test_pictures_of_any_kind_are_treated_as_in_training_and_broken_ones_are_named(
    finished: RunSpec, tmp_path: Path, here: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, random = tmp_path / "pictures", np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    pixels = random.integers(0, 256, (50, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(folder / "a.png")
    picture.convert("CMYK").save(folder / "b.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) << 8).save(folder / "c.png")
    frames = [picture, Image.new("RGB", (80, 50), "red")]
    frames[0].save(folder / "d.gif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "deep" / "e.jpg", exif=turned)
    (folder / "f.jpg").write_bytes((folder / "b.jpg").read_bytes()[:900])
    (folder / "g.jpg").write_bytes(b"")
    (folder / "h.heic").write_bytes(b"?")

    seen = list[torch.Tensor]()

    def watched(run: object, warn: object) -> Any:
        def forward(images: torch.Tensor) -> torch.Tensor:
            seen.append(images.clone())
            return images.float().mean((1, 2, 3))[:, None] * torch.ones(15)

        return forward, torch.device("cpu")

    monkeypatch.setattr("har_sweep.use.answer.forward_of_run", watched)
    found = answered(finished.paths.folder, folder, capsys=capsys, status=1)
    good = ["a.png", "b.jpg", "c.png", "d.gif", "deep/e.jpg"]
    assert [image["path"] for image in found["images"]] == [f"{folder}/{name}" for name in good]
    wanted = np.stack([resize(decode(folder / name, 10**8), 64) for name in good])
    assert np.array_equal(torch.cat(seen).numpy(), wanted)
    assert [(broken["path"], broken["reason"]) for broken in found["broken"]] == [
        (f"{folder}/f.jpg", found["broken"][0]["reason"]),
        (f"{folder}/g.jpg", "empty file"),
    ]
    assert "truncated or corrupt" in found["broken"][0]["reason"]

    out, sheet = tmp_path / "answers.csv", tmp_path / "sheet.png"
    assert predict.main([str(finished.paths.folder), str(folder), "--csv", str(out), "--sheet", str(sheet)]) == 1
    said = capsys.readouterr().out
    assert "left out, as such files are not decoded: 1 .heic" in said
    assert f"2 images cannot be used:\n  {folder}/f.jpg: truncated or corrupt" in said
    assert [row["path"] for row in csv.DictReader(out.open())] == [f"{folder}/{name}" for name in good]
    assert Image.open(sheet).size[0] > 500


def test_batches_are_whole_but_for_the_last_and_a_broken_picture_costs_its_place_alone(tmp_path: Path) -> None:
    from har_sweep.data.batches import picture_batches

    files = [tmp_path / f"{n}.png" for n in range(7)]
    for n, file in enumerate(files):
        Image.new("RGB", (20, 20), (n, n, n)).save(file)
    files[3].write_bytes(b"no picture")
    found = list(picture_batches(files, 16, 3, 10**6, threads=2, ahead=False))
    assert [batch.indices.tolist() for batch in found] == [[0, 1, 2], [4, 5], [6]]
    assert [list(batch.broken) for batch in found] == [[], [3], []]
    assert [batch.images[:, 0, 0, 0].tolist() for batch in found] == [[0, 1, 2], [4, 5], [6]]


def test_weights_say_what_they_are_of_and_older_ones_are_read_by_their_record(
    finished: RunSpec, copied: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    record, model = read_record(finished.paths.record), finished.model
    said = read_description(finished.paths.model)
    assert said is not None
    assert (said.run_id, said.timm_name, said.epoch) == (record.run_id, "test_resnet", record.selected_epoch)
    assert (said.classes, said.input_size) == (record.dataset.classes, 64)
    assert (said.mean, said.std) == (list(model.mean), list(model.std))
    assert said.preprocessing == PREPROCESSING

    image = root_of(finished) / of_test(finished)["path"].iloc[0]
    before = answered(copied, image, capsys=capsys)
    save_file(load_file(copied / "model.safetensors"), copied / "model.safetensors", {"epoch": "2"})
    older = describe(record, copied / "model.safetensors")
    assert (older.classes, older.input_size, older.mean, older.preprocessing) == (
        said.classes,
        said.input_size,
        said.mean,
        None,
    )
    assert answered(copied, image, capsys=capsys) == before


def test_where_the_run_s_device_is_not_here_it_answers_in_float32_and_says_so(
    finished: RunSpec, copied: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = json.loads((copied / "record.json").read_text())
    tree["hardware"] |= {"device": "mps", "device_name": "Apple GPU", "precision": "bf16"}
    (copied / "record.json").write_text(json.dumps(tree))
    image = root_of(finished) / of_test(finished)["path"].iloc[0]
    assert predict.main([str(copied), str(image), "--device", "cpu"]) == 0
    assert "It ran on Apple GPU in bf16, and answers on" in capsys.readouterr().out
    assert predict.main([str(copied), str(image), "--device", "mps"]) == 2
    assert "--device mps: this machine has" in capsys.readouterr().out


def test_a_name_that_a_spreadsheet_would_compute_is_text_in_the_csv(
    finished: RunSpec, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("=1+1.png")
    assert predict.main([str(finished.paths.folder), "=1+1.png", "--csv", "out.csv", "--top", "2"]) == 0
    (row,) = csv.DictReader(Path("out.csv").read_text().splitlines())
    assert row["path"] == "'=1+1.png"
    assert list(row) == ["path", "class", "probability", "class_2", "probability_2"]
    assert float(row["probability"]) >= float(row["probability_2"])


def test_what_cannot_be_used_is_refused_in_a_sentence_and_nothing_is_written(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copied.name
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (20, 20)).save("a.png")
    Path("files.csv").write_text("file,label\na.png,x\n")
    Path("away.csv").write_text("path\n../elsewhere.png\n")
    unfinished = shutil.copytree(copied, copied.with_name("unfinished-1"))
    tree = json.loads((unfinished / "record.json").read_text()) | {"status": "interrupted", "run_id": "unfinished-1"}
    (unfinished / "record.json").write_text(json.dumps(tree))
    (shutil.copytree(copied, copied.with_name("without-1")) / "model.safetensors").unlink()
    variant = shutil.copytree(copied, copied.with_name("variant-1"))
    tree |= {"status": "done", "parent": run, "variant": "openvino", "run_id": "variant-1"}
    (variant / "record.json").write_text(json.dumps(tree))
    monkeypatch.setattr("har_sweep.compact.variants.find_spec", lambda package: None)
    foreign = shutil.copytree(copied, copied.with_name("foreign-1"))
    tree["config"]["model"]["_target_"], tree["config"]["targets"] = "nets.small", {"nets.small": "1"}
    (foreign / "record.json").write_text(json.dumps(tree | {"variant": None}))
    foreign.chmod(0o777)
    before = sorted(path for path in tmp_path.rglob("*"))
    for given, expected in [
        (["unfinished-1", "a.png"], "unfinished-1 is interrupted, not done. The same sweep command goes on with it."),
        (["without-1", "a.png"], "has kept no weights. Compute it again with trainer.save_model=true"),
        (["variant-1", "a.png"], "which are not installed. pip install 'har_sweep[compact,openvino]'"),
        (["foreign-1", "a.png"], "so that somebody else could exchange it."),
        (["nobody", "a.png"], "There is no run and no sweep 'nobody' in runs."),
        ([run, "empty"], "empty has no images in it. Name a folder that has."),
        ([run, "gone.jpg"], "gone.jpg does not exist. Name an image, a folder of images, or a table of paths."),
        ([run, "files.csv"], "files.csv has no column for --column=path: its columns are file, label."),
        ([run, "away.csv"], "row 2: ../elsewhere.png leaves the folder"),
        ([run], "A run and pictures are needed."),
        ([run, "a.png", "--top", "0"], "--top 0 are no classes."),
        ([run, "a.png", "--csv", "empty"], "empty is a folder."),
        ([run, "a.png", "tpo=3"], "'tpo=3' says nothing here."),
        ([run, "a.png", "top=3"], "Write --top 3."),
        ([run, "a.png", "--csv", "-", "--json", "-"], "CSV and JSON cannot both go to stdout."),
        ([run, "a.png", "--csv", "all", "--json", "./all"], "./all is named twice, and would be written over."),
        ([run, "files.csv", "--column", "file", "--csv", "files.csv"], "files.csv is named twice"),
        (
            [run, "empty", "--column", "file"],
            "--column file is for tables of paths (.csv, .tsv, .txt), and none is given.",
        ),
        ([run, "a.png", "--root", "empty"], "--root empty is for tables of paths"),
    ]:
        assert predict.main(given) == 2, given
        said = capsys.readouterr()
        assert expected.replace(" ", "") in "".join((said.out + said.err).split()), (given, said)
    for given in (["unfinished-1"], ["without-1"]):
        assert export.main(given) == 2
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_where_no_picture_can_be_used_the_status_is_that_of_bad_input(
    finished: RunSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str], here: None
) -> None:
    (tmp_path / "rotten.jpg").write_text("none")
    assert predict.main([str(finished.paths.folder), str(tmp_path / "rotten.jpg")]) == 2
    assert "1 image cannot be used" in " ".join(capsys.readouterr().out.split())


def test_damaged_weights_that_answer_with_no_numbers_are_named(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], here: None
) -> None:
    file = copied / "model.safetensors"
    save_file({name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor
               for name, tensor in load_file(file).items()}, file)  # fmt: skip
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert predict.main([str(copied), str(tmp_path / "a.png")]) == 2
    said = capsys.readouterr()
    assert "model.safetensorscannotbeused:whatitsweightsanswerisnotfinite" in "".join((said.out + said.err).split())


def test_planning_an_answer_or_an_export_loads_no_torch() -> None:
    code = "import sys, har_sweep.predict, har_sweep.export, har_sweep.use.predict, har_sweep.use.export\n"
    code += "print('torch' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout == "False\n"
