"""Each run has one owner at a time, over machines and deaths, and an old owner notices before it writes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from small import SMALL, command, one_more, runs

from har_sweep.errors import ClaimLost
from har_sweep.files import atomic
from har_sweep.record import claim as claims
from har_sweep.record.claim import (
    MISSED_BEATS,
    Claim,
    check_claim,
    latest_owner,
    living_owner,
    take_claim,
    this_machine,
)
from har_sweep.record.folder import RunPaths

BEAT = 0.1
FORK = multiprocessing.get_context("fork")


def on_machine(name: str) -> None:
    """From here on this process counts as one of another machine, whose pids mean nothing to the others."""
    claims.this_machine.cache_clear()
    claims.this_machine = lambda: name  # type: ignore[assignment]


def take(folder: Path, beat: float = BEAT) -> Claim | None:
    return take_claim(folder, heartbeat_seconds=beat)


def hold(folder: Path, machine: str, held: object) -> None:
    """Claim a run, and then write to it for ever."""
    on_machine(machine)
    claim = take(folder)
    assert claim
    held.set()  # type: ignore[attr-defined]
    while True:
        with RunPaths(folder, claim.number).writing(folder / "state", "w") as file:
            file.write(str(claim.number))


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[BaseProcess]:
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, request.param, held))
    process.start()
    assert held.wait(30)
    yield process
    process.kill()
    process.join()


def until_taken(folder: Path) -> Claim:
    while (claim := take(folder)) is None:
        time.sleep(0.01)
    return claim


@pytest.mark.parametrize("holder", [this_machine(), "another"], indirect=True)
def test_a_run_whose_owner_lives_cannot_be_claimed(tmp_path: Path, holder: BaseProcess) -> None:
    for _ in range(round(3 * MISSED_BEATS)):
        assert take(tmp_path) is None
        time.sleep(BEAT / 2)
    owner = living_owner(tmp_path)
    assert owner
    assert owner.pid == holder.pid
    assert owner.number == 1


@pytest.mark.parametrize("holder", [this_machine()], indirect=True)
def test_a_killed_owner_on_this_machine_is_known_dead_at_once(tmp_path: Path, holder: BaseProcess) -> None:
    holder.kill()
    holder.join()
    claim = take(tmp_path)
    assert claim
    with claim:
        assert claim.number == 2


@pytest.mark.parametrize("holder", ["another"], indirect=True)
def test_an_owner_on_another_machine_is_dead_when_it_is_silent_and_finds_out_when_it_wakes(
    tmp_path: Path, holder: BaseProcess
) -> None:
    assert holder.pid
    os.kill(holder.pid, signal.SIGSTOP)
    with until_taken(tmp_path) as claim:
        assert claim.number == 2
        with atomic(tmp_path / "state", "w") as file:
            file.write("ours")
        os.kill(holder.pid, signal.SIGCONT)
        holder.join(30)
        assert holder.exitcode == 1  # ClaimLost
        assert (tmp_path / "state").read_text() == "ours"


def test_a_released_claim_is_free_and_numbers_only_grow(tmp_path: Path) -> None:
    for number in range(1, 6):
        claim = take(tmp_path)
        assert claim
        with claim:
            assert claim.number == number
            check_claim(tmp_path, number)
        with pytest.raises(ClaimLost):
            check_claim(tmp_path, number - 1)
    assert len(list(tmp_path.iterdir())) == 2  # the last two; nothing temporary


def test_the_same_job_started_again_supersedes_its_earlier_self(tmp_path: Path) -> None:
    lost: list[int] = []
    first = take_claim(tmp_path, job="7", heartbeat_seconds=BEAT, on_lost=lambda: lost.append(1))
    assert first
    assert take_claim(tmp_path, job="7", heartbeat_seconds=BEAT) is None
    assert take_claim(tmp_path, job="8", restarts=1, heartbeat_seconds=BEAT) is None
    second = take_claim(tmp_path, job="7", restarts=1, heartbeat_seconds=BEAT)
    assert second
    while not lost:
        time.sleep(0.01)
    second.release()
    first.release()
    assert latest_owner(tmp_path) == latest_owner(tmp_path)
    owner = latest_owner(tmp_path)
    assert owner
    assert owner.number == 2


def compute(folder: Path, machine: str, seed: int) -> None:
    """One of many processes that do whatever is left, in an order of their own."""
    on_machine(machine)
    order = sorted(folder.iterdir())
    random.Random(seed).shuffle(order)
    while any(not (run / "done").exists() for run in order):
        for run in order:
            if (run / "done").exists() or (claim := take(run)) is None:
                continue
            with suppress(ClaimLost), claim:  # a machine that is slow to wake it may make it miss its beats
                if (run / "done").exists():
                    continue
                for step in range(5):
                    with RunPaths(run, claim.number).writing(run / "state", "w") as file:
                        file.write(f"{claim.number} {step}")
                with RunPaths(run, claim.number).writing(run / "done", "w") as file:
                    file.write(str(claim.number))
                with (run / "ledger").open("a") as ledger:
                    ledger.write(f"{claim.number}\n")


def test_two_times_eight_processes_and_kill_9_do_each_run_once(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"run{number:02}").mkdir()
    crowd = [
        FORK.Process(target=compute, args=(tmp_path, machine, 100 * n + m))
        for n, machine in enumerate(("one", "two"))
        for m in range(8)
    ]
    for process in crowd:
        process.start()
    for done, victim in enumerate(crowd[:5] + crowd[8:13]):  # five of each machine, spread over the work
        while len(list(tmp_path.glob("*/done"))) < 4 * done:
            time.sleep(0.005)
        victim.kill()
    for process in crowd:
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
    for run in tmp_path.iterdir():
        finished = (run / "done").read_text()
        ledger = (run / "ledger").read_text().split() if (run / "ledger").exists() else []
        assert ledger in ([finished], [])  # empty if it was killed between the two
        assert (run / "state").read_text() == f"{finished} 4"


def count_up(folder: Path, machine: str, seed: int, beat: float) -> None:
    """Add 1 to a number whenever the claim is had, with system calls that are held up for longer than owners live."""
    on_machine(machine)
    draw, rename = random.Random(seed), os.replace

    def held_up(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if draw.random() < 0.3:
            time.sleep(draw.uniform(0.5, 1.5) * MISSED_BEATS * beat)  # past every check that came before it
        rename(source, target)

    os.replace = held_up  # type: ignore[assignment]
    while len((folder / "history").read_bytes().splitlines()) < 40:
        if (claim := take(folder, beat)) is None:
            time.sleep(beat / 2)
            continue
        with suppress(ClaimLost), claim:
            claim._over.set()  # no beats: to the others it dies again and again, and it goes on as if it lived
            for _ in range(draw.randrange(1, 4)):
                number = int((folder / "state").read_text())
                with RunPaths(folder, claim.number).writing(folder / "state", "w") as file:
                    file.write(str(number + 1))
                with (folder / "history").open("a") as history:
                    history.write(f"{claim.number} {number + 1}\n")


# Every owner's death is waited for; sshfs tells times in whole seconds.
@pytest.mark.parametrize(("place", "beat"), [("tmp_path", BEAT / 4), ("linkless", BEAT)])
def test_an_owner_that_was_held_up_in_the_middle_of_a_write_undoes_nothing(
    place: str, beat: float, request: pytest.FixtureRequest
) -> None:
    """Every write that its owner saw succeed is there to be read by the next, in the order of the claims."""
    folder: Path = request.getfixturevalue(place)
    (folder / "state").write_text("0")
    (folder / "history").touch()
    crowd = [FORK.Process(target=count_up, args=(folder, f"machine {n}", n, beat)) for n in range(6)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(240)
        assert process.exitcode == 0
    history = [tuple(map(int, line.split())) for line in (folder / "history").read_text().splitlines()]
    by_value = sorted(history, key=lambda entry: entry[1])
    values = [value for _, value in by_value]
    assert len(set(values)) == len(values)  # no update was lost: else two would have made the same number of one
    assert [claim for claim, _ in by_value] == sorted(claim for claim, _ in by_value)  # one owner after the other
    assert len({claim for claim, _ in history}) > 10
    assert int((folder / "state").read_text()) >= max(values)


@pytest.mark.parametrize("place", ["tmp_path", "linkless"])
def test_a_claim_is_taken_by_one_of_many_that_see_its_owner_die(place: str, request: pytest.FixtureRequest) -> None:
    """An owner that has just arrived is not taken for the dead one that all have read about."""
    folder: Path = request.getfixturevalue(place)

    def enter(start: object, order: int) -> None:
        on_machine("one")
        for turn in range(150):
            start.wait()  # type: ignore[attr-defined]
            if claim := take_claim(folder / f"{turn}"):
                claim._over.set()
                (folder / f"{turn}" / f"entered-{order}").touch()

    for turn in range(150):
        dead = take_claim(folder / f"{turn}")
        assert dead
        dead.release()
    start = FORK.Barrier(4)
    crowd = [FORK.Process(target=enter, args=(start, order)) for order in range(4)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(120)
        assert process.exitcode == 0
    assert {len(list(turn.glob("entered-*"))) for turn in folder.iterdir()} == {1}


def test_where_folders_cannot_be_renamed_a_claim_is_one_s_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps files by their names, in a bucket, renames files alone."""
    rename = os.replace

    def of_files(source: str | Path, target: str | Path) -> None:
        if os.path.isdir(source):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        rename(source, target)

    monkeypatch.setattr(os, "replace", of_files)
    first = take(tmp_path)
    assert first
    assert take(tmp_path) is None
    assert not claims._publish(tmp_path, replace(first._owner, pid=1))  # one that had read the folder before
    first.release()
    second = take(tmp_path)
    assert second
    with second:
        assert second.number == 2
    assert len(list(tmp_path.iterdir())) == 2  # the last two; nothing temporary


