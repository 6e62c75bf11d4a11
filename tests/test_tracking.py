"""Weights & Biases has one run for each of ours, with every epoch once, whatever happens to either side.

The real client writes to a server on the loopback; each attempt at a run is a process of its own, as in a sweep.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from small import small_spec
from wandb_server import KEY, Json, Run, WandbServer, wandb_server

from har_sweep.data.dataset import Dataset
from har_sweep.errors import ClaimLost
from har_sweep.events import Event, Step
from har_sweep.launch.job import do_job
from har_sweep.launch.local import TRACKING
from har_sweep.record.claim import take_claim
from har_sweep.record.environment import git_state
from har_sweep.record.folder import read_record, write_record
from har_sweep.record.record import FACTS, Epoch, flatten
from har_sweep.run import tracking
from har_sweep.run.lifecycle import begin, conclude, new_record
from har_sweep.run.tracking import Tracker
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop
from har_sweep.train.evaluate import Predictions

# Seconds between uploads; the client cuts off fractions.
OFTEN, AT_THE_END = ({"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": seconds} for seconds in ("1", "600"))


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as server:
        yield server


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return small_spec(tmp_path_factory.mktemp("planned"), "tracking=wandb_online", "hardware.cpu_threads=1")


@pytest.fixture
def spec(planned: RunSpec, tmp_path: Path) -> RunSpec:
    """An online run of three epochs under a home folder, with a secret among its overrides."""
    paths = replace(planned.config.paths, runs=str(tmp_path / "home" / "runs"))
    asked = [*planned.overrides, "+model.access_token=hunter2"]
    return replace(planned, config=replace(planned.config, paths=paths), overrides=asked)


def offline(spec: RunSpec) -> RunSpec:
    return replace(spec, config=replace(spec.config, tracking=replace(spec.config.tracking, mode="offline")))


@dataclass
class Attempt:
    """A process that is at work on a run, and waits where it was told to."""

    process: ForkServerProcess
    pipe: Connection

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """The test's own time-out is the limit."""
        assert self.pipe.recv() == "waiting"
        while not condition():
            assert self.process.is_alive()
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def go_on(self) -> None:
        self.pipe.send("go on")
        self.end()

    def end(self) -> None:
        self.process.join()
        assert self.process.exitcode == 0


def attempt(target: Callable[..., None], *args: Any, **environment: str) -> Attempt:
    """Start ``target`` in a process of its own, with the pipe as its first argument."""
    context = get_context("forkserver")
    context.set_forkserver_preload([*TRACKING, "har_sweep.launch.preload"])  # as launch/local.py
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_environment, args=(environment, target, theirs, *args), daemon=True)
    process.start()
    theirs.close()
    return Attempt(process, ours)


def _in_environment(environment: dict[str, str], target: Callable[..., None], *args: Any) -> None:
    os.environ.update(environment)
    target(*args)


def wait_here(pipe: Connection) -> None:
    pipe.send("waiting")
    pipe.recv()


def compute(pipe: Connection, spec: RunSpec, waits: bool = False) -> None:
    """A real run, as a sweep's process computes it; it may wait once, after the first step of epoch 3."""

    def tell(event: Event) -> None:
        if waits and isinstance(event, Step) and (event.epoch, event.step) == (3, 1):
            wait_here(pipe)

    stop = Stop()
    signal.signal(signal.SIGTERM, stop)
    try:
        do_job(spec, tell, stop)
    except ClaimLost:
        assert not [child for child in psutil.Process().children() if child.name() == "wandb-core"]


def track(pipe: Connection, spec: RunSpec, last_epoch: int, end: str) -> None:
    """A run's tracking without its training, up to ``last_epoch``; it is done or interrupted, or waits in between:
    before that epoch is logged, or afterwards."""
    tracking.INIT_SECONDS, tracking.FINISH_SECONDS = 2.0, 4.0
    dataset = Dataset.read(spec.dataset_file)
    record = begin(spec, dataset)
    tracker = Tracker(spec.config.tracking, record, spec.paths, record.warnings.append)
    while len(record.epochs) < last_epoch:
        epoch = len(record.epochs) + 1
        record.epochs.append(Epoch(epoch, 1 / epoch, None, epoch / 10, 0.1, 1.0))
        write_record(record, spec.paths)
        if (epoch, end) == (last_epoch, "wait before logging"):
            wait_here(pipe)
        tracker.epochs(record.epochs)
    if end == "wait":
        wait_here(pipe)
    if end == "interrupted":
        conclude(record, "interrupted", None)
        write_record(record, spec.paths)
        tracker.close(1)
    else:
        conclude(record, "done", None)
        labels = dataset.labels[dataset.indices("val")]
        likely = np.eye(len(dataset.classes), dtype=np.float32)[labels]
        tracker.finish(record, dataset, {"val": Predictions(dataset.indices("val"), labels, likely, 1.0)})
    write_record(record, spec.paths)


