"""Costs of a busy machine in the report: marked, set aside while there are others, and the best measurement counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import block_of, write_run

from multirun_analysis.findings import Block
from multirun_analysis.quantities import named
from multirun_analysis.tables.tables import front_table, marks_table

SECONDS, RATE = "cost/training/seconds", "cost/training/images_per_second"
LATENCY, MEMORY = "cost/inference/latency_seconds/batch_1/p50", "cost/training/peak_memory_bytes"


def a_run(
    runs: Path, model: str, seed: int, seconds: float, latency: float, taken: float, test: float = 0.7, **more: Any
) -> None:
    """One whose training, images/s and inference others took the same share of."""
    at = {
        SECONDS: seconds, RATE: 1000 / seconds, "cost/training/disturbed_share": taken,
        "cost/training/images_disturbed_share": taken, "cost/inference/disturbed_share": taken,
        "cost/inference/latency_seconds/batch_1/p50": latency,
    }  # fmt: skip
    write_run(runs, model, seed, test=test, at={**at, **more})


def value(block: Block, model: str, column: str) -> float:
    return float(block.means[column].iat[block.labels.index(model)])


def deviation(block: Block, model: str, column: str) -> float:
    return float(block.deviations[column].iat[block.labels.index(model)])


def test_of_a_candidate_s_runs_the_best_undisturbed_measurement_counts(tmp_path: Path) -> None:
    for seed, (seconds, latency, taken) in enumerate([(22, 0.003, 0.0), (191, 0.093, 0.8), (24, 0.0028, 0.05)]):
        a_run(tmp_path, "vit_tiny", seed, seconds, latency, taken)
        a_run(tmp_path, "resnet18", seed, seconds, latency, 0.0, test=0.6)
    block = block_of(tmp_path)
    assert value(block, "vit_tiny", LATENCY) == 0.0028
    assert value(block, "vit_tiny", RATE) == pytest.approx(1000 / 22)
    assert np.isnan(deviation(block, "vit_tiny", LATENCY))
    assert value(block, "vit_tiny", SECONDS) == 23  # the mean of what was not disturbed
    assert [c.marks for c in block.candidates if c.label == "vit_tiny"] == [()]
    # What differs although nobody disturbed still says so.
    (other,) = [c for c in block.candidates if c.label == "resnet18"]
    assert {mark.cause for mark in other.marks} >= {"latency (p50, batch 1) differed between its runs"}


def test_accuracy_and_what_is_not_time_stay_means_over_all_runs(tmp_path: Path) -> None:
    for seed, (test, memory, taken) in enumerate([(0.70, 100, 0.0), (0.80, 300, 0.9)]):
        a_run(tmp_path, "vit_tiny", seed, 10, 0.001, taken, test=test, **{MEMORY: memory})
    block = block_of(tmp_path)
    assert value(block, "vit_tiny", "metrics/test/accuracy") == pytest.approx(0.75)
    assert value(block, "vit_tiny", MEMORY) == 200


def test_of_old_records_nothing_is_known_and_nothing_changes(tmp_path: Path) -> None:
    for seed, latency in enumerate([0.001, 0.002]):
        write_run(tmp_path, "vit_tiny", seed, at={LATENCY: latency})
    block = block_of(tmp_path)
    assert value(block, "vit_tiny", LATENCY) == pytest.approx(0.0015)
    assert deviation(block, "vit_tiny", LATENCY) > 0


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that were measured alone, and two beside other work; one of these is the most accurate."""
    runs = tmp_path_factory.mktemp("busy")
    a_run(runs, "resnet18", 0, 20, 0.002, 0.0, test=0.6)
    a_run(runs, "resnet50", 0, 40, 0.004, 0.02, test=0.7)
    a_run(runs, "vit_tiny", 0, 190, 0.09, 0.8, test=0.8)
    a_run(runs, "vit_base", 0, 500, 0.3, 0.5, test=0.65)
    return runs


def test_a_cost_of_a_busy_machine_is_marked_in_one_line_for_all_models(busy: Path) -> None:
    rows = [row for row in marks_table(block_of(busy)).rows if row[0].text == "measured on a busy machine"]
    ((_, models, spoilt),) = rows
    assert models.text == "vit_tiny (others took 80 % of the time), vit_base (others took 50 % of the time)"
    assert all(named(column).label in spoilt.text for column in (SECONDS, LATENCY, RATE))
    assert named(MEMORY).label not in spoilt.text


def test_it_is_on_no_front_and_in_no_sentence_while_there_are_others(busy: Path) -> None:
    block = block_of(busy)
    on = {block.labels[i] for i in np.flatnonzero(block.fronts[LATENCY].on)}
    assert on == {"resnet18", "resnet50"}
    front = front_table(block, LATENCY, block.fronts[LATENCY])
    assert {row[0].text: row[3].text for row in front.rows} == {
        "resnet18": "on", "resnet50": "on", "vit_tiny": "set aside", "vit_base": "set aside",
    }  # fmt: skip
    said = block.sentences_on[LATENCY]
    assert any("resnet50: +10.0 points" in line for line in said)
    left_out = [line for line in said if "vit_" in line]
    assert left_out == [
        "Measured on a busy machine, and so left out of what is said of latency (p50, batch 1): vit_tiny, vit_base."
    ]
    assert "vit_" not in block.headlines[LATENCY]
    # Of what a busy machine does not change everything is said.
    assert "vit_tiny" in block.headlines["cost/macs"]


def test_no_budget_is_judged_by_it(busy: Path) -> None:
    recommendation = block_of(busy, budgets=["latency<100ms"]).recommendation
    assert recommendation is not None
    said = " ".join(recommendation.sentences)
    assert "take resnet50" in said
    assert "Not considered, as a cost of theirs was measured on a busy machine: vit_tiny, vit_base." in said
    by_size = block_of(busy, budgets=["macs<100G"]).recommendation
    assert by_size is not None
    assert "take vit_tiny" in by_size.sentences[0]


def test_where_all_were_disturbed_all_are_compared_and_marked(tmp_path: Path) -> None:
    a_run(tmp_path, "resnet18", 0, 20, 0.002, 0.4, test=0.6)
    a_run(tmp_path, "vit_tiny", 0, 190, 0.09, 0.8, test=0.8)
    block = block_of(tmp_path, budgets=["latency<100ms"])
    assert not block.aside
    assert block.fronts[LATENCY].on.all()
    assert block.recommendation is not None
    assert "Mind that its costs are marked: measured on a busy machine" in " ".join(block.recommendation.sentences)


def test_a_headline_says_whose_cost_is_marked(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet18", test=0.6, cost__training__seconds=10.0)
    write_run(tmp_path, "vit_tiny", 0, test=0.8, cost__training__seconds=50.0)
    write_run(tmp_path, "vit_tiny", 1, test=0.8, cost__training__seconds=150.0)
    block = block_of(tmp_path, costs=["training_time"])
    assert "Mind that costs of vit_tiny are marked: " in block.headlines["cost/training/seconds"]


def test_one_that_is_left_alone_is_called_neither_best_nor_cheapest(tmp_path: Path) -> None:
    a_run(tmp_path, "resnet18", 0, 20, 0.002, 0.0, test=0.6)
    a_run(tmp_path, "vit_tiny", 0, 190, 0.09, 0.8, test=0.8)
    block = block_of(tmp_path)
    assert block.headlines[LATENCY] == ""
    assert not any(line.startswith("All have the same") for line in block.sentences_on[LATENCY])
    assert any("Measured on a busy machine" in line for line in block.sentences_on[LATENCY])
