"""Seeds are repeats, settings are trials, models are candidates; what cannot be compared is marked, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import ask, block_of, write_run

from har_sweep.config.schema import keys
from multirun_analysis.analysis.candidates import DEFINING, family, is_defining, is_setting
from multirun_analysis.findings import Block
from multirun_analysis.tables.tables import tables


def marks(block: Block, label: str) -> dict[str, frozenset[str] | None]:
    (candidate,) = [c for c in block.candidates if c.label == label]
    return {mark.text: mark.affects for mark in candidate.marks}


def test_every_key_of_the_config_is_decided_upon() -> None:
    """A key is a trial's setting, tells candidates apart (or what it became does), or is no part of what a run is."""
    known = {"config/" + key.path.replace(".", "/"): bool(key.metadata["identity"]) for key in keys()}
    settings = {key for key in known if is_setting(key)}
    became = {"config/" + column for column in DEFINING if not column.startswith("config/")}
    defining = {key for key in known if is_defining(key) or is_defining(key + "/depth")} | became
    # Another version of a target is another run, but no other choice: the choice is the key that names it.
    decided = settings | defining | {"config/seed", "config/targets"}
    assert not settings & defining
    assert {key for key, identity in known.items() if identity} <= decided
    assert all(known[key] for key in settings)


def test_runs_that_differ_only_in_the_seed_are_one_candidate_with_mean_and_spread(tmp_path: Path) -> None:
    for seed, accuracy in enumerate([0.70, 0.72, 0.77]):
        write_run(tmp_path, seed=seed, test=accuracy)
    block = block_of(tmp_path)
    (candidate,) = block.candidates
    assert len(candidate.rows) == 3
    assert len(candidate.trials) == 1
    assert block.means["metrics/test/accuracy"].iat[0] == pytest.approx(0.73)
    assert block.deviations["metrics/test/accuracy"].iat[0] == pytest.approx(0.0361, abs=1e-4)


def test_the_best_trial_is_chosen_on_val_and_reported_on_test(tmp_path: Path) -> None:
    for lr, val, test in [(1e-3, 0.70, 0.90), (1e-4, 0.80, 0.60)]:
        for seed in (0, 1):
            write_run(tmp_path, seed=seed, val=val, test=test, at={"config/optimizer/lr": lr})
    block = block_of(tmp_path)
    (candidate,) = block.candidates
    trials = [(trial.settings, trial.chosen, len(trial.rows)) for trial in candidate.trials]
    assert trials == [("lr 0.0001", True, 2), ("lr 0.001", False, 2)]
    assert block.means["metrics/test/accuracy"].iat[0] == pytest.approx(0.60)
    assert not any("chosen on the images" in text for text in marks(block, "resnet18"))
    on_val = block_of(tmp_path, accuracy="val")
    assert "chosen on the images it is reported on: best of 2 trials" in marks(on_val, "resnet18")


def test_of_equally_good_trials_the_choice_does_not_depend_on_where_they_were_read(tmp_path: Path) -> None:
    for lr in (1e-3, 1e-4, 1e-5):
        write_run(tmp_path, at={"config/optimizer/lr": lr, "config/trainer/epochs": 3})
    write_run(tmp_path, at={"config/optimizer/lr": 1e-5, "config/trainer/epochs": 4})
    (candidate,) = block_of(tmp_path).candidates
    assert [trial.settings for trial in candidate.trials] == [
        "lr 0.0001, epochs 3", "lr 0.001, epochs 3", "lr 1e-05, epochs 3", "lr 1e-05, epochs 4"
    ]  # fmt: skip


def test_an_epoch_that_was_chosen_on_val_is_marked_where_val_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path, "chosen")
    write_run(tmp_path, "last", selection="last")
    on_val = block_of(tmp_path, accuracy="val")
    assert marks(on_val, "chosen").keys() == {"its epoch was chosen on the images it is reported on"}
    assert not marks(on_val, "last")
    assert not marks(block_of(tmp_path), "chosen")


