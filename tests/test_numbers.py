"""Numbers change only in the open: what is assumed of a table is said, what cannot be is refused or named, and files
hold what the page shows."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_runs import ask, block_of, quiet, write_run

import multirun_analysis
from har_sweep.errors import InputError, RunFailure
from har_sweep.launch.objective import objective_of
from har_sweep.record.folder import RunPaths, read_record, write_record
from multirun_analysis.__main__ import main
from multirun_analysis.analysis.analysis import analyse
from multirun_analysis.analysis.question import Question
from multirun_analysis.sources.read import read_runs
from multirun_analysis.tables.table import Table, name_cell, rounded, with_spread
from multirun_analysis.tables.tables import tables

PLAIN = pd.DataFrame({"model": ["a", "b", "c"], "acc": [81.5, 80, 79.25], "params": [11, 20, 5]})
GERMAN = "model;acc;params\na;81,5;11\nb;79,25;5\nc;80;20\n"


class Report:
    """What the command made of a table: its exit status, what it said, and its tables."""

    def __init__(self, status: int, said: str, folder: Path) -> None:
        self.status, self.said, self.folder = status, " ".join(said.split()), folder

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "tables" / f"{name}.csv", index_col="model")


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def make(text: str | bytes, *arguments: str, name: str = "t.csv") -> Report:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        shutil.rmtree("report", ignore_errors=True)
        status = main([name, *arguments, "--format", "csv,parquet"])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        assert Path("report").exists() == (status == 0)
        return Report(status, shown.err if status else shown.out, tmp_path / "report")

    return make


ASK = ("--accuracy", "acc", "--cost", "params:min")


# --- how a table is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        GERMAN,
        'model,acc,params\na,"81,5",11\nb,"79,25",5\nc,80,20\n',
        "model\tacc\tparams\na\t81,5\t11\nb\t79,25\t5\nc\t80\t20\n",
        GERMAN.encode("utf-16"),
        GERMAN.replace("\nc;", "\nç;").encode("cp1252"),
    ],
)
def test_a_decimal_comma_is_no_mark_between_thousands(report: Any, text: str | bytes) -> None:
    found = report(text, *ASK)
    assert found.table("table1")["acc (%)"].tolist() == [81.5, 80, 79.25]
    assert "t.csv: read with a decimal comma: acc." in found.said
    assert found.table("fronts")["params on front"].tolist() == ["yes", "no", "yes"]


def test_what_a_file_is_encoded_in_is_said_or_refused_with_how_to_convert_it(report: Any) -> None:
    latin = report(GERMAN.replace("\nc;", "\nç;").encode("latin-1"), *ASK)
    assert "t.csv is no UTF-8 and was read as Windows-1252 (latin-1)" in latin.said
    assert "ç" in latin.table("table1").index
    assert "t.csv is UTF-16, and was read so." in report(GERMAN.encode("utf-16"), *ASK).said
    for bytes_ in (GERMAN.encode("utf-16-le"), GERMAN.encode("utf-32"), GERMAN.encode() + b"\x81;1;2\n"):
        refused = report(bytes_, *ASK)
        assert refused.status == 2
        assert "iconv -f UTF-16LE -t UTF-8 t.csv > utf8.csv" in refused.said


@pytest.mark.parametrize(
    ("text", "params", "said"),
    [
        # By its own cells.
        ('model,acc,params\na,81.5,"1,014.5"\nb,80,5.5\n', [1014.5, 5.5], "a comma between thousands: params."),
        ("model;acc;params\na;81,5;1.014,5\nb;80;5,5\n", [1014.5, 5.5], "decimal comma and a point between thousands"),
        ('model,acc,params\na,81.5,"1,234,567"\nb,80,5\n', [1234567, 5], "a comma between thousands: params."),
        ("model;acc;params\na;81,5;0,123\nb;80;2\n", [0.123, 2], "read with a decimal comma: acc, params."),
        ("model;acc;params\na;81.5;12,5\nb;80;2\n", [12.5, 2], "read with a decimal comma: params."),
        # Either way: as the other columns are written, then by the delimiter.
        ('model,acc,params\na,81.5,"1,234"\nb,80,"2,345"\n', [1234, 2345], "as the other columns are written"),
        ("model;acc;params\na;81,5;1.234\nb;80;2.345\n", [1234, 2345], "as the other columns are written"),
        ("model;acc;params\na;81;1,234\nb;80;2,345\n", [1.234, 2.345], "as a table of semicolons usually is"),
        ("model;acc;params\na;81;1.234\nb;80;2.345\n", [1.234, 2.345], "as is usual where nothing says otherwise"),
        ("model\tacc\tparams\na\t81\t1,234\nb\t80\t2,345\n", [1234, 2345], "as is usual where nothing says otherwise"),
        # Marks between thousands of other places, and a word among the numbers.
        (
            "model;acc;params\na;81,5;1 234,5\nb;80;22 500 000\n",
            [1234.5, 22500000],
            "a blank between thousands: params.",
        ),
        (
            "model,acc,params\na,81.5,1\u202f234.5\nb,80,2\u00a0500\n",
            [1234.5, 2500],
            "a blank between thousands: params.",
        ),
        (
            "model;acc;params\na;81.5;1'234.5\nb;80;2\u2019500\n",
            [1234.5, 2500],
            "an apostrophe between thousands: params.",
        ),
        ("model;acc;params\na;81,5;1.234\nb;80;2.500\nc;70;k.A.\n", [1234, 2500], "as the other columns are written"),
        # What spreadsheets write first, and a head that has more commas than its cells.
        ("sep=;\nmodel;acc;params\na;81,5;12,5\nb;80;2\n", [12.5, 2], "read with a decimal comma: acc, params."),
        (
            "model;acc;params;note (a, b)\na;81,5;12,5;x\nb;80;2;y\n",
            [12.5, 2],
            "read with a decimal comma: acc, params.",
        ),
        ("model , acc, params\na ,81.5, 1e3\nb , 80, 2\n", [1000, 2], "params"),
    ],
)
def test_a_column_is_read_one_way_and_what_was_assumed_is_said(
    report: Any, text: str, params: list[float], said: str
) -> None:
    found = report(text, *ASK)
    assert found.table("table2").loc[["a", "b"], "params"].tolist() == params
    assert said in found.said


def test_of_numbers_that_are_plain_nothing_is_said(report: Any) -> None:
    found = report("model,acc,params,note\na,81.5,1e3,x\nb,80,-,\nc,79,5,z\n", *ASK)
    assert "read with" not in found.said
    assert "!" not in found.said
    assert found.table("table2")["params"].tolist()[::2] == [1000, 5]


def test_names_that_look_like_numbers_are_as_they_are_written(report: Any) -> None:
    found = report("version,acc,params\n1.10,81.5,3\n1.1,80,2\n007,79,1\n", *ASK, "--label", "version")
    table = pd.read_csv(found.folder / "tables" / "table1.csv", dtype=str)
    assert table["model"].tolist() == ["1.10", "1.1", "007"]


def test_a_name_among_numbers_is_as_written_and_numbers_of_records_stay_numbers(report: Any, tmp_path: Path) -> None:
    found = report('version,acc,params\n"1,50",81.5,3\n"1,5",80,2\nold,79,1\n', *ASK, "--label", "version")
    table = pd.read_csv(found.folder / "tables" / "table1.csv", dtype=str)
    assert table["model"].tolist() == ["1,50", "1,5", "old"]
    for rate in (0.1, 0.01):
        write_run(tmp_path / "runs", at={"config/optimizer/lr": rate})
    made = ask(tmp_path / "runs", label=["config/optimizer/lr"])
    assert made.blocks[0].labels == ["0.01", "0.1"]
    assert made.frame["config/optimizer/lr"].dtype == float


@pytest.mark.parametrize("source", ["csv", "frame"])
def test_two_columns_of_one_name_are_refused(report: Any, source: str) -> None:
    if source == "csv":
        assert "t.csv has several columns called acc. Give each" in report("model,acc,acc\na,1,2\n", *ASK).said
        return
    with pytest.raises(InputError, match="several columns called 1"):
        multirun_analysis.read(pd.DataFrame([["a", 1, 2]], columns=["model", "1", 1]))


@pytest.mark.parametrize(
    "frame",
    [
        PLAIN.convert_dtypes(),
        PLAIN.convert_dtypes(dtype_backend="pyarrow"),
        PLAIN.astype({"model": "category", "params": "category"}),
        PLAIN.set_index("model"),
        PLAIN.astype({"params": object}).assign(acc=["81,5", "80", "79,25"]),
        PLAIN.assign(params=pd.to_timedelta([11, 20, 5], unit="s")),
    ],
    ids=["nullable", "arrow", "category", "index", "texts", "durations"],
)
def test_a_frame_of_any_types_has_the_same_numbers(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        found = multirun_analysis.analyse(source, accuracy="acc", costs="params:min", label="model").findings
        assert found.numbers[["acc", "params"]].to_numpy().tolist() == [[81.5, 11], [80, 20], [79.25, 5]]
        assert found.blocks[0].labels == ["a", "b", "c"]


def test_dates_are_no_numbers() -> None:
    frame = PLAIN.assign(params=pd.to_datetime("2026-11-01"))
    with pytest.raises(InputError, match="params has no number in any row"):
        multirun_analysis.analyse(frame, accuracy="acc", costs="params:min")


def test_a_row_of_a_file_is_taken_once_however_often_the_file_is_given(tmp_path: Path) -> None:
    PLAIN.to_csv(tmp_path / "t.csv", index=False)
    twice = multirun_analysis.read(tmp_path / "t.csv", f"{tmp_path}/../{tmp_path.name}/t.csv")
    assert len(twice.info) == 3
    assert "3 runs came twice and are taken once." in twice.notes
    assert len(multirun_analysis.read(f"{tmp_path}/t.csv?model=a", f"{tmp_path}/t.csv?model=b,c").info) == 3
    assert len(multirun_analysis.read(PLAIN, PLAIN.copy()).info) == 6  # who knows


@pytest.mark.parametrize("text", ["a;81.5%;1\nb;80 %;2\n", "a;81,5 %;1\nb;80%;2\n"])
def test_percent_signs_are_read_and_the_column_knows_its_unit(report: Any, text: str) -> None:
    found = report(f"model;acc;params\n{text}", *ASK, "--budget", "acc>=81%")
    assert found.table("table1")["acc (%)"].tolist() == [81.5, 80]
    assert "percent signs: acc." in found.said
    assert "take a (81.50 %)." in found.said
    assert "Nothing else is within it." in found.said
    below_one = report("model,err,params\na,0.5%,1\nb,0.7%,2\n", "--accuracy", "err", "--cost", "params:min")
    assert below_one.table("table1")["err (%)"].tolist() == [0.5, 0.7]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("81.5%,80", "cells with a % sign (1, such as '81.5%') are mixed with cells without (1, such as '80')"),
        ('81.5,"80,25"', "'81.5' is a number with a decimal point, '80,25' one with a decimal comma"),
        ('"1,234",1.234', "'1.234' and '1,234' cannot be read in one way"),
    ],
)
def test_a_column_that_cannot_be_read_one_way_is_refused_where_it_is_asked_for(
    report: Any, cells: str, said: str
) -> None:
    first, second = next(csv.reader([cells]))
    text = f'model,acc,params\na,"{first}",1\nb,"{second}",2\nc,"{second}",3\n'
    refused = report(text, *ASK)
    assert refused.status == 2
    assert f"acc in t.csv: {said}".replace("(1, such as '80')", "(2, such as '80')") in refused.said
    assert report(text, "--accuracy", "params", "--cost", "params2:min").status == 2
    other = report(
        text.replace("model,acc,params", "model,note,params"), "--accuracy", "params:max", "--cost", "params"
    )
    assert "is asked for as the accuracy and as a cost" in other.said  # and not that the note cannot be read


def test_rows_of_more_cells_than_the_head_are_refused(report: Any) -> None:
    refused = report("model,acc,params\na,81,5,11\nb,79,25,5\n", *ASK)
    assert refused.status == 2
    assert "t.csv has a head of 3 cells and rows of 4. Quote cells that hold the delimiter" in refused.said


# --- what the numbers are in -----------------------------------------------------------------------------------------


def test_the_unit_of_a_column_can_be_said_and_budgets_and_heads_know_it(report: Any) -> None:
    text = "model,top1,latency_ms,mem\na,0.9,5,2\nb,0.7,4,1\n"
    words = ("--accuracy", "top1:max:%", "--cost", "latency_ms:min:ms", "--cost", "mem:min:GiB")
    found = report(text, *words, "--budget", "latency_ms<4500us", "--budget", "mem<1.5GiB")
    assert found.table("table1")["top1 (%)"].tolist() == [0.9, 0.7]
    assert found.table("table2")[["latency (ms)", "mem (MiB)"]].to_numpy().tolist() == [[5, 2048], [4, 1024]]
    assert "take b (0.70 %), with latency 4 ms, mem 1 GiB" in found.said
    frame = pd.read_parquet(found.folder / "data.parquet")
    assert frame["latency_ms"].tolist() == [5, 4]  # as it was read
    assert ask(Path("t.csv"), accuracy="top1:max:%", costs=["latency_ms:min:ms"]).numbers["latency_ms"].tolist() == [
        0.005, 0.004
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cost", "ms:min:msec"], "'msec' is no unit. Use one of s, ms, us"),
        (["--cost", "ms:min", "--budget", "ms<4ms"], "it is not told what ms is in. Say it (--cost 'ms:min:ms')"),
        (["--cost", "ms:min:ms", "--budget", "ms<4"], "has no unit. Use s, ms"),
        (["--cost", "ms:min:ms", "--budget", "ms<4GB"], "'GB' is no unit of ms"),
        (["--cost", "p:min:ms"], "its cells are in %, not ms"),
    ],
)
def test_a_unit_that_is_none_or_is_not_told_is_refused(report: Any, arguments: list[str], said: str) -> None:
    refused = report("model,acc,ms,p\na,80,5,1%\nb,70,4,2%\n", "--accuracy", "acc", *arguments)
    assert refused.status == 2
    assert said in refused.said


@pytest.mark.parametrize(
    ("column", "unit", "head"),
    [
        ("latency_seconds", "s", "latency (ms)"),
        ("latency (ms)", "ms", "latency (ms)"),
        ("passes", "s", "passes (ms)"),
        ("memory_bytes", "B", "memory (MiB)"),
        ("param_count", "M", "param_count (k)"),
        ("wait%", "%", "wait (%)"),
    ],
)
def test_a_head_leaves_out_the_unit_that_a_column_s_name_ends_with(
    report: Any, column: str, unit: str, head: str
) -> None:
    text = f"model,acc,{column}\na,0.9,0.005\nb,0.7,0.004\n"
    found = report(text, "--accuracy", "acc", "--cost", f"{column}:min:{unit}")
    assert found.table("table2").columns.tolist() == [head]


def test_a_record_s_column_has_its_unit(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(InputError, match="a record has it in SI units"):
        block_of(tmp_path, costs=["latency:min:ms"])


def test_a_budget_in_percent_on_percents_is_in_percent(report: Any) -> None:
    found = report("model,acc,params\na,81,5\nb,79,4\n", *ASK, "--budget", "acc>=80%")
    assert "Nothing else is within it." in found.said


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("acc>=0.8", "acc is in percent, and 0.8 may be meant as a share. Write 'acc>=80%', or 'acc>=0.8%' if"),
        ("acc>=101", "acc is never more than 100 %"),
        ("params<-1", "params is never below 0"),
    ],
)
def test_a_budget_that_cannot_be_or_may_mean_a_share_is_refused(report: Any, budget: str, said: str) -> None:
    refused = report(GERMAN, *ASK, "--budget", budget)
    assert refused.status == 2
    assert said in refused.said


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ([0.81, 0.79, 1.2], "shares and percents in one column: of its values 2 at most 1 (0.81), and 1 more"),
        ([0.81, 79, 80], "The fewer are in t.csv, row 1. Write all in one unit; if all of them are percent, say so"),
        ([81, 130, 70], "acc must be from 0 to 1, or from 0 to 100 in percent, and is 130.0 in t.csv, row 2."),
        ([81, -3, 70], "acc must be from 0 to 100 (percent), and is -3 in t.csv, row 2."),
        ([-1, -1, -1], "acc has no number that can be used in any row"),
    ],
)  # fmt: skip
def test_accuracies_that_cannot_be_are_refused_by_row(report: Any, accuracies: list[float], said: str) -> None:
    rows = "".join(
        f"{name},{value},{place}\n" for place, (name, value) in enumerate(zip("abc", accuracies, strict=True))
    )
    refused = report(f"model,acc,params\n{rows}", *ASK)
    assert refused.status == 2
    assert said in refused.said


def test_all_small_percents_can_be_said_to_be_percent(report: Any) -> None:
    text = "model,acc,params\na,0.8,1\nb,1.2,2\n"
    assert report(text, *ASK).status == 2
    found = report(text, "--accuracy", "acc:max:%", *ASK[2:])
    assert found.table("table1")["acc (%)"].tolist() == [1.2, 0.8]
    found = report(text.replace("acc", "acc (%)"), "--accuracy", "acc (%)", *ASK[2:])
    assert found.table("table1")["acc (%)"].tolist() == [1.2, 0.8]
    assert "taken for shares of 1" in report(text.replace("1.2", "0.7"), *ASK).said


def test_published_percents_beside_the_shares_of_records_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    table = tmp_path / "study.csv"
    table.write_text("model/name,dataset/name,metrics/test/accuracy,cost/training/seconds\nresnet18,photos,58,100\n")
    with pytest.raises(InputError, match=r"must be from 0 to 1, and is 58.0 in .*study.csv, row 1"):
        ask(tmp_path / "runs", table)
    table.write_text(table.read_text().replace("58,", "58%,"))
    with pytest.raises(InputError, match="is in % in one source, and without a unit in another"):
        ask(tmp_path / "runs", table)


def test_a_negative_cost_is_refused_and_what_stands_for_missing_is_left_out_by_name(report: Any) -> None:
    refused = report("model,acc,params\na,81,5\nb,79,-4.5\n", *ASK)
    assert refused.status == 2
    assert "params must be 0 or more, and is -4.5 in t.csv, row 2." in refused.said
    rows = ["a,81,5", "b,79,-1", "c,-1,3", "d,78,inf", "e,77,OOM", "f,76,9", "f,74,11", "f,-1,1000"]
    found = report("model,acc,params\n" + "\n".join(rows) + "\n", *ASK)
    for said in (
        "params: 1 cell is taken for missing, as they cannot be negative, and left out (-1): t.csv, row 2.",
        "acc: 2 cells are taken for missing, as they cannot be negative, and left out (-1): t.csv, row 3; t.csv",
        "params: 1 cell is not finite, and left out (inf): t.csv, row 4.",
        "params: 1 cell is no number, and left out (OOM): t.csv, row 5.",
        "Not counted: 1 finished run that has no acc: t.csv, row 8.",
        "Without params, and so not on this front: b, d, e.",
    ):
        assert said in found.said
    table = found.table("table2")
    assert table.loc[["a", "f"], "params"].tolist() == [5, 10]
    assert table.loc[["b", "d", "e"], "params"].isna().all()


def test_rows_without_a_label_are_left_out_by_name(report: Any) -> None:
    found = report("model,acc,params\na,81,5\n,79,4\n  ,78,3\nb,70,2\n", *ASK)
    assert found.table("table1").index.tolist() == ["a", "b"]
    assert "Left out: 2 runs without a model: t.csv, row 2; t.csv, row 3." in found.said
    assert "No run has a model" in report("model,acc,params\n,81,5\n", *ASK).said


def test_the_accuracy_is_no_cost(report: Any) -> None:
    refused = report("model,acc,params\na,81,5\n", "--accuracy", "acc", "--cost", "acc:min")
    assert refused.status == 2
    assert "acc is asked for as the accuracy and as a cost." in refused.said


def test_rows_of_one_seed_are_no_repeats(report: Any, tmp_path: Path) -> None:
    refused = report("model,acc,params,seed\na,81,5,0\na,82,5,0\nb,70,2,0\n", *ASK)
    assert refused.status == 2
    assert "a has 2 rows of seed 0: t.csv, row 1; t.csv, row 2. Add --by or --label" in refused.said
    runs = tmp_path / "runs"
    for number, accuracy in enumerate((0.6, 0.7)):  # two that differ in nothing that tells trials apart
        write_run(
            runs, test=accuracy, at={"config/launch/order": number}, finished_at=f"2026-01-0{2 - number}T00:00:00Z"
        )
    write_run(runs, seed=1, test=0.5)
    (block,) = (found := ask(runs)).blocks
    assert len(block.candidates[0].rows) == 2
    assert block.means["metrics/test/accuracy"].tolist() == [0.55]  # the one that was done last counts
    (note,) = [note for note in block.notes if "seed" in note]
    assert note.startswith("Not counted: 1 run that has the seed of a later run of the same trial: resnet18-")
    assert len(found.info) == 3


def test_of_runs_that_come_twice_with_other_numbers_it_is_said_which_is_kept(report: Any, tmp_path: Path) -> None:
    found = report("run_id,model,acc,params\nx,a,80,5\nx,a,70,5\ny,b,60,3\ny,b,60,3\n", *ASK)
    assert "2 runs came twice and are taken once." in found.said
    assert (
        "1 run came twice with different numbers: x has acc 80 in t.csv, row 1, which is kept, and 70 in t.csv, row 2."
        in found.said
    )
    record = write_run(tmp_path / "runs", test=0.6)
    table = tmp_path / "old.csv"
    table.write_text(f"run_id,status,model/name,metrics/test/accuracy\n{record.run_id},done,resnet18,0.5\n")
    notes = "\n".join(ask(tmp_path / "runs", table).notes)
    assert f"{record.run_id} has metrics/test/accuracy 0.6 in {tmp_path}/runs/{record.run_id}, which is kept" in notes


def test_an_empty_seed_or_status_is_a_sentence(report: Any) -> None:
    found = report("model,acc,params,seed,status\na,81,5,0,\na,82,5,,done\nb,70,2,x,\n", *ASK)
    assert found.table("table1")["runs"].tolist() == [2, 1]
    assert "2 rows have no status and are taken for done: row 1, row 3." in found.said
    assert "1 seed is no whole number, and so not known: row 3 (x)." in found.said
    assert pd.read_csv(found.folder / "tables" / "runs.csv")["seed"].tolist() == ["0", "-", "-"]


# --- records that lack something -------------------------------------------------------------------------------------


def edit(folder: Path, split: str = "test", **metrics: float | None) -> None:
    """Let the metrics in a record's file be others."""
    tree = json.loads((folder / "record.json").read_text())
    tree["metrics"][split] |= metrics
    (folder / "record.json").write_text(json.dumps(tree))


