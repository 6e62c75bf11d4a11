"""A file system without hard links, as network drives are: a folder here, seen through sshfs, without a network."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = "/usr/lib/openssh/sftp-server"


@contextmanager
def without_links(folder: Path) -> Iterator[Path]:
    """Inside, another folder in ``folder`` is of such a file system."""
    if not (shutil.which("sshfs") and os.path.exists(SERVER) and os.path.exists("/dev/fuse")):
        missing = "No file system without hard links: tests/fuse.sh installs one on Debian, and it needs /dev/fuse."
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    behind, seen = folder / "behind", folder / "seen"
    behind.mkdir()
    seen.mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = subprocess.Popen([SERVER], stdin=theirs.fileno(), stdout=theirs.fileno())
        mount = subprocess.Popen(
            ["sshfs", "-f", "-o", "passive,disable_hardlink", f":{behind}", seen],
            stdin=ours.fileno(),
            stdout=ours.fileno(),
        )
    try:
        while not os.path.ismount(seen):
            assert mount.poll() is None
            time.sleep(0.01)
        yield seen
        assert mount.poll() is None
    finally:
        subprocess.run(["fusermount3", "-u", seen], check=True)
        assert mount.wait() == 0
        server.wait()
