"""An analysis becomes one report in Weights & Biases, with plots of the very runs that it is about.

The real client and its report library write to a server on the loopback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import analyses
import pytest
from made_runs import ask, quiet, write_run
from wandb_server import ENTITY, KEY, Json, Run, WandbServer, wandb_server

from har_sweep.errors import InputError
from multirun_analysis.findings import Analysis
from multirun_analysis.outputs.publish import MOST_ROWS, MOST_RUNS, publish, publish_for
from multirun_analysis.sources.read import read_runs


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        server.key = KEY
        for name, value in {**server.environment, "HOME": str(tmp_path / "home")}.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield server
        assert not list((tmp_path / "here").iterdir())


def logged(server: WandbServer, analysis: Analysis) -> Analysis:
    """The same analysis, of runs that the server has."""
    for info in analysis.info:
        server.runs[info.run_id] = Run(info.run_id, "har", info.name)
    at = f"{server.url}/{ENTITY}/har/runs"
    return replace(analysis, info=[replace(info, url=f"{at}/{info.run_id}") for info in analysis.info])


def spec(server: WandbServer, address: str) -> Json:
    """What the server has at an address."""
    (report,) = [report for id, report in server.reports.items() if address.endswith(f"--{id.rstrip('=')}")]
    assert urlsplit(address).path.startswith(f"/{ENTITY}/{report.project}/reports/")
    return report.spec


def grids(spec: Json) -> list[Json]:
    return [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]


def panels(grid: Json, kind: str) -> list[Json]:
    return [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"] if panel["viewType"] == kind]


def run_ids(grid: Json) -> list[str]:
    """Whom the grid's set of runs names."""
    (runset,) = grid["runSets"]
    assert (runset["project"]["entityName"], runset["project"]["name"]) == (ENTITY, "har")
    (condition,) = [f for f in json_nodes(runset["filters"]) if isinstance(f.get("key"), dict)]
    assert (condition["key"], condition["op"]) == ({"section": "run", "name": "name"}, "IN")
    return list(condition["value"])


def json_nodes(tree: Any) -> Iterator[Json]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from json_nodes(child)


def texts(tree: Any) -> list[str]:
    return [node["text"] for node in json_nodes(tree) if "text" in node]


def markdown(spec: Json) -> list[str]:
    return [block["content"] for block in spec["blocks"] if block["type"] == "markdown-block"]


def test_a_report_has_the_findings_plots_curves_tables_and_runs(server: WandbServer, tmp_path: Path) -> None:
    analysis = logged(server, analyses.small())
    (block,) = analysis.blocks
    written = spec(server, publish(analysis, "har", None, tmp_path / "cache"))
    assert {block.headline, *block.sentences} <= set(texts(written))
    grid, *_ = grids(written)
    scatters = panels(grid, "Scatter Plot")
    assert [(plot["xAxis"], plot["yAxis"]) for plot in scatters] == [
        (f"summary:{cost.column}", f"summary:{block.accuracy.column}") for cost in analysis.chosen_costs
    ]
    assert all(plot["showMaxYAxisLine"] for plot in scatters)
    logarithmic = {plot["xAxis"].rpartition("/")[2] for plot in scatters if plot.get("xAxisLogScale")}
    assert logarithmic == {"macs", "parameters"}
    assert [(plot["metrics"], plot["xAxis"]) for plot in panels(grid, "Run History Line Plot")] == [
        (["val/accuracy"], "epoch"),
        (["train/loss"], "epoch"),
    ]
    assert sorted(run_ids(grid)) == sorted(info.run_id for info in analysis.info)
    assert grid["runSets"][0]["grouping"] == [{"section": "config", "name": "model.value.name"}]
    assert len(markdown(written)) > 5
    assert all(label in markdown(written)[0] for label in ("resnet18", "vit\\_base"))


def test_trials_have_parallel_coordinates_and_the_importance_of_their_settings(
    server: WandbServer, tmp_path: Path
) -> None:
    for rate, decay, accuracy in [(1e-3, 0.0, 0.6), (1e-4, 0.0, 0.7), (1e-4, 0.05, 0.75)]:
        chosen = {"config/optimizer/lr": rate, "config/optimizer/weight_decay": decay}
        write_run(tmp_path / "runs", "vit_tiny", val=accuracy, at=chosen)
    analysis = logged(server, ask(tmp_path / "runs"))
    grid, *_ = grids(spec(server, publish(analysis, "har", None, tmp_path / "cache")))
    (plot,) = panels(grid, "Parallel Coordinates Plot")
    assert [column["accessor"] for column in plot["columns"]] == [
        "config:optimizer.value.lr", "config:optimizer.value.weight_decay", "summary:metrics/val/accuracy"
    ]  # fmt: skip
    assert [p["targetKey"] for p in panels(grid, "Parameter Importance")] == ["metrics/val/accuracy"]
    grid, *_ = grids(spec(server, publish(logged(server, analyses.alone()), "har", None, tmp_path / "cache")))
    assert not panels(grid, "Parallel Coordinates Plot")


