"""What an analysis claims is what the data carry, and no more."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_runs import CLASSES, ask, block_of, quiet, write_run
from PIL import Image
from scipy import stats

from har_sweep.errors import InputError
from har_sweep.record.folder import RunPaths, write_record
from multirun_analysis.analysis.statistics import mcnemar
from multirun_analysis.findings import JOINT, Block, Comparison
from multirun_analysis.sources.read import read_runs

LATENCY, SECONDS = "cost/inference/latency_seconds/batch_1/p50", "cost/training/seconds"


def pair(block: Block, *labels: str) -> Comparison:
    (found,) = [c for c in block.comparisons if {block.labels[c.first], block.labels[c.second]} == set(labels)]
    return found


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three models as in the study: the small transformer beats the ResNet at its price, the large one costs more."""
    for model, accuracy, seconds, latency in [
        ("resnet18", 0.58, 100.0, 0.002), ("vit_tiny", 0.72, 102.0, 0.004), ("vit_base", 0.77, 820.0, 0.009)
    ]:  # fmt: skip
        for seed in range(3):
            write_run(
                tmp_path, model, seed, val=accuracy, test=accuracy + 0.005 * seed, images=1890,
                cost__training__seconds=seconds + seed, at={LATENCY: latency},
            )  # fmt: skip
    return tmp_path


def test_the_findings_are_sentences_that_a_person_would_write(study: Path) -> None:
    block = block_of(study)
    up, step, families = block.sentences
    assert families.startswith(
        "vit (vit_tiny, vit_base) against resnet (resnet18), by what is on each one's front: +16.5 "
    )
    assert re.fullmatch(
        r"vit_tiny: \+14\.0 points \(\+1\d\.\d to \+1\d\.\d\) over resnet18 for 1\.02 times the training time; "
        r"certain \(p < 0\.001\)\.",
        up,
    )
    assert step.startswith("vit_base: +5.0 points (+")
    assert step.endswith("over vit_tiny for 8.0 times the training time; certain (p < 0.001).")
    assert block.headline.startswith(
        "Best value: vit_tiny, 72.50 % with 103 s training time. "
        "The next step up is the best: vit_base, 77.50 % with 821 s training time: +5.0 points for 8.0 times the "
        "training time, certain (p < 0.001)."
    )


def test_the_page_s_other_costs_have_findings_of_their_own(study: Path) -> None:
    write_run(study, "resnet_slow", test=0.58, images=1890, cost__training__seconds=900.0, at={LATENCY: 0.001})
    block = block_of(study, costs=["training_time", "latency"])
    assert list(block.headlines) == [SECONDS, LATENCY]
    assert any(s.startswith("These trained networks, not the models: vit_base") for s in block.sentences_on[SECONDS])
    assert not any("vit_base dominates" in s for s in block.sentences_on[LATENCY])
    assert block.pairs[0, 1].claimed


def test_at_most_a_dozen_sentences_and_what_was_not_tested_is_said_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(30):
        share = round(float(random.uniform(0.4, 0.9)), 2)
        record = write_run(tmp_path, f"model{number:02}", test=share, cost__training__seconds=float(number + 1))
        if number % 2:
            RunPaths(tmp_path / record.run_id).predictions.unlink()
    said = block_of(tmp_path).sentences
    assert len(said) <= 12
    assert sum("not tested" in s or "tested for more" in s for s in said) == 1


