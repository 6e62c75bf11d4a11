"""Who may write a run: at most one process, on any number of machines that share a file system, without a lock.

A claim is a numbered folder in the run's, ``.claim.<n>``, with a file that says whose it is. It is made beside its
place and renamed, which succeeds only once, as no folder is renamed over one that is not empty: that is so on file
systems without hard links too. The highest number owns the run, and its owner renews the file as a sign of life. When
the owner has died, the next number may be taken.

An owner that was only thought dead can do no harm, however long one of its system calls is held up: all that it puts
into the run is first made in its staging folder, ``.staging.<n>``, and renamed from there. Whoever takes the run over
removes the staging folders of lower numbers before reading anything. A rename comes before that, and is seen, or
finds no source: the number is a fencing token (Kleppmann, "How to do distributed locking", 2016), and the file system
checks it.

Ages are differences of two times that the file system itself gave, so that the machines' clocks need not agree.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType

import msgspec
import psutil

from har_sweep.errors import ClaimLost
from har_sweep.files import atomic, sync_folder

PREFIX = ".claim."
STAGING = ".staging."
CLAIMING = ".claiming."
MISSED_BEATS = 6  # so many heartbeats late, an owner on another machine counts as dead
HEARTBEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Owner:
    """What a claim's file says. ``machine`` tells apart what shares pids; ``progress`` is for whoever watches.

    ``pid_started`` is as ``_start_of`` has it.
    """

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
    return folder / f"{PREFIX}{number}" / "owner.json"


def check_claim(folder: Path, number: int) -> None:
    """Raise ClaimLost if there is a later claim: the run has been taken over."""
    if _latest_number(folder) > number:
        raise ClaimLost(f"Claim {number} on {folder.name} was taken over.")


def staging_folder(folder: Path, number: int) -> Path:
    """Where the owner with this number makes what it will rename into the run's folder."""
    return folder / f"{STAGING}{number}"


def latest_owner(folder: Path) -> Owner | None:
    """The claim with the highest number, whether its owner lives or not; None if there never was one.

    What cannot be read was cut off by a power failure, which its owner did not survive.
    """
    number = _latest_number(folder)
    while number:
        with suppress(FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
            return msgspec.json.decode(claim_path(folder, number).read_bytes(), type=Owner)
        if (now := _latest_number(folder)) == number:
            return Owner(number, "", "", 0, 0.0, "", 0, HEARTBEAT_SECONDS, released=True)
        number = now
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
    return _if_living(folder, latest_owner(folder))


def _if_living(folder: Path, owner: Owner | None) -> Owner | None:
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
    last = latest_owner(folder)  # read once: whoever comes after this makes the renaming below fail
    before = _if_living(folder, last)
    if before and not (job and before.job == job and before.restarts < restarts) and not is_dead(before):
        return None
    number, pid = last.number + 1 if last else 1, os.getpid()
    owner = Owner(number, this_machine(), socket.gethostname(), pid, _start_of(pid), job, restarts, heartbeat_seconds)
    if not _publish(folder, owner):
        return None
    try:
        staging_folder(folder, number).mkdir()
    except FileExistsError:  # a file system that let two make the claim still makes no folder twice
        return None
    if _latest_number(folder) != number:  # it was held up since it read the last claim, and so is not the latest
        _remove(staging_folder(folder, number))
        return None
    sync_folder(folder)
    fence(folder, number)
    return Claim(folder, owner, on_lost)


def _publish(folder: Path, owner: Owner) -> bool:
    """Make the claim, once and for all, power cuts included; whether nobody else had made it."""
    made, claim = folder / f"{CLAIMING}{secrets.token_hex(8)}", claim_path(folder, owner.number)
    content = msgspec.json.encode(owner)
    try:
        made.mkdir()
        with atomic(made / claim.name) as file:
            file.write(content)
        try:
            os.replace(made, claim.parent)
        except OSError:
            if not claim.parent.exists():  # a file system over a store of named objects may rename no folder
                claim.parent.mkdir()  # at this moment it is like a dead owner's: one who comes now may take the next
                os.replace(made / claim.name, claim)
        return claim.read_bytes() == content  # NFS can lose the answer to a rename that was made
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.EEXIST, errno.ESTALE):
            raise
        return False  # another was first, or has taken the run since, and swept up
    finally:
        with suppress(OSError):  # of a network drive's handle that went stale even ``ignore_errors`` does not hear
            shutil.rmtree(made, ignore_errors=True)


def fence(folder: Path, number: int) -> None:
    """Let nothing that owners before ``number`` still write come to stand in the run; sweep up what they left."""
    for name in os.listdir(folder):
        if (tail := name.removeprefix(STAGING)).isdigit() and int(tail) < number:
            _remove(folder / name)
        # The claim before tells when its owner was last seen.
        is_old = (tail := name.removeprefix(PREFIX)).isdigit() and int(tail) < number - 1
        if is_old or name.startswith(CLAIMING):
            with suppress(OSError):  # another user's, who lets nobody else: it is in nobody's way
                _remove(folder / name)


def _remove(path: Path) -> None:
    """Once this returns, the path leads nowhere, and neither does any rename from below it."""
    while path.exists():
        with suppress(FileNotFoundError):
            try:
                shutil.rmtree(path)
            except NotADirectoryError:  # a claim of before they were folders
                path.unlink()
            except OSError as e:
                if e.errno != errno.ENOTEMPTY:  # written into at this moment
                    raise


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
            with suppress(OSError):
                _remove(staging_folder(self._folder, self.number))

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
            with atomic(file, staging=staging_folder(self._folder, owner.number)) as out:
                out.write(msgspec.json.encode(owner))
        except OSError:  # a full disk lets no file be written, but a time can still be set
            with suppress(OSError):
                os.utime(file)


def _is_alive(folder: Path, owner: Owner) -> bool:
    if owner.machine == this_machine():
        try:
            same = _start_of(owner.pid) == owner.pid_started  # and not another that was given the pid since
            return same and psutil.Process(owner.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            if not _is_hidden(owner.pid):
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


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process, another user's, that ``/proc`` does not show (``hidepid``)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def _start_of(pid: int) -> float:
    """When a process started: on Linux in clock ticks since boot, which no setting of the clock changes.

    Raises
    ------
    psutil.NoSuchProcess
        if there is none.
    """
    if psutil.LINUX:
        try:
            return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        except (FileNotFoundError, ProcessLookupError) as e:
            raise psutil.NoSuchProcess(pid) from e
    return psutil.Process(pid).create_time()


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
