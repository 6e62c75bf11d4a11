"""Nobody else's bytes are run, no secret is shown to others, and names stay names: what docs/security.md promises."""

from __future__ import annotations

import grp
import os
import pickle
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
import torch
from people import GROUP, User, shared_folder
from PIL import Image
from small import ALONE, small_spec
from small import runs as all_runs

from har_sweep import cancel
from har_sweep.config.schema import ModelConfig
from har_sweep.data.dataset import Dataset
from har_sweep.errors import InputError
from har_sweep.files import Sealed, redact, redact_text
from har_sweep.launch.job import log_to
from har_sweep.launch.journal import SweepNote, note_sweep, sweep_folder
from har_sweep.launch.plan import _short
from har_sweep.launch.private import check_ours, check_writable_runs, private_folder
from har_sweep.launch.slurm.node import close
from har_sweep.launch.slurm.submit import _environment, snapshot, submit_arrays
from har_sweep.launch.sweep import hints
from har_sweep.launch.terminal import Screen
from har_sweep.record.claim import claim_path, take_claim
from har_sweep.record.folder import RunPaths, read_record
from har_sweep.record.record import Record, utc_now
from har_sweep.run.lifecycle import begin
from har_sweep.spec.weights import on_command_line
from har_sweep.train.checkpoint import resume
from multirun_analysis.analysis.disagreement import thumbnail

