"""Who may write a run: at most one process, on any number of machines that share a file system, without a lock.

A claim is a numbered file in the run's folder, ``.claim.<n>``, made with ``link``, which even NFS grants only once; the
highest number owns the run, and its owner renews the file as a sign of life. When the owner has died, the next number
may be taken. An owner that was only thought dead meets the higher number before its next write, and stops: the number
is a fencing token (Kleppmann, "How to do distributed locking", 2016).

Ages are differences of two times that the file system itself gave, so that the machines' clocks need not agree.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType

import msgspec
import psutil

from har_sweep.errors import ClaimLost

PREFIX = ".claim."
MISSED_BEATS = 6  # so many heartbeats late, an owner on another machine counts as dead
HEARTBEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Owner:
    """What a claim's file says. ``machine`` tells apart what shares pids; ``progress`` is for whoever watches."""

    number: int
    machine: str
    host: str
    pid: int
    pid_started: float
    job: str
    restarts: int
    heartbeat_seconds: float
    released: bool = False
    progress: dict[str, float | int | str | None] | None = None


def claim_path(folder: Path, number: int) -> Path:
    """The file of the claim with this number."""
    return folder / f"{PREFIX}{number}"


def check_claim(folder: Path, number: int) -> None:
    """Raise ClaimLost if there is a later claim: the run has been taken over.

    NFS remembers for a while what a folder held, but not past the making of another file in it, such as the temporary
    one that is about to be renamed.
    """
    if _latest_number(folder) > number:
        raise ClaimLost(f"Claim {number} on {folder.name} was taken over.")


def latest_owner(folder: Path) -> Owner | None:
    """The claim with the highest number, whether its owner lives or not; None if there never was one."""
    try:
        return msgspec.json.decode(claim_path(folder, _latest_number(folder)).read_bytes(), type=Owner)
    except FileNotFoundError:
        return None


def _latest_number(folder: Path) -> int:
    """0 if there never was a claim."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return 0
    return max((int(tail) for name in names if (tail := name.removeprefix(PREFIX)).isdigit()), default=0)


def living_owner(folder: Path) -> Owner | None:
    """The run's owner, if there is one and it is not known to be dead."""
    owner = latest_owner(folder)
    return owner if owner and not owner.released and _is_alive(folder, owner) else None


def take_claim(
    folder: Path,
    *,
    job: str = "",
    restarts: int = 0,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    is_dead: Callable[[Owner], bool] = lambda owner: False,
    on_lost: Callable[[], None] = lambda: None,
) -> Claim | None:
    """Take the run in ``folder``, or None if somebody living has it.

    ``job`` and ``restarts`` name this process to the batch system: the same job started anew supersedes its earlier
    self. ``is_dead`` may know of an owner's death by other means than its silence. ``on_lost`` is called, in another
    thread, when a later claim is seen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = living_owner(folder)
    if before and not (job and before.job == job and before.restarts < restarts) and not is_dead(before):
        return None
    last, me = latest_owner(folder), psutil.Process()
    number = last.number + 1 if last else 1
    host = socket.gethostname()
    owner = Owner(number, this_machine(), host, me.pid, me.create_time(), job, restarts, heartbeat_seconds)
    temporary = _written(folder, owner)
    try:
        os.link(temporary, claim_path(folder, number))
    except FileExistsError:
        if temporary.stat().st_nlink < 2:  # NFS can lose the answer to a link that was made
            return None
    finally:
        temporary.unlink()
    claim_path(folder, number - 2).unlink(missing_ok=True)  # the one before tells when its owner was last seen
    return Claim(folder, owner, on_lost)


class Claim:
    """A run that is ours until ``release``, or until somebody who thinks us dead takes it."""

    def __init__(self, folder: Path, owner: Owner, on_lost: Callable[[], None]) -> None:
        self._folder, self._owner, self._on_lost = folder, owner, on_lost
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        return self._owner.number

    def progress(self, progress: dict[str, float | int | str | None]) -> None:
        """What the next heartbeat shall tell."""
        self._owner = replace(self._owner, progress=progress)

    def release(self) -> None:
        """Let the next one have it; a second call does nothing."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            self._renew(replace(self._owner, released=True))

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._over.wait(self._owner.heartbeat_seconds):
            try:
                check_claim(self._folder, self.number)
            except ClaimLost:
                self._on_lost()
                return
            self._renew(self._owner)

    def _renew(self, owner: Owner) -> None:
        file = claim_path(self._folder, owner.number)
        try:
            os.replace(_written(self._folder, owner), file)
        except OSError:  # a full disk lets no file be written, but a time can still be set
            try:
                os.utime(file)
            except OSError:
                return


def _written(folder: Path, owner: Owner) -> Path:
    handle, name = tempfile.mkstemp(prefix=".claiming.", dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(owner))
    os.chmod(name, 0o644)
    return Path(name)


def _is_alive(folder: Path, owner: Owner) -> bool:
    if owner.machine == this_machine():
        try:
            process = psutil.Process(owner.pid)
            same = abs(process.create_time() - owner.pid_started) < 1  # and not another that was given the pid since
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
    try:
        with tempfile.TemporaryFile(dir=folder) as now, claim_path(folder, owner.number).open("rb") as claim:
            now.write(b".")
            now.flush()
            age = os.fstat(now.fileno()).st_mtime - os.fstat(claim.fileno()).st_mtime
    except FileNotFoundError:  # it was renewed at this moment
        return True
    except OSError:  # the file system takes nothing: nobody can be told dead
        return True
    return age <= MISSED_BEATS * owner.heartbeat_seconds


@cache
def this_machine() -> str:
    """What processes that see each other's pids have in common, and others do not."""
    facts = [socket.gethostname()]
    for fact in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        try:
            facts.append(os.readlink(fact) if fact.is_symlink() else fact.read_text().strip())
        except OSError:  # not Linux
            facts.append(str(psutil.boot_time()))
    return " ".join(facts)
