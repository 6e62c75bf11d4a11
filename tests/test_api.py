"""From Python: ``import har_sweep`` in a script, with the command's behaviour and no torch before a run starts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from small import SMALL, runs

import har_sweep
from har_sweep import api, cancel, status
from har_sweep.config.arguments import explain
from har_sweep.config.compose import expand
from har_sweep.config.tree import CONF
from har_sweep.record.folder import read_record
from har_sweep.record.record import flatten

TINY = [*SMALL, "trainer.epochs=1"]
SBATCH = "hydra.launcher.additional_parameters"
SCRIPT = f"""
import sys
import har_sweep
assert not {{"torch", "pandas", "hydra"}} & set(sys.modules)
print("the script's body")
def sweep():
    done = har_sweep.sweep([*{TINY}, "data.root=photos"], data="folder", hardware={{"device_count": 2}})
    print("status", done.status)
"""
IN_A_THREAD = """
import signal, threading
before = signal.getsignal(signal.SIGTERM)
thread = threading.Thread(target=sweep)
thread.start(); thread.join()
assert signal.getsignal(signal.SIGTERM) is before
"""
SESSION = f"""
import os, har_sweep, sys
os.environ["EARLIER"] = "1"
done = har_sweep.sweep({TINY}, seed=range(2))
assert "torch" not in sys.modules
print("AGAIN", done, "ONCE MORE")

failed = har_sweep.sweep({TINY}, optimizer={{"lr": 1e30}}, paths={{"runs": "failing"}})
print("CAME TO", failed.status, *failed.runs["status"], *failed.runs["error/kind"])

os.makedirs("deeper"); os.chdir("deeper")
del os.environ["EARLIER"]
os.environ["LATER"] = "1"
open("job.py", "w").write('''
import os
from hydra.experimental.callback import Callback
class Tells(Callback):
    def on_job_start(self, config, **_):
        open("told", "w").write(f"{{os.environ.get('EARLIER')}} {{os.environ.get('LATER')}}")
''')
sys.path.insert(0, os.getcwd())
har_sweep.sweep([*{TINY}, "+hydra.callbacks.tells._target_=job.Tells"])

try:
    har_sweep.sweep({TINY}, trainer={{"epochs": 100000}}, paths={{"runs": "endless"}})
except KeyboardInterrupt:
    print("CAUGHT", *har_sweep.runs("endless")["status"])
"""


def python(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder in which ``photos`` has two classes, and enough bytes to decode for more than one process."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(12):
            side = 1200 if n == 0 else 64
            pixels = np.random.default_rng([n, len(name), ord(name[0])]).integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{n}.bmp")
    return tmp_path


@dataclass
class Session:
    folder: Path
    said: str


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A script of four sweeps: two runs that are done, one that fails, one elsewhere, and one that Ctrl-C ends."""
    folder, said = tmp_path_factory.mktemp("session"), ""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", SESSION], cwd=folder, text=True, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout
    for line in process.stdout:
        said += line
        if "Epoch [1/100000]" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    said += process.stdout.read()
    assert process.wait() == 0, said
    return Session(folder, said)


@pytest.fixture
def finished(session: Session) -> Path:
    """The folder, in which a script has made two runs."""
    return session.folder


