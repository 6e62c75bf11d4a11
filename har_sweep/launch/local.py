"""A process of its own for each run, on this machine: one that dies takes no other along, and its memory is its own."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from har_sweep.errors import ClaimLost, InputError, Interrupted
from har_sweep.events import Event, Line
from har_sweep.files import redact_text
from har_sweep.launch.cards import Held, strangers, take_cards
from har_sweep.launch.job import close_record, death, do_job, log_to, may_try_again, with_threads
from har_sweep.launch.terminal import Screen
from har_sweep.processes import FORK_SERVER, held_back, take_signals
from har_sweep.record.claim import living_owner
from har_sweep.record.folder import find_record
from har_sweep.spec.hardware import Device, find_devices, logical_cores
from har_sweep.spec.run_spec import RunSpec
from har_sweep.stop import Stop, die_with_parent

GRACE_SECONDS = 120.0  # for a checkpoint after Ctrl-C; a second Ctrl-C does not wait
POLL_SECONDS = 1.0  # of runs that other processes compute
STARTS = 3  # of a run's process, before its sweep is given up
TRACKING = ("wandb.sdk.launch.inputs.internal", "wandb.sdk.artifacts._internal_artifact", "requests")  # used by a run


@dataclass
class _Child:
    """A run at work, in the ``slot`` of this machine that it has for itself."""

    spec: RunSpec
    label: str
    process: BaseProcess
    slot: int
    cards: Held
    out_of_memory_before: int


def run_all(specs: list[RunSpec], others: list[RunSpec], screen: Screen) -> None:
    """Run each spec; what became of it stands in its record. ``others`` are waited for, and done if they are left.

    Raises
    ------
    KeyboardInterrupt
        after SIGINT or SIGTERM, once the runs at hand have saved their checkpoints.
    """
    # Weights & Biases before torch: with torch's modules around, its import takes three times as long.
    tracked = any(spec.config.tracking.backend == "wandb" for spec in specs)
    FORK_SERVER.set_forkserver_preload([*(TRACKING if tracked else []), "har_sweep.launch.preload"])
    shares = slots([*specs, *others])
    waiting, elsewhere, children = deque(specs), list(others), dict[Connection, _Child]()
    labels = {
        spec.run_id: f"[{n}/{len(specs) + len(others)}] {spec.label}" for n, spec in enumerate([*specs, *others], 1)
    }
    first, told = True, set[str]()
    leaving = list[_Child]()

    def over(child: _Child) -> None:
        child.process.join()
        child.cards.release()
        screen.over(child.label)
        _next(child, waiting, elsewhere, screen)

    with screen.live(), _terminable():
        try:
            while waiting or elsewhere or children or leaving:
                free = sorted(set(range(len(shares))) - {child.slot for child in children.values()})
                lacks_a_card = False
                while waiting and free:
                    slot, label = free.pop(0), labels[waiting[0].run_id]
                    cards = _cards(shares[slot].cards if waiting[0].device == "cuda" else (), told, screen)
                    if cards is None:
                        lacks_a_card = True
                        screen.progress(f"{label}  Waiting for a GPU that another sweep has", 0, 0, of=label)
                        continue
                    spec = waiting.popleft()
                    screen.progress(f"{label}  {'Loading torch and timm' if first else 'Starting'}", 0, 0, of=label)
                    first = False
                    ours, theirs = FORK_SERVER.Pipe(duplex=False)
                    share = shares[slot]
                    process = _start(with_threads(spec, share.threads), theirs, share.environment)
                    theirs.close()
                    children[ours] = _Child(spec, label, process, slot, cards, _out_of_memory_kills())
                if leaving:  # the next is on its way while the system clears up their memory
                    over(leaving.pop())
                    continue
                for connection in wait(list(children), POLL_SECONDS if elsewhere or lacks_a_card else None):
                    assert isinstance(connection, Connection)
                    try:
                        screen.show(children[connection].label, connection.recv())
                    except EOFError:
                        child = children.pop(connection)
                        if shares[child.slot].cards:  # whose memory the next one needs
                            over(child)
                        else:
                            leaving.append(child)
                elsewhere = [spec for spec in elsewhere if not _left(spec, labels[spec.run_id], waiting, screen)]
        except KeyboardInterrupt:
            screen.warn("Stopping: the runs at hand save a checkpoint first (once more to stop at once).")
            _stop(list(children.values()), GRACE_SECONDS)
            raise
        finally:
            left = [*children.values(), *leaving]
            with held_back():  # once more Ctrl-C must not leave a run that nobody has closed
                _stop(left, 0.0)
                for child in left:
                    child.cards.release()
                    _next(child, deque(), [], screen, stopped=True)


def _cards(cards: Sequence[Device], told: set[str], screen: Screen) -> Held | None:
    """A slot's cards, held for a run; None if another sweep has one. Says, once, who else is on them."""
    held = take_cards(cards)
    if isinstance(held, str):
        news = [f"{held}: what needs it waits."]
    else:
        news = [
            f"Not alone: {who} computes there as well. Costs are marked if it disturbs." for who in strangers(cards)
        ]
    for text in news:
        if text not in told:
            screen.warn(text)
        told.add(text)
    return None if isinstance(held, str) else held


