"""What software and machine a run ran on."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from har_sweep.record import Environment

PACKAGES = (
    "har_sweep",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "hydra-core",
    "fvcore",
    "scikit-learn",
    "wandb",
)


def environment() -> Environment:
    """Of this process."""
    commit = _git("rev-parse", "HEAD")
    return Environment(
        python=platform.python_version(),
        packages={name: v for name in PACKAGES if (v := _version(name))},
        git_commit=commit,
        git_dirty=bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        hostname=socket.gethostname(),
        platform=platform.platform(),
        slurm_job_id=os.environ.get("SLURM_JOB_ID"),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of this package's checkout; None where it is an installed wheel, maybe in another repository."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
