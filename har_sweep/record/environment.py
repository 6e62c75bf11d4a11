"""What software and machine a run ran on."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from har_sweep.files import PACKAGE
from har_sweep.record.record import Environment

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
    "onnxruntime",
    "openvino",
)


def environment(git_commit: str | None, git_dirty: bool | None) -> Environment:
    """Of this process, and the code that its run was planned by: ``git_state()`` of that moment."""
    return Environment(
        python=platform.python_version(),
        packages=dict(_packages()),
        git_commit=git_commit,
        git_dirty=git_dirty,
        hostname=socket.gethostname(),
        platform=platform.platform(),
        slurm_job_id=slurm_job_id(),
    )


def slurm_job_id() -> str | None:
    """The SLURM job that this process is part of, written as SLURM's commands take it; None outside of one."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def git_state() -> tuple[str | None, bool | None]:
    """The commit of this package's checkout and whether files differ from it; (None, None) outside of one."""
    commit = _git("rev-parse", "HEAD")
    return commit, bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None


@cache
def _packages() -> dict[str, str]:
    return {name: v for name in PACKAGES if (v := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of this package's checkout; None where it is an installed wheel, maybe in another repository."""
    checkout = PACKAGE.parent
    if not (checkout / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