def test_dominating_is_claimed_only_where_it_is_certain(tmp_path: Path) -> None:
    write_run(tmp_path, "good", test=0.80, cost__training__seconds=100.0)
    write_run(tmp_path, "slow_and_bad", test=0.50, cost__training__seconds=200.0)
    write_run(tmp_path, "slow_and_nearly_as_good", test=0.79, cost__training__seconds=150.0)
    block = block_of(tmp_path)
    bad, near = (
        next(s for s in block.sentences if f"of {name}: " in s) for name in ("slow_and_bad", "slow_and_nearly_as_good")
    )
    once = "These two trained networks, not the models: good is ahead of "
    assert bad.startswith(f"{once}slow_and_bad: +30.0 points (")
    assert bad.endswith("at 0.5 times the training time; more than the images' chance (p < 0.001).")
    assert near.startswith(f"{once}slow_and_nearly_as_good: +1.0 points (")
    assert "within the images' chance (p = " in near
    for model, accuracy, seconds in [
        ("good", 0.80, 100.0),
        ("slow_and_bad", 0.50, 200.0),
        ("slow_and_nearly_as_good", 0.79, 150.0),
    ]:
        write_run(tmp_path, model, 1, test=accuracy, cost__training__seconds=seconds)
    block = block_of(tmp_path)
    assert sum(s.startswith("good dominates slow_and_bad: +30.0 points (") for s in block.sentences) == 1
    (near,) = (s for s in block.sentences if s.startswith("good is ahead of slow_and_nearly_as_good: +1.0 points ("))
    assert re.search(
        r"not certain \(p = [\d.]+; about [\d,]+ test images( or \d+ runs each)? would show it 80 % of", near
    )


def test_a_paired_test_is_mcnemar_s_on_the_images_that_only_one_got_right(tmp_path: Path) -> None:
    for model, accuracy in [("a", 0.80), ("b", 0.70)]:
        write_run(tmp_path, model, test=accuracy)
    block = block_of(tmp_path)
    found = pair(block, "a", "b")
    tables = [
        pd.read_parquet(next(tmp_path.glob(f"{m}-*")) / "predictions.parquet").query("split == 'test'") for m in "ab"
    ]
    right = [(table["label"] == table["prediction"]).to_numpy() for table in tables]
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert (found.only_first, found.only_second) == only
    assert found.p == found.p_corrected == pytest.approx(mcnemar(*only))
    assert not found.of_models
    assert found.both == (right[0] & right[1]).sum()
    assert found.neither == (~right[0] & ~right[1]).sum()
    assert found.oracle == pytest.approx((right[0] | right[1]).mean())
    assert found.test == "McNemar on 200 images"
    assert found.low < found.difference < found.high


def test_many_comparisons_are_corrected_for(tmp_path: Path) -> None:
    for model, accuracy in [("a", 0.80), ("b", 0.70), ("c", 0.69), ("d", 0.68)]:
        write_run(tmp_path, model, test=accuracy)
    found = block_of(tmp_path)  # of equal cost, so that three claims are made: that a is better than each of the others
    assert [c.claimed for c in found.comparisons] == [True, True, True, False, False, False]
    of_six = pair(found, "a", "b")
    for model in "cd":
        (folder,) = tmp_path.glob(f"{model}-*")
        folder.rename(tmp_path / f".{model}")
    one = pair(block_of(tmp_path), "a", "b")
    assert one.p is not None
    assert of_six.p == one.p == one.p_of_all == one.p_corrected
    assert of_six.p_of_all is not None
    assert of_six.p_corrected is not None
    assert one.p < of_six.p_of_all <= 6 * one.p
    assert one.p < of_six.p_corrected < 0.05
    assert of_six.claim_low < of_six.low < of_six.high < of_six.claim_high


def test_a_difference_within_the_spread_of_seeds_is_not_certain(tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(0.90, 0.60), (0.60, 0.75), (0.85, 0.70)]):
        write_run(tmp_path, "a", seed, test=a, images=1000)
        write_run(tmp_path, "b", seed, test=b, images=1000)
    found = pair(block_of(tmp_path), "a", "b")
    assert found.test == "t over 1,000 images crossed with 3 and 3 runs"
    assert found.p is not None
    assert found.p > 0.05


def test_runs_of_different_splits_are_never_paired_and_the_reason_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, "a", test=0.9)
    write_run(tmp_path, "b", test=0.5, dataset__split_fingerprint="07e4")
    block = block_of(tmp_path)
    found = pair(block, "a", "b")
    assert found.p is None
    assert found.kappa is None
    assert "different images or splits (f00d/5eed and f00d/07e4) are never paired" in found.reason
    assert (
        "None of these differences was tested for more than chance: different images or splits" in block.sentences[-1]
    )