STRANGER = 54321  # a user that is not us
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which only root may")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder in a home, both ours alone, whatever the umask is."""
    for name in ("home", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "runs"


def give_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def plant(runs: Path) -> None:
    """As a member of the runs' group would have left it."""
    (runs / ".slurm").mkdir()
    (runs / ".slurm").chmod(0o777)


def lead_elsewhere(runs: Path) -> None:
    (runs.parent / "open").mkdir()
    (runs.parent / "open").chmod(0o777)
    (runs / ".slurm").symlink_to(runs.parent / "open" / "theirs")


def share_with_a_group(path: Path) -> None:
    os.chown(path, -1, GROUP)
    path.chmod(path.stat().st_mode | 0o020)


def plant_in_a_sticky_one(runs: Path) -> None:
    runs.chmod(0o1777)
    plant(runs)
    give_away(runs / ".slurm")


SHARED = {
    "everybody can write": lambda runs: runs.chmod(0o777),
    "a group can write": pytest.param(share_with_a_group, marks=as_root),
    "the folder was there before": plant,
    "a link leads where others can write": lead_elsewhere,
    "it is another's": pytest.param(give_away, marks=as_root),
    "another's folder in a sticky one": pytest.param(plant_in_a_sticky_one, marks=as_root),
}


def test_runs_of_our_own_have_what_jobs_run_beside_them_for_us_alone(runs: Path) -> None:
    folder = private_folder(runs)
    assert folder == runs / ".slurm"
    assert (folder.stat().st_mode & 0o7777, folder.stat().st_uid) == (0o700, os.geteuid())
    assert private_folder(runs) == folder
    me = pwd.getpwuid(os.geteuid())
    if grp.getgrgid(me.pw_gid) == (
        me.pw_name,
        ANY,
        me.pw_gid,
        [],
    ):  # as umask 002 leaves it where everybody has a group
        runs.chmod(0o775)
        assert private_folder(runs) == folder


@pytest.mark.parametrize("share", SHARED.values(), ids=SHARED)
def test_what_jobs_run_is_elsewhere_when_others_could_exchange_it(runs: Path, share: Callable[[Path], None]) -> None:
    share(runs)
    folder = private_folder(runs)
    assert folder.is_relative_to(Path.home())
    assert (folder.stat().st_mode & 0o7777, folder.stat().st_uid) == (0o700, os.geteuid())


@pytest.mark.parametrize("place", ["home", "home/.har_sweep"])
@pytest.mark.parametrize("harm", [lambda path: path.chmod(0o777), pytest.param(give_away, marks=as_root)])
def test_nowhere_to_run_from_is_refused_by_name(runs: Path, place: str, harm: Callable[[Path], None]) -> None:
    runs.chmod(0o777)
    folder = runs.parent / place
    folder.mkdir(exist_ok=True)
    harm(folder)
    with pytest.raises(InputError) as caught:
        private_folder(runs)
    assert str(folder) in caught.value.message
    assert "chmod" in caught.value.hint


def edit(code: Path) -> None:
    (code / "har_sweep" / "__init__.py").write_text("import os")


def shadow(code: Path) -> None:
    (code / "numpy.py").write_text("import os")


def compile_for_us(code: Path) -> None:
    """Python prefers it to the source beside it, if the times agree."""
    (code / "har_sweep" / "__pycache__").mkdir(exist_ok=True)
    compiled = code / "har_sweep" / "__pycache__" / "__init__.cpython-311.pyc"
    compiled.touch()
    give_away(compiled)


@pytest.mark.parametrize("change", [edit, shadow, pytest.param(compile_for_us, marks=as_root)])
def test_a_copy_of_the_code_that_holds_anything_else_is_not_run(runs: Path, change: Callable[[Path], None]) -> None:
    code = snapshot(private_folder(runs))
    (code / "har_sweep" / "__pycache__").mkdir()  # as jobs leave it
    assert snapshot(private_folder(runs)) == code
    change(code)
    with pytest.raises(InputError) as caught:
        snapshot(private_folder(runs))
    assert str(code) in caught.value.message
    assert f"rm -r {code}" in caught.value.hint


class Evil:
    """Executes code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.proof,)


def test_a_job_s_pickle_is_not_loaded_from_a_folder_that_is_open_to_others(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = private_folder(runs)
    (folder / "7_submitted.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    start = ["bash", "-c", "\n".join([*_environment(tmp_path, folder), "echo started"])]
    assert subprocess.run(start, capture_output=True, text=True).stdout == "started\n"
    monkeypatch.setenv("HAR_SWEEP_JOBS", str(folder))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    folder.chmod(0o770)
    with pytest.raises(InputError):
        close(1)
    assert not (tmp_path / "executed").exists()
    refused = subprocess.run(start, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert str(folder) in refused.stderr
    folder.chmod(0o700)
    with pytest.raises(AssertionError):  # it is none of submitit's
        close(1)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "harm",
    [lambda path: path.chmod(0o666), *(pytest.param(harm, marks=as_root) for harm in (give_away, share_with_a_group))],
)
def test_a_pickled_config_of_others_is_not_loaded(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    file = tmp_path / "config.pickle"
    file.write_bytes(b"")
    file.chmod(0o644)
    check_ours(file)
    harm(file)
    with pytest.raises(InputError) as caught:
        check_ours(file)
    assert str(file) in caught.value.message


def test_names_in_commands_stay_names(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = "a'; touch executed; '$(touch executed)"
    (runs / hostile).mkdir(mode=0o755)
    folder = private_folder(runs / hostile)
    script = "\n".join([*_environment(folder / "code", folder), 'printf "%s\n" "$HAR_SWEEP_JOBS"'])
    assert subprocess.check_output(["bash", "-c", script], text=True) == f"{folder}\n"
    config = SimpleNamespace(paths=SimpleNamespace(runs=hostile))
    planned: Any = SimpleNamespace(spec=SimpleNamespace(sweep=hostile, config=config))
    hints([planned], Screen())
    words = ["python", "-m", "har_sweep.cancel", hostile, f"paths.runs={hostile}", "ends", "them"]
    assert shlex.split(capsys.readouterr().out.splitlines()[-1]) == words
    model = ModelConfig(_target_=hostile)
    assert shlex.split(on_command_line(model)) == ["model=custom", f"model._target_={hostile}"]
    assert not (tmp_path / "executed").exists()


SECRETS = {
    "https://bob:hunter2@host/x": "https://bob:<secret>@host/x",
    "postgres://bob:hun@ter2@host/db": "postgres://bob:<secret>@host/db",
    "git clone https://hunter2@host/x": "git clone https://<secret>@host/x",
    "https://host/x?access_token=hunter2&page=1": "https://host/x?access_token=<secret>&page=1",
    "+model.api_key=hunter2": "+model.api_key=<secret>",
    "ALL,HF_TOKEN=hunter2,OMP=1": "ALL,HF_TOKEN=<secret>,OMP=1",
    "setup=[export DB_PASSWORD='hunter 2', module load cuda]": "setup=[export DB_PASSWORD=<secret>, module load cuda]",
    "{token:hunter2,page:1}": "{token:<secret>,page:1}",
    '{"client_secret": "hunter2"}': '{"client_secret": <secret>}',
    "login --password hunter2 --user bob": "login --password <secret> --user bob",
    "Authorization: Basic aHVudGVyMg==": "Authorization: Basic <secret>",
    "curl -H 'X: Bearer hunter2hunter2'": "curl -H 'X: Bearer <secret>'",
    f"login hf_{'hunter2' * 4} now": "login <secret> now",
    f"ghp_{'hunter2' * 6}": "<secret>",
    **{
        text: text
        for text in (
            "model.class_token=true", "model.num_tokens=4", "model.global_pool=token,avg", "token=${oc.env:HF_TOKEN}",
            "ssh://git@host/x", "http://host:80/a@b", "data.root=/photos/secrets/cats", "password=<secret>", "gh_sk-x",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), SECRETS.items())
def test_what_looks_like_a_secret_is_not_shown(text: str, shown: str) -> None:
    assert redact_text(text) == redact_text(shown) == shown


def test_secrets_are_known_by_their_names_too() -> None:
    tree = {"env_set": {"HF_TOKEN": "a"}, "keys": {"apiKey": ["b"]}, "class_token": True, "tokens": "c", "page": "d"}
    told = {"env_set": {"HF_TOKEN": "<secret>"}, "keys": {"apiKey": ["<secret>"]}}
    assert redact(tree) == {**tree, **told}
    assert _short("+model.url=https://bob:hunter2@host") == "url=bob:<secret>@host"  # a run's label


def test_of_a_submission_s_secrets_only_its_user_s_own_files_know(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = {"sbatch": "cp $1 submitted; echo Submitted batch job 7", "srun": "", "scontrol": ""}
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    asked = [
        "hydra.launcher.setup=['export DB_PASSWORD=hunter2']", "hydra.launcher.comment='https://bob:hunter2@host'",
        "+hydra.launcher.additional_parameters.export='ALL,HF_TOKEN=hunter2'", "launch.order=given",
    ]  # fmt: skip
    spec = small_spec(tmp_path, "hardware=slurm_cpu", *asked)
    note_sweep([spec], asked)
    assert submit_arrays([spec]) == {spec.run_id: "7"}
    assert b"hunter2" in (tmp_path / "submitted").read_bytes()
    begin(spec, Dataset.read(spec.dataset_file))
    told = {
        file: b"hunter2" in file.read_bytes() for file in runs.rglob("*") if file.is_file() and not file.is_symlink()
    }
    kept = {file for file, found in told.items() if found}
    assert {file.name for file in kept} == {"7_submitted.pkl", "7_submission.sh"}
    assert {(file.parent, file.stat().st_mode & 0o777) for file in kept} == {(runs / ".slurm", 0o600)}
    assert {file.name for file in told} >= {"record.json", "config.yaml", "sweep.json", "job.json"}
    assert "<secret>" in spec.paths.record.read_text()


def test_a_checkpoint_that_holds_code_is_not_executed(tmp_path: Path) -> None:
    with (tmp_path / "checkpoint.pt").open("wb") as file:  # sealed, as whoever has read the code would
        sealed = Sealed(file)
        torch.save({"trained": Evil(tmp_path / "executed")}, sealed)  # type: ignore[arg-type]
        sealed.seal()
    said: list[str] = []
    session: Any = SimpleNamespace(spec=SimpleNamespace(paths=RunPaths(tmp_path)), warn=said.append)
    resume(session, session, session)
    assert "checkpoint.pt cannot be read" in said[0]
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("linked", ["run.log", "wandb", "."])
def test_a_run_is_not_written_through_a_link(tmp_path: Path, linked: str) -> None:
    paths, theirs = RunPaths(tmp_path / "run"), tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "bashrc").touch()
    link = paths.folder / linked
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(theirs / "bashrc" if linked == "run.log" else theirs)
    with pytest.raises(InputError, match=f"{link} is a link"):
        check_writable_runs([paths])
    if linked == "run.log":  # it may come later too
        with pytest.raises(OSError, match=r"run\.log"):
            log_to(paths.log)


@as_root
def test_cancelling_ends_no_process_that_another_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if it were the sweep's: whoever shares the runs can write any claim."""
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(pid))
    folder = sweep_folder(tmp_path, "s")
    claim = take_claim(folder, heartbeat_seconds=600.0)
    assert claim
    (folder / "sweep.json").write_bytes(msgspec.json.encode(SweepNote("s", [], utc_now(), [])))
    with claim:
        give_away(claim_path(folder, claim.number))
        assert cancel.main(["s", f"paths.runs={tmp_path}"]) == 0
    assert f"is user {STRANGER}'s to end" in capsys.readouterr().out
    assert not ended


