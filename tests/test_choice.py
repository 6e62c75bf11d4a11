"""The runs that a report is about can be chosen, and what was left out is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from made_runs import write_run

import multirun_analysis
from har_sweep.errors import InputError
from multirun_analysis.__main__ import main

MODELS = {"resnet18": 0.6, "vit_tiny": 0.7, "vit_base": 0.8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine runs of the sweep ``main``, and a forgotten pilot of three, one of which is interrupted, all better."""
    folder = tmp_path_factory.mktemp("several") / "runs"
    for model, accuracy in MODELS.items():
        for seed in range(3):
            write_run(folder, model, seed, test=accuracy, sweeps=["main"], started_at="2026-11-02T09:00:00.000Z",
                      at={"config/optimizer/lr": 1e-4, "config/hardware/compile": False})  # fmt: skip
        write_run(
            folder, model, 7, test=0.9, val=0.9, sweeps=["pilot"], started_at="2026-10-30T23:59:00.000Z",
            status="interrupted" if model == "vit_base" else "done",
            at={"config/optimizer/lr": 1e-2, "config/hardware/compile": True, "config/trainer/ema_decay": None},
        )  # fmt: skip
    return folder


def kept(folder: Path | str, *, sweep: list[str] = [], where: list[str] = []) -> dict[str, int]:  # noqa: B006
    """How many runs of each model are left."""
    frame = multirun_analysis.read(folder, sweep=sweep, where=where).frame
    return dict(sorted(frame["model/name"].value_counts().items()))


def refused(folder: Path | str, *, sweep: list[str] = [], where: list[str] = []) -> str:  # noqa: B006
    with pytest.raises(InputError) as e:
        multirun_analysis.read(folder, sweep=sweep, where=where)
    return f"{e.value.message} {e.value.hint}"


def test_a_report_is_about_the_sweep_that_is_chosen_and_says_so_on_screen_and_page(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--format", "csv,html", "--out", str(tmp_path)]
    assert main([str(runs), "--sweep", "main", "--where", "model in vit_tiny,vit_base", *out]) == 0
    screen, page = capsys.readouterr().out, (tmp_path / "index.html").read_text()
    for told in (
        "Left out by --sweep main: 3 of 12 runs.",
        "Left out by --where 'model in vit_tiny,vit_base': 3 of 9 runs.",
    ):
        assert told in screen
        assert told.replace("'", "&#39;") in page
    assert "--sweep main" in page.split("</header>")[0]
    assert "none was chosen" not in screen
    table = pd.read_csv(tmp_path / "tables" / "table1.csv").set_index("model")
    assert table["test accuracy (%)"].to_dict() == pytest.approx({"vit_base": 80, "vit_tiny": 70})


def test_where_several_sweeps_lie_in_a_folder_the_report_says_so(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "These runs are of 2 sweeps, and none was chosen: main (9 runs), pilot (3 runs). --sweep NAME chooses one."
    assert main([str(runs), "--format", "html", "--out", str(tmp_path)]) == 0
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "index.html").read_text()
    for chosen in (
        multirun_analysis.analyse(runs, sweep=["main", "pilot"]),
        multirun_analysis.analyse(f"{runs}?sweep=main,pilot"),
        multirun_analysis.analyse(runs, where="sweep==main"),
    ):
        assert not any("none was chosen" in note for note in chosen.findings.notes)


def test_a_run_that_two_sweeps_asked_for_is_of_both(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet18", sweeps=["first", "second"])
    write_run(tmp_path, "vit_tiny", sweeps=["second"])
    assert kept(tmp_path, sweep=["first"]) == {"resnet18": 1}
    assert kept(tmp_path, sweep=["second"]) == {"resnet18": 1, "vit_tiny": 1}
    assert any("2 sweeps" in note for note in multirun_analysis.analyse(tmp_path).findings.notes)
    write_run(tmp_path / "same", "resnet18", sweeps=["first", "second"])  # to choose would change nothing
    assert not multirun_analysis.analyse(tmp_path / "same").findings.notes


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (["model==vit_tiny"], {"vit_tiny": 4}),
        (["model!=vit_tiny"], {"resnet18": 4, "vit_base": 4}),
        (["model/name in vit_tiny, resnet18"], {"resnet18": 4, "vit_tiny": 4}),
        (["status==done", "lr>=0.01"], {"resnet18": 1, "vit_tiny": 1}),
        (["lr<1e-3", "seed<=1"], {"resnet18": 2, "vit_base": 2, "vit_tiny": 2}),
        (["seed in 0,7"], {"resnet18": 2, "vit_base": 2, "vit_tiny": 2}),
        (["compile==True"], {"resnet18": 1, "vit_base": 1, "vit_tiny": 1}),
        (["started_at<=2026-10-30"], {"resnet18": 1, "vit_base": 1, "vit_tiny": 1}),
        (["started_at<2026-10-30T23:59:01", "status!=interrupted"], {"resnet18": 1, "vit_tiny": 1}),
        (["started_at>2026-10-30"], {"resnet18": 3, "vit_base": 3, "vit_tiny": 3}),
        (["test>0.65"], {"resnet18": 1, "vit_base": 3, "vit_tiny": 4}),  # what has none is not above
        (["test==null"], {"vit_base": 1}),
        (["test!=null", "model==vit_base"], {"vit_base": 3}),
        (["memory<2e9", "model==vit_base"], {"vit_base": 4}),  # of training and of inference
        (["model/input_size==224", "model==vit_base"], {"vit_base": 4}),  # one of [3, 224, 224]
        (["sweep==pilot"], {"resnet18": 1, "vit_base": 1, "vit_tiny": 1}),
    ],
)
def test_conditions_are_read_as_the_column_is(runs: Path, where: list[str], left: dict[str, int]) -> None:
    assert kept(runs, where=where) == left


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("sweep=main&model=vit_tiny,vit_base", {"vit_base": 3, "vit_tiny": 3}),
        ("sweep=main&sweep=pilot&model=vit_base", {"vit_base": 4}),
        ("status=done&since=2026-10-30&until=2026-10-30", {"resnet18": 1, "vit_tiny": 1}),
        ("since=2026-11-01", {"resnet18": 3, "vit_base": 3, "vit_tiny": 3}),
        ("config.model.name=resnet18&seed=0,1", {"resnet18": 2}),
    ],
)
def test_an_address_of_a_folder_has_filters_as_one_of_wandb_has(runs: Path, query: str, left: dict[str, int]) -> None:
    assert kept(f"{runs}?{query}") == left