def test_missing_and_broken_predictions_are_said_and_the_rest_goes_on(tmp_path: Path) -> None:
    for model, accuracy in [("a", 0.9), ("b", 0.8), ("c", 0.7), ("d", 0.6)]:
        write_run(tmp_path, model, test=accuracy)
    (whole,), (broken,), (another,) = (list(tmp_path.glob(f"{m}-*/predictions.parquet")) for m in "abd")
    whole.unlink()
    broken.write_bytes(broken.read_bytes()[:100])
    (right,) = tmp_path.glob("c-*/predictions.parquet")
    another.write_bytes(right.read_bytes())
    block = block_of(tmp_path)
    assert "3 of 4 runs have no predictions to pair" in "".join(block.notes)
    assert "its predictions have an accuracy of 0.7000, its record 0.6000" in pair(block, "c", "d").reason
    assert pair(block, "a", "c").reason == "a: it has no predictions"
    assert "predictions.parquet cannot be read" in pair(block, "b", "c").reason
    assert [c.label for c in block.candidates] == ["a", "b", "c", "d"]


def test_a_probability_to_be_on_the_front_tells_the_sure_from_the_lucky(tmp_path: Path) -> None:
    write_run(tmp_path, "cheap", test=0.70, cost__training__seconds=10.0)
    write_run(tmp_path, "lucky", test=0.71, cost__training__seconds=20.0)
    write_run(tmp_path, "sure", test=0.90, cost__training__seconds=30.0)
    write_run(tmp_path, "bad", test=0.50, cost__training__seconds=40.0)
    block = block_of(tmp_path)
    front = block.fronts[SECONDS]
    of = {label: (bool(on), p) for label, on, p in zip(block.labels, front.on, front.probability, strict=True)}
    assert of["cheap"] == (True, 1.0)
    assert of["sure"] == (True, 1.0)
    assert of["lucky"][0] is True
    assert 0.2 < of["lucky"][1] < 0.95
    assert of["bad"] == (False, 0.0)


def test_the_distance_to_the_front_is_in_points_and_in_cost(study: Path) -> None:
    write_run(study, "vit_slow", test=0.60, images=1890, cost__training__seconds=500.0)
    block = block_of(study)
    front, place = block.fronts[SECONDS], block.labels.index("vit_slow")
    assert not front.on[place]
    assert front.points_below[place] == pytest.approx(0.725 - 0.60, abs=1e-3)
    assert front.cost_ratio[place] == pytest.approx(500 / 103, abs=1e-3)
    assert front.contribution.sum() <= 1


def test_several_costs_make_one_front_of_all_beside_each_its_own(study: Path) -> None:
    write_run(study, "resnet_slow", test=0.58, images=1890, cost__training__seconds=900.0, at={LATENCY: 0.001})
    found = ask(study, costs=["training_time", "latency"])
    (block,) = found.blocks
    on = {key: {block.labels[i] for i in np.flatnonzero(front.on)} for key, front in block.fronts.items()}
    assert on == {
        SECONDS: {"resnet18", "vit_tiny", "vit_base"},
        LATENCY: {"resnet_slow", "resnet18", "vit_tiny", "vit_base"},
        JOINT: {"resnet_slow", "resnet18", "vit_tiny", "vit_base"},
    }
    assert found.frame.groupby("name")[f"front/{SECONDS}"].first().to_dict() == {
        "resnet18": True, "vit_tiny": True, "vit_base": True, "resnet_slow": False
    }  # fmt: skip


def test_a_higher_rate_is_the_better_cost(study: Path) -> None:
    write_run(study, "fast", test=0.50, images=1890, cost__inference__images_per_second=5000.0)
    block = block_of(study, costs=["throughput"])
    front = block.fronts["cost/inference/images_per_second"]
    assert front.on[block.labels.index("fast")]
    assert front.cost_ratio[block.labels.index("resnet18")] == pytest.approx(1)


