"""Other people than who runs the tests, which must be root: users of a group that type the real commands."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from small import command

GROUP = 54300


class User:
    """Somebody of a group, who types the real command."""

    def __init__(self, number: int, group: int, folder: Path) -> None:
        self.number, self.group, self.folder = number, group, folder
        self.home = folder.parent / f"home-{number}"
        self.home.mkdir(mode=0o700)
        os.chown(self.home, number, group)

    def start(self, *overrides: str, inside: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
        """``inside`` is a command that starts another."""
        # They may read what only root can, as the tests' Python may lie there; what they write is their own matter.
        capability = "+dac_read_search"
        become = ["setpriv", f"--reuid={self.number}", f"--regid={self.group}", "--clear-groups"]
        become += [f"--inh-caps={capability}", f"--ambient-caps={capability}", "--"]
        home = {
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "USER": "somebody",
            "XDG_CACHE_HOME": "",
            "PYTHONSAFEPATH": "1",
        }
        return subprocess.Popen(
            [*inside, *become, *command("-m", *overrides)], cwd=self.folder, env={**os.environ, **environment, **home},
            umask=0o002, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *overrides: str, inside: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
        """The exit status of a command, and what it says."""
        process = self.start(*overrides, inside=inside, **environment)
        output = process.communicate()[0]
        return process.returncode, output


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder of a group, as docs/security.md says to make it; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "shared"
        folder.mkdir()
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2775)
        yield folder
