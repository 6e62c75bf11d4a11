"""What can happen to a disk and to processes, by the real command: after each fault the same command ends done, equal
to the bit, or with a sentence and never a traceback; and once the fault is gone it ends done and equal.

A draw of the table runs with all other tests, the whole of it with ``make test-faults``.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from small import ALONE, command, har_sweep, learned, one_more, runs, small_spec

from har_sweep.events import Event, Step
from har_sweep.record.claim import take_claim
from har_sweep.record.record import contradictions
from har_sweep.run.execute import execute
from har_sweep.stop import Stop

ALL = os.environ.get("FAULTS") == "all"
Row = TypeVar("Row")
pytestmark = pytest.mark.timeout(1800 if ALL else 900)  # of the whole table the reference is 30 runs
as_root = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts, which root alone may")


def drawn(table: Sequence[Row], few: int) -> Sequence[Row]:
    """The whole table, or a few of its rows, the same each time."""
    return table if ALL else random.Random(0).sample(table, few)


def same_command(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command of every test here, whatever happened before; it never ends with a traceback."""
    mounted = any(map(os.path.ismount, (folder, folder / "disk")))  # where no process may stay
    command_in = har_sweep if mounted else one_more
    ended = command_in(*ALONE, *overrides, cwd=folder, **environment)
    assert "Traceback" not in ended.stdout + ended.stderr, ended.stdout + ended.stderr
    return ended