def test_a_number_that_is_null_costs_a_record_no_more_than_that_number(tmp_path: Path) -> None:
    for model, accuracy in (("a", 0.8), ("b", 0.7)):
        for seed in (0, 1, 2):
            write_run(tmp_path, model, seed, test=accuracy)
    folders = sorted(tmp_path.glob("a-*"))
    edit(folders[0], nll=None)
    edit(folders[1], accuracy=None, ece=None)
    assert np.isnan(read_record(folders[0] / "record.json").metrics["test"].nll)
    found = ask(tmp_path)
    (block,) = found.blocks
    assert f"{tmp_path}: metrics/test/nll is null, so not known, in 1 record: {folders[0].name}." in found.notes
    assert f"Not counted: 1 finished run that has no metrics/test/accuracy: {folders[1].name}." in block.notes
    assert [len(candidate.rows) for candidate in block.candidates] == [2, 3]
    assert block.means["metrics/test/accuracy"].tolist() == pytest.approx([0.8, 0.7])
    assert block.means["metrics/test/nll"].tolist() == [0.5, 0.5]
    assert {table.name for table in tables(found)} >= {"table1", "comparisons"}
    record = read_record(folders[0] / "record.json")
    write_record(record, RunPaths(folders[0]))  # and it can be written again
    assert np.isnan(read_record(folders[0] / "record.json").metrics["test"].nll)
    edit(folders[2], accuracy="good")  # type: ignore[arg-type]
    assert "is not a run's record" in "".join(ask(tmp_path).notes)