def _start(spec: RunSpec, events: Connection, environment: dict[str, str]) -> BaseProcess:
    """A run's process, by a new fork server where the last one was killed.

    Raises
    ------
    InputError
        if there can be none.
    """
    for left in reversed(range(STARTS)):
        process = FORK_SERVER.Process(target=job, args=(spec, events, environment))
        try:
            process.start()
            break
        except (EOFError, OSError):
            if not left:
                raise InputError(
                    "The process that loads torch for all runs dies again and again.",
                    "Most likely it gets too little memory: see `ulimit -v` and what a container or a cgroup allows.",
                ) from None
    return process


@dataclass(frozen=True)
class Slot:
    """The share of this machine that one run gets."""

    environment: dict[str, str]
    threads: int | None
    cards: tuple[Device, ...] = ()


def slots(specs: list[RunSpec]) -> list[Slot]:
    """As many as runs go at once: on CUDA one for each ``device_count`` devices, else ``launch.parallel`` of threads;
    one of a sweep in which some runs compute on CUDA and others do not.

    Raises
    ------
    InputError
        if more runs at once are asked for than there are GPUs, or than one of such a sweep.
    """
    parallel = specs[0].config.launch.parallel
    on_cuda = [spec for spec in specs if spec.device == "cuda"]
    if on_cuda:
        ids, cards = _visible_cuda_devices()
        per_run = max(spec.config.hardware.device_count for spec in on_cuda)
        most = len(ids) // per_run
        if len(on_cuda) < len(specs):
            if parallel and parallel > 1:
                others = next(spec.device for spec in specs if spec.device != "cuda")
                raise InputError(
                    f"launch.parallel={parallel}: runs of a sweep on cuda and {others} go one at a time.",
                    "Leave launch.parallel out, or give each hardware.device a command of its own.",
                )
            parallel = 1
        if parallel and parallel > most:
            raise InputError(
                f"launch.parallel={parallel}: there are {len(ids)} GPUs, and a run uses {per_run}.",
                f"Runs that share a GPU cannot be compared; launch.parallel={most} is the most.",
            )
        groups = [slice(n * per_run, (n + 1) * per_run) for n in range(parallel or most)]
        # Indices as nvidia-smi and the planner count; by itself CUDA puts the fastest first.
        ordered = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return [
            Slot({**ordered, "CUDA_VISIBLE_DEVICES": ",".join(ids[group])}, None, tuple(cards[group]))
            for group in groups
        ]
    threads = max(1, logical_cores() // (parallel or 1)) if parallel and parallel > 1 else None
    return [Slot({}, threads)] * (parallel or 1)


def _visible_cuda_devices() -> tuple[list[str], list[Device]]:
    """What CUDA_VISIBLE_DEVICES would call them, and what is known of them."""
    visible, cards = os.environ.get("CUDA_VISIBLE_DEVICES"), [d for d in find_devices() if d.kind == "cuda"]
    if not visible:
        return [str(n) for n in range(len(cards))], cards
    named = [part for part in re.split(r"\s*,\s*", visible.strip()) if part]
    return named[: len(cards) or None], cards  # CUDA sees none from the first wrong name on


def _next(
    child: _Child, waiting: deque[RunSpec], elsewhere: list[RunSpec], screen: Screen, stopped: bool = False
) -> None:
    """Close what a run whose process has ended, or was ``stopped`` by us, left open; another attempt, or somebody
    else's, is noted."""
    exit_code = child.process.exitcode or 0
    starved = exit_code == -signal.SIGKILL and _out_of_memory_kills() > child.out_of_memory_before
    paths = child.spec.paths
    try:
        ended_here = stopped and exit_code == -signal.SIGKILL
        record = close_record(paths, *(("interrupted", None) if ended_here else death(exit_code, starved)))
    except OSError as e:  # the disk is full: the other runs may need less
        screen.warn(f"{child.label}  Its record could not be closed: {e}")
        return
    if record and may_try_again(record, child.spec):
        screen.warn(f"{child.label}  {record.error.message if record.error else ''} Trying again.")
        waiting.append(child.spec)
    elif living_owner(paths.folder) and child.spec.config.launch.wait:
        elsewhere.append(child.spec)


def _left(spec: RunSpec, label: str, waiting: deque[RunSpec], screen: Screen) -> bool:
    """Whether nobody computes the run any more; if it was left unfinished, it is ours to go on with."""
    owner = living_owner(spec.paths.folder)
    if owner:
        progress = owner.progress or {}
        epoch = f", epoch {progress['epoch']}/{progress['epochs']}" if "epoch" in progress else ""
        screen.progress(f"{label}  Waiting for {owner.host}, which computes it{epoch}", 0, 0, of=label)
        return False
    screen.over(label)
    record = find_record(spec.paths)
    if record is None or record.status in ("running", "interrupted"):
        waiting.append(spec)
    return True


def _stop(children: list[_Child], grace_seconds: float) -> None:
    """Ask every process to end, and end it when the time is over."""
    for child in children:
        if grace_seconds:
            child.process.terminate()
    deadline = time.monotonic() + grace_seconds
    for child in children:
        child.process.join(max(0.0, deadline - time.monotonic()))
        if child.process.is_alive():
            child.process.kill()
            child.process.join()


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM ends a sweep as Ctrl-C does; but only the main thread may take signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _out_of_memory_kills() -> int:
    """How often this kernel has killed a process for want of memory; 0 where it does not say."""
    counters = Path("/proc/vmstat")
    if not counters.exists():
        return 0
    return int(next((line.split()[1] for line in counters.read_text().splitlines() if line.startswith("oom_kill ")), 0))


def job(spec: RunSpec, connection: Connection, environment: dict[str, str]) -> None:
    """The run's process: its output goes to ``run.log``, its events to ``connection``."""
    os.environ.update(environment)
    die_with_parent()  # nobody would see this run, and the same command must find it free
    try:
        log = log_to(spec.paths.log)
    except OSError as e:
        connection.send(Line(f"The run could not be started: {e}", warning=True))
        return
    faulthandler.enable(file=2)

    def tell(event: Event) -> None:
        log(event)
        connection.send(event)

    stop = Stop()
    stop.take(signal.SIGTERM, signal.SIGINT)
    take_signals()
    try:
        do_job(spec, tell, stop)
    except ClaimLost as lost:
        tell(Line(f"{lost} This process stops.", warning=True))
    except Interrupted:
        pass  # before there was anything to save
    except Exception as error:
        print(redact_text(traceback.format_exc()), flush=True)
        tell(Line(f"The run could not be started or recorded: {error}", warning=True))
    connection.close()
