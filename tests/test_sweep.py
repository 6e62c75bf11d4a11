"""The main command, as a user types it: real processes, real records, and nothing lost or done twice."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from small import ALONE, SMALL, command, har_sweep, learned, one_after_another, one_more, runs, small_spec

import har_sweep as har_sweep_api
from har_sweep.config.compose import compose_runs
from har_sweep.errors import InputError
from har_sweep.launch import local
from har_sweep.launch.local import slots
from har_sweep.launch.plan import plan
from har_sweep.launch.sweep import announce
from har_sweep.launch.terminal import Screen
from har_sweep.record.folder import read_record
from har_sweep.record.record import Record, flatten


def start(*overrides: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """The main command in a session of its own, so that all of its processes can be killed at once."""
    return subprocess.Popen(
        command(*overrides), cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env={**os.environ, **environment},
    )  # fmt: skip


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The first true answer; the test's own time-out is the limit."""
    while not (answer := condition()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    return answer


def has_reached(run: Path, epoch: int) -> bool:
    """Whether a run that is not over has finished so many epochs and has a checkpoint."""
    record = run / "record.json"
    return record.exists() and len(read_record(record).epochs) >= epoch and (run / "checkpoint.pt").exists()


def at_work(folder: Path) -> list[Record]:
    """The records of the runs that are being computed."""
    return [record for record in runs(folder).values() if record.status == "running"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep of two runs."""
    folder = tmp_path_factory.mktemp("finished")
    done = har_sweep("-m", *ALONE, "seed=0,1", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr  # of a library, to its users' users
    return folder


def test_a_sweep_ends_in_records_and_a_table(finished: Path) -> None:
    found = runs(finished)
    assert [record.seed for record in found.values()].count(0) == 1
    for run_id, record in found.items():
        assert record.status == "done"
        folder = finished / "runs" / run_id
        names = {"record.json", "config.yaml", "predictions.parquet", "run.log", "model.safetensors"}
        assert names <= {file.name for file in folder.iterdir()}
        assert not (folder / "checkpoint.pt").exists()
        assert re.search(r"Epoch \[3/3\], Loss: \d+\.\d{4}, Val Accuracy: \d+\.\d\d%", (folder / "run.log").read_text())


def test_the_same_command_again_computes_nothing_and_says_so(finished: Path) -> None:
    before = learned(finished)
    stamps = {run: (finished / "runs" / run / "model.safetensors").stat().st_mtime_ns for run in before}
    again = one_more("-m", *SMALL, "seed=0,1", cwd=finished)
    assert again.returncode == 0
    assert "2 done already" in again.stdout
    assert "Loading torch" not in again.stdout
    assert {run: (finished / "runs" / run / "model.safetensors").stat().st_mtime_ns for run in before} == stamps


def test_a_longer_sweep_computes_only_what_is_new_and_shares_the_rest(finished: Path) -> None:
    before = set(runs(finished))
    longer = one_more("-m", *SMALL, "seed=0,1,2", "sweep.name=longer", cwd=finished)
    assert longer.returncode == 0
    assert "1 to do, 2 done already" in longer.stdout or "2 done already, 1 to do" in longer.stdout
    after = runs(finished)
    assert len(set(after) - before) == 1
    assert all("longer" in record.sweeps for record in after.values())


def test_what_a_done_run_has_lost_is_named_and_rerun_computes_it_again_to_the_same_bits(finished: Path) -> None:
    before = learned(finished)
    (run,) = (run for run, record in runs(finished).items() if record.seed == 1)
    lost = [finished / "runs" / run / name for name in ("predictions.parquet", "model.safetensors")]
    for file in lost:
        file.unlink()
    said = one_more(*SMALL, "seed=1", cwd=finished)
    assert said.returncode == 0
    assert all(f"Done, but without {file.name}: {run}. Add rerun=true" in said.stdout for file in lost)
    again = one_more(*SMALL, "seed=1", "rerun=true", cwd=finished)
    assert again.returncode == 0
    assert "Done, but without" not in again.stdout
    assert learned(finished) == before
    assert lost[0].exists()


def test_kill_9_of_everything_and_the_same_command_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    sweep = ["-m", *SMALL, "seed=0,1", "trainer.checkpoint_minutes=1e-9"]  # a checkpoint after each step
    expected = {run: bits for run, bits in learned(finished).items() if runs(finished)[run].seed in (0, 1)}
    for epoch in (0, 1, 2):
        process = start(*sweep, cwd=tmp_path)
        run = wait_for(lambda: next(iter((tmp_path / "runs").glob("test_resnet-*")), None), process)
        wait_for(partial(has_reached, run, epoch), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = one_more(*sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert learned(tmp_path) == expected
    first = runs(tmp_path)[run.name]
    assert [attempt.outcome for attempt in first.attempts][-1] == "done"
    assert [attempt.outcome for attempt in first.attempts][:-1] == ["killed"] * (len(first.attempts) - 1)
    assert len(first.attempts) > 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_saves_and_the_same_command_goes_on(
    number: signal.Signals, finished: Path, tmp_path: Path
) -> None:
    """SIGINT as by Ctrl-C, SIGTERM as by a batch system or ``timeout``."""
    sweep = ["-m", *SMALL, "seed=0,1"]
    process = start(*sweep, cwd=tmp_path)
    wait_for(lambda: any(r.epochs for r in at_work(tmp_path)), process)
    os.killpg(process.pid, number)
    output = process.communicate()[0]
    assert process.returncode == 130, output
    assert "same command again" in output
    assert "Traceback" not in output
    assert "elsewhere" not in output
    found = runs(tmp_path)
    assert {record.status for record in found.values()} <= {"interrupted", "done"}
    assert all((tmp_path / "runs" / r.run_id / "checkpoint.pt").exists() for r in found.values() if r.status != "done")
    assert one_more(*sweep, cwd=tmp_path).returncode == 0
    assert learned(tmp_path).items() <= learned(finished).items()
    assert len(learned(tmp_path)) == 2


def test_ctrl_c_while_torch_is_loaded_is_no_traceback(tmp_path: Path) -> None:
    process = start(*SMALL, cwd=tmp_path)
    said = ""
    while "Loading torch" not in said:
        assert process.stdout
        line = process.stdout.readline()
        assert line, said
        said += line
    os.killpg(process.pid, signal.SIGINT)
    said += process.communicate()[0]
    assert process.returncode == 130, said
    assert "Traceback" not in said


def test_a_run_that_ctrl_c_does_not_wait_for_is_interrupted_not_failed(tmp_path: Path) -> None:
    process = start(*SMALL, cwd=tmp_path)
    (run,) = wait_for(lambda: [r for r in at_work(tmp_path) if r.epochs], process)
    os.kill(int(run.attempts[-1].job.removeprefix("pid ")), signal.SIGSTOP)  # it will save nothing
    said = ""
    for awaited in ("", "once more to stop at once"):
        while awaited not in said:
            assert process.stdout
            said += process.stdout.readline()
        process.send_signal(signal.SIGINT)
    said += process.communicate()[0]
    assert process.returncode == 130, said
    assert "died" not in said
    assert "SIGKILL" not in said
    (record,) = runs(tmp_path).values()
    assert (record.status, record.error, record.attempts[-1].outcome) == ("interrupted", None, "interrupted")


EARLY = """
import os, signal, sys
class Finder:
    def find_spec(name, *_):
        if name == "har_sweep.errors":
            sys.meta_path.remove(Finder)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize(
    "name",
    ["", ".cancel", ".compact", ".doctor", ".export", ".find_lr", ".measure", ".predict", ".prefetch", ".status"],
)
def test_ctrl_c_while_a_command_is_imported_is_no_traceback(name: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    where = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    given = [sys.executable, "-m", f"har_sweep{name}"]
    ended = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": where})
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted.\n")


def test_a_sweep_in_the_background_is_not_stopped_by_ctrl_c(finished: Path, tmp_path: Path) -> None:
    sweep = shlex.join(command("-m", *SMALL, "hardware.device_count=1,2"))
    # bash makes it ignore SIGINT, and waits itself, however often it is interrupted.
    script = ["bash", "-c", f"trap : INT; {sweep} & until wait; do :; done"]
    process = subprocess.Popen(
        script, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )

    def train_on(devices: int) -> bool:
        return any(r.epochs and r.hardware.device_count == devices for r in at_work(tmp_path))

    for devices in (1, 2):
        wait_for(partial(train_on, devices), process)
        os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    assert [len(r.attempts) for r in runs(tmp_path).values() if r.status == "done"] == [1, 1]
    (on_one,) = learned(tmp_path).keys() & learned(finished).keys()
    assert learned(tmp_path)[on_one] == learned(finished)[on_one]


def test_a_run_that_dies_hard_leaves_the_others_running(tmp_path: Path) -> None:
    process = start("-m", *SMALL, "seed=0,1,2", cwd=tmp_path)
    died = {}
    for blow in (signal.SIGKILL, signal.SIGSEGV):
        running = wait_for(lambda: [r for r in at_work(tmp_path) if r.epochs and r.run_id not in died], process)
        os.kill(int(running[0].attempts[-1].job.removeprefix("pid ")), blow)
        died[running[0].run_id] = blow
    output = process.communicate()[0]
    assert process.returncode == 1
    found = runs(tmp_path)
    for run_id, blow in died.items():
        record = found.pop(run_id)
        assert record.status == "failed"
        assert record.error
        assert blow.name in record.error.message
        assert record.error.message in output
        assert f"runs/{run_id}/run.log" in output
    assert [record.status for record in found.values()] == ["done"]


def test_a_failed_run_is_told_with_cause_hint_and_log(tmp_path: Path) -> None:
    done = one_more("-m", *SMALL, "optimizer=sgd", "optimizer.lr=1e30,1e-3", cwd=tmp_path)
    assert done.returncode == 1
    assert sorted(record.status for record in runs(tmp_path).values()) == ["done", "failed"]
    assert "The loss became" in done.stdout
    assert "Try a smaller optimizer.lr" in done.stdout
    assert "run.log" in done.stdout
    assert "Traceback" not in done.stdout


def test_bad_data_is_named_before_anything_starts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(b"broken")
    done = one_more(*SMALL, "data=folder", "data.root=photos", cwd=tmp_path)
    assert done.returncode == 2
    assert all(f"{name}/{number}.jpg" in done.stdout for name in "ab" for number in range(3))
    assert "Traceback" not in done.stdout + done.stderr
    assert not runs(tmp_path)


def test_the_plan_tells_a_head_alone_from_the_whole_in_the_report_s_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [[*SMALL, f"paths.runs={tmp_path}/runs", f"trainer.finetune={finetune}"] for finetune in ("full", "head")]
    planned = plan(compose_runs(asked), Screen())
    assert [p.spec.name for p in planned] == ["test_resnet scratch", "test_resnet scratch (head only)"]
    assert [p.spec.label for p in planned] == ["test_resnet scratch", "test_resnet scratch (head only)"]
    announce(planned, Screen())
    shown = capsys.readouterr().out
    assert "test_resnet from scratch, seed 0: 3 epochs" in shown
    assert "test_resnet from scratch (head only), seed 0: 3 epochs" in shown


KEY = "0123456789" * 4
TAGGED = [*SMALL, "model.pretrained_tag=r160_in1k", "trainer.epochs=1"]


@dataclass
class CutOff:
    """Where a user without a network was: their home, and of each command its exit status and what it said."""

    home: Path
    commands: dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> CutOff:
    folder = tmp_path_factory.mktemp("cut_off")
    home = folder / "home" / "alice"
    home.mkdir(parents=True)
    several = [o for o in TAGGED if not o.startswith("model.timm_name")]
    tracked = [o for o in ALONE if o != "tracking=none"]
    lines = {
        "refused": [*TAGGED, "model.weights=pretrained"],
        "lacking": ["-m", *several, "model.timm_name=test_resnet,test_vit", "model.weights=pretrained"],
        "if available": [*TAGGED, "model.weights=if_available", "paths.runs=if_available"],
        "tracked": [*tracked, *(f"paths.{name}={home}/{name}" for name in ("runs", "cache", "data")),
                    "sweep.name=my_sweep"],
        "online": [*tracked, "tracking=wandb_online", "trainer.epochs=1", "paths.runs=online"],
    }  # fmt: skip
    with socket.socket() as unanswered:  # a port that nobody listens on
        unanswered.bind(("127.0.0.1", 0))
        environment = {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "empty"),
            "HOME": str(home),
            "WANDB_BASE_URL": f"http://127.0.0.1:{unanswered.getsockname()[1]}",
            "WANDB_API_KEY": KEY,
        }
        done = one_after_another(*lines.values(), cwd=folder, **environment)
    return CutOff(home, dict(zip(lines, done, strict=True)))


def only_run(runs_folder: Path) -> Record:
    (file,) = runs_folder.glob("*/record.json")
    return read_record(file)


def test_weights_that_cannot_be_had_are_an_error_or_a_loud_fallback(cut_off: CutOff) -> None:
    status, said = cut_off.commands["refused"]
    assert status == 2
    assert "prefetch" in said
    status, said = cut_off.commands["lacking"]
    assert status == 2
    assert all(name in said for name in ("test_resnet", "test_vit"))  # all that is missing at once
    status, said = cut_off.commands["if available"]
    assert status == 0
    record = only_run(cut_off.home.parent.parent / "if_available")
    assert record.model.weights == "scratch"
    assert record.model.weights_requested == "if_available"
    assert "scratch" in record.name
    assert any("SCRATCH" in warning for warning in record.warnings)
    assert "SCRATCH" in said


def test_wandb_is_offline_by_default_without_an_account_and_without_homes(cut_off: CutOff) -> None:
    status, said = cut_off.commands["tracked"]
    assert status == 0, said
    record = only_run(cut_off.home / "runs")
    run = cut_off.home / "runs" / record.run_id
    (offline,) = (run / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    content = log.read_bytes()
    for expected in (record.run_id, "my_sweep", "cost/training/seconds", "val/accuracy", "confusion_matrix"):
        assert expected.encode() in content, expected
    assert not record.warnings or not any("Weights & Biases" in warning for warning in record.warnings)
    for file in (run / "record.json", run / "run.log", run / "config.yaml", *offline.rglob("*.*")):
        if file.is_file():
            text = file.read_bytes()
            assert KEY.encode() not in text, file
            if file.suffix != ".wandb":  # which says absolutely where files wait for `wandb sync`
                assert str(cut_off.home).encode() not in text, file


def test_a_dead_network_does_not_stop_an_online_run(cut_off: CutOff) -> None:
    status, said = cut_off.commands["online"]
    assert status == 0, said
    runs_folder = cut_off.home.parent.parent / "online"
    record = only_run(runs_folder)
    assert record.status == "done"
    assert any("Weights & Biases" in warning for warning in record.warnings)
    assert KEY not in json.dumps(flatten(record)) + said
    assert list((runs_folder / record.run_id / "wandb").glob("offline-run-*"))


def test_a_run_in_progress_is_left_to_whoever_computes_it_and_gone_on_with_if_they_die(tmp_path: Path) -> None:
    first = start(*SMALL, cwd=tmp_path)
    wait_for(lambda: any(r.epochs for r in runs(tmp_path).values()), first)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it is not done before the second begins
    second = start(*SMALL, cwd=tmp_path)
    assert second.stdout
    assert any("which computes it" in line for line in second.stdout)  # reads until it says so
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    output = second.communicate()[0]
    assert second.returncode == 0, output
    (record,) = runs(tmp_path).values()
    assert [attempt.outcome for attempt in record.attempts] == ["killed", "done"]


def test_runs_take_turns_by_model_and_several_go_at_once(tmp_path: Path) -> None:
    given = [o for o in SMALL if not o.startswith("model.timm_name")] + ["trainer.epochs=1", "launch.parallel=2"]
    models = ["model.name=a,b", "model.timm_name=test_resnet", "seed=0,1"]
    done = one_more("-m", *given, *models, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    planned = re.findall(r"^  ([ab])-\w+ .* seed (\d)", done.stdout, re.MULTILINE)
    assert planned == [("a", "0"), ("b", "0"), ("a", "1"), ("b", "1")]
    found = list(runs(tmp_path).values())
    spans = [(r.attempts[0].started_at, r.attempts[0].ended_at or "") for r in found]
    assert any(a[0] < b[1] and b[0] < a[1] for a in spans for b in spans if a is not b)  # some overlapped
    assert all(any("at once share this processor" in warning for warning in record.warnings) for record in found)
    assert {record.hardware.cpu_threads for record in found} == {max(1, len(os.sched_getaffinity(0)) // 2)}


def test_each_run_gets_gpus_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7,GPU-8")
    one = replace(small_spec(tmp_path), device="cuda")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots([one])] == ["2", "3", "5", "7", "GPU-8"]
    assert {slot.environment["CUDA_DEVICE_ORDER"] for slot in slots([one])} == {"PCI_BUS_ID"}  # as they are counted
    two = replace(one, config=replace(one.config, hardware=replace(one.config.hardware, device_count=2)))
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots([two])] == ["2,3", "5,7"]
    greedy = replace(one, config=replace(one.config, launch=replace(one.config.launch, parallel=6)))
    with pytest.raises(InputError, match=r"launch\.parallel=6: there are 5 GPUs"):
        slots([greedy])


def test_of_runs_on_gpus_and_on_the_processor_one_goes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    on_cpu = small_spec(tmp_path)
    on_gpu = replace(on_cpu, device="cuda")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots([on_cpu, on_gpu])] == ["2"]
    two = replace(on_cpu, config=replace(on_cpu.config, launch=replace(on_cpu.config.launch, parallel=2)))
    with pytest.raises(InputError, match=r"launch\.parallel=2: runs of a sweep on cuda and cpu"):
        slots([two, on_gpu])


def test_a_failed_run_is_tried_again_as_often_as_asked(tmp_path: Path) -> None:
    done = one_more(*SMALL, "optimizer=sgd", "optimizer.lr=1e30", "launch.retries=2", cwd=tmp_path)
    assert done.returncode == 1
    (record,) = runs(tmp_path).values()
    assert [attempt.outcome for attempt in record.attempts] == ["failed"] * 3


def test_status_and_cancel_reach_a_sweep_at_work_here(tmp_path: Path) -> None:
    process = start("-m", *SMALL, "trainer.epochs=100", "seed=0,1", "sweep.name=mine", cwd=tmp_path)
    wait_for(lambda: any(r.epochs for r in runs(tmp_path).values()), process)

    def other(command: str, *arguments: str) -> str:
        argv = [sys.executable, "-m", f"har_sweep.{command}", *arguments]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    shown = other("status")
    assert "1 running, 1 new" in shown
    assert "/100" in shown
    assert "the sweep's process here" in other("cancel", "mine")
    output = process.communicate()[0]
    assert process.returncode == 130, output
    assert {record.status for record in runs(tmp_path).values()} == {"interrupted"}
    assert "interrupted" in other("status", "mine", "--failed")


def test_a_terminal_shows_a_bar_with_speed_loss_and_time_left(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    size = {"TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"}
    process = subprocess.Popen(
        command(*SMALL, "trainer.epochs=20"), cwd=tmp_path, stdout=theirs, stderr=theirs, stdin=theirs,
        env={**os.environ, **size},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"epoch \d+/20  step \d/4  [\d.]+ images/s  loss \d\.\d{4}  \d+:\d\d left", text)
    assert "\x1b[" in shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's word for the other side being closed
        return b""


def test_plain_output_has_no_control_codes_and_starts_before_the_work(finished: Path) -> None:
    again = one_more(*SMALL, cwd=finished)
    assert "\x1b" not in again.stdout
    assert again.stdout.startswith("har_sweep: 1 run asked for")


def test_a_fork_server_that_dies_again_and_again_is_told_with_what_it_most_likely_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(process: Any) -> None:
        raise EOFError

    monkeypatch.setattr(local.FORK_SERVER.Process, "start", dies)
    with pytest.raises(InputError, match="dies again and again") as told:
        local.run_all([small_spec(tmp_path)], [], Screen())
    assert "ulimit -v" in told.value.hint


def test_a_fork_server_that_is_killed_while_it_starts_a_run_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server: Any = forkserver._forkserver
    ensure_running, killed = server.ensure_running, list[int]()

    def ensure_that_one_has_just_died() -> None:
        ensure_running()
        if len(killed) < 2:
            killed.append(server._forkserver_pid)
            os.kill(server._forkserver_pid, signal.SIGKILL)
            os.waitid(os.P_PID, server._forkserver_pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(server, "ensure_running", ensure_that_one_has_just_died)
    done = har_sweep_api.sweep([*SMALL, "trainer.epochs=1"])
    assert len(killed) == 2
    assert done.status == 0