def test_what_has_no_such_cost_is_not_on_its_front_and_that_is_said(study: Path) -> None:
    write_run(study, "unmeasured", test=0.99, images=1890, at={SECONDS: 0.0}, cost__macs=None)
    block = block_of(study, costs=["macs"])
    assert not block.fronts["cost/macs"].known[block.labels.index("unmeasured")]
    assert "Without MACs, and so not on this front: unmeasured." in block.sentences


def test_budgets_name_the_best_the_runner_up_and_the_next_step(study: Path) -> None:
    found = block_of(study, budgets=["latency_p50<5ms", "memory<2GB"]).recommendation
    assert found is not None
    block = block_of(study)
    assert [block.labels[i] for i in (found.best, found.runner_up, found.next_step) if i is not None] == [
        "vit_tiny", "resnet18", "vit_base"
    ]  # fmt: skip
    first, second, third = found.sentences
    assert first.startswith(
        "Within latency_p50<5ms and memory<2GB: take vit_tiny (72.50 %), with latency (p50, batch 1) 4 ms"
    )
    assert second.startswith("Runner-up: resnet18 (58.50 %), -14.0 points")
    assert third.startswith("The next step up is vit_base (77.50 %): +5.0 points")
    assert "1.8 times the limit of latency_p50<5ms" in third
    assert "certain (p" in third


