"""Folders that several people write to: who may, who could put something there, and what is for us alone."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from har_sweep.errors import InputError
from har_sweep.record.folder import RunPaths

GUIDE = "docs/security.md"


def owner(path: Path) -> str:
    """The user's name, or number where it has none."""
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"


def unwritable(path: Path) -> InputError:
    """That this user may not write at ``path``, and how several can."""
    there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    return InputError(
        f"{there} is {owner(there)}'s, and you may not write to it.",
        f"A folder of several people needs a group, setgid and umask 002: {GUIDE}, 'Two people on one folder'. "
        "Or give folders of your own: paths.runs=..., paths.cache=..., paths.data=...",
    )


@contextmanager
def refusing_others_folders() -> Iterator[None]:
    """Inside, what this user may not write is an InputError."""
    try:
        yield
    except PermissionError as e:
        if e.filename is None:
            raise
        raise unwritable(Path(os.fsdecode(e.filename))) from e


def check_writable_runs(runs: Iterable[RunPaths]) -> None:
    """Refuse runs that this user could not go on with.

    Raises
    ------
    InputError
        naming the first folder or file that another's umask keeps others from writing, or that leads elsewhere.
    """
    effective = os.access in os.supports_effective_ids
    for paths in runs:
        for path in (paths.folder, paths.log, paths.wandb):
            if path.is_symlink():
                raise InputError(f"{path} is a link: what a run writes would go elsewhere.", "Remove it.")
            if path.exists() and not os.access(path, os.W_OK, effective_ids=effective):
                raise unwritable(path)


def private_folder(runs: Path) -> Path:
    """The folder of this user's jobs for these runs, made for its owner alone.

    It is ``<runs>/.slurm``; where others could exchange that, because the runs are shared, one in the home folder.

    Raises
    ------
    InputError
        if others could exchange that one too.
    """
    beside = runs.absolute() / ".slurm"
    if exposed(beside):
        name = hashlib.blake2b(os.fsencode(runs.resolve()), digest_size=8).hexdigest()
        folder = Path.home().absolute() / ".har_sweep" / name
        for part in (folder.parent, folder):
            check_unexposed(part)
            part.mkdir(mode=0o700, exist_ok=True)
    else:
        folder = beside
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)  # and no setgid either, which a shared folder hands down
    check_private(folder)
    return folder


def check_private(folder: Path) -> None:
    """Refuse a folder that is not this user's alone.

    Raises
    ------
    InputError
        naming it, and what to do.
    """
    check_unexposed(folder)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        raise InputError(f"{folder}, from where jobs run, is open to others.", f"chmod 700 it. {GUIDE} says why.")


def check_unexposed(path: Path) -> None:
    """Refuse a path that somebody else could put something at.

    Raises
    ------
    InputError
        naming the folder that lets them.
    """
    if why := exposed(path):
        raise InputError(
            f"Nothing is run from {path}: {why}, so that somebody else could exchange it.",
            f"Remove what is not yours, and take write permission there from others (chmod go-w); {GUIDE} says more.",
        )


def check_ours(file: Path) -> None:
    """Refuse to execute a file that others have written, or could.

    Raises
    ------
    InputError
        naming it.
    """
    facts = file.stat()
    if facts.st_uid not in (0, os.geteuid()) or _others_write(facts):
        raise InputError(
            f"{file} is {owner(file)}'s, with mode {stat.S_IMODE(facts.st_mode):o}: it may hold code of others.",
            "Only what is yours, and no one else can write (chmod go-w), is unpickled.",
        )


def exposed(path: Path) -> str:
    """Why somebody other than root could put something else at ``path``; empty if nobody could.

    Nobody can where each folder on the way, through links too, is ours or root's, and either writable by its owner
    alone or sticky, as /tmp is.
    """
    for step in _way(path):
        facts = step.lstat()
        if facts.st_uid not in (0, os.geteuid()):
            return f"{step} belongs to {owner(step)}"
        if not stat.S_ISLNK(facts.st_mode) and _others_write(facts) and not facts.st_mode & stat.S_ISVTX:
            return f"others than {owner(step)} can write to {step}"
    return ""


def _others_write(facts: os.stat_result) -> bool:
    """Whether anybody may but its owner; a group that is one user's alone, as many systems make them, is nobody."""
    if not facts.st_mode & 0o020:
        return bool(facts.st_mode & 0o002)
    try:
        group, me = grp.getgrgid(facts.st_gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return True
    alone = me.pw_gid == group.gr_gid and me.pw_name == group.gr_name and set(group.gr_mem) <= {me.pw_name}
    return not alone or bool(facts.st_mode & 0o002)


def _way(path: Path) -> Iterator[Path]:
    """Each folder and link that is passed on the way to ``path``, and it itself, as far as they are there."""
    here = Path("/")
    yield here
    rest = list(reversed(path.absolute().parts[1:]))
    links = 0
    while rest:
        part = rest.pop()
        step = here.parent if part == ".." else here / part
        try:
            target = os.readlink(step)
        except FileNotFoundError:
            return
        except OSError:  # no link
            here = step
        else:
            links += 1
            if links > 40:  # as the system counts
                return
            here = Path("/") if os.path.isabs(target) else here
            rest += reversed([part for part in Path(target).parts if part != "/"])
        yield step