def test_disputed_images_are_shown_by_pictures_that_are_no_runs_of_a_model(server: WandbServer, tmp_path: Path) -> None:
    analysis = logged(server, analyses.small())
    assert analysis.blocks[0].errors
    ((pair, images),) = analysis.blocks[0].errors.disputed.items()
    for _ in range(2):  # the second time takes the first one's place
        written = spec(server, publish(analysis, "har", None, tmp_path / "cache"))
        *_, grid = grids(written)
        (gallery,) = panels(grid, "Media Browser")
        (run_id,) = run_ids(grid)
        assert all(analysis.blocks[0].labels[place] in gallery["chartTitle"] for place in pair)
        (logged_images,) = [server.runs[run_id].summary[key] for key in gallery["mediaKeys"]]
        assert logged_images["count"] == sum(image.thumbnail is not None for image in images) > 0
    assert len(server.runs) == len(analysis.info) + 1
    assert run_id not in read_runs([f"wandb://{ENTITY}/har"], tmp_path, quiet).frame["run_id"].tolist()


def test_each_dataset_has_plots_of_its_own_runs(server: WandbServer, tmp_path: Path) -> None:
    analysis = logged(server, analyses.several())
    first, second, *_ = grids(spec(server, publish(analysis, "har", ENTITY, tmp_path)))
    ids = [set(run_ids(first)), set(run_ids(second))]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {info.run_id for info in analysis.info}


def test_publishing_again_updates_the_report_with_what_was_said_of_it(server: WandbServer, tmp_path: Path) -> None:
    analysis = logged(server, analyses.small())
    address = publish(analysis, "har", None, tmp_path)
    (report,) = server.reports.values()
    report.spec["discussionThreads"] = [{"id": "thread", "comments": ["Why not vit_base?"]}]
    (block,) = analysis.blocks
    later = replace(analysis, blocks=[replace(block, sentences_on={}, remarks=["All is new."])])
    assert publish(later, "har", None, tmp_path) == address
    (report,) = server.reports.values()
    assert "All is new." in texts(report.spec)
    assert not set(block.sentences) & set(texts(report.spec))
    assert report.spec["discussionThreads"][0]["id"] == "thread"
    assert publish(analysis, "har", None, tmp_path, "Another") != address
    assert len(server.reports) == 2
    server.reports.clear()  # somebody deleted them
    again = publish(analysis, "har", None, tmp_path)
    assert set(block.sentences) <= set(texts(spec(server, again)))


def test_names_that_look_like_markup_stay_text(server: WandbServer, tmp_path: Path) -> None:
    analysis = logged(server, analyses.hostile())
    written = spec(server, publish(analysis, "har", None, tmp_path, "a / b | <i>c</i> " + "x" * 300))
    for table in markdown(written):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, rows[0]
        assert not re.search(r"(?<!\\)<(script|img|b)\b", table)


def test_runs_that_wandb_does_not_have_leave_words_and_tables(server: WandbServer, tmp_path: Path) -> None:
    written = spec(server, publish(analyses.bare(costs=True), "new", None, tmp_path))
    assert not grids(written)
    assert any(f"None of these runs is in {ENTITY}/new" in text for text in texts(written))
    assert markdown(written)
    assert "new" in server.projects


def test_the_report_belongs_where_its_runs_are(server: WandbServer, tmp_path: Path) -> None:
    analysis = logged(server, analyses.alone())
    source = f"wandb://{ENTITY}/har?group=sweep"
    assert f"/{ENTITY}/har/reports/" in publish_for(analysis, ["runs", source], None, tmp_path)
    assert f"/{ENTITY}/other/reports/" in publish_for(analysis, [source], f"{ENTITY}/other", tmp_path)
    with pytest.raises(InputError) as caught:
        publish_for(analysis, ["runs"], None, tmp_path)
    assert "--project" in caught.value.hint


def test_a_server_that_does_not_let_one_write_is_said_and_nothing_is_remembered(
    server: WandbServer, tmp_path: Path
) -> None:
    analysis = logged(server, analyses.alone())
    server.fails_at = lambda what, before: 403 if what == "upsertView" else None
    with pytest.raises(InputError) as caught:
        publish(analysis, "har", None, tmp_path / "cache")
    assert f"{ENTITY}/har" in caught.value.message
    assert not (tmp_path / "cache").exists()
    server.key = "z" * 40
    with pytest.raises(InputError) as caught:
        publish(analysis, "har", None, tmp_path / "cache")
    assert "API key" in caught.value.message


def test_more_runs_than_can_be_named_still_make_a_report(server: WandbServer, tmp_path: Path) -> None:
    analysis = logged(server, analyses.many(MOST_RUNS + 1))
    written = spec(server, publish(analysis, "har", None, tmp_path))
    grid, *_ = grids(written)
    assert not [node for node in json_nodes(grid["runSets"][0]["filters"]) if node.get("op") == "IN"]
    assert max(table.count("\n| model") for table in markdown(written)) == MOST_ROWS