def test_a_search_does_not_go_by_a_number_that_is_null(tmp_path: Path) -> None:
    record = write_run(tmp_path)
    edit(tmp_path / record.run_id, "val", nll=None)
    config = SimpleNamespace(sweep=SimpleNamespace(objective=["metrics/val/accuracy", "metrics/val/nll"]))
    spec: Any = SimpleNamespace(
        paths=RunPaths(tmp_path / record.run_id), label="a", run_id=record.run_id, config=config
    )
    with pytest.raises(RunFailure, match="has no metrics/val/nll"):
        objective_of(spec)


def test_a_folder_that_vanishes_while_it_is_read_is_a_sentence(tmp_path: Path) -> None:
    for number in range(49):
        (tmp_path / "runs" / f"-{number:02}").mkdir(parents=True)  # progress is told at the fiftieth
    for model in ("a", "b", "c"):
        write_run(tmp_path / "runs", model, run_id=model)

    def remove(what: str, done: int, total: int | None) -> None:
        if done == 50:
            shutil.rmtree(tmp_path / "runs" / "c")

    runs = read_runs([str(tmp_path / "runs")], tmp_path, remove)
    assert f"{tmp_path}/runs: 1 folder was removed while being read: c." in runs.notes
    shutil.rmtree(tmp_path / "runs" / "b")
    (block,) = analyse(runs, Question(), "", quiet).blocks
    assert block.labels == ["a", "b"]
    assert "1 of 2 learning curves cannot be read: " in "".join(block.notes)
    assert "b/record.json cannot be read any more: No such file or directory" in "".join(block.notes)
    assert "1 of 2 runs has no predictions to pair" in "".join(block.notes)
    assert list(block.epochs) == [0]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_files_hold_all_that_the_page_shows(tmp_path: Path) -> None:
    for model, accuracy, seconds in [("a", 0.70, 100.0), ("b", 0.8, 200.0), ("c", 0.6, 100.0)]:
        for seed in (0, 1):
            write_run(tmp_path, model, seed, test=accuracy + 0.01 * seed, cost__training__seconds=seconds + seed)
    write_run(tmp_path, "d", test=0.5, cost__training__seconds=101.0, cost__macs=None)
    found = ask(tmp_path)
    (block,) = found.blocks
    made = {table.name: table.to_frame().set_index("model") for table in tables(found) if table.columns[0] == "model"}
    first = made["table1"]
    assert first["test accuracy (%)"].tolist() == pytest.approx([80.5, 70.5, 60.5, 50])
    assert first["test accuracy (%) SD"].tolist()[:3] == pytest.approx([np.std([1, 2], ddof=1)] * 3)
    assert np.isnan(first["test accuracy (%) SD"].iat[3])
    bounds = first[["95 % interval lower", "95 % interval upper"]].to_numpy()
    np.testing.assert_allclose(bounds, 100 * block.interval)
    assert "95 % interval" not in first
    assert made["table2"]["training time (s) SD"].tolist()[:3] == pytest.approx([np.std([1, 2], ddof=1)] * 3)
    fronts = made["fronts"]
    # c costs no more than the front at its accuracy, and is not on it.
    assert fronts["training time on front"].tolist() == ["yes", "yes", "no", "no"]
    assert fronts["training time times the cost"].tolist() == pytest.approx([1, 1, 1, 1], rel=0.01)
    assert fronts["MACs on front"].fillna("").tolist() == ["yes", "no", "no", ""]
    np.testing.assert_allclose(
        fronts["training time probability"].to_numpy(float), block.fronts["cost/training/seconds"].probability
    )
    (shown,) = [table for table in tables(found) if table.name == "table1"]
    assert shown.columns[2:4] == ["test accuracy (%)", "95 % interval"]  # people read them in one
    file = pd.read_csv(io.StringIO(shown.csv()), index_col="model")
    pd.testing.assert_frame_equal(file, first, check_dtype=False)


