"""Weights & Biases and SLURM: is anybody there?"""

from __future__ import annotations

import netrc
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar
from urllib.parse import urlsplit

from har_sweep.doctor.finding import NOTE, OK, Check

T = TypeVar("T")

ANSWER_SECONDS = 3.0


def wandb() -> Check:
    """Weights & Biases: whether it answers and whether there is a key for it; the key itself is never shown."""
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    offline = "Runs are logged offline; `wandb sync` uploads them where there is network."
    reason = _answer(base)
    if reason:
        return Check("Weights & Biases", NOTE, f"{base}: {reason}", offline)
    if not (os.environ.get("WANDB_API_KEY") or _netrc_has(urlsplit(base).hostname or "")):
        return Check("Weights & Biases", NOTE, f"{base} answers; not logged in", f"{offline} `wandb login` logs in.")
    return Check("Weights & Biases", OK, f"{base} answers; logged in")


def _netrc_has(host: str) -> bool:
    names = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for file in map(os.path.expanduser, names):
        try:
            if host in netrc.netrc(file).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def slurm() -> Check:
    """Whether jobs can be submitted from here."""
    if not shutil.which("sbatch") or not shutil.which("sinfo"):
        return Check("SLURM", NOTE, "no sbatch here", "Only sweeps on a cluster need it: look from its login node.")
    remedy = "Ask those who run the cluster; local sweeps do not need it."
    try:
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%R"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Check("SLURM", NOTE, f"sinfo does not answer within {ANSWER_SECONDS:g} s", remedy)
    if asked.returncode != 0:
        return Check("SLURM", NOTE, f"sinfo: {asked.stderr.strip() or asked.returncode}", remedy)
    return Check("SLURM", OK, f"answers; partitions: {', '.join(sorted(set(asked.stdout.split())))}")


def _answer(url: str) -> str:
    """Why a server does not answer, or an empty string; that there is no such page is an answer too."""

    def ask() -> str:
        try:
            urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
        except urllib.error.HTTPError as e:
            return f"answers with status {e.code}" if e.code >= 500 else ""
        except (OSError, ValueError) as e:
            return f"cannot be reached ({getattr(e, 'reason', e)})"
        return ""

    try:
        return in_background(ask).result(ANSWER_SECONDS)
    except TimeoutError:
        return f"does not answer within {ANSWER_SECONDS:g} s"


def in_background(work: Callable[[], T]) -> Future[T]:
    """Start ``work`` in a thread that cannot keep the process from ending: a name server can hold one for minutes."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as e:
            future.set_exception(e)

    Thread(target=run, daemon=True).start()
    return future