def test_unequal_numbers_of_trials_are_marked(tmp_path: Path) -> None:
    for lr in (1e-3, 1e-4, 1e-5):
        write_run(tmp_path, "vit_tiny", at={"config/optimizer/lr": lr})
    write_run(tmp_path, "resnet18")
    block = block_of(tmp_path)
    assert "tuned more or less: 3 trials where others had 1" in marks(block, "vit_tiny")
    assert "tuned more or less: 1 trial where others had 3" in marks(block, "resnet18")


def test_a_model_at_two_sizes_or_from_other_weights_is_several_candidates(tmp_path: Path) -> None:
    write_run(tmp_path, "vit_tiny")
    write_run(tmp_path, "vit_tiny", model__input_size=[3, 160, 160])
    write_run(tmp_path, "resnet18")
    write_run(tmp_path, "resnet18", model__weights="sha256:abcdef012345")
    block = block_of(tmp_path)
    assert sorted(block.labels) == [
        "resnet18 (file abcdef)", "resnet18 (in1k)", "vit_tiny (input 160)", "vit_tiny (input 224)"
    ]  # fmt: skip


def test_a_head_alone_is_another_candidate_than_the_whole_and_is_told_in_few_words(tmp_path: Path) -> None:
    head, whole = ({"config/trainer/finetune": word} for word in ("head", "full"))
    for seed in (0, 1):
        write_run(tmp_path, "vit_tiny", seed, test=0.8, at=whole)
        write_run(tmp_path, "vit_tiny", seed, test=0.6, at=head)
    write_run(tmp_path, "resnet18", test=0.5, at=head)  # alone of its name, and yet no whole network
    write_run(tmp_path, "resnet34", test=0.4)  # from before there was the key
    block = block_of(tmp_path)
    assert block.labels == ["vit_tiny", "vit_tiny (head only)", "resnet18 (head only)", "resnet34"]
    assert [len(candidate.trials) for candidate in block.candidates] == [1, 1, 1, 1]
    assert not any("trial" in mark.text for candidate in block.candidates for mark in candidate.marks)
    named = block_of(tmp_path, label=["model/name"])
    assert [t.settings for t in named.candidates[0].trials] == ["finetune full", "finetune head"]


def test_where_all_are_heads_no_label_says_so(tmp_path: Path) -> None:
    for model in ("vit_tiny", "resnet18"):
        write_run(tmp_path, model, at={"config/trainer/finetune": "head"})
    assert sorted(block_of(tmp_path).labels) == ["resnet18", "vit_tiny"]


@pytest.mark.parametrize(
    ("key", "values", "labels"),
    [
        ("hardware/compile", (False, True), {"net", "net (compiled)"}),
        ("hardware/tf32", (True, False), {"net", "net (no TF32)"}),
        ("hardware/memory_format", ("channels_last", "contiguous"), {"net", "net (contiguous memory)"}),
        ("hardware/deterministic", (False, True), {"net", "net (deterministic kernels)"}),
        ("model/_target_", ("nets.small", "nets.wide"), {"net (nets.small)", "net (nets.wide)"}),
        ("model/arguments/depth", (2, 4), {"net (depth 2)", "net (depth 4)"}),
        ("model/drop_path_rate", (0.0, 0.1), {"net"}),
        ("trainer/epochs", (5, 10), {"net"}),
    ],
)
def test_what_changes_the_network_or_its_costs_tells_candidates_apart_and_what_trains_it_trials(
    tmp_path: Path, key: str, values: tuple[Any, Any], labels: set[str]
) -> None:
    for value in values:
        write_run(tmp_path, "net", at={f"config/{key}": value})
    block = block_of(tmp_path)
    assert set(block.labels) == labels
    assert sum(len(candidate.trials) for candidate in block.candidates) == 2


UNFINISHED = "another trial might be chosen: 1 of 2 unfinished"


