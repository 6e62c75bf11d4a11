"""`import multirun_analysis` in notebooks and scripts: lazy, visible, and the same as the command."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from made_runs import write_run
from matplotlib.figure import Figure
from test_multirun_analysis import command

import multirun_analysis
from har_sweep.errors import InputError
from multirun_analysis.api import Analysis

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/``: three models, one of a name that is markup."""
    place = tmp_path_factory.mktemp("notebook")
    for model, accuracy, seconds in [("resnet18", 0.58, 100.0), ("vit_tiny", 0.72, 102.0), (HOSTILE, 0.77, 822.0)]:
        write_run(place / "runs", model, val=accuracy, test=accuracy, run_id=f"run-{seconds:.0f}",
                  cost__training__seconds=seconds, cost__macs=int(seconds * 1e7))  # fmt: skip
    return place


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return multirun_analysis.analyse(folder / "runs", costs=["training_time", "macs"], budget="training_time<500s")


def script(text: str, cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (cwd / "script.py").write_text(text)
    return subprocess.run([sys.executable, *options, "script.py"], cwd=cwd, capture_output=True, text=True)


def test_the_import_alone_imports_nothing_and_an_analysis_never_torch(folder: Path) -> None:
    def imported(text: str) -> set[str]:
        done = script(text, folder, "-X", "importtime")
        assert done.returncode == 0, done.stderr
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}

    alone = imported("import multirun_analysis; dir(multirun_analysis)")
    assert {name for name in alone if name.startswith(("multirun_analysis", "har_sweep"))} == {"multirun_analysis"}
    assert not alone & {"pandas", "numpy", "matplotlib", "torch"}
    used = imported("import multirun_analysis; print(multirun_analysis.analyse().tables['table1']._repr_html_())")
    assert "pandas" in used
    assert not used & {"torch", "timm", "hydra"}


def test_a_plain_script_without_a_guard_writes_what_the_command_writes(folder: Path) -> None:
    done = script("import multirun_analysis\nmultirun_analysis.analyse('runs').save('by_script')", folder)
    assert done.returncode == 0, done.stderr
    assert not done.stdout + done.stderr
    assert command("--out", "by_command", cwd=folder).returncode == 0
    one, other = (
        {p.relative_to(folder / out) for p in (folder / out).rglob("*")} for out in ("by_script", "by_command")
    )
    assert one == other
    for path in one:
        ours, theirs = folder / "by_script" / path, folder / "by_command" / path
        if ours.is_file() and path.name != "index.html":  # which says when it was made, and by what
            assert ours.read_bytes() == theirs.read_bytes(), path
    page = (folder / "by_script" / "index.html").read_text()
    assert "multirun_analysis.analyse(&#39;runs&#39;)" in page


def test_only_the_formats_that_are_asked_for_are_saved(analysis: Analysis, tmp_path: Path) -> None:
    assert analysis.save(tmp_path / "some", formats=["csv", "html"]) == tmp_path / "some"
    assert {path.name for path in (tmp_path / "some").glob("[!.]*")} == {"tables", "index.html"}
    with pytest.raises(InputError, match="doc is not one of html"):
        analysis.save(tmp_path / "other", formats="doc")


def test_runs_are_read_from_folders_files_and_frames(folder: Path, analysis: Analysis, tmp_path: Path) -> None:
    runs = multirun_analysis.read(folder / "runs")
    assert len(runs.frame) == 3
    assert repr(runs) == f"<3 runs from {folder / 'runs'}>"
    assert "<table" in runs._repr_html_()
    analysis.to_frame().to_parquet(tmp_path / "data.parquet")
    table = pd.DataFrame({"model": ["a", "b"], "top1": [0.5, 0.6], "macs": [1, 2]})
    for source, count in [(runs, 3), (tmp_path / "data.parquet", 3), (runs.frame, 3), ([folder / "runs"], 3)]:
        assert len(multirun_analysis.analyse(source).findings.info) == count
    assert multirun_analysis.analyse(table, accuracy="top1", costs="macs:min").fronts["macs"].members == ["b", "a"]


def test_a_notebook_shows_sentences_tables_and_the_first_front(analysis: Analysis) -> None:
    shown = analysis._repr_html_()
    assert "Within training_time&lt;500s: take vit_tiny" in shown
    assert "Table 1: accuracy" in shown
    assert "Table 2: costs" in shown
    assert shown.count("data:image/png;base64,") == 1
    assert "Within training_time<500s: take vit_tiny" in repr(analysis)
    # What a record says stays text.
    for html in (shown, analysis.fronts["macs"]._repr_html_(), analysis.tables["comparisons"]._repr_html_()):
        assert "&lt;script&gt;" in html
        assert "<script" not in html


def test_fronts_tables_and_figures_have_the_names_of_their_files(analysis: Analysis, folder: Path) -> None:
    analysis.save(folder / "names")
    files = {path.stem for path in (folder / "names").rglob("[!.]*.*")}
    assert set(analysis.tables) | set(analysis.figures) == files - {"index", "data"}
    assert list(analysis.fronts) == ["training_time", "macs", "all"]
    front = analysis.fronts["training_time"]
    assert front.members == [HOSTILE, "vit_tiny", "resnet18"]
    assert sorted(front.to_frame()["training time (s)"]) == [100, 102, 822]
    assert analysis.fronts["all"].picture is None
    assert "data:image" not in analysis.fronts["all"]._repr_html_()


