"""The study's recipe gives the study's tables, beside its own numbers; and nobody takes its accuracies for held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import ask, write_run

from multirun_analysis.analysis.marks import Mark
from multirun_analysis.findings import Analysis
from multirun_analysis.outputs.terminal import show
from multirun_analysis.report.page import page
from multirun_analysis.tables.table import Table
from multirun_analysis.tables.tables import tables


def paper_run(runs: Path, model: str, seed: int = 0, *more: str, **changes: Any) -> None:
    overrides = ["experiment=paper", f"model={model}", f"seed={seed}", "paths.runs=runs", *more]
    write_run(runs, model, seed, overrides=overrides, selection="last", dataset__test_is_val=True, **changes)


def study_of(analysis: Analysis) -> dict[str, Table]:
    return {table.kind: table for table in tables(analysis) if table.kind.startswith("study")}


def lines(table: Table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_runs_of_the_recipe_stand_beside_the_published_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, seconds in enumerate((110.0, 120.0)):
        sure: dict[str, Any] = {"val": 0.605, "test": 0.605, "cost__disk_bytes": 44_816_000}
        paper_run(tmp_path, "resnet18", seed, **sure, cost__training__seconds_with_validation=seconds)
    paper_run(tmp_path, "vit_tiny")
    paper_run(tmp_path, "resnet18", 2, "optimizer.lr=0.1", val=0.3, test=0.3)  # another recipe
    analysis = ask(tmp_path)
    found = study_of(analysis)
    assert found["study1"].columns == [
        "", "ResNet-18", "ResNet-18, published", "ViT-B/16", "ViT-B/16, published", "ViT-Ti/16", "ViT-Ti/16, published",
    ]  # fmt: skip
    assert lines(found["study1"])["accuracy (%)"] == ["60.50", "58.25", "-", "77.46", "70.00", "72"]
    costs = lines(found["study2"])
    assert costs["size on disk (MiB)"][:4] == ["42.74", "42.74", "-", "327.39"]
    assert costs["training time, 5 epochs, with validation (s)"][:2] == ["115.0 ± 7.1", "100.86"]
    assert costs["training time, 5 epochs, without validation (s)"][:2] == ["100.00", "-"]
    show(analysis, tables(analysis))
    shown = capsys.readouterr().out
    assert "The study's Table 2" in shown
    assert "822.61" in shown
    assert "watched while training" in shown
    assert "The study's Table 1" in page(analysis, tables(analysis))


def test_without_a_run_of_the_recipe_there_is_nothing_of_the_study(tmp_path: Path) -> None:
    write_run(tmp_path)
    paper_run(tmp_path, "vit_base", 0, "trainer.epochs=1")
    paper_run(tmp_path, "vit_tiny", status="failed")
    assert study_of(ask(tmp_path)) == {}


def test_an_accuracy_on_images_that_were_watched_is_marked(tmp_path: Path) -> None:
    paper_run(tmp_path, "resnet18")
    write_run(tmp_path, "vit_tiny")
    (block,) = ask(tmp_path).blocks
    marks = {candidate.label: candidate.marks for candidate in block.candidates}
    accuracy = frozenset(["metrics/test/accuracy"])
    assert Mark("its test images were watched while training", accuracy) in marks["resnet18"]
    assert not [mark for mark in marks["vit_tiny"] if "watched" in mark.cause]


def test_a_trial_that_is_chosen_on_them_and_an_epoch_too_are_marked(tmp_path: Path) -> None:
    for lr in (0.1, 0.01):
        write_run(tmp_path, dataset__test_is_val=True, selection="best", at={"config/optimizer/lr": lr})
    (block,) = ask(tmp_path).blocks
    causes = {mark.cause for candidate in block.candidates for mark in candidate.marks}
    assert causes >= {
        "its test images were watched while training", "its epoch was chosen on the images it is reported on",
        "chosen on the images it is reported on",
    }  # fmt: skip