@pytest.mark.parametrize("way", ["a file", "standard input, in a thread"])
def test_a_script_without_a_guard_decodes_and_trains_on_two_devices_and_its_body_runs_once(
    way: str, photographs: Path
) -> None:
    script = SCRIPT + ("sweep()" if way == "a file" else IN_A_THREAD)
    (photographs / "script.py").write_text(script)
    done = python(*(["script.py"] if way == "a file" else ["-"]), cwd=photographs, stdin=script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the script's body") == 1
    assert "status 0" in done.stdout
    [record] = runs(photographs).values()
    assert record.status == "done"
    assert record.hardware.device_count == 2
    [run] = (photographs / "runs").glob("*/run.log")
    assert "the script's body" not in run.read_text()


def test_a_sweep_is_an_object_that_shows_the_closing_table_again(session: Session) -> None:
    shown, again = session.said.partition("ONCE MORE")[0].split("AGAIN")
    assert shown.count("acc %") == again.count("acc %") == 2  # of val and of test


def test_a_failed_run_is_told_and_not_raised(session: Session) -> None:
    assert "CAME TO 1 failed non_finite" in session.said


def test_processes_begin_in_the_folder_and_environment_of_that_moment(session: Session) -> None:
    assert [record.status for record in runs(session.folder / "deeper").values()] == ["done"]
    assert (session.folder / "deeper" / "told").read_text() == "None 1"


def test_ctrl_c_saves_and_reaches_the_script_as_a_keyboard_interrupt(session: Session) -> None:
    assert "CAUGHT interrupted" in session.said
    assert "make the same call, to go on from here" in session.said


def test_runs_are_a_table_of_flattened_records_and_what_cannot_be_read_is_named(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "broken-0123456789").mkdir()
    (tmp_path / "runs" / "broken-0123456789" / "record.json").write_text("{")
    with pytest.warns(UserWarning, match=r"broken-0123456789/record\.json is not a run's record"):
        table = har_sweep.runs(tmp_path / "runs")
    rows = {row["run_id"]: row for row in table.to_dict("records")}
    assert set(rows) == set(runs(finished))
    for run_id, row in rows.items():
        flat = flatten(read_record(tmp_path / "runs" / run_id / "record.json"))
        assert set(row) == set(flat)
        assert row["cost/training/seconds"] == flat["cost/training/seconds"]
    with pytest.raises(har_sweep.InputError, match="no runs in"):
        har_sweep.runs(tmp_path / "nowhere")


def test_a_sweep_that_is_done_comes_back_with_its_runs_in_the_order_asked_for(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    done = har_sweep.sweep(TINY, seed=[1, 0])
    assert done.status == 0
    assert list(done.runs["seed"]) == [1, 0]
    assert "2 done already" in capsys.readouterr().out
    assert repr(done).index("seed=1") < repr(done).index("seed=0")
    assert "<pre" in done._repr_html_()


def test_somebody_elses_hydra_goes_on_as_before(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    with initialize_config_dir(config_dir=str(CONF.resolve()), version_base="1.3"):
        har_sweep.sweep(TINY, seed=0)
        assert compose("config", ["seed=3"])["seed"] == 3
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    "text",
    [
        "plain", "a,b", "a b", " spaced ", "x=y", "{a:1}", "[1,2]", "it's", 'say "so"', "back\\slash", "end\\", "'",
        "null", "true", "1", "1e-3", "", "range(1,3)", "choice(a,b)", "glob(*)", "a\nb", "C:\\photos\\new",
        "ünï", "#", "$5", "a:b", "~", "(", "inf",
    ],
)  # fmt: skip
def test_any_string_reaches_hydra_as_it_is(text: str) -> None:
    [line] = api._lines({"data.root": text})
    [override] = explain([line])
    assert (override.is_sweep_override(), override.value()) == (False, text)
    both = expand(api._lines({"data.root": [text, "other"]}))
    assert [explain(choice)[0].value() for choice in both] == [text, "other"]


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({"seed": [0, 1]}, ["seed=0,1"]),
        ({"seed": range(3)}, ["seed=0,1,2"]),
        ({"seed": np.arange(2)}, ["seed=0,1"]),
        ({"optimizer.lr": np.float32(0.5)}, ["optimizer.lr=0.5"]),
        ({"rerun": np.bool_(True)}, ["rerun=true"]),
        ({"trainer": {"epochs": 3, "ema_decay": [None, 0.9]}}, ["trainer.epochs=3", "trainer.ema_decay=null,0.9"]),
        ({"model": "timm", "data.root": Path("photos/a")}, ["model=timm", "data.root=photos/a"]),
        ({"model.mean": [0.5, 0.5, 0.5]}, ["model.mean=[0.5,0.5,0.5]"]),
        ({"model.mean": [[0.5, 0.5, 0.5], None]}, ["model.mean=[0.5,0.5,0.5],null"]),
        ({"hydra.launcher.setup": []}, ["hydra.launcher.setup=[]"]),
        ({"sweep.objective": ["metrics/val/nll", "cost/macs"]}, ["sweep.objective=[metrics/val/nll,cost/macs]"]),
        ({SBATCH: {"nodelist": "n1"}}, [f"{SBATCH}={{nodelist:n1}}"]),
        ({"model.weights": "w/${model.name}.pth"}, ["model.weights=w/${model.name}.pth"]),
        (["seed=0,1"], ["seed=0,1"]),
        ("seed=0,1", ["seed=0,1"]),
    ],
)  # fmt: skip
def test_python_values_become_overrides(given: Any, lines: list[str]) -> None:
    assert api._lines(given) == lines
    explain(lines)


@pytest.mark.parametrize(
    ("overrides", "choices", "message", "hint"),
    [
        (["modle=resnet18"], {}, "no key 'modle'", "model"),
        (["--cfg", "job"], {}, "'--cfg' is a flag", "Leave it out"),
        ([3], {}, "3 is not an override", "list of strings"),
        ([], {"model": "resnet18,vit_tiny"}, "one name, with a comma", "model=['resnet18', 'vit_tiny']"),
        ([], {"seed": []}, "no value to sweep over", "one at least"),
        ([], {"data": {"root": object()}}, "a object is no value", "string or a number"),
    ],
)
def test_bad_input_is_an_input_error_whose_traceback_says_what_to_do(
    overrides: Any, choices: dict[str, Any], message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(har_sweep.InputError, match=re.escape(message)) as caught:
        har_sweep.sweep(overrides, **choices)
    assert any(hint in note for note in caught.value.__notes__)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [status.main, cancel.main], ids=["status", "cancel"])
def test_status_and_cancel_are_told_where_runs_are_as_a_sweep_is(
    command: Callable[[list[str]], int], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = runs(finished).popitem()[1].sweeps[0]
    place = f"paths.runs={finished / 'runs'}"
    for words in ([name, place], [place, name]):
        assert command(words) == 0
        assert name in capsys.readouterr().out
    for words, wrong, instead in (
        ([name, "--runs", "there"], "--runs", "paths.runs=there"),
        ([name, "path.runs=there"], "path.runs", "paths.runs"),
        ([name, "seed=1"], "seed=1", "paths.runs=FOLDER"),
    ):
        assert command(words) == 2
        said = capsys.readouterr().out
        assert wrong in said
        assert instead in said