def test_numbers_are_shown_to_two_digits_of_their_uncertainty() -> None:
    assert with_spread(1818560.82, 31788.77) == "1819000 ± 32000"
    assert with_spread(81.5234, 0.3478) == "81.52 ± 0.35"
    assert with_spread(81.5, 12.3) == "82 ± 12"
    assert with_spread(0.09961, 0.0996) == "0.10 ± 0.10"
    assert with_spread(4.1234567, 0.00012) == "4.12346 ± 0.00012"
    assert with_spread(-0.0123, 0.0041) == "-0.0123 ± 0.0041"
    assert rounded([50.82, 121.41], 35.3) == ["51", "121"]
    assert rounded([81.5, 0.00123], float("nan")) == ["81.50", "0.00123"]


def test_a_report_shows_numbers_to_their_uncertainty(report: Any) -> None:
    found = report("model,acc,params\na,81,1818560.82\na,82,1850000.5\nb,70,5\nb,71.5,5\n", *ASK)
    assert "1834000 ± 22000" in found.said
    assert "81.50 ± 0.71" in found.said
    assert "74.4 to 87.0" in found.said
    assert found.table("table2")[["params", "params SD"]].to_numpy().tolist() == [
        [1834280.66, pytest.approx(22231.21093)], [5, 0]
    ]  # fmt: skip