def test_columns_that_give_one_name_of_a_file_have_names_of_their_own(tmp_path: Path) -> None:
    columns = ["lat (ms)", "lat_ms", "a/b", "a-b", "all", "时延", "内存"]
    table = pd.DataFrame({"model": ["a", "b"], "top1": [70.0, 80.0], **{name: [1.0, 2.0] for name in columns}})
    found = multirun_analysis.analyse(table, accuracy="top1", costs=[f"{name}:min" for name in columns])
    own = {name: name for name in columns} | {"a/b": "a-b", "a-b": "a-b-2"}
    assert list(found.fronts) == [*own.values(), "all costs"]  # and `all` is that column's own
    assert [front.found.costs[0].column for front in list(found.fronts.values())[:-1]] == columns
    assert len(found.fronts["all costs"].found.costs) == len(columns)
    names = [name for name in found.tables if name.startswith("front-")]
    assert names == [
        "front-lat-ms", "front-lat-ms-2", "front-a-b", "front-a-b-2", "front-all", "front-cost", "front-cost-2",
        "front-all-costs",
    ]  # fmt: skip
    assert {"front/all", "front/all costs"} <= set(found.to_frame())
    found.save(tmp_path, ["svg", "csv"])
    assert {path.stem for path in tmp_path.glob("tables/front-*.csv")} == set(names)
    assert len(list(tmp_path.glob("figures/pareto*.svg"))) == len(columns)


def test_a_report_leaves_nothing_of_an_earlier_one_and_all_that_is_its_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.DataFrame({"model": ["a", "b"], "top1": [70.0, 80.0], "lat": [1.0, 2.0], "size": [2.0, 1.0]})

    def save(costs: list[str], *formats: str) -> set[str]:
        found = multirun_analysis.analyse(table, accuracy="top1", costs=[f"{cost}:min" for cost in costs])
        with suppress(KeyboardInterrupt):
            found.save(tmp_path, formats)
        return {path.stem for path in tmp_path.glob("*/*.*")}

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    first = save(["lat", "size"], "csv", "svg")
    assert {"front-lat", "front-size", "front-all", "pareto-lat", "pareto-size"} <= first
    for own in ("tables/mine.csv", "figures/mine.svg", "tables/front-all.csv"):  # the last of them was the report's
        (tmp_path / own).write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr("multirun_analysis.report.page.page", interrupt)
        assert save(["lat"], "csv", "html") == {*first, "mine"}
    assert save(["lat"], "csv") == {*first, "mine"} - {"front-size"}
    assert save(["lat"], "svg") == {*first, "mine"} - {"front-size", "pareto-size"}
    assert (tmp_path / "tables" / "front-all.csv").read_text() == "mine"
    (tmp_path / ".written.json").write_bytes(b'{"tables/mine.csv": "\xff"}')  # then nothing is known to be the report's
    assert {"mine", "front-lat"} <= save(["size"], "csv")


def test_tables_are_data_frames_in_full_precision(analysis: Analysis) -> None:
    costs = analysis.tables["table2"].to_frame().set_index("model")
    assert costs.loc["vit_tiny", "training time (s)"] == 102
    assert costs.loc["vit_tiny", "MACs (G)"] == 1.02


def test_a_figure_shows_itself_and_is_matplotlib_s_own(analysis: Analysis, tmp_path: Path) -> None:
    picture = analysis.figures["pareto-macs"]
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert isinstance(picture.figure, Figure)
    assert analysis.figures["pareto-macs"] is picture
    assert picture is analysis.fronts["macs"].picture
    picture.figure.axes[0].set_title("changed")
    picture.save(tmp_path / "mine.svg")
    picture.save(tmp_path / "mine.pdf")
    assert (tmp_path / "mine.pdf").read_bytes().startswith(b"%PDF")
    assert "trials" not in analysis.figures  # nothing was tuned
    with pytest.raises(InputError, match="nothing to draw in 'trials'"):
        analysis.figures["trials"]


def test_what_is_wrong_is_said_with_what_to_do(analysis: Analysis, folder: Path) -> None:
    with pytest.raises(InputError, match="There is no 'table3' here") as e:
        analysis.tables["table3"]
    assert e.value.hint.startswith("Did you mean 'table")
    with pytest.raises(InputError, match="nowhere is neither a folder of runs") as e:
        multirun_analysis.analyse("nowhere")
    assert e.value.hint in e.value.__notes__  # a traceback ends with it
    with pytest.raises(InputError, match="No run has a 'watts'"):
        multirun_analysis.analyse(folder / "runs", costs="watts")
    with pytest.raises(AttributeError, match="no attribute 'analyze'"):
        multirun_analysis.analyze  # noqa: B018


def test_every_command_takes_the_folder_of_runs_the_same_way(folder: Path) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    for word in ("runs", "paths.runs=runs"):
        done = command(word, "--format", "csv", "--out", "csv", cwd=folder / "empty" / "..")
        assert done.returncode == 0, done.stderr
    assert "There is no run in empty." in command("paths.runs=empty", cwd=folder).stderr
    done = command("paths.runs=", cwd=folder)
    assert done.returncode == 2
    assert "paths.runs= names no folder" in done.stderr