def test_where_two_can_make_one_claim_one_of_them_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that takes a folder's name from one that is not empty is not asked alone."""
    rename = os.replace

    def over_anything(source: str | Path, target: str | Path) -> None:
        if os.path.isdir(target):
            shutil.rmtree(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", over_anything)
    first = take(tmp_path)
    assert first
    with first:
        monkeypatch.setattr(claims, "latest_owner", lambda folder: None)  # what it read before the first was there
        assert take(tmp_path) is None


def test_a_claim_of_before_they_were_folders_is_a_dead_owner_s_and_swept_up(tmp_path: Path) -> None:
    (tmp_path / ".claim.1").write_text("{}")
    (tmp_path / ".claiming.abc").write_text("{}")
    for number in (2, 3):
        claim = take(tmp_path)
        assert claim
        with claim:
            assert claim.number == number
    assert sorted(file.name for file in tmp_path.iterdir()) == [".claim.2", ".claim.3"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00garbage"])
def test_a_claim_that_a_power_cut_has_emptied_is_of_a_dead_owner(tmp_path: Path, content: bytes) -> None:
    first = take(tmp_path)
    assert first
    first.release()
    claims.claim_path(tmp_path, 1).write_bytes(content)
    assert living_owner(tmp_path) is None
    claim = take(tmp_path)
    assert claim
    with claim:
        assert claim.number == 2


@pytest.mark.skipif(not psutil.LINUX, reason="counts clock ticks since boot as Linux does")
def test_a_step_of_the_clock_does_not_make_an_owner_look_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with until_taken(tmp_path):
        monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: 1e9)
        assert living_owner(tmp_path)
        claims.this_machine.cache_clear()
        assert living_owner(tmp_path)


def test_two_sweeps_of_four_at_once_share_their_runs_and_one_outlives_the_others_kill_9(tmp_path: Path) -> None:
    seeds = [*SMALL, "trainer.epochs=2", "launch.parallel=4"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    first = subprocess.Popen(command("-m", *seeds, "seed=range(0,6)"), cwd=tmp_path, **pipes)  # type: ignore[call-overload]
    second = subprocess.Popen(command("-m", *seeds, "seed=range(3,9)"), cwd=tmp_path, **pipes)  # type: ignore[call-overload]
    try:
        while not any(record.epochs for record in runs(tmp_path).values()):
            assert first.poll() is None
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        output = second.communicate()[0]
        assert second.returncode == 0, output
    finally:
        for process in (first, second):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
    done = one_more("-m", *seeds, "seed=range(0,9)", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    found = runs(tmp_path)
    assert sorted(record.seed for record in found.values()) == list(range(9))
    for record in found.values():
        outcomes = [attempt.outcome for attempt in record.attempts]
        assert outcomes.count("done") == 1
        assert set(outcomes[:-1]) <= {"killed"}
        assert len(outcomes) <= 2