RUN = [
    "=1+1", "+1+1", "-1+1", "@a", "\t=1", "\rx", "-cmd|' /C calc'!A0", " =1", "  -a", "\u00a0=1", "＝1", "＋a", "－a",
    "＠a", "\n=1", "+", "-1_0", "=", "- a", "+inf",
]  # fmt: skip
NOT_RUN = ["-", "-1.5", "+3", "-1e-5", "a=b", "resnet18", "1-2", "", "–", "two\nlines", 'a "b", c']


def test_no_cell_and_no_head_of_a_csv_is_a_formula() -> None:
    table = Table("t", "T", ["=model", "@n"], [[name_cell(text), name_cell(text)] for text in (*RUN, *NOT_RUN)])
    head, *rows = csv.reader(io.StringIO(table.csv(), newline=""))
    assert head == ["'=model", "'@n"]
    assert [row[0] for row in rows] == [*("'" + text.replace("\r", "\n") for text in RUN), *NOT_RUN]
    assert [row[1] for row in rows] == [row[0] for row in rows]
    # A return would begin a row where nothing is quoted because of it.
    assert Table("t", "T", ["n"], [[name_cell("a\r=1\r\n=2")]]).csv() == 'n\n"a\n=1\n=2"\n'


def test_the_best_is_that_of_those_with_a_cost_and_its_equals_are_named(report: Any) -> None:
    said = report("model,acc,params\na,85,\nb,80,1\nc,79,2\nd,80,1\n", *ASK).said
    assert "Best value and best of those with known params: b (and 1 equal: d), 80.00 %" in said
    assert "no other of them is more accurate" in said