@pytest.mark.parametrize(
    ("status", "seed", "lr", "expected"),
    [
        ("running", 0, 1e-4, {UNFINISHED: {"metrics/test/accuracy"}, "runs left out: 1 running": set()}),
        ("interrupted", 0, 1e-4, {UNFINISHED: {"metrics/test/accuracy"}, "runs left out: 1 interrupted": set()}),
        ("failed", 0, 1e-4, {"runs left out: 1 failed": set()}),  # it was tried, and brought nothing
        ("running", 1, 1e-3, {"runs left out: 1 running": set()}),  # another seed of the only trial
    ],
)
def test_an_unfinished_trial_marks_its_own_candidate_alone_and_only_where_it_might_be_chosen(
    tmp_path: Path, status: str, seed: int, lr: float, expected: dict[str, set[str]]
) -> None:
    for model in ("vit_tiny", "resnet18", "resnet34"):
        write_run(tmp_path, model, at={"config/optimizer/lr": 1e-3})
    write_run(tmp_path, "vit_tiny", seed, status=status, at={"config/optimizer/lr": lr})
    write_run(tmp_path, "unfinished", status="running", at={"config/optimizer/lr": 1e-4})
    block = block_of(tmp_path)
    found = {text: affects for text, affects in marks(block, "vit_tiny").items() if affects is not None}
    assert found == {text: frozenset(affects) for text, affects in expected.items()}
    assert not marks(block, "resnet18")
    assert not marks(block, "resnet34")


def test_what_cannot_be_compared_is_grouped_by_cause(tmp_path: Path) -> None:
    for place in range(10):
        write_run(tmp_path, f"net{place}", test=0.9 - place / 50, dataset__synthetic=True,
                  cost__training__data_wait_share=0.11 + place / 100)  # fmt: skip
    (table,) = [t for t in tables(ask(tmp_path)) if t.kind == "marks"]
    synthetic, waited = table.rows
    assert [cell.text for cell in synthetic] == ["synthetic data", "all", "everything"]
    assert waited[0].text == "waited for data"
    assert waited[1].text.startswith("net0 (in 11 % of training), net1 (in 12 % of training), ")
    assert waited[1].text.endswith("net7 (in 18 % of training) and 2 more")
    assert waited[2].text.startswith("device hours, ")
    assert "net9 (in 20 % of training)" in table.csv()
    (costs,) = [t for t in tables(ask(tmp_path)) if t.kind == "table2"]
    assert sum("waited for data: net0 (in 11 %" in line for line in costs.footnotes()) == 1


TIMES = {"cost/training/seconds", "cost/inference/latency_seconds/batch_1/p50"}


@pytest.mark.parametrize(
    ("changes", "text", "affected", "spared"),
    [
        ({"cost__training__data_wait_share": 0.25}, "waited for data: in 25 % of training",
         {"cost/training/seconds"}, {"cost/inference/seconds", "cost/macs", "metrics/test/accuracy"}),
        ({"hardware__device_name": "NVIDIA A100"}, "device unlike others': NVIDIA A100 where most had NVIDIA H100",
         TIMES, {"cost/macs", "cost/parameters", "metrics/test/accuracy"}),
        ({"hardware__precision": "fp32"}, "precision unlike others': fp32 where most had bf16", TIMES, {"cost/macs"}),
        ({"config__trainer__batch_size": 64}, "training batch size unlike others': 64 where most had 32",
         {"cost/training/peak_memory_bytes"}, {"cost/inference/seconds"}),
        ({"cost__inference__batch_size": 64}, "inference batch size unlike others': 64 where most had 32",
         {"cost/inference/seconds"}, {"cost/training/seconds"}),
        ({"environment__packages__torch": "2.13.0"}, "torch unlike others': 2.13.0 where most had 2.14.1",
         TIMES, {"cost/disk_bytes"}),
        ({"model__weights": "scratch"}, "weights from scratch", {"metrics/test/accuracy"}, {"cost/macs"}),
    ],
)  # fmt: skip
def test_what_must_not_be_compared_is_marked_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], text: str, affected: set[str], spared: set[str]
) -> None:
    for model in ("resnet18", "resnet34"):
        write_run(tmp_path, model)
    write_run(tmp_path, "odd_one", **changes)
    block = block_of(tmp_path)
    found = marks(block, "odd_one")[text]
    assert found is not None
    assert affected <= found
    assert not spared & found
    assert not marks(block, "resnet18")


