"""What tuning brought for what it cost: the best so far against device hours, and where that decides who leads."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_runs import ask, block_of, quiet, write_run

from multirun_analysis.analysis.tuning import find_leads, find_tuning
from multirun_analysis.figures.figures import figures, plan_figures
from multirun_analysis.findings import Candidate, Trial, Tuning
from multirun_analysis.quantities import METRICS
from multirun_analysis.sources.runs import Runs
from multirun_analysis.tables.tables import tables

VAL = METRICS["metrics/val/accuracy"]


def study(runs: Path, model: str, hours: float, accuracies: list[float], **changes: Any) -> None:
    """A model's trials, one a day, each at its own learning rate; written last to first: names say nothing of time."""
    for day, accuracy in reversed(list(enumerate(accuracies, 1))):
        at = {"config/optimizer/lr": 1 / (1 + (7 * day) % 11), "cost/device_hours": hours}
        started = f"2026-01-{day:02}T00:00:00.000Z"
        write_run(runs, model, val=accuracy, test=accuracy, started_at=started, at=at, **changes)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Two studies of three trials: the small model is good at once, the large one better in the end."""
    study(tmp_path, "small", 0.5, [0.70, 0.60, 0.72])
    study(tmp_path, "large", 1.0, [0.65, 0.75, 0.80])
    return tmp_path


def test_the_best_so_far_follows_the_order_in_which_trials_were_started(tuned: Path) -> None:
    block = block_of(tuned)
    small, large = (block.tuning[block.labels.index(name)] for name in ("small", "large"))
    assert small.hours.tolist() == [0.5, 1.0, 1.5]
    assert small.best.tolist() == [0.70, 0.70, 0.72]
    assert large.hours.tolist() == [1.0, 2.0, 3.0]
    assert large.best.tolist() == [0.65, 0.75, 0.80]


def test_a_sentence_says_where_the_order_of_two_models_changes_with_the_cost(tuned: Path) -> None:
    assert (
        "With less than 2 device hours of tuning small leads, beyond it large: "
        "+8.0 points in val accuracy after all trials."
    ) in block_of(tuned).sentences


def test_nothing_is_said_where_the_order_does_not_change_or_nothing_was_tuned(tmp_path: Path) -> None:
    study(tmp_path, "small", 0.5, [0.70, 0.72])
    study(tmp_path, "large", 1.0, [0.75, 0.80])
    write_run(tmp_path, "untuned", val=0.9)
    block = block_of(tmp_path)
    assert {block.labels[place] for place in block.tuning} == {"small", "large"}
    assert not any("tuning" in sentence for sentence in block.sentences)


def test_importance_finds_the_setting_that_mattered_and_is_silent_where_none_did(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        rate, decay = random.uniform(0, 1, 2).tolist()
        at = {"config/optimizer/lr": rate, "config/optimizer/weight_decay": decay}
        for model, accuracy in (("steered", 0.5 + 0.3 * rate), ("luck", random.uniform(0.5, 0.8))):
            write_run(tmp_path, model, val=accuracy, test=accuracy, at=at)
    block = block_of(tmp_path)
    steered, luck = (block.importance[block.labels.index(name)] for name in ("steered", "luck"))
    assert steered.explained > 0.8
    assert steered.shares["config/optimizer/lr"] > 0.9
    assert steered.correlations["config/optimizer/lr"] > 0.99
    assert luck.explained <= 0
    table = next(table for table in tables(ask(tmp_path)) if table.kind == "importance").to_frame().set_index("model")
    assert table.loc["luck", "importance (%)"].isna().all()
    assert table.loc["steered", "setting"].iloc[0] == "optimizer.lr"


def test_what_differs_by_rounding_alone_follows_no_setting(tmp_path: Path) -> None:
    for trial, reached in enumerate([*permutations([0.61, 0.675, 0.73])] * 2):
        for seed, accuracy in enumerate(reached):
            write_run(tmp_path, "even", seed=seed, val=accuracy, test=accuracy, at={"config/optimizer/lr": trial + 1.0})
    (found,) = block_of(tmp_path).importance.values()
    assert not found.correlations
    assert found.explained == 0


def test_few_trials_have_no_importance(tuned: Path) -> None:
    assert not block_of(tuned).importance


def test_what_failed_has_cost_and_seeds_count_as_one_trial(tmp_path: Path) -> None:
    study(tmp_path, "model", 1.0, [0.6, 0.7])
    write_run(tmp_path, "model", status="failed", started_at="2026-01-01T12:00:00.000Z",
              at={"config/optimizer/lr": 0.9, "cost/device_hours": 0.25})  # fmt: skip
    study(tmp_path, "model", 2.0, [0.8], seed=1)
    (tuning,) = block_of(tmp_path).tuning.values()
    assert tuning.hours.tolist() == [3.0, 3.25, 4.25]
    np.testing.assert_allclose(tuning.best, [0.7, 0.7, 0.7])


def test_a_model_whose_cost_is_not_known_is_named(tmp_path: Path) -> None:
    study(tmp_path, "known", 1.0, [0.6, 0.7])
    study(tmp_path, "unknown", 1.0, [0.6, 0.7])
    write_run(tmp_path, "unknown", at={"config/optimizer/lr": 0.9, "cost/device_hours": None})
    block = block_of(tmp_path)
    assert [block.labels[place] for place in block.tuning] == ["known"]
    assert any(note.startswith("What tuning cost is not known of unknown") for note in block.notes)


@pytest.mark.parametrize(
    ("first", "second", "leads"),
    [
        ([0.5, 0.5], [0.6, 0.6], [(1.0, False)]),
        ([0.5, 0.7], [0.6, 0.6], [(1.0, False), (2.0, True)]),
        ([0.5, 0.6], [0.6, 0.6], [(1.0, False)]),  # caught up with, not overtaken
        ([np.nan, 0.7], [0.6, 0.6], [(2.0, True)]),  # before that nothing of the first was finished
        ([0.5, 0.7, 0.7], [0.6, 0.6, 0.8], [(1.0, False), (2.0, True), (3.0, False)]),
    ],
)
def test_who_leads_is_told_where_both_have_a_result(
    first: list[float], second: list[float], leads: list[tuple[float, bool]]
) -> None:
    one, other = (Tuning((), np.arange(1.0, len(best) + 1), np.array(best)) for best in (first, second))
    assert find_leads(one, other, VAL) == leads
    less_is_better = [(at, not first_leads) for at, first_leads in leads]
    assert find_leads(one, other, METRICS["metrics/val/nll"]) == less_is_better


def test_a_metric_of_which_less_is_better_falls() -> None:
    frame = pd.DataFrame({"cost/device_hours": [1.0, 1.0, 1.0], "started_at": ["1", "2", "3"]})
    trials = tuple(Trial(f"lr {row}", (row,), nll, chosen=row == 1) for row, nll in enumerate([0.5, 0.3, 0.4]))
    runs = Runs(frame, [], [], [], [])
    tuning = find_tuning(runs, [Candidate("model", (1,), trials)], METRICS["metrics/val/nll"], [])
    assert tuning[0].best.tolist() == [0.5, 0.3, 0.3]


def test_it_is_a_table_and_a_figure_of_tuned_models_only(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    analysis = ask(tuned)
    (table,) = [table for table in tables(analysis) if table.kind == "tuning"]
    frame = table.to_frame()
    assert frame[frame["model"] == "large"]["device hours so far"].tolist() == [1, 2, 3]
    assert frame[frame["model"] == "small"]["best so far"].tolist() == [70, 70, 72]
    assert frame[frame["model"] == "small"]["val accuracy (%)"].tolist() == [70, 60, 72]
    drawn = list(figures(analysis, tmp_path_factory.mktemp("figures"), ["svg"], quiet))
    assert "tuning.svg" in {path.name for path in drawn}
    (plan,) = [plan for plan in plan_figures(analysis) if plan.name == "tuning"]
    figure = plan.draw()
    assert figure is not None
    lines = {np.asarray(line.get_xdata())[0]: np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines}
    assert lines == {0.5: [70, 70, 72, 72], 1.0: [65, 75, 80, 80]}  # the small one's to where the other's ends
    write_run(tuned / "other", "untuned")
    untuned = ask(tuned / "other")
    assert "tuning" not in {table.kind for table in tables(untuned)}
    assert "tuning" not in {plan.name for plan in plan_figures(untuned)}


def test_models_that_change_places_more_than_once_are_told_as_such(tmp_path: Path) -> None:
    study(tmp_path, "small", 1.0, [0.70, 0.71, 0.90])
    study(tmp_path, "large", 1.0, [0.65, 0.75, 0.75])
    assert (
        "small and large change places 2 times; beyond 3 device hours of tuning small leads: "
        "+15.0 points in val accuracy after all trials."
    ) in block_of(tmp_path).sentences
