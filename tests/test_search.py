"""Another's sweeper on our launcher: it gets the record's numbers, goes on where it was killed, and is refused in time.

The Hydra-1.3 line is what is installed; the newest 1.4 line lies in a folder of its own (make .venv/.hydra-1.4).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small import SMALL, har_sweep, learned, one_more, runs
from test_sweep import start, wait_for

from har_sweep.__main__ import main
from har_sweep.errors import InputError
from har_sweep.launch.journal import read_sweeps
from har_sweep.launch.objective import check_objective, direction
from har_sweep.record.record import flatten, leaves
from multirun_analysis.quantities import COSTS, METRICS

NEXT_HYDRA = Path(os.environ.get("HYDRA_1_4", Path(sys.prefix) / "hydra-1.4"))
LINES = {"1.3": "", "1.4": str(NEXT_HYDRA)}
BRIEF = [*SMALL, "trainer.epochs=1"]
LR = "optimizer.lr=tag(log,interval(1e-4,1e-2))"
TWO_TRIALS = ["-m", "hydra/sweeper=optuna", *BRIEF, "hydra.sweeper.n_jobs=1", LR, "hydra.sweeper.n_trials=2"]
SEARCH = [*TWO_TRIALS[:-1], "hydra.sweeper.n_trials=3"]
GRID = ["-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", *BRIEF, "paths.runs=failing/runs"]
MODELS = [*(o for o in BRIEF if not o.startswith("model.timm_name=")), "model.timm_name=dla46_c,test_resnet,test_vit"]
TUNE = ["experiment=tune", *MODELS, "hydra.sweeper.n_trials=1"]


def path(first: str) -> dict[str, str]:
    """The environment in which ``first`` is looked into before all else."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (first, os.environ.get("PYTHONPATH"))))}


def line(hydra: str) -> dict[str, str]:
    assert not LINES[hydra] or (NEXT_HYDRA / "optuna").is_dir(), "make .venv/.hydra-1.4"
    return path(LINES[hydra])


def best(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("Best")]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Gives a command, in this process, that is refused; returns what it says."""

    def give(*overrides: str, cwd: Path) -> str:
        before = set(cwd.glob("runs/*-*"))
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "500")
        status, said = main(list(overrides)), "".join(capsys.readouterr())
        assert status == 2, said
        assert "Traceback" not in said
        assert set(cwd.glob("runs/*-*")) == before
        return said

    return give


Session = tuple[Path, dict[str, tuple[int, str]]]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A folder with what searches have left, and of each its exit status and what it said."""
    lines = {
        "search": SEARCH,
        "one fails": [*GRID, "optimizer.lr=1e-3,1e38"],
        "again": [*GRID, "optimizer.lr=1e-3,1e38"],
        "all fail": [*GRID, "optimizer.lr=choice(1e38)"],
        "tune": [*TUNE, "sweep.name=tune-1.3"],
    }
    folder = tmp_path_factory.mktemp("session")
    done = {name: one_more(*line, cwd=folder) for name, line in lines.items()}
    return folder, {name: (ended.returncode, ended.stdout + ended.stderr) for name, ended in done.items()}


@pytest.fixture
def searched(session: Session) -> tuple[Path, str]:
    """A folder with a finished search of three trials, and what it said."""
    status, said = session[1]["search"]
    assert status == 0, said
    return session[0], said


def test_a_search_is_one_sweep_over_all_its_batches_and_ends_with_its_best(searched: tuple[Path, str]) -> None:
    folder, said = searched
    (note,) = (note for note in read_sweeps(folder / "runs") if note.name.startswith("sweep-"))
    found = {run_id: record for run_id, record in runs(folder).items() if note.name in record.sweeps}
    assert {run.run_id for run in note.runs} == set(found)
    assert len(note.runs) == 3
    assert said.count("Report:") == said.count("synthetic: drawn") == 1
    top = max(record.metrics["val"].accuracy for record in found.values())
    (line,) = best(said)
    assert line.startswith(f"Best of 3 trials: metrics/val/accuracy {top:.4g} by ")
    assert not (folder / "optimization_results.yaml").exists()
    assert "\x1b" not in said, "what goes into a file has no colours, Optuna's lines neither"


def test_direction_seed_and_failure_rate_are_set_where_they_were_not_given(searched: tuple[Path, str]) -> None:
    for setting in ("direction=maximize", "sampler.seed=0", "max_failure_rate=1.0"):
        assert f"hydra.sweeper.{setting}" in searched[1]