def test_synthetic_data_and_unfinished_runs_spoil_everything(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet18", dataset__synthetic=True)
    write_run(tmp_path, "vit_tiny", status="interrupted", dataset__synthetic=True)
    write_run(tmp_path, "vit_tiny", seed=1, status="failed", dataset__synthetic=True)
    block = block_of(tmp_path)
    assert marks(block, "resnet18") == {"synthetic data": None}
    assert marks(block, "vit_tiny") == {"unfinished: 1 failed, 1 interrupted": None, "synthetic data": None}
    unfinished = block.labels.index("vit_tiny")
    assert not any(front.known[unfinished] for front in block.fronts.values())
    assert block.means["metrics/val/accuracy"].iat[unfinished] == 0.7  # of its last epoch, as far as it got


def test_two_that_differ_are_both_marked(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    write_run(tmp_path, "b", hardware__precision="fp32")
    block = block_of(tmp_path)
    assert marks(block, "a").keys() == {"precision unlike others': bf16 where others had another"}
    assert marks(block, "b").keys() == {"precision unlike others': fp32 where others had another"}


def test_a_cost_that_its_runs_do_not_agree_on_is_marked(tmp_path: Path) -> None:
    for seed, seconds in enumerate([100.0, 110.0, 300.0]):
        write_run(tmp_path, seed=seed, cost__training__seconds=seconds)
    assert marks(block_of(tmp_path), "resnet18") == {
        "training time differed between its runs: by 66 %": frozenset(["cost/training/seconds"])
    }


def test_seeds_on_several_devices_are_one_candidate_whose_times_are_marked(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, seed=1, hardware__device_name="NVIDIA A100")
    block = block_of(tmp_path)
    assert marks(block, "resnet18").keys() == {"its runs had different device: NVIDIA A100 and NVIDIA H100"}
    assert len(block.candidates[0].rows) == 2


def test_candidates_are_named_by_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    for lr in (1e-3, 1e-4):
        write_run(tmp_path, at={"config/optimizer/lr": lr})
    block = block_of(tmp_path, label=["model/name", "lr"])
    assert sorted(block.labels) == ["resnet18, 0.0001", "resnet18, 0.001"]
    assert [len(candidate.trials) for candidate in block.candidates] == [1, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "resnet"), ("resnet152", "resnet"), ("vit_tiny_patch16_224", "vit"),
        ("vit_base_patch16_224", "vit"),
        ("deit3_small_patch16_224", "deit3"), ("convnext_tiny", "convnext"),
        ("tf_efficientnet_lite2", "tf_efficientnet_lite"),
        ("mobilenetv4_conv_small", "mobilenetv4_conv"), ("tiny_vit_5m_224", "tiny_vit"),
        ("efficientvit_b0", "efficientvit"),
        ("convnextv2_atto.fcmae", "convnextv2"),
    ],
)  # fmt: skip
def test_a_family_is_its_architecture_without_the_size(name: str, expected: str) -> None:
    assert family(name) == expected


def test_slurm_settings_of_old_records_are_no_trials_and_an_optimizer_s_own_arguments_are(tmp_path: Path) -> None:
    for seed, partition in enumerate(("a100", "v100")):
        write_run(
            tmp_path, seed=seed, at={"config/hardware/slurm/partition": partition, "config/launch/order": partition}
        )
    (candidate,) = block_of(tmp_path).candidates
    assert (len(candidate.trials), len(candidate.rows)) == (1, 2)
    write_run(tmp_path, at={"config/optimizer/_target_": "timm.optim.Lamb", "config/optimizer/trust_clip": True})
    (candidate,) = block_of(tmp_path).candidates
    assert {trial.settings for trial in candidate.trials} == {
        "_target_ -, trust_clip -", "_target_ timm.optim.Lamb, trust_clip True"
    }  # fmt: skip