def test_a_budget_that_nothing_meets_names_the_nearest(study: Path) -> None:
    found = block_of(study, budgets=["training_time<1min"]).recommendation
    assert found is not None
    assert found.best is None
    assert found.sentences == (
        "Nothing is within training_time<1min.", "Nearest is resnet18 (58.50 %), with training time 101 s."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("latency<5", "has no unit"),
        ("latency<5GB", "'GB' is no unit of latency"),
        ("latncy<5ms", "latency"),
        ("cheap", "is not understood"),
        ("price<3", "No run has cost/price"),
        ("latency<-5ms", "latency is never below 0. Give a limit that is not negative."),
        ("test>=80", "test is a share of 1, and never 80. Write 'test>=80%' or 'test>=0.8'."),
        ("test>=120%", "test is never more than 100 %. Give a limit up to 100%."),
        ("test>=120", "test is never more than 100 %"),
    ],
)
def test_a_budget_that_is_not_understood_is_refused_with_the_remedy(study: Path, budget: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        block_of(study, budgets=[budget])
    assert said in f"{refused.value.message} {refused.value.hint}"


def test_confusions_say_how_models_err_differently(tmp_path: Path) -> None:
    write_run(tmp_path, "a", test=0.8)
    write_run(tmp_path, "b", test=0.6)
    errors = block_of(tmp_path).errors
    assert errors is not None
    assert errors.confusion[0].sum() == 200
    assert errors.recall(0).mean() == pytest.approx(0.8)
    assert {(truth, answer) for truth, answer, _ in errors.confusions(0)} <= {
        ("calling", "clapping"), ("clapping", "cycling"), ("cycling", "dancing"), ("dancing", "calling")
    }  # fmt: skip
    (found,) = errors.disputed.values()
    (compared,) = block_of(tmp_path).comparisons
    assert compared.only_first is not None
    assert compared.only_second is not None
    assert len({d.path for d in found}) == len(found) == compared.only_first + compared.only_second
    assert all((d.answers[0] == d.truth) != (d.answers[1] == d.truth) for d in found)
    assert all(d.thumbnail is None for d in found)


@pytest.mark.parametrize("where", ["in the record", "given"])
def test_disputed_images_are_shown_when_they_are_at_hand(tmp_path: Path, where: str) -> None:
    images = tmp_path / "photos"
    (images / "test").mkdir(parents=True)
    for number in range(200):
        Image.new("RGB", (260, 190), (number, 0, 0)).save(images / "test" / f"{number:04}.jpg")
    root: dict[str, Any] = {"dataset__root": str(images)} if where == "in the record" else {}
    write_run(tmp_path / "runs", "a", test=0.8, **root)
    write_run(tmp_path / "runs", "b", test=0.6, **root)
    errors = block_of(tmp_path / "runs", images=None if root else images).errors
    assert errors is not None
    (found,) = errors.disputed.values()
    assert found
    assert all(d.thumbnail and d.thumbnail.startswith("data:image/jpeg;base64,") for d in found[:16])
    assert not any(d.thumbnail for d in found[16:])


def test_families_scale_by_size_and_apart_from_each_other(tmp_path: Path) -> None:
    for model, timm_name, parameters, accuracy in [
        ("vit_tiny", "vit_tiny_patch16_224", 5_000_000, 0.60), ("vit_small", "vit_small_patch16_224", 20_000_000, 0.70),
        ("resnet18", "resnet18", 10_000_000, 0.5), ("resnet34", "resnet34", 20_000_000, 0.55),
        ("convnext", "convnext_tiny", 9, 0.5),
    ]:  # fmt: skip
        write_run(tmp_path, model, test=accuracy, model__timm_name=timm_name, cost__parameters=parameters)
    block = block_of(tmp_path)
    families = {family.name: family for family in block.families}
    assert families.keys() == {"vit", "resnet"}
    assert families["vit"].slopes["cost/parameters"] == pytest.approx(0.05)
    assert families["resnet"].slopes["cost/parameters"] == pytest.approx(0.05)
    assert {block.labels[place] for place in families["vit"].members} == {"vit_tiny", "vit_small"}


def test_datasets_are_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", dataset__name="drawings", dataset__fingerprint="b0b0")
    blocks = ask(tmp_path).blocks
    assert [(block.name, block.labels) for block in blocks] == [("drawings", ["b"]), ("photos", ["a"])]


def test_of_several_datasets_it_is_said_that_each_is_certain_by_itself(tmp_path: Path) -> None:
    for dataset in ("photos", "drawings"):
        for model, accuracy in (("resnet18", 0.6), ("vit_tiny", 0.8)):
            for seed in range(2):
                write_run(tmp_path, model, seed, test=accuracy, dataset__name=dataset)
    assert "in 10 % of cases" in " ".join(ask(tmp_path).notes)
    assert not any("by itself" in note for note in ask(tmp_path, by=["model/name"]).notes)


def test_one_run_and_equal_costs_are_said(tmp_path: Path) -> None:
    write_run(tmp_path, "a", test=0.8)
    assert block_of(tmp_path).sentences == ["a is alone: there is nothing to compare it with."]
    write_run(tmp_path, "b", test=0.7)
    assert block_of(tmp_path).sentences[0] == "All have the same training time, 100 s: only accuracy tells them apart."


def test_records_that_are_broken_or_of_another_schema_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path, "good")
    for name, text in [
        ("half", '{"schema_version": 2, "run_id'),
        ("newer", '{"schema_version": 3}'),
        ("older", '{"schema_version": 0}'),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    (tmp_path / "not_begun").mkdir()
    for change in (
        {"selected_epoch": 3},
        {"attempts": [{"job": "1", "host": "h", "started_at": "", "outcome": "killed"}]},
    ):
        write_run(tmp_path, "false", **change)
    record = write_run(tmp_path, "false", val=0.8)
    record.epochs[1].val_accuracy = 0.7
    write_record(record, RunPaths(tmp_path / record.run_id))
    found = ask(tmp_path)
    notes = "\n".join(found.notes)
    assert "half/record.json is not a run's record" in notes
    assert "newer/record.json has schema_version 3" in notes
    assert "older/record.json has schema_version 0" in notes
    assert "no record (yet) in 1 folder" in notes
    assert "contradicts itself: epoch 3 is selected of 2." in notes
    assert "contradicts itself: its attempts ended as killed." in notes
    assert "contradicts itself: its val accuracy is 0.8000, and 0.7000 in the epoch that was selected." in notes
    assert found.blocks[0].labels == ["good"]


def test_records_of_schema_1_and_of_today_stand_in_one_report(tmp_path: Path) -> None:
    write_run(tmp_path, "today", test=0.8)
    record = write_run(tmp_path, "before", test=0.7)
    matrices = {}
    for split, metrics in record.metrics.items():
        matrices[split] = np.zeros((4, 4), dtype=int)
        for truth, answer, count in metrics.confusion:
            matrices[split][truth, answer] = count
    file = RunPaths(tmp_path / record.run_id).record
    tree = json.loads(file.read_text()) | {"schema_version": 1}
    for split, matrix in matrices.items():
        tree["metrics"][split]["confusion"] = matrix.tolist()
    file.write_text(json.dumps(tree))
    found = ask(tmp_path)
    assert not found.notes
    assert found.blocks[0].labels == ["today", "before"]
    tree["metrics"]["test"]["accuracy"] = 0.9
    file.write_text(json.dumps(tree))
    assert "its test accuracy is 0.9000, and 0.7000 by its confusions" in ask(tmp_path).notes[0]


def test_runs_that_are_all_unfinished_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "a", status="running")
    with pytest.raises(InputError, match="The run has not been evaluated: a is running"):
        ask(tmp_path)