@pytest.mark.parametrize("hydra", LINES)
def test_batches_run_under_both_lines_of_hydra(hydra: str, searched: tuple[Path, str]) -> None:
    folder, _ = searched
    done = har_sweep(*SEARCH, "hydra.sweeper.n_jobs=2", f"sweep.name=batches-{hydra}", cwd=folder, **line(hydra))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Trials 1 to 2: " in done.stdout
    assert "Trial 3: " in done.stdout
    assert len(best(done.stdout)) == 1
    (note,) = (note for note in read_sweeps(folder / "runs") if note.name == f"batches-{hydra}")
    assert len(note.runs) == 3


def test_after_kill_9_the_same_command_goes_on_to_the_same_best(searched: tuple[Path, str], tmp_path: Path) -> None:
    process = start(*TWO_TRIALS, cwd=tmp_path)
    wait_for(lambda: [r.status for r in runs(tmp_path).values()].count("running") and len(runs(tmp_path)) > 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (done,) = (run for run, record in runs(tmp_path).items() if record.status == "done")
    stamp = (tmp_path / "runs" / done / "model.safetensors").stat().st_mtime_ns
    again = one_more(*TWO_TRIALS, cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    assert "Trial 1: 1 done already." in again.stdout
    assert (tmp_path / "runs" / done / "model.safetensors").stat().st_mtime_ns == stamp
    uninterrupted, found = learned(searched[0]), learned(tmp_path)
    assert found == {run_id: uninterrupted[run_id] for run_id in found}
    assert len(found) == 2
    top = max(record.metrics["val"].accuracy for record in runs(tmp_path).values())
    assert best(again.stdout)[0].startswith(f"Best of 2 trials: metrics/val/accuracy {top:.4g} by ")


def test_several_objectives_give_all_trade_offs(searched: tuple[Path, str]) -> None:
    accuracy, latency = "metrics/val/accuracy", "cost/inference/latency_seconds/batch_1/p50"
    done = one_more(*SEARCH, f"sweep.objective=[{accuracy},{latency}]", "sweep.name=both", cwd=searched[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hydra.sweeper.direction=[maximize,minimize]" in done.stdout
    (head,) = best(done.stdout)
    assert head.startswith("Best trade-offs, ")
    shown = re.findall(rf"^  {accuracy} \S+, {latency} \S+ by (\S+):", done.stdout, re.MULTILINE)
    found = {run: flatten(record) for run, record in runs(searched[0]).items() if "both" in record.sweeps}
    points = {run: (flat[accuracy], -flat[latency]) for run, flat in found.items()}
    beaten = {
        run for run, (a, b) in points.items() if any(c >= a and d >= b and (c, d) != (a, b) for c, d in points.values())
    }
    assert set(shown) == set(points) - beaten


def test_a_failed_trial_neither_ends_the_search_nor_is_computed_again(session: Session) -> None:
    folder, searches = session
    (first, said), (second, said_again), (third, all_fail) = (searches[n] for n in ("one fails", "again", "all fail"))
    assert (first, second, third) == (0, 0, 1)
    assert "2 to do" in said
    assert "1 done already" in said_again
    assert "1 failed before" in said_again
    assert "Best of 1 trial: " in said
    assert best(said) == best(said_again)
    assert best(all_fail) == []
    (failed,) = (record for record in runs(folder / "failing").values() if record.status == "failed")
    assert len(failed.attempts) == 1
    assert "Traceback" not in said + said_again + all_fail


@pytest.mark.parametrize("hydra", LINES)
def test_tune_is_a_study_a_model_of_as_many_trials_in_the_same_space(hydra: str, session: Session) -> None:
    folder, name = session[0], f"tune-{hydra}"
    status, shown = session[1]["tune"]
    if hydra != "1.3":  # under which the session is
        done = har_sweep(*TUNE, f"sweep.name={name}", cwd=folder, **line(hydra))
        status, shown = done.returncode, done.stdout + done.stderr
    assert status == 0, shown
    assert [found.split(" of ")[0] for found in best(shown)] == [
        f"Best for model.timm_name={model}" for model in ("dla46_c", "test_resnet", "test_vit")
    ]
    tuned = [record.config for record in runs(folder).values() if name in record.sweeps]
    without, *tuned = sorted(tuned, key=lambda config: str(config["model"]["timm_name"]))
    assert (without["model"]["timm_name"], without["model"]["drop_path_rate"]) == ("dla46_c", 0.0)
    assert [config["model"]["timm_name"] for config in tuned] == ["test_resnet", "test_vit"]
    for key in (
        "model/drop_path_rate",
        "optimizer/weight_decay",
        "trainer/label_smoothing",
        "augmentation/mixup_alpha",
    ):
        assert len({leaves(config)[key] for config in tuned}) == 1
    assert all(1e-5 <= config["optimizer"]["lr"] <= 1e-3 for config in tuned)  # AdamW's 1e-4 is the model's own


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sweep.objective=metrics/val/acuracy"], "Did you mean 'metrics/val/accuracy'?"),
        (["sweep.objective=metrics/val/per_class/cyclin/recall"], "Did you mean 'cycling'?"),
        (["hydra.sweeper.direction=minimize"], "Write hydra.sweeper.direction=maximize"),
        (["sweep.objective=[metrics/val/nll,metrics/val/f1_macro]", "hydra.sweeper.direction=[maximize,minimize]"],
         "Write hydra.sweeper.direction=[minimize,maximize]"),
        (["sweep.objective=cost/price"], "Add hardware.price_per_device_hour="),
        (["launch.wait=false"], "launch.wait=false: "),
        (["launch.dry_run=true"], "launch.dry_run=true: "),
        (["hydra/sweeper=basic"], "a search has one sweeper"),
        (["sweep.study_per=[modle]"], "Did you mean 'model'?"),
        (["hydra.sweeper.storage=sqlite:///trials.db"], "pip install 'sqlalchemy<2'"),
        (["hydra.searchpath=[file://mine]", "experiment=foreign"], "hydra/launcher=local is this machine"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_before_anything_starts(
    overrides: list[str], says: str, searched: tuple[Path, str], refused: Callable[..., str]
) -> None:
    (searched[0] / "mine" / "experiment").mkdir(parents=True, exist_ok=True)
    foreign = "# @package _global_\ndefaults: [override /hydra/launcher: basic]\n"
    (searched[0] / "mine" / "experiment" / "foreign.yaml").write_text(foreign)
    notes = set(searched[0].glob("runs/.sweeps/*"))
    said = refused(*SEARCH, *overrides, "seed=7", cwd=searched[0])
    assert says in said
    if says != "Did you mean 'cycling'?":  # the classes are known once the images are
        assert set(searched[0].glob("runs/.sweeps/*")) == notes


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["hydra/sweeper=ax"], "pip install 'hydra-ax-sweeper>=1.3.0rc0,<1.4.0.dev0'"),
        (["hydra/sweeper=optnua"], "Did you mean 'optuna'?"),
        (["sweep.study_per=[model]"], "sweep.study_per is for a search"),
        (["hydra/sweeper=optuna"], "There is nothing to search: each trial would be the same run."),
        (["hydra/sweeper=optuna", "sweep.study_per=[seed]", "seed=1,2"], "There is nothing to search for seed=1: each"),
        (["sweep.objective=metrics/test/accuracy"], "Write metrics/val/accuracy"),
    ],
)
def test_what_is_not_there_is_refused_with_the_remedy(
    overrides: list[str], says: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert says in refused("-m", *BRIEF, *overrides, cwd=tmp_path)


def test_an_optuna_that_the_sweeper_does_not_know_is_refused_with_the_versions(tmp_path: Path) -> None:
    line("1.4")
    for part in NEXT_HYDRA.glob("optuna*"):
        shutil.copytree(part, tmp_path / "newer" / part.name)
    asked = har_sweep(*SEARCH, cwd=tmp_path, **path(str(tmp_path / "newer")))
    assert asked.returncode == 2, asked.stdout + asked.stderr
    assert re.search(r"hydra-optuna-sweeper 1\.3\.0 needs optuna\S*, and 5\.0\.0 is installed", asked.stdout)
    assert "pip install 'optuna" in asked.stdout


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("metrics/test/accuracy", "the test split is for the report"),
        ("model/name", "is not a number"),
        ("metrics/val/confusion", "is not a number"),
        ("seed", "none is better"),
        ("metrics/val/per_class/x/support", "none is better"),
        ("epochs/val_accuracy", "no record has it"),
        ([], "neither a name nor a list"),
        (3, "neither a name nor a list"),
        (["cost/macs", "cost/macs"], "twice"),
    ],
)
def test_an_objective_is_a_number_of_the_record_that_can_be_better(named: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_objective(named)


def test_every_number_that_a_record_has_of_val_and_of_costs_can_be_searched_by(searched: tuple[Path, str]) -> None:
    record = next(iter(runs(searched[0]).values()))
    names = [name for name in flatten(record) if name.startswith(("metrics/val/", "cost/"))]
    given = [name for name in names if name.endswith(("/support", "/batch_size"))]
    assert check_objective(sorted(set(names) - set(given)))
    assert "metrics/val/per_class/cycling/recall" in names


def test_a_search_and_the_report_agree_on_what_is_better() -> None:
    goals = {q.column: q.goal for q in (*METRICS.values(), *COSTS.values()) if "/test/" not in q.column}
    assert len(goals) > 10
    assert {name: f"{goal}imize" for name, goal in goals.items()} == {name: direction(name) for name in goals}
