"""Variants of a finished run answer as it does, are measured as it was, and stand beside it in the report."""

from __future__ import annotations

import itertools
import json
import platform
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from made_runs import a_record, block_of, write_run
from safetensors import safe_open
from scipy import stats
from small import small_spec

from har_sweep.compact import files, variants
from har_sweep.compact.compact import compact, plan_variants
from har_sweep.compact.files import images_to_compare
from har_sweep.compact.forward import _openvino_forward
from har_sweep.compact.onnx_file import onnx_forward, open_onnx
from har_sweep.compact.score import make_files
from har_sweep.compact.variants import VARIANTS, Variant, chosen_variants, usual_variants
from har_sweep.data.dataset import Dataset
from har_sweep.device.ranks import Ranks
from har_sweep.errors import InputError, RunFailure
from har_sweep.events import tell_nobody
from har_sweep.launch.again import plan_again
from har_sweep.launch.job import do_job
from har_sweep.launch.terminal import Screen
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.run.remeasure import finished_model
from har_sweep.spec.hardware import Device
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.session import Session
from multirun_analysis.analysis.comparison import SAME_TRAININGS
from multirun_analysis.tables.tables import variants_table

CPU = Device("cpu", "A processor", None, bf16=False)
WITH_BYTES = replace(CPU, instructions="avx2 avx512_vnni")


def trained(folder: Path, model: str) -> RunSpec:
    spec = small_spec(folder, f"model.timm_name={model}", "trainer.epochs=1", "hardware.cpu_threads=1")
    record = do_job(spec, tell_nobody, Stop())
    assert record is not None
    assert record.status == "done"
    return spec


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return trained(tmp_path_factory.mktemp("resnet"), "test_resnet")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return trained(tmp_path_factory.mktemp("vit"), "test_vit")


def test_each_variant_is_scored_on_the_runs_images_and_measured_and_made_once(
    resnet: RunSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, names = resnet.paths.folder.parent, "bf16,onnx"
    assert compact([resnet.run_id], names, folder, 0.0, False, Screen()) == 0
    parent = read_record(resnet.paths.record)
    made = {r.variant: r for f in folder.glob("*/record.json") if (r := read_record(f)).variant}
    assert set(made) == {"bf16", "onnx"}
    theirs = pd.read_parquet(resnet.paths.predictions)
    for name, record in made.items():
        paths = RunPaths(folder / record.run_id)
        ours = pd.read_parquet(paths.predictions)
        assert (ours[["path", "split", "label"]] == theirs[["path", "split", "label"]]).all(axis=None)
        off = np.abs(np.stack(ours["probabilities"].to_list()) - np.stack(theirs["probabilities"].to_list())).max()
        assert off < (0.05 if name == "bf16" else 1e-5)
        assert record.metrics["test"].accuracy == (ours["label"] == ours["prediction"])[ours["split"] == "test"].mean()
        assert (record.parent, record.status, record.cost.training) == (parent.run_id, "done", parent.cost.training)
        shipped = paths.model if name == "bf16" else paths.onnx
        assert record.cost.disk_bytes == shipped.stat().st_size
        assert record.cost.inference is not None
        assert record.cost.inference.latency_seconds["batch_1"]["p50"] > 0
    assert 2 * (made["bf16"].cost.disk_bytes or 0) < 1.1 * (parent.cost.disk_bytes or 0)
    before = {r.run_id: r.finished_at for r in made.values()}
    assert compact([resnet.run_id], names, folder, 0.0, False, Screen()) == 0
    assert {r.run_id: read_record(folder / r.run_id / "record.json").finished_at for r in made.values()} == before
    assert "multirun_analysis" in capfd.readouterr().out
    with pytest.raises(InputError, match=f"is a variant of {parent.run_id}"):
        plan_variants([made["onnx"].run_id], None, folder, False, Screen())
    block = block_of(folder)
    assert {(block.labels[c.parent], c.name) for c in block.variants} == {(parent.name.split()[0], n) for n in made}


def test_int8_and_openvino_answer_as_the_network_does_and_every_file_describes_itself(vit: RunSpec) -> None:
    again = plan_again([vit.paths], Screen())[0]
    names = ["int8_dynamic", "int8_static", "openvino", "openvino_int8", "fp16"]
    folders = {name: RunPaths(vit.paths.folder.parent / f"made-{name}") for name in names}
    for paths in folders.values():
        paths.folder.mkdir()
    assert make_files(again, folders, tell_nobody) == {}
    for name in ("openvino", "int8_dynamic", "int8_static"):
        made = onnx.load(folders[name].onnx)
        (about,) = (json.loads(entry.value) for entry in made.metadata_props if entry.key == "har_sweep")
        assert (about["run_id"], about["input_size"]) == (vit.run_id, again.model.input_size)
        if name == "openvino":
            continue
        assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in made.graph.initializer)
        if name == "int8_static" and platform.machine() in ("x86_64", "AMD64"):  # what its instructions multiply
            scaled = {node.input[2] for node in made.graph.node if node.op_type == "QuantizeLinear"}
            zeros = [tensor for tensor in made.graph.initializer if tensor.name in scaled]
            assert {tensor.data_type for tensor in zeros} == {onnx.TensorProto.UINT8}
    images = images_to_compare(Session.begin(again, Dataset.read(again.dataset_file), Ranks(), tell_nobody, Stop()))
    file = folders["openvino_int8"].onnx
    by_openvino = _openvino_forward(file)
    for count in (1, 7, 64):  # compiled for each
        answers, wanted = by_openvino(images[:count]), onnx_forward(open_onnx(file))(images[:count])
        assert files.distance(answers.numpy(), wanted.numpy()) < 0.2
    with safe_open(folders["fp16"].model, "pt") as tensors:
        assert json.loads(tensors.metadata()["har_sweep"])["timm_name"] == "test_vit"
        assert tensors.get_tensor("head.weight").dtype == torch.float16