def sync(spec: RunSpec, server: WandbServer) -> None:
    """What a user does with the runs that were kept offline."""
    folders = sorted(spec.paths.wandb.glob("offline-*"))
    assert folders
    command = [str(Path(sys.executable).parent / "wandb"), "sync", *map(str, folders)]
    environment = {**os.environ, **server.environment}
    done = subprocess.run(command, cwd=spec.paths.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def epochs(lines: list[Json]) -> list[int]:
    return [line["epoch"] for line in lines if "epoch" in line]


UNKNOWN_HERE = (
    "cost/price", "cost/training/energy_joules", "cost/inference/energy_joules", "cost/training/host_wait_share",
)  # fmt: skip


def check(server: WandbServer, spec: RunSpec, last_epoch: int = 3) -> Run:
    """The server has one run, and it says what the record says."""
    (run,) = server.runs.values()
    record = read_record(spec.paths.record)
    assert run.id == record.run_id == spec.run_id
    assert (run.name, run.group, run.state) == (record.name, spec.sweep, "finished")
    assert epochs(run.history) == [epoch.epoch for epoch in record.epochs] == list(range(1, last_epoch + 1))
    for line, epoch in zip(run.history, record.epochs, strict=False):
        assert {"train/loss": epoch.train_loss, "val/accuracy": epoch.val_accuracy}.items() <= line.items()
        assert line["_step"] == epoch.epoch
    results = {key: value for key, value in flatten(record).items() if key.split("/")[0] not in (*FACTS, "config")}
    results = {key: value for key, value in results.items() if value is not None and "/per_class/" not in key}
    assert results.items() <= run.summary.items()
    assert run.config["record"]["dataset"]["fingerprint"] == record.dataset.fingerprint
    assert {"predictions", "classes", "confusion_matrix_table"} <= run.summary.keys()
    # At a glance: the best epoch beside the last, and few enough columns to look at.
    accuracies = [epoch.val_accuracy for epoch in record.epochs if epoch.val_accuracy is not None]
    assert run.summary["val/accuracy"] == {"max": max(accuracies), "last": accuracies[-1]}
    assert len(record.dataset.classes) == 15
    assert len(run.summary) + len(UNKNOWN_HERE) <= 60
    return run


def warnings(spec: RunSpec) -> list[str]:
    """What the record says about W&B."""
    return [warning for warning in read_record(spec.paths.record).warnings if "Weights & Biases" in warning]


IMPORTED = """
import importlib, pickle, sys
from pathlib import Path
for name in (*sys.argv[2:], "har_sweep.launch.preload"):  # as launch/local.py
    importlib.import_module(name)
before = set(sys.modules)
from har_sweep.events import tell_nobody
from har_sweep.launch.job import do_job
from har_sweep.stop import Stop
assert do_job(pickle.loads(Path(sys.argv[1]).read_bytes()), tell_nobody, Stop()).status == "done"
print(*{name.partition(".")[0] for name in sys.modules.keys() - before})
"""


def test_what_each_run_imports_the_server_of_their_processes_has_imported(tmp_path: Path) -> None:
    spec = small_spec(tmp_path, "tracking=wandb")
    (planned := tmp_path / "planned").write_bytes(pickle.dumps(spec))
    command = [sys.executable, "-c", IMPORTED, str(planned), *TRACKING]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) <= {"pandas", "pyarrow"}  # what they convert to each other by


def test_a_run_that_is_killed_and_resumed_is_one_run_with_each_epoch_once(server: WandbServer, spec: RunSpec) -> None:
    home = spec.paths.folder.parent.parent
    environment = {**server.environment, "HOME": str(home)}
    first = attempt(compute, spec, True, **environment, **OFTEN)
    first.wait_until(lambda: server.runs and len(server.runs[spec.run_id].history) == 2)
    first.kill()
    attempt(compute, spec, **environment).end()
    assert epochs(check(server, spec).received) == [1, 2, 3]
    assert not warnings(spec)
    asked = len(server.asked)
    attempt(compute, spec, **environment).end()  # the finished run, asked for again
    assert len(server.asked) == asked
    for what, body in server.asked:
        assert str(home).encode() not in body, what
        assert KEY.encode() not in body, what
        assert b"hunter2" not in body, what