def test_a_small_difference_does_not_read_as_none(report: Any) -> None:
    assert (
        "+0.02 points over a for 1.04 times the params"
        in report("model,acc,params\na,80.02,100\nb,80.04,104\n", *ASK).said
    )


def test_of_equally_accurate_ones_within_a_budget_the_cheaper_is_taken(report: Any) -> None:
    said = report("model,acc,params\na,80,4\nb,80,1\nc,70,0.5\ne,80,9\n", *ASK, "--budget", "params<5").said
    assert "take b (80.00 %)" in said
    assert "No more accuracy is to be had outside of it." in said


def test_rows_without_a_run_id_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    own = pd.DataFrame({"run_id": ["mine"], "model/name": ["resnet18"]})
    published = pd.DataFrame({"model/name": ["resnet18", "convnext"]})
    runs = read_runs([own, published], tmp_path, quiet)
    assert len(runs.info) == 3
    assert not runs.notes


def test_the_table_of_runs_has_no_rounding_of_units(report: Any) -> None:
    made = report("model,acc,params\na,0.58,1\nb,0.57,2\n", "--accuracy", "acc", "--cost", "params:min")
    assert made.table("runs").filter(like="acc").to_numpy().ravel().tolist() == [58.0, 57.0]


def test_equal_numbers_stay_equal_when_they_are_averaged(report: Any) -> None:
    """The mean of three times 0.1 is 0.10000000000000002: b would cost more than a."""
    rows = "a,0,0.70,0.1\nb,0,0.71,0.1\nb,1,0.72,0.1\nb,2,0.73,0.1\n"
    made = report(f"model,seed,acc,lat\n{rows}", "--accuracy", "acc", "--cost", "lat:min")
    fronts = made.table("fronts").filter(like="on front")
    assert fronts.iloc[:, 0].to_dict() == {"b": "yes", "a": "no"}


@pytest.mark.parametrize("word", ["finished", "Completed", "success", "done"])
def test_other_words_for_done_are_done(report: Any, word: str) -> None:
    rows = f"a,{word},0.7,1\nb,{word},0.8,2\n"
    made = report(f"model,status,acc,params\n{rows}", "--accuracy", "acc", "--cost", "params:min")
    assert "unfinished" not in made.said


def test_a_goal_that_a_known_accuracy_does_not_have_is_refused_and_so_are_two_of_one_cost(report: Any) -> None:
    rows = "model,metrics/test/accuracy,params\na,0.7,1\nb,0.8,2\n"
    assert "test:min" in report(rows, "--accuracy", "test:min", "--cost", "params:min").said
    twice = report(rows, "--accuracy", "test", "--cost", "params:min", "--cost", "params:max")
    assert "params is asked for twice, not alike" in twice.said


def test_a_sweep_of_a_table_is_refused_with_what_can_be_chosen_instead(report: Any) -> None:
    refused = report("model,acc,params\na,0.7,1\n", *ASK, "--sweep", "main")
    assert "--sweep main: only har_sweep's runs are of sweeps, not those of t.csv." in refused.said
    assert "--where" in refused.said