def test_a_file_that_answers_otherwise_is_a_failure_and_the_layer_is_named(
    resnet: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = plan_again([resnet.paths], Screen())[0]
    session = Session.begin(again, Dataset.read(again.dataset_file), Ranks(), tell_nobody, Stop())
    network = files.Network(finished_model(session).eval(), session, files.images_to_compare(session), tmp_path)
    whole = network.onnx
    broken = onnx.load(whole)
    (victim,) = (t for t in broken.graph.initializer if t.name.endswith("layer3.0.downsample.1.weight"))
    victim.CopyFrom(onnx.numpy_helper.from_array(-3 * onnx.numpy_helper.to_array(victim), victim.name))
    onnx.save(broken, tmp_path / "broken.onnx")
    paths = RunPaths(tmp_path / "variant")
    paths.folder.mkdir()
    copy = partial(Path.write_bytes, data=(tmp_path / "broken.onnx").read_bytes())
    monkeypatch.setattr(files, "_write", lambda variant, network, path: copy(path))
    with pytest.raises(RunFailure, match=r"layer that differs is layer3\.0\.downsample"):
        files.make_file(VARIANTS["onnx"], network, paths)
    assert not paths.onnx.exists()

    def without_compiler(variant: Variant, *rest: Any) -> None:
        if variant.name == "fp16":
            raise RuntimeError("InvalidCxxCompiler: none of this name\nand a long way down")

    monkeypatch.setattr(files, "check_answers", without_compiler)
    folders = {name: RunPaths(tmp_path / name) for name in ("fp16", "bf16")}
    for each in folders.values():
        each.folder.mkdir()
    failed = make_files(again, folders, tell_nobody)
    assert failed == {"fp16": "fp16 could not be made: InvalidCxxCompiler: none of this name."}
    assert folders["bf16"].model.exists()


@pytest.mark.parametrize(
    ("given", "device", "told"),
    [
        ("int8", CPU, "There is no variant 'int8'"),
        ("onnx,int9_static", CPU, "int8_static"),
        ("onnx", replace(CPU, kind="mps", name="Apple GPU"), "does not compute on Apple GPU"),
        ("int8_static", replace(CPU, kind="cuda", name="T4"), "computes on a processor"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(vit: RunSpec, given: str, device: Device, told: str) -> None:
    with pytest.raises(InputError) as refused:
        chosen_variants(given, read_record(vit.paths.record), device)
    assert told in f"{refused.value.message} {refused.value.hint}"


def test_a_missing_runtime_is_named_with_what_to_install(vit: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(InputError, match="openvino needs openvino, which is not installed") as refused:
        chosen_variants("openvino", read_record(vit.paths.record), CPU)
    assert "[compact,openvino]" in refused.value.hint
    assert "openvino" not in usual_variants(read_record(vit.paths.record), CPU)


def test_an_onnx_runtime_that_cannot_load_its_cuda_does_not_take_the_processor_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This one was built without it, which it treats as it does libraries that are missing."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "same", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 18)]
    file = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()
    assert open_onnx(file).get_providers() == ["CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(InputError, match="would compute on the processor"):
        open_onnx(file, cuda=True)


def test_without_a_compiler_there_is_no_compiled_variant_on_any_device(
    vit: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    t4 = Device("cuda", "T4", None, bf16=False, fp16=True)
    monkeypatch.setattr("shutil.which", lambda name: None if name == "c++" else name)
    assert usual_variants(read_record(vit.paths.record), t4) == ["fp16"]
    for device in (CPU, t4):
        with pytest.raises(InputError, match="compiled needs a C\\+\\+ compiler"):
            chosen_variants("compiled", read_record(vit.paths.record), device)


def test_the_usual_variants_are_what_the_device_has_instructions_for(vit: RunSpec, resnet: RunSpec) -> None:
    attends, convolves = read_record(vit.paths.record), read_record(resnet.paths.record)
    assert usual_variants(attends, CPU)[:1] == usual_variants(convolves, CPU)[:1] == ["onnx"]
    assert not [name for name in usual_variants(attends, CPU) if "int8" in name or name == "bf16"]
    assert "int8_dynamic" in usual_variants(attends, WITH_BYTES)
    assert "int8_static" in usual_variants(convolves, WITH_BYTES)
    assert "bf16" in usual_variants(attends, replace(CPU, bf16=True))
    assert usual_variants(attends, Device("cuda", "T4", None, bf16=False, fp16=True))[0] == "fp16"


def test_the_change_is_of_the_same_trainings_and_images(tmp_path: Path) -> None:
    right = {"big": [], "big int8_static": []}  # type: dict[str, list[np.ndarray]]
    for seed, lost in ((0, 0.0), (1, 0.03), (2, 0.12)):
        parent = write_run(tmp_path, "big", seed, test=0.8)
        made = write_run(
            tmp_path, "big int8_static", seed, test=0.8 - lost, parent=parent.run_id, variant="int8_static"
        )
        for record, answers in zip((parent, made), right.values(), strict=True):
            table = pd.read_parquet(tmp_path / record.run_id / "predictions.parquet").query("split == 'test'")
            answers.append((table["label"] == table["prediction"]).to_numpy())
    block = block_of(tmp_path)
    (change,) = block.variants
    assert (block.labels[change.parent], block.labels[change.variant], change.runs) == ("big", "big int8_static", 3)
    gaps = np.stack(right["big int8_static"]).astype(float) - np.stack(right["big"])
    assert change.difference == pytest.approx(gaps.mean())
    runs, images = gaps.shape  # a two-way analysis of variance, by its mean squares
    of_images = runs * gaps.mean(0).var(ddof=1)
    of_runs = images * gaps.mean(1).var(ddof=1)
    rest = gaps - gaps.mean(0) - gaps.mean(1, keepdims=True) + gaps.mean()
    noise = (rest**2).sum() / ((runs - 1) * (images - 1))
    error = ((of_images + of_runs - noise) / (runs * images)) ** 0.5
    assert change.p is not None
    t = stats.t.isf(change.p / 2, df := _freedom(of_images, of_runs, noise, runs, images))
    assert abs(change.difference) / error == pytest.approx(t, rel=1e-6)
    assert change.high - change.low == pytest.approx(2 * error * stats.t.ppf(0.975, df), rel=1e-6)
    # As two models, trained apart, they are not compared.
    (pair,) = block.comparisons
    assert (pair.p, pair.reason) == (None, SAME_TRAININGS)
    assert not [said for of_cost in block.sentences_on.values() for said in of_cost if " is ahead of " in said]


def _freedom(of_images: float, of_runs: float, noise: float, runs: int, images: int) -> float:
    """Satterthwaite's, of a sum of mean squares."""
    degrees = images - 1, runs - 1, (images - 1) * (runs - 1)
    squares = (of_images, of_runs, noise)
    return (of_images + of_runs - noise) ** 2 / sum(s**2 / d for s, d in zip(squares, degrees, strict=True))


def test_the_report_ties_variants_to_their_parent_in_words_and_table(tmp_path: Path) -> None:
    at = {"cost/inference/latency_seconds/batch_1/p50": 0.002, "cost/disk_bytes": 11_000_000}
    at["cost/inference/images_per_second"] = 3 * (a_record().cost.inference.images_per_second or 0)  # type: ignore[union-attr]
    parent = write_run(tmp_path, "big", test=0.8)
    write_run(
        tmp_path, "big int8_static", test=0.8, parent=parent.run_id, variant="int8_static", at=at,
        hardware__precision="int8", hardware__unaccelerated="int8", epochs=[], selected_epoch=None,
    )  # fmt: skip
    block = block_of(tmp_path)
    (change,) = block.variants
    (said,) = (sentence for sentence in block.remarks if " as int8_static" in sentence)
    assert said.startswith(
        "big as int8_static: 2 times as fast at batch 1 without instructions for int8, 4 times smaller"
    )
    assert said.endswith("within chance.")
    table = variants_table(block).to_frame()
    named = ["model", "variant", "times smaller", "times as fast", "times the parent's"]
    assert table.loc[0, named].tolist() == ["big", "int8_static", 4, 2, 3]
    assert [candidate.variant for candidate in block.candidates] == ["", "int8_static"]
    assert not [family for family in block.families if change.variant in family.members]
    causes = [mark.cause for mark in block.candidates[change.variant].marks]
    assert "no instructions for int8" in causes
    assert "precision unlike others'" not in causes


def test_a_variant_of_a_trial_that_was_not_chosen_is_tied_to_nobody_and_that_is_noted(tmp_path: Path) -> None:
    parent = write_run(tmp_path, "big", val=0.6, config__optimizer__lr=1e-2)
    write_run(tmp_path, "big", val=0.8, config__optimizer__lr=1e-3)
    write_run(tmp_path, "big onnx", parent=parent.run_id, variant="onnx", config__optimizer__lr=1e-2)
    block = block_of(tmp_path)
    assert not block.variants
    assert [note for note in block.notes if note.startswith("Not tied") and note.endswith(": big onnx.")]


def test_a_family_is_no_surer_for_what_was_made_of_its_runs(tmp_path: Path) -> None:
    for seed, model in itertools.product(range(2), ("resnet18", "vit_tiny")):
        parent = write_run(tmp_path, model, seed, test=0.8 if model == "vit_tiny" else 0.7)
        at = {"cost/inference/latency_seconds/batch_1/p50": 0.001}
        write_run(tmp_path, f"{model} bf16", seed, test=0.81, parent=parent.run_id, variant="bf16", at=at)
    block = block_of(tmp_path)
    pairs = [pair for of_cost in block.between_families.values() for pair in of_cost]
    assert pairs
    assert {block.candidates[place].variant for pair in pairs for own in pair.members for place in own} == {""}