@pytest.mark.parametrize(("classes", "shown"), [(100, {"confusion_matrix"}), (101, set())])
def test_a_confusion_matrix_that_weights_and_biases_would_not_show_is_not_sent(
    spec: RunSpec, classes: int, shown: set[str]
) -> None:
    dataset = replace(Dataset.read(spec.dataset_file), classes=[f"class {n}" for n in range(classes)])
    probabilities = np.full((2, classes), 1 / classes, dtype=np.float32)
    predictions = {"val": Predictions(np.arange(2), np.arange(2), probabilities, 1.0)}
    assert set(tracking._tables(new_record(spec, dataset), dataset, predictions)) == {"predictions", "classes", *shown}


@pytest.mark.parametrize(
    ("end", "uploads", "uploaded"), [("wait", "at the end", 0), ("wait before logging", "often", 1)]
)
def test_what_was_not_uploaded_when_a_run_was_killed_is_not_missing(
    server: WandbServer, spec: RunSpec, end: str, uploads: str, uploaded: int
) -> None:
    first = attempt(track, spec, 2, end, **server.environment, **(OFTEN if uploads == "often" else AT_THE_END))
    first.wait_until(lambda: server.runs and len(server.runs[spec.run_id].history) == uploaded)
    first.kill()
    attempt(track, spec, 3, "done", **server.environment).end()
    assert epochs(check(server, spec).received) == [1, 2, 3]


def test_a_process_that_has_lost_its_run_sends_nothing_more(server: WandbServer, spec: RunSpec) -> None:
    old = attempt(compute, spec, True, **server.environment, **OFTEN)
    old.wait_until(lambda: server.runs and len(server.runs[spec.run_id].history) == 2)
    claim = take_claim(spec.paths.folder, is_dead=lambda owner: True)
    assert claim
    old.go_on()
    claim.release()
    (run,) = server.runs.values()
    assert (epochs(run.received), run.state) == ([1, 2], "running")
    attempt(compute, spec, **server.environment).end()
    assert epochs(check(server, spec).received) == [1, 2, 3]


@pytest.mark.parametrize("ended", ["interrupted", "killed"])
def test_an_offline_run_that_went_on_is_uploaded_as_one_run(server: WandbServer, spec: RunSpec, ended: str) -> None:
    spec = offline(spec)
    first = attempt(track, spec, 2, "interrupted" if ended == "interrupted" else "wait")
    if ended == "killed":
        first.wait_until(lambda: True)
        first.kill()
    else:
        first.end()
    attempt(track, spec, 3, "done").end()
    assert not server.asked
    assert len(list(spec.paths.wandb.glob("offline-*"))) == 1
    sync(spec, server)
    assert epochs(check(server, spec).received) == [1, 2, 3]


def test_an_offline_run_that_was_uploaded_half_way_is_replaced_by_the_whole(server: WandbServer, spec: RunSpec) -> None:
    spec = offline(spec)
    attempt(track, spec, 1, "interrupted").end()
    sync(spec, server)
    assert epochs(server.runs[spec.run_id].history) == [1]
    second = attempt(track, spec, 2, "wait")
    second.wait_until(lambda: True)
    for log in spec.paths.wandb.glob("offline-*/*.wandb"):
        log.with_suffix(".wandb.synced").touch()  # as `wandb sync` leaves it, whatever is written afterwards
    second.go_on()
    sync(spec, server)
    check(server, spec, last_epoch=2)


def test_a_run_that_finds_no_server_is_kept_offline_whole(server: WandbServer, spec: RunSpec) -> None:
    attempt(track, spec, 2, "interrupted", **server.environment).end()
    assert server.runs[spec.run_id].state == "failed"
    server.failing = 0
    attempt(track, spec, 3, "done", **server.environment).end()
    assert len(warnings(spec)) == 1
    server.failing = None
    sync(spec, server)
    check(server, spec)