def test_a_report_shows_no_image_that_is_none_of_its_runs(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    image = Image.new("RGB", (20, 20))
    for place, form in (("photos/1.jpg", "JPEG"), ("photos/2.jpg", "EPS"), ("private.jpg", "JPEG")):
        image.save(tmp_path / place, form)
    shown = [thumbnail(photos, path) for path in ("1.jpg", "2.jpg", "../private.jpg", str(tmp_path / "private.jpg"))]
    assert [bool(one) for one in shown] == [True, False, False, False]


@pytest.fixture
def shared() -> Iterator[Path]:
    with shared_folder() as folder:
        yield folder


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes other users, as only root may")
def test_two_people_share_runs_and_go_on_with_each_other_s(shared: Path) -> None:
    training = [*(o for o in ALONE if o != "tracking=none"), "trainer.epochs=12"]
    first, second = User(STRANGER, GROUP, shared), User(STRANGER + 1, GROUP, shared)
    (shared / "numpy.py").write_text("raise SystemExit('executed')")  # either could have put it there
    process = first.start(*training, "seed=0,1")

    def interrupted() -> Path | None:
        done = records(shared, "done")
        begun = [run for run, record in records(shared, "running").items() if record.epochs]
        resumable = (shared / "runs" / run for run in begun if (shared / "runs" / run / "checkpoint.pt").exists())
        return next(resumable, None) if done else None

    while not (run := interrupted()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (done,) = records(shared, "done")
    (shared / "runs" / done).chmod(0o755)  # as the umask 022 would have left it
    status, output = second.run(*training, "seed=0,1,2")
    assert status == 0, output
    assert "1 done already, 1 lost before, to go on, 1 to do" in output
    assert f"runs/{done} is user {first.number}'s to write: its record will not name this sweep" in output
    assert len(records(shared, "done")) == 3
    assert [attempt.outcome for attempt in read_record(run / "record.json").attempts] == ["killed", "done"]
    owners = [(shared / "runs" / run_id / "model.safetensors").stat().st_uid for run_id in records(shared, "done")]
    assert sorted(owners) == [first.number, second.number, second.number]
    status, output = second.run(*training, "seed=0", "rerun=true")
    assert status == 2
    assert f"runs/{done} is user {first.number}'s, and you may not write to it" in output
    assert "docs/security.md, 'Two people on one folder'" in output


def records(folder: Path, status: str) -> dict[str, Record]:
    return {run_id: record for run_id, record in all_runs(folder).items() if record.status == status}


def test_the_page_on_security_names_tests_that_there_are() -> None:
    tests = Path(__file__).parent
    named = re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)`", (tests.parent / "docs" / "security.md").read_text())
    assert len(named) > 20
    assert not [name for file, name in named if f"def {name}(" not in (tests / file).read_text()]