def ends_well(folder: Path, reference: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The same command ends done, equal to the bit to a run that nothing happened to; nothing half-written stays."""
    ended = same_command(folder, *overrides)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    theirs, ours = learned(reference), learned(folder)
    assert ours == {run_id: theirs[run_id] for run_id in ours}
    for run_id, record in runs(folder).items():
        assert contradictions(record) == []
        left = [file.name for file in (folder / "runs" / run_id).iterdir()]
        assert not [name for name in left if name.startswith((".staging", ".claiming", "selected", "checkpoint"))]
    return ended


# --- what lies on the disk -------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(file.stat().st_size))


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": os.unlink,
    "cut": cut,
    "emptied": lambda file: os.truncate(file, 0),
    "garbage": garbage,
    "flipped": flipped,
}
OF_A_RUN = (".claim.1/owner.json", "record.json", "config.yaml", "checkpoint.pt", "selected-*.safetensors", "run.log")
OF_ALL_RUNS = (
    "cache/images/*/files.json", "cache/images/*/64.u8", "cache/images/*/64.xxh3", "cache/datasets/*.json",
    "runs/.sweeps/*/sweep.json",
)  # fmt: skip
DAMAGED_RUNS = drawn(list(itertools.product(OF_A_RUN, DAMAGES)), 8)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that nothing happened to."""
    folder = tmp_path_factory.mktemp("reference")
    assert same_command(folder, "-m", f"seed=range(0,{len(DAMAGED_RUNS)})").returncode == 0
    return folder


def interrupt(folder: Path, seed: int) -> Path:
    """A run that was stopped in the middle of its second epoch; returns its folder."""
    paths = [f"paths.data={folder}/data", f"paths.cache={folder}/cache"]
    spec, stop = small_spec(folder, f"seed={seed}", *paths), Stop()

    def tell(event: Event) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == (2, 2):
            stop()

    claim = take_claim(spec.paths.folder)
    assert claim
    with claim:
        assert execute(replace(spec, claim=claim.number), tell, stop).status == "interrupted"
    (spec.paths.log).write_text("What was said.\n")
    return spec.paths.folder


def test_whatever_is_lost_of_a_run_it_ends_done_and_so_do_the_others(reference: Path, tmp_path: Path) -> None:
    for part in ("cache", "data"):
        shutil.copytree(reference / part, tmp_path / part)
    for seed, (name, damage) in enumerate(DAMAGED_RUNS):
        for file in interrupt(tmp_path, seed).glob(name):
            DAMAGES[damage](file)
    ends_well(tmp_path, reference, "-m", f"seed=range(0,{len(DAMAGED_RUNS)})")


@pytest.mark.parametrize(("name", "damage"), drawn(list(itertools.product(OF_ALL_RUNS, DAMAGES)), 3))
def test_what_runs_share_is_made_again(reference: Path, tmp_path: Path, name: str, damage: str) -> None:
    shutil.copytree(reference / "data", tmp_path / "data")
    assert same_command(tmp_path, "trainer.epochs=1").returncode == 0
    (file,) = tmp_path.glob(name)
    DAMAGES[damage](file)
    ended = same_command(tmp_path, "seed=0")
    if ended.returncode:  # found only when it was read: a sentence, and the next command makes it again
        assert "the same command makes" in (ended.stdout + ended.stderr).replace("\n", " ")
    ends_well_but_for_others(tmp_path, reference)


def ends_well_but_for_others(folder: Path, reference: Path) -> None:
    for run_id in set(runs(folder)) - set(runs(reference)):
        shutil.rmtree(folder / "runs" / run_id)
    ends_well(folder, reference, "seed=0")


# --- system calls ----------------------------------------------------------------------------------------------------

FAULTY = """
import os
from pathlib import Path
fault, count = (Path(os.environ["FAULTS_IN"], name) for name in ("fault", "count"))
def faulty(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        asked, at, how = fault.read_text().split(":")
        if asked == name:
            with count.open("ab") as calls:  # over all processes
                calls.write(b".")
                calls.flush()
                n = os.fstat(calls.fileno()).st_size
            if n == int(at):
                if how == "kill":
                    os.kill(os.getpid(), 9)
                raise OSError(int(how), os.strerror(int(how)))
        return real(*args, **kwargs)
    setattr(os, name, call)
for name in ("replace", "fsync", "link"):
    faulty(name)
"""
CALLS = {"replace": 34, "fsync": 60, "link": 2}  # of them a run makes about so many
HOW = {"kill": "kill", "EIO": "5", "ENOSPC": "28"}
FAILING = drawn([(call, n, how) for call, most in CALLS.items() for n in range(1, most + 1) for how in HOW], 5)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the next fault is written, for processes that look there before each such call."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "sitecustomize.py").write_text(FAULTY)
    return folder


@pytest.mark.parametrize(("call", "n", "how"), FAILING)
def test_a_system_call_that_fails_or_is_the_last(
    reference: Path, faulty: Path, tmp_path: Path, call: str, n: int, how: str
) -> None:
    shutil.copytree(reference / "data", tmp_path / "data")
    (faulty / "count").unlink(missing_ok=True)
    (faulty / "fault").write_text(f"{call}:{n}:{HOW[how]}")
    path = os.pathsep.join(filter(None, [str(faulty), os.environ.get("PYTHONPATH")]))
    ended = same_command(tmp_path, "seed=0", FAULTS_IN=str(faulty), PYTHONPATH=path)
    assert ended.returncode in (0, 1, 2, -signal.SIGKILL)
    assert ended.returncode < 1 or ended.stdout + ended.stderr  # it says why
    ends_well(tmp_path, reference, "seed=0")


# --- power -----------------------------------------------------------------------------------------------------------

SHUTDOWN, NOT_EVEN_THE_JOURNAL = 0x8004587D, struct.pack("I", 2)  # ext4's ioctl
MOMENTS = [
    "runs/*/.claim.1", "runs/*/record.json", "runs/*/checkpoint.pt", "runs/*/selected-*.safetensors",
    "runs/*/model.safetensors", "runs/*/predictions.parquet", "cache/images/*/files.json", "cache/datasets/*.json",
]  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can lose its power."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@as_root
@pytest.mark.parametrize("moment", drawn(MOMENTS, 2))
def test_a_power_cut(reference: Path, disk: Path, moment: str) -> None:
    shutil.copytree(reference / "data", disk / "data")
    os.sync()
    process = subprocess.Popen(
        command(*ALONE, "seed=0"),
        cwd=disk,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not any(disk.glob(moment)):
        assert process.poll() is None
        time.sleep(0.001)
    handle = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(handle, SHUTDOWN, NOT_EVEN_THE_JOURNAL)
    os.close(handle)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while subprocess.run(["umount", disk], capture_output=True).returncode:  # until all have left
        time.sleep(0.05)
    subprocess.run(["mount", "-o", "loop", disk.parent / "image", disk], check=True)
    ends_well(disk, reference, "seed=0")


# --- processes that stand still --------------------------------------------------------------------------------------


@as_root
def test_a_run_that_stood_still_for_longer_than_owners_live_undoes_nothing(reference: Path, tmp_path: Path) -> None:
    """On another machine, which is not known here to have it still."""
    shutil.copytree(reference / "data", tmp_path / "data")
    asked = ["seed=0", "launch.heartbeat_seconds=0.3"]
    elsewhere = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*elsewhere, *command(*ALONE, *asked)], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    while not any(tmp_path.glob("runs/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGSTOP)
    ends_well(tmp_path, reference, *asked)
    os.killpg(process.pid, signal.SIGCONT)
    output = process.communicate()[0]
    assert "Traceback" not in output
    ends_well(tmp_path, reference, *asked)
    (record,) = runs(tmp_path).values()
    assert [attempt.host for attempt in record.attempts] == ["elsewhere", socket.gethostname()]
    assert [attempt.outcome for attempt in record.attempts] == ["killed", "done"]


# --- disks that are full, read-only, or away -------------------------------------------------------------------------


@as_root
def test_no_byte_is_free(reference: Path, disk: Path) -> None:
    shutil.copytree(reference / "data", disk / "data")
    with contextlib.suppress(OSError), (disk / "all of it").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    ended = same_command(disk, "seed=0")
    assert ended.returncode == 2
    assert "Free some" in ended.stdout
    (disk / "all of it").unlink()
    ends_well(disk, reference, "seed=0")


def test_a_file_system_without_hard_links(reference: Path, linkless: Path) -> None:
    """A notebook that was cut off from its drive: nothing is refused, and the next goes on from what is there."""
    shutil.copytree(reference / "data", linkless / "data")
    process = subprocess.Popen(
        command(*ALONE, "seed=0"), cwd=linkless, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    while not any(linkless.glob("runs/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    output = " ".join(process.communicate()[0].split())
    assert output.count("on a file system without hard links") == 1
    assert "let one machine at a time compute there" in output
    ends_well(linkless, reference, "seed=0")
    (record,) = runs(linkless).values()
    assert [attempt.outcome for attempt in record.attempts] == ["killed", "done"]
    assert [warning for warning in record.warnings if "without hard links" in warning]


@as_root
def test_a_complete_cache_on_a_read_only_disk_is_used(reference: Path, disk: Path, tmp_path: Path) -> None:
    for part in ("data", "cache"):
        shutil.copytree(reference / part, disk / part)
    there = [f"paths.data={disk}/data", f"paths.cache={disk}/cache"]
    assert same_command(tmp_path, "trainer.epochs=1", *there).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for run in runs(tmp_path):
        shutil.rmtree(tmp_path / "runs" / run)
    ends_well(tmp_path, reference, "seed=0", *there)


@as_root
def test_a_runs_folder_that_goes_away_and_comes_back(reference: Path, disk: Path, tmp_path: Path) -> None:
    shutil.copytree(reference / "data", tmp_path / "data")
    there = [f"paths.runs={disk}/runs", "seed=0"]
    process = subprocess.Popen(
        command(*ALONE, *there), cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not any(disk.glob("runs/*/checkpoint.pt")):
        assert process.poll() is None
        time.sleep(0.001)
    subprocess.run(["umount", "--lazy", disk], check=True)
    output = process.communicate()[0]
    assert process.returncode in (1, 2), output
    assert "Traceback" not in output
    assert f"{disk}/runs" in output
    assert "gone" in output
    assert not any(disk.iterdir())  # nothing was written to where the disk should be
    subprocess.run(["mount", "-o", "loop", disk.parent / "image", disk], check=True)
    ended = same_command(tmp_path, *there)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    theirs, ours = learned(reference), learned(disk)
    assert ours == {run_id: theirs[run_id] for run_id in ours}