def test_a_run_that_was_kept_offline_goes_on_online(server: WandbServer, spec: RunSpec) -> None:
    server.failing = 500
    attempt(track, spec, 2, "interrupted", **server.environment).end()
    assert list(spec.paths.wandb.glob("offline-*"))
    server.failing = None
    attempt(track, spec, 3, "done", **server.environment).end()
    assert epochs(check(server, spec).received) == [1, 2, 3]
    assert not list(spec.paths.wandb.glob("offline-*"))  # it would be uploaded in the place of the whole


def test_a_run_that_loses_its_server_is_kept_offline_whole(server: WandbServer, spec: RunSpec) -> None:
    impatient = {"WANDB_X_GRAPHQL_RETRY_MAX": "1"}
    run = attempt(track, spec, 3, "wait", **server.environment, **OFTEN, **impatient)
    run.wait_until(lambda: server.runs and len(server.runs[spec.run_id].history) == 3)
    server.failing = 429
    run.go_on()
    assert len(warnings(spec)) == 1
    server.failing = None
    sync(spec, server)
    check(server, spec)


def test_a_server_that_fails_for_a_moment_gets_each_epoch_once(server: WandbServer, spec: RunSpec) -> None:
    run = attempt(track, spec, 3, "wait", **server.environment, **AT_THE_END)
    run.wait_until(lambda: server.runs)
    server.failing, asked = 500, len(server.asked)
    run.pipe.send("go on")
    while len(server.asked) == asked:
        time.sleep(0.01)
    server.failing = None
    run.end()
    assert epochs(check(server, spec).received) == [1, 2, 3]
    assert not warnings(spec)


def test_what_was_decided_while_planning_counts_in_the_job_and_nothing_is_written_where_it_is_off(
    server: WandbServer, spec: RunSpec
) -> None:
    home = spec.paths.folder.parent.parent
    tracked = replace(
        spec.config.tracking, group="night", name="first", notes="a note", tags=["mine"], job_type="eval",
        dir=str(home / "elsewhere"), log_model=True,
    )  # fmt: skip
    spec = replace(spec, config=replace(spec.config, tracking=tracked))
    spec.paths.folder.mkdir(parents=True)
    spec.paths.model.write_bytes(b"weights")
    another = {"WANDB_MODE": "disabled", "WANDB_RUN_ID": "theirs", "WANDB_PROJECT": "theirs", "WANDB_TAGS": "theirs"}
    attempt(track, spec, 1, "done", **server.environment, **another, HOME=str(home)).end()
    (run,) = server.runs.values()
    assert (run.id, run.project, run.group, run.name) == (spec.run_id, "har_sweep", "night", "first")
    assert (run.notes, run.job_type, run.tags) == ("a note", "eval", ["seed0", "synthetic", "mine"])
    assert (home / "elsewhere" / "wandb").is_dir()
    assert not spec.paths.wandb.exists()
    # The commit is that of the folder that the command was given in, and artifacts are what they are named after.
    assert run.commit == git_state()[0]
    kept = {name: server.artifacts[id] for name, id in server.collections.items()}
    assert kept[f"model-{spec.run_id}"]["model.safetensors"] == b"weights"
    told = json.loads(kept["dataset-sample"]["dataset.json"])
    assert told["fingerprint"] == Dataset.read(spec.dataset_file).fingerprint
    sent = b"".join(body for what, body in server.asked if not what.startswith("/artifact"))
    assert b"system.memory_percent" in sent  # as the client samples it
    for private in (str(home), f'"{socket.gethostname()}"', f'"{sys.argv[0]}"'):
        assert private.encode() not in sent
    asked = len(server.asked)
    off = replace(spec, run_id="off", config=replace(spec.config, tracking=replace(tracked, mode="disabled", dir=None)))
    attempt(track, off, 1, "done", **server.environment).end()
    assert len(server.asked) == asked
    assert not off.paths.wandb.exists()


def test_a_run_that_is_computed_again_starts_its_history_anew(server: WandbServer, spec: RunSpec) -> None:
    attempt(track, spec, 3, "done", **server.environment).end()
    attempt(track, spec, 2, "interrupted", **server.environment).end()
    assert epochs(server.runs[spec.run_id].history) == [1, 2]
    assert "starts anew" in "".join(warnings(spec))
    attempt(track, spec, 3, "done", **server.environment).end()
    assert epochs(check(server, spec).received) == [1, 2, 3, 1, 2, 3]
