"""The command `python -m multirun_analysis`, as people and scripts use it."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_runs import write_run
from rich.console import Console

from har_sweep.record.folder import read_record
from har_sweep.record.record import flatten
from multirun_analysis.outputs.terminal import draw
from multirun_analysis.tables.columns import Cell
from multirun_analysis.tables.table import Table, name_cell


def command(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "multirun_analysis", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/` and with the report that the bare command made of it."""
    place = tmp_path_factory.mktemp("sweep")
    for model, accuracy, seconds in [("resnet18", 0.58, 100.0), ("vit_tiny", 0.72, 102.0), ("vit_base", 0.77, 822.0)]:
        for seed in (0, 1):
            write_run(
                place / "runs", model, seed, val=accuracy, test=accuracy, images=400,
                cost__training__seconds=seconds, cost__macs_without_attention_products=16_870_000_000,
            )  # fmt: skip
    done = command(cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "screen.txt").write_text(done.stdout)
    return place


def test_the_bare_command_shows_table_1_table_2_the_fronts_and_sentences(folder: Path) -> None:
    screen = (folder / "screen.txt").read_text()
    for said in ["Table 1: accuracy", "Table 2: costs", "Fronts", "822.00", "on (1.00)"]:
        assert said in screen
    assert re.search(
        r"vit_tiny: \+14\.0 points \(.*\) over resnet18 for 1\.02 times the training time; certain \(p", screen
    )
    lines = screen.splitlines()
    assert next(line.split() for line in lines if line.startswith(" vit_base"))[1:3] == ["2", "77.00"]


def test_the_report_is_a_page_figures_tables_and_data(folder: Path) -> None:
    report = folder / "report"
    assert {path.name for path in report.glob("[!.]*")} == {"index.html", "figures", "tables", "data.parquet"}
    assert {path.suffix for path in (report / "figures").iterdir()} == {".png", ".svg", ".pdf"}
    assert {path.suffix for path in (report / "tables").iterdir()} == {".csv", ".md", ".tex"}
    names = {path.stem for path in (report / "tables").iterdir()}
    assert {"table1", "table2", "fronts", "front-training-seconds", "comparisons", "epochs", "recall", "runs"} <= names


def test_the_data_have_a_row_a_run_with_the_record_s_paths_and_the_fronts(folder: Path) -> None:
    data = pd.read_parquet(folder / "report" / "data.parquet").set_index("run_id", drop=False)
    assert len(data) == 6
    for path in (folder / "runs").glob("*/record.json"):
        record = read_record(path)
        row = data.loc[record.run_id]
        for column, value in flatten(record).items():
            if isinstance(value, (int, float, str)):
                assert row[column] == value, column
    assert set(data.columns) - set(flatten(record)) == {
        f"front/cost/{cost}"
        for cost in (
            "training/seconds", "inference/latency_seconds/batch_1/p50", "macs", "parameters",
            "training/peak_memory_bytes", "inference/peak_memory_bytes",
        )
    }  # fmt: skip
    assert data.groupby("name")["front/cost/training/seconds"].all().to_dict() == {
        "resnet18": True, "vit_base": True, "vit_tiny": True
    }  # fmt: skip
    assert data.groupby("name")["front/cost/macs"].any().to_dict() == {
        "resnet18": False, "vit_base": True, "vit_tiny": False
    }  # fmt: skip


def test_tables_in_files_have_the_study_s_numbers(folder: Path) -> None:
    costs = pd.read_csv(folder / "report" / "tables" / "table2.csv").set_index("model")
    assert costs.loc["vit_base", "training time (s)"] == 822
    assert costs.loc["vit_base", "MACs without attention products (G)"] == 16.87
    epochs = pd.read_csv(folder / "report" / "tables" / "epochs.csv")
    assert epochs[epochs["model"] == "resnet18"]["val accuracy (%)"].tolist() == pytest.approx([60, 58])


def test_the_same_command_again_gives_the_same_files_and_reads_its_own_data(folder: Path) -> None:
    again = command("report/data.parquet", "--format", "csv,parquet", "--out", "again", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert not (folder / "again" / "figures").exists()
    first, second = (pd.read_parquet(folder / out / "data.parquet") for out in ("report", "again"))
    pd.testing.assert_frame_equal(first, second)
    for table in ("table2", "front-training-seconds"):
        one, two = (pd.read_csv(folder / out / "tables" / f"{table}.csv") for out in ("report", "again"))
        shared = [column for column in one if column != "probability"]  # without predictions another
        pd.testing.assert_frame_equal(one[shared], two[shared])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is neither a folder of runs"),
        (["runs", "--format", "doc"], "--format doc is not one of html"),
        (["runs", "--cost", "macs:more"], "neither :min nor :max"),
        (["runs", "--budget", "latency<5"], "has no unit"),
        (["runs", "--accuracy", "val_loss_of"], "No run has a 'val_loss_of'"),
        (["results.csv"], "there is no results.csv"),
        (["runs", "--images", "nowhere"], "--images nowhere: there is no such folder"),
        (["runs", "--project", "me/mine"], "Write wandb-report before the sources"),
        (["wandb-report", "runs"], "wandb-report writes no files"),
    ],
)
def test_what_cannot_be_used_is_said_with_status_2_and_nothing_is_written(
    folder: Path, arguments: list[str], said: str
) -> None:
    done = command(*arguments, "--out", "not_made", cwd=folder)
    assert done.returncode == 2
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not (folder / "not_made").exists()