def test_a_record_beats_the_same_run_from_elsewhere(tmp_path: Path) -> None:
    record = write_run(tmp_path / "old", "a", test=0.5)
    newer = replace(record, started_at="2026-02-01T00:00:00.000Z", name="newer")
    write_record(newer, RunPaths(tmp_path / "new" / record.run_id))
    table = tmp_path / "table.parquet"
    pd.DataFrame([{"run_id": record.run_id, "name": "table", "status": "done", "model/name": "a"}]).to_parquet(table)
    found = read_runs([str(table), str(tmp_path / "new"), str(tmp_path / "old")], tmp_path, quiet)
    assert found.frame["name"].tolist() == ["newer"]
    assert "2 runs came twice and are taken once." in found.notes


def test_published_numbers_stand_beside_runs_under_the_record_s_names(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "resnet18", test=0.6)
    write_run(tmp_path / "runs", "vit_tiny", test=0.7)
    table = tmp_path / "study.csv"
    table.write_text(
        "model/name,dataset/name,metrics/test/accuracy,cost/training/seconds\nresnet18,photos,0.58,100.86\n"
    )
    (block,) = ask(tmp_path / "runs", table).blocks
    assert block.labels == ["vit_tiny", "resnet18", "resnet18 (table)"]
    assert block.means["cost/training/seconds"].tolist() == [100, 100, 100.86]
    assert pair(block, "resnet18", "resnet18 (table)").reason.startswith("a table of results has no predictions")


