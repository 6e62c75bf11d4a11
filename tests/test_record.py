"""The record is always readable, whole, in SI units, and holds neither homes nor numbers that are none."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest

from har_sweep.errors import InputError
from har_sweep.files import atomic
from har_sweep.record.folder import DamagedRecord, RunPaths, read_record, write_record
from har_sweep.record.record import (
    ClassMetrics,
    DatasetInfo,
    Environment,
    Epoch,
    Hardware,
    Metrics,
    ModelInfo,
    Record,
    confusions,
    contradictions,
    flatten,
    utc_now,
)


def a_record(**changes: object) -> Record:
    record = Record(
        run_id="resnet18-0123456789",
        status="running",
        name="resnet18",
        sweeps=["s"],
        seed=0,
        config={"data": {"root": f"{Path.home()}/photos"}},
        overrides=["data.root=~/photos"],
        started_at=utc_now(),
        environment=Environment("3.11", {}, None, None, "host", "Linux", None),
        hardware=Hardware("cpu", "a CPU", 1, "bf16"),
        dataset=DatasetInfo("sample", "f", "s", ["a", "b"], {"train": 1, "val": 1, "test": 1}),
        model=ModelInfo("resnet18", "resnet18", "scratch", [3, 224, 224]),
        epochs=[Epoch(1, math.nan, math.inf, 0.5, 1e-3, 1.0)],
    )
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = a_record(config={"seed": 0}, epochs=[Epoch(1, 1.5, 1.25, 0.5, 1e-3, 1.0)])
    write_record(record, RunPaths(tmp_path))
    assert read_record(tmp_path / "record.json") == record


def test_numbers_that_are_none_become_null_and_the_file_stays_json(tmp_path: Path) -> None:
    write_record(a_record(), RunPaths(tmp_path))
    epoch = json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail)["epochs"][0]
    assert epoch["train_loss"] is None
    assert epoch["val_loss"] is None


def test_no_home_folder_is_written(tmp_path: Path) -> None:
    write_record(a_record(), RunPaths(tmp_path))
    text = (tmp_path / "record.json").read_text()
    assert f"{Path.home()}/" not in text
    assert '"~/photos"' in text


def test_the_design_s_names_are_all_there(tmp_path: Path) -> None:
    write_record(a_record(), RunPaths(tmp_path))
    tree = json.loads((tmp_path / "record.json").read_text())
    expected = (
        "schema_version run_id status name sweeps seed config overrides started_at finished_at attempts environment "
        "hardware dataset model epochs metrics selected_epoch selection cost error"
    )
    assert set(tree) >= set(expected.split())
    assert tree["schema_version"] == 2
    static = {"parameters", "trainable_parameters", "disk_bytes", "macs", "macs_without_attention_products"}
    assert static | {"training", "inference", "device_hours", "price"} == set(tree["cost"])


def test_flat_names_are_paths_joined_by_slashes() -> None:
    flat = flatten(a_record())
    assert flat["cost/training/seconds"] == 0.0
    assert flat["hardware/precision"] == "bf16"
    assert flat["config/data/root"] == f"{Path.home()}/photos"
    assert flat["dataset/classes"] == ["a", "b"]
    assert not {"epochs", "attempts"} & set(flat)
    assert flatten(a_record(config={"trainer": {"epochs": 5}}))["config/trainer/epochs"] == 5


def test_a_newer_schema_and_a_broken_file_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"schema_version": 3}')
    with pytest.raises(InputError, match="schema_version 3"):
        read_record(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"record\.json is not a run's record"):
        read_record(path)


def of_split(matrix: list[list[int]]) -> Metrics:
    images, right = sum(map(sum, matrix)), sum(row[n] for n, row in enumerate(matrix))
    each = {f"class {n:04}": ClassMetrics(1 / (n + 3), 1 / (n + 7), 1 / (n + 9), 50) for n in range(len(matrix))}
    averages = dict.fromkeys([f.name for f in fields(Metrics)][1:-2], 0.5)
    return Metrics(accuracy=right / images, **averages, per_class=each, confusion=confusions(matrix))


def as_version_1(file: Path, matrices: dict[str, list[list[int]]]) -> None:
    """Let a record be one of before, with whole confusion matrices."""
    tree = json.loads(file.read_text())
    for split, matrix in matrices.items():
        tree["metrics"][split]["confusion"] = matrix
    file.write_text(json.dumps(tree | {"schema_version": 1}))


# Of three classes the rows of a matrix are as long as those of what has taken its place.
@pytest.mark.parametrize(
    "matrix", [[[5, 1, 0], [0, 4, 2], [1, 0, 7]], [[3, 1], [0, 2]], [[4]], [[0] * 3, [1] * 3, [9] * 3]]
)
def test_a_record_of_schema_1_is_read_and_written_as_one_of_today(tmp_path: Path, matrix: list[list[int]]) -> None:
    record = a_record(config={}, epochs=[], metrics={"val": of_split(matrix), "test": of_split(matrix)})
    paths = RunPaths(tmp_path)
    write_record(record, paths)
    now = paths.record.read_bytes()
    as_version_1(paths.record, dict.fromkeys(record.metrics, matrix))
    old = read_record(paths.record)
    assert old == record
    assert {(t, a): n for t, a, n in old.metrics["val"].confusion} == {
        (t, a): n for t, row in enumerate(matrix) for a, n in enumerate(row) if n
    }
    write_record(old, paths)
    assert paths.record.read_bytes() == now
    as_version_1(paths.record, {"val": matrix, "test": [[1], 2]})  # type: ignore[list-item]
    with pytest.raises(DamagedRecord, match=r"record\.json is not a run's record"):
        read_record(paths.record)


def test_a_record_of_a_thousand_classes_is_less_than_3_mb(tmp_path: Path) -> None:
    matrix = [[0] * 1000 for _ in range(1000)]
    for truth in range(1000):  # 50,000 images, of which three quarters are right; the others are taken for ten classes
        matrix[truth][truth] = 37
        for neighbour in range(1, 11):
            matrix[truth][(truth + neighbour) % 1000] = 2 if neighbour < 4 else 1
    record = a_record(config={}, epochs=[], metrics={"val": of_split(matrix), "test": of_split(matrix)})
    write_record(record, RunPaths(tmp_path))
    assert (tmp_path / "record.json").stat().st_size < 3_000_000
    assert read_record(tmp_path / "record.json") == record
    wrong = replace(record, status="done", metrics={"val": replace(record.metrics["val"], accuracy=0.9)})
    assert contradictions(wrong) == ["its val accuracy is 0.9000, and 0.7400 by its confusions"]


def _write_for_ever(path: Path) -> None:
    record, n = a_record(), 0
    while True:
        n += 1
        record.warnings = [str(n)] * 2000
        write_record(record, RunPaths(path.parent))


def test_kill_9_at_any_moment_leaves_a_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(a_record(warnings=["0"] * 2000), RunPaths(tmp_path))
    for _ in range(5):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(path,))
        process.start()
        seen = read_record(path).warnings[0]
        while read_record(path).warnings[0] == seen:  # until it writes
            pass
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(set(read_record(path).warnings)) == 1


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic(path, "w") as file:
            file.write("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