def test_of_two_sources_each_address_chooses_its_own(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "study.csv").write_text("model/name,dataset/name,metrics/test/accuracy\na,photos,0.5\nb,photos,0.6\n")
    found = multirun_analysis.read(f"{runs}?sweep=main&model=vit_tiny", f"{tmp_path}/study.csv?model=a")
    assert found.frame["model/name"].tolist() == ["vit_tiny"] * 3 + ["a"]
    assert found.notes == [
        f"Left out by {runs}?sweep=main: 3 of 12 runs.",
        f"Left out by {runs}?model=vit_tiny: 6 of 9 runs.",
        f"Left out by {tmp_path}/study.csv?model=a: 1 of 2 runs.",
    ]


def test_a_choice_that_leaves_nothing_is_refused_with_what_there_is(runs: Path) -> None:
    assert refused(runs, sweep=["main", "piot"]) == (
        "--sweep piot leaves none of 12 runs. sweeps is main (9 runs), pilot (3 runs)."
    )
    assert refused(runs, where=["model==resnet18", "lr>1"]) == (
        "--where 'lr>1' leaves none of 4 runs. config/optimizer/lr is 0.0001 (3 runs), 0.01 (1 run)."
    )
    assert "?status=failed leaves none of 12 runs. status is done (11 runs), interrupted (1 run)." in refused(
        f"{runs}?status=failed"
    )


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("model=vit_tiny", "--where 'model=vit_tiny' is not understood. Write it like 'model==resnet18'"),
        ("lr<1e-3s", "config/optimizer/lr holds numbers, and '1e-3s' is none. Give it without a unit"),
        ("modl==vit_tiny", "No run has a 'modl'. Did you mean model"),
        ("started_at>=yesterday", "'yesterday' is no date. Write 2026-11-01"),
        ("model<vit_tiny", "model/name has no order. It can be compared by ==, != and in."),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused_with_the_remedy(runs: Path, where: str, said: str) -> None:
    assert said in refused(runs, where=[where])


def test_an_address_that_is_none_is_refused_and_a_folder_of_that_name_is_read(runs: Path, tmp_path: Path) -> None:
    assert "must be key=value, joined by '&'" in refused(f"{runs}?pilot")
    assert "No run has a 'modl'" in refused(f"{runs}?modl=a")
    assert "there can be only one date" in refused(f"{runs}?since=2026-11-01&since=2026-11-02")
    assert kept(f"{runs}?model={','.join([*['net'] * 100, 'vit_tiny'])}") == {"vit_tiny": 4}  # no name of a file
    write_run(tmp_path / "runs?status=failed", "resnet18")
    assert kept(tmp_path / "runs?status=failed") == {"resnet18": 1}


def test_the_api_s_words_stand_in_its_command(runs: Path) -> None:
    analysis = multirun_analysis.analyse(runs, sweep="main", where=["model!=vit_base"])
    assert "sweep='main', where=['model!=vit_base']" in analysis.findings.command
    assert analysis.findings.blocks[0].labels == ["vit_tiny", "resnet18"]
    once = multirun_analysis.read(runs, sweep="main")
    assert len(multirun_analysis.analyse(once, where="model==vit_base").findings.info) == 3
    assert not any("none was chosen" in note for note in multirun_analysis.analyse(once).findings.notes)