def test_anybody_s_table_is_read_with_repeats_and_units_of_its_own(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text(
        "model,top1,param_count,infer_samples_per_sec\n"
        'big,85.0,"1,014.5",100\nbig,87.0,"1,014.5",100\nsmall,80.0,5.5,900\nslow,79.0,6.0,50\n'
    )
    found = ask(table, accuracy="top1", costs=["param_count:min", "infer_samples_per_sec:max"])
    (block,) = found.blocks
    assert block.labels == ["big", "small", "slow"]
    assert block.sentences[-1] == (
        "None of these differences was tested for more than chance: a table of results has no predictions (rows of "
        "several seeds, or the folder of the runs, would tell)."
    )
    assert block.means["top1"].tolist() == [86, 80, 79]
    assert block.means["param_count"].iat[0] == 1014.5
    assert found.frame[["front/param_count", "front/infer_samples_per_sec", "front/all"]].to_numpy().tolist() == [
        [True, True, True], [True, True, True], [True, True, True], [False, False, False]
    ]  # fmt: skip
    assert "big: +6.0 points over small" in block.sentences[0]


def test_a_front_of_an_error_rate_for_each_value_of_a_column(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("model;error_rate;flops;dataset\na;0,2;10;x\nb;0,1;20;x\nc;0,3;30;x\na;0,5;10;y\nb;0,6;20;y\n")
    found = ask(table, accuracy="error_rate:min", costs=["flops:min"], by=["dataset"])
    on = {b.name: [b.labels[i] for i in np.flatnonzero(b.fronts["flops"].on)] for b in found.blocks}
    assert on == {"x": ["b", "a"], "y": ["a"]}
    assert found.frame["front/flops"].tolist() == [True, True, False, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as a table"),
        ("model,top1\n", "has no rows"),
        ("model,top1\na,b\n", "has no number in any row"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "results.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=said):
        ask(table, accuracy="top1", costs=["top1"])


def test_a_column_that_is_not_there_is_refused_with_the_nearest(study: Path) -> None:
    with pytest.raises(InputError) as refused:
        block_of(study, costs=["training_tim"])
    assert "training_time" in refused.value.hint


def test_what_is_meant_is_never_what_a_table_has_not(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,acc,lat_ms\na,81,5\nb,79,4\n")
    with pytest.raises(InputError, match="No run has a 'latncy'") as e:
        ask(tmp_path / "t.csv", costs=["latncy:min"])
    assert e.value.hint == "Did you mean lat_ms?"  # and not latency


def test_families_are_compared_by_what_is_on_the_front_of_each(tmp_path: Path) -> None:
    for model, timm_name, accuracy, seconds in [
        ("resnet18", "resnet18", 0.60, 100.0), ("resnet34", "resnet34", 0.64, 150.0),
        ("resnet50", "resnet50", 0.5, 300.0),
        ("vit_tiny", "vit_tiny_patch16_224", 0.72, 102.0), ("vit_base", "vit_base_patch16_224", 0.76, 800.0),
        ("convnext", "convnext_nano", 0.7, 200.0),
    ]:  # fmt: skip
        for seed in range(2):
            write_run(
                tmp_path,
                model,
                seed,
                test=accuracy,
                images=400,
                model__timm_name=timm_name,
                cost__training__seconds=seconds,
            )
    block = block_of(tmp_path)
    found = {(pair.first, pair.second): pair for pair in block.between_families[SECONDS]}
    assert found.keys() == {("vit", "resnet"), ("vit", "convnext"), ("convnext", "resnet")}
    pair_of = found["vit", "resnet"]
    names = [{block.labels[i] for i in members} for members in pair_of.members]
    assert names == [{"vit_tiny", "vit_base"}, {"resnet18", "resnet34"}]  # the resnet50 is on no front
    assert pair_of.difference == pytest.approx((0.72 + 0.76) / 2 - (0.60 + 0.64) / 2)
    assert pair_of.cost_ratio == pytest.approx(np.sqrt(102 * 800 / (100 * 150)))
    assert pair_of.low < pair_of.difference < pair_of.high
    (said,) = (
        s for s in block.sentences if s.startswith("vit (vit_tiny, vit_base) against resnet (resnet18, resnet34)")
    )
    assert "+12.0 points (" in said
    assert said.endswith("in the mean, at 2.3 times the training time; certain (p < 0.001).")
    assert not any("Of these trained networks" in s for s in block.sentences)


def test_families_are_what_a_column_says(tmp_path: Path) -> None:
    for model, kind, accuracy in [("a", "old", 0.6), ("b", "old", 0.62), ("c", "new", 0.8), ("d", "new", 0.82)]:
        for seed in range(2):
            write_run(tmp_path, model, seed, test=accuracy, images=400, at={"config/data/kind": kind})
    (pair_of,) = block_of(tmp_path, family="config/data/kind").between_families[SECONDS]
    assert (pair_of.first, pair_of.second) == ("new", "old")
    with pytest.raises(InputError, match="No run has a 'knid'"):
        block_of(tmp_path, family="knid")


def test_the_pair_to_look_at_first_is_of_two_families(tmp_path: Path) -> None:
    for model, timm_name, accuracy, seconds in [
        ("vit_tiny", "vit_tiny_patch16_224", 0.72, 102.0), ("vit_base", "vit_base_patch16_224", 0.76, 800.0),
        ("resnet18", "resnet18", 0.60, 100.0),
    ]:  # fmt: skip
        write_run(tmp_path, model, test=accuracy, model__timm_name=timm_name, cost__training__seconds=seconds)
    block = block_of(tmp_path)
    assert [block.labels[i] for i in block.pairs_that_matter[0]] == ["vit_tiny", "resnet18"]
    assert block.errors
    assert next(iter(block.errors.disputed)) == block.pairs_that_matter[0]


def test_each_recall_has_its_interval_and_confidence_is_set_against_being_right(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "a", seed, test=0.8)
    write_run(tmp_path, "b", test=0.6)
    block = block_of(tmp_path)
    assert block.errors
    recall, bounds = block.errors.recall(0), block.errors.recall_interval[0]
    assert ((bounds[:, 0] < recall) & (recall < bounds[:, 1])).all()
    assert (bounds >= 0).all()
    assert (bounds <= 1).all()
    one = block.errors.recall_interval[1]
    expected = stats.binomtest(round(50 * block.errors.recall(1)[0]), 50).proportion_ci(method="wilson")
    assert one[0] == pytest.approx((expected.low, expected.high), abs=0.003)
    found = block.reliability[0]
    (full,) = np.flatnonzero(found.answers)
    assert found.answers[full] == 400  # of both runs, all with a confidence of 0.9
    assert found.confidence[full] == pytest.approx(0.9)
    assert found.accuracy[full] == pytest.approx(0.8)
    assert found.interval[full] == pytest.approx(stats.binomtest(160, 200).proportion_ci(method="wilson"), abs=0.003)


def test_a_budget_says_when_a_cost_is_within_its_noise_of_the_limit(tmp_path: Path) -> None:
    for seed, seconds in enumerate((195.0, 203.0, 198.0)):
        write_run(tmp_path, "near", seed, test=0.8, cost__training__seconds=seconds)
        write_run(tmp_path, "far", seed, test=0.7, cost__training__seconds=seconds / 2)
    found = block_of(tmp_path, budgets=["training_time<200s"]).recommendation
    assert found
    assert (
        "Its training time, 199 s ± 4.04 s over 3 runs, is within its noise of the limit: "
        "its runs do not tell which side it is on." in found.sentences
    )
    found = block_of(tmp_path, budgets=["training_time<198s"]).recommendation  # now it is just outside
    assert found
    step = next(
        place for place, sentence in enumerate(found.sentences) if sentence.startswith("The next step up is near")
    )
    assert "is within its noise of the limit" in found.sentences[step + 1]
    found = block_of(tmp_path, budgets=["training_time<300s"]).recommendation
    assert found
    assert not any("noise" in sentence for sentence in found.sentences)


def test_who_only_guesses_is_told_so_and_is_nobody_s_best_value(tmp_path: Path) -> None:
    share = 1 / len(CLASSES)  # of each class, as there are as many images of all
    write_run(tmp_path, "vit_tiny", test=share + 0.02, cost__training__seconds=1.0)
    write_run(tmp_path, "resnet18", test=0.6, cost__training__seconds=100.0)
    block = block_of(tmp_path, costs=["training_time"])
    (said, *_) = block.sentences_on[SECONDS]
    assert said.startswith("No better than always answering the largest class (")
    assert said.endswith(": vit_tiny.")
    assert block.headlines[SECONDS].startswith("Best value and best: resnet18")


def test_where_all_guess_nothing_is_called_the_best_value(tmp_path: Path) -> None:
    share = 1 / len(CLASSES)
    write_run(tmp_path, "vit_tiny", test=share + 0.02, cost__training__seconds=1.0)
    write_run(tmp_path, "resnet18", test=share + 0.01, cost__training__seconds=0.5)
    (headline,) = block_of(tmp_path, costs=["training_time"]).headlines.values()
    assert headline.startswith("Nothing does better than guessing, as far as can be told, so there is no best value: ")
    assert headline.endswith(f"the best of them, vit_tiny, in {share + 0.02:.2%}.".replace("%", " %"))