def test_no_run_at_all_is_said_with_the_remedy(tmp_path: Path) -> None:
    done = command(cwd=tmp_path)
    assert done.returncode == 2
    assert "python -m har_sweep -m" in done.stderr
    (tmp_path / "runs").mkdir()
    done = command(cwd=tmp_path)
    assert done.returncode == 2
    assert "There is no run in runs." in done.stderr


def test_a_folder_that_cannot_be_written_to_is_said(folder: Path) -> None:
    (folder / "a_file").touch()
    done = command("--format", "csv", "--out", "a_file", cwd=folder)
    assert done.returncode == 2
    assert "a_file" in done.stderr
    assert "--out FOLDER" in done.stderr


def test_help_imports_nothing_heavy_and_the_analysis_never_torch(folder: Path) -> None:
    def imported(*arguments: str) -> set[str]:
        code = "import sys; from multirun_analysis.__main__ import main; main(sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code, *arguments], cwd=folder, capture_output=True, text=True
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return {line.rpartition("|")[2].strip() for line in lines}

    assert not imported("--help") & {"torch", "pandas", "numpy", "scipy", "matplotlib", "plotly", "wandb", "jinja2"}
    everything = imported("runs", "--out", "everything")
    assert {"pandas", "matplotlib.figure", "jinja2.environment"} <= everything
    assert not everything & {"torch", "timm", "sklearn", "scipy.stats", "hydra"}
    assert {name for name in everything if name.startswith("har_sweep.")} <= {
        "har_sweep.record", "har_sweep.record.record", "har_sweep.record.folder", "har_sweep.record.claim",
        "har_sweep.record.choices",
        "har_sweep.files", "har_sweep.errors", "har_sweep.units", "har_sweep.events", "har_sweep.processes",
            "har_sweep.console",
    }  # fmt: skip


HOSTILE = ["<b>a|b</b>", "50 % & $x_1$ #1 {~^\\}", "two\nlines", "[2ex]", "*", "&lt;", "☃" * 300]
FORMULAS = ["=1+1", "+1+1", "-1+1", "@a", "\t=1"]


def test_names_stay_names_in_markdown_latex_and_spreadsheets() -> None:
    marked = [[Cell(name, name), Cell(1.0, "1", mark="why | not")] for name in HOSTILE]
    table = Table("t", "T", ["model", "n (%)"], [*marked, [Cell("-", "-"), Cell(-1.5, "-1.5")]])
    head, rule, *rows, _, note = table.markdown().splitlines()
    assert len(rows) == len(HOSTILE) + 1
    assert {line.replace("\\|", "").count("|") for line in (head, rule, *rows)} == {3}
    assert rows[0] == "| \\<b\\>a\\|b\\</b\\> | 1† |"
    assert rows[5] == "| \\&lt; | 1† |"  # and no <
    assert "why \\| not" in note
    latex = table.tex()
    assert r"50 \% \& \$x\_1\$ \#1 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}" in latex
    assert latex.count(r"\\") == 2 + len(HOSTILE)
    assert r"\textless{}b\textgreater{}a\textbar{}b" in latex
    assert not [line for line in latex.splitlines() if line.startswith(("[", "*"))]  # arguments of the \\ before them
    assert "{}[2ex] & 1" in latex
    comments = [line for line in latex.splitlines() if line.startswith("%")]
    assert "two lines" in comments[-1]
    assert latex.splitlines()[-1] == comments[-1]  # all that follows the table is a comment
    formulas = Table("t", "T", ["=model"], [[name_cell(name)] for name in (*FORMULAS, "-1.5", "resnet18")])
    cells = [row[0] for row in csv.reader(formulas.csv().splitlines())]
    assert cells == ["'=model", *(f"'{name}" for name in FORMULAS), "-1.5", "resnet18"]
    assert list(formulas.to_frame()["=model"])[:5] == FORMULAS
    assert table.csv().endswith("-,-1.5\n")


def test_on_a_terminal_neither_numbers_nor_words_are_broken() -> None:
    heads = [
        "trainable parameters (M)", "size on disk (MiB)", "MACs (G)", "training time (s)", "inference images/s",
        "latency (p50, batch 1) (ms)", "peak memory in training (MiB)", "data wait in training (%)",
    ]  # fmt: skip
    models = ("resnet18", "vit_base", "vit_tiny", "tf_efficientnet_lite0", "mobilenetv4_conv_small")
    rows = [[Cell(m, m), *(Cell(1.0, f"{10**n}.25†") for n in range(8))] for m in models]
    for width in range(60, 180):
        screen = Console(width=width, record=True, file=io.StringIO())
        screen.print(draw(Table("t", "A title", ["model", *heads], rows), width))
        text = screen.export_text()
        assert max(map(len, text.splitlines())) <= width
        # In the table, or in the line that names what did not fit.
        assert not [word for word in " ".join([*models[:3], "1.25†", *heads]).split() if word not in text], width
