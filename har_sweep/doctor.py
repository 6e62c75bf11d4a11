"""What would keep a sweep from running here, and the remedy: ``python -m har_sweep.doctor [overrides of the sweep]``.

Give it the overrides that the sweep will get (``data=har model=vit_base paths.runs=/scratch/runs``). It decodes no
image, downloads nothing and waits a few seconds at most for any network. Exit status: 0 a sweep can run, 1 it cannot,
2 the overrides cannot be used.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import netrc
import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from har_sweep.schema import Config

T = TypeVar("T")

# At the top only what Python itself brings: a missing package must be reported, not met.

OK = "ok"
NOTE = "note"  # something optional is not there
PROBLEM = "problem"  # a sweep could not run

ANSWER_SECONDS = 3.0
GIB = 2**30
DISK_NEEDED_BYTES = 2 * GIB  # a checkpoint of ViT-B with its optimizer takes 1 GiB, and the next is written beside it
MEMORY_WISHED_BYTES = 4 * GIB
SHOWN_PACKAGES = ("torch", "torchvision", "timm", "hydra-core", "wandb")
REINSTALL = (
    "`make doctor` installs what requirements.lock pins into .venv; in a conda environment it is "
    "`conda env update -f environment.yml`."
)


@dataclass(frozen=True)
class Check:
    """One row of the table. ``status`` is ``ok``, ``note`` or ``problem``; a problem always has a remedy."""

    subject: str
    status: str
    finding: str
    remedy: str = ""


def main(arguments: list[str]) -> int:
    """Print the table; return the exit status."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    checks = [python(), *packages()]
    try:
        from har_sweep.errors import InputError

        checks += examine(arguments)
    except ImportError as e:
        checks.append(Check("everything else", PROBLEM, f"cannot be examined: {e}", REINSTALL))
    except InputError as e:
        print(f"{e.message}\n{e.hint}".strip(), file=sys.stderr)
        return 2
    show(checks)
    return int(any(check.status == PROBLEM for check in checks))


def examine(overrides: list[str]) -> list[Check]:
    """Everything beyond Python and its packages, for the sweep of ``overrides``.

    Raises
    ------
    InputError
        if the overrides cannot be used.
    """
    from har_sweep.config import compose_all, expand
    from har_sweep.weights import Hub

    # Seeds change nothing here, and each config takes a tenth of a second.
    choices = {tuple(o for o in choice if not o.startswith("seed=")): None for choice in expand(overrides)}
    configs = compose_all([list(choice) for choice in choices])
    hub = _background(Hub(ANSWER_SECONDS).problem)
    away: list[Future[Check | None]] = [_background(cuda_in_torch), _background(wandb), _background(slurm)]
    checks = [*devices(configs), *machine(), *disk(configs), *datasets(configs)]
    hub_problem = hub.result()
    checks += weights(configs, hub_problem)
    checks.append(
        Check("Hugging Face hub", NOTE, hub_problem, "Only fetching weights and datasets needs it.")
        if hub_problem
        else Check("Hugging Face hub", OK, "answers")
    )
    return [*checks, *(check for later in away if (check := later.result()))]


def python() -> Check:
    """This interpreter."""
    version = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < (3, 11):  # noqa: UP036, for a folder put into another Python's path
        return Check("Python", PROBLEM, version, "har_sweep needs 3.11 or later: make PYTHON=python3.11 doctor")
    return Check("Python", OK, version)


def packages() -> Iterator[Check]:
    """What a sweep needs, as installed, against requirements.lock."""
    try:
        distribution = importlib.metadata.distribution("har_sweep")
        needed, pins = _needed("har_sweep"), _pins(distribution)
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", PROBLEM, f"har_sweep is not installed in {sys.executable}", REINSTALL)
        return
    except ImportError as e:
        yield Check("packages", PROBLEM, str(e), REINSTALL)
        return
    missing = sorted(name for name, version in needed.items() if version is None)
    different = sorted(
        f"{name} {version} (lock: {pins.get(name, 'none')})"
        for name, version in needed.items()
        if version and version != pins.get(name)
    )
    if missing:
        yield Check("packages", PROBLEM, f"not installed: {', '.join(missing)}", REINSTALL)
    if different:
        yield Check("packages", NOTE, f"not as locked: {', '.join(different)}", REINSTALL)
    if not missing and not different:
        shown = ", ".join(f"{name} {needed[name]}" for name in SHOWN_PACKAGES)
        yield Check("packages", OK, f"all {len(needed)} as locked: {shown}")


def _needed(root: str) -> dict[str, str | None]:
    """Everything that ``root`` needs, directly or not, with the installed version or None."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str | None] = {}
    seen, queue = set[tuple[str, str]](), [(root, "")]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            continue
        if name != root:
            found[name] = distribution.version
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                queue += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    return found


def _pins(distribution: importlib.metadata.Distribution) -> dict[str, str]:
    """The lock's versions for this Python and platform: the checkout's lock, or the one that came with the wheel."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = Path(__file__).parent.parent / "requirements.lock"
    text = lock.read_text() if lock.exists() else distribution.read_text("extra_metadata/requirements.lock") or ""
    pinned = [Requirement(line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {
        canonicalize_name(r.name): str(r.specifier).removeprefix("==")
        for r in pinned
        if r.marker is None or r.marker.evaluate()
    }


def devices(configs: list[Config]) -> Iterator[Check]:
    """What could compute, and whether it is what the sweep asks for."""
    from har_sweep import hardware
    from har_sweep.errors import InputError

    found = hardware.devices()
    for device in found:
        memory = f", {_gib(device.memory_bytes)}" if device.memory_bytes else ""
        yield Check(device.kind, OK, f"{device.name}{memory}, {'bf16' if device.bf16 else 'no bf16'}")
    if found[0].kind == "cpu":
        yield Check("GPU", NOTE, "none: sweeps run on the CPU", "With an NVIDIA GPU, `nvidia-smi` should list it.")
    for asked in _distinct(config.hardware for config in configs):
        try:
            hardware.resolve(asked)
        except InputError as e:
            yield Check("hardware", PROBLEM, e.message, e.hint)


def cuda_in_torch() -> Check | None:
    """Whether torch, asked in a process of its own, can use the GPU that the driver shows; None without one."""
    from har_sweep import hardware

    if hardware.devices()[0].kind != "cuda":
        return None
    code = "import torch; torch.zeros(1, device='cuda'); print('CUDA', torch.version.cuda)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if asked.returncode == 0:
        return Check("torch on the GPU", OK, asked.stdout.strip())
    return Check(
        "torch on the GPU",
        PROBLEM,
        f"does not work: {(asked.stderr.strip().splitlines() or [f'status {asked.returncode}'])[-1]}",
        "Most often the driver is older than torch's CUDA: update the driver, or use hardware=cpu.",
    )


def machine() -> Iterator[Check]:
    """CPU threads and main memory."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("CPU threads", OK, f"{usable} of {os.cpu_count()} usable")
    memory = psutil.virtual_memory()
    finding = f"{_gib(memory.available)} of {_gib(memory.total)} available"
    if memory.available < MEMORY_WISHED_BYTES:
        yield Check("memory", NOTE, finding, "Large models may not fit: close programs, or lower trainer.batch_size.")
    else:
        yield Check("memory", OK, finding)


def disk(configs: list[Config]) -> Iterator[Check]:
    """Free space where records, caches and data go."""
    for name in ("runs", "cache", "data"):
        for path in _distinct(Path(getattr(config.paths, name)).expanduser().absolute() for config in configs):
            yield _disk(f"paths.{name}", path)


def _disk(key: str, path: Path) -> Check:
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        return Check(key, PROBLEM, f"{path}: {there} is a file", f"Choose another folder: {key}=FOLDER")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(key, PROBLEM, f"{there} cannot be written", f"Choose another folder: {key}=FOLDER")
    free = shutil.disk_usage(there).free
    finding = f"{_gib(free)} free in {path}"
    if free < DISK_NEEDED_BYTES:
        return Check(key, PROBLEM, finding, f"Free {_gib(DISK_NEEDED_BYTES)} or choose another disk: {key}=FOLDER")
    return Check(key, OK, finding)


def datasets(configs: list[Config]) -> Iterator[Check]:
    """Whether each dataset is where the sweep will look; images are listed, not read."""
    from har_sweep.errors import InputError

    for data, paths in _distinct((config.data, config.paths) for config in configs):
        if data.source == "sample":
            yield Check("data", OK, "sample: synthetic, drawn by har_sweep when first used")
        elif data.source == "hub":
            if importlib.util.find_spec("datasets"):
                yield Check("data", NOTE, f"{data.hub_name}: looked up when the sweep starts")
            else:
                yield Check("data", PROBLEM, "data=hub needs a package more: datasets", "pip install 'har_sweep[hub]'")
        else:
            from har_sweep.data.sources import list_items

            try:
                found = list_items(data, paths)
            except InputError as e:
                yield Check("data", PROBLEM, e.message, e.hint)
            else:
                yield Check("data", OK, f"{data.name}: {len(found.items)} images")


def weights(configs: list[Config], hub_problem: str) -> Iterator[Check]:
    """Whether each model's weights are on this machine, or can be had."""
    from har_sweep.errors import InputError
    from har_sweep.weights import WORDS, is_cached, on_command_line

    for model in _distinct(config.model for config in configs):
        subject = f"weights of {model.name}"
        fetch = f"`python -m har_sweep.prefetch {on_command_line(model)}`"
        try:
            cached = is_cached(model)
        except InputError as e:
            yield Check(subject, PROBLEM, e.message, e.hint)
            continue
        if model.weights == "scratch":
            yield Check(subject, OK, "none needed: model.weights=scratch")
        elif cached:
            yield Check(subject, OK, "on this machine")
        elif model.weights not in WORDS:
            yield Check(subject, PROBLEM, f"there is no file {model.weights}", "Correct model.weights.")
        elif not hub_problem:
            ahead = f"{fetch} fetches them ahead."
            yield Check(subject, NOTE, "not cached: downloaded when the sweep starts", ahead)
        elif model.weights == "if_available":
            yield Check(
                subject, NOTE, "not cached, and the hub is away: starts from scratch", "Prefetch them for more."
            )
        else:
            yield Check(
                subject,
                PROBLEM,
                f"not cached, and the hub is away: {hub_problem}",
                f"With network, {fetch}; or model.weights=FILE, or scratch.",
            )


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
        return _background(ask).result(ANSWER_SECONDS)
    except TimeoutError:
        return f"does not answer within {ANSWER_SECONDS:g} s"


def _background(work: Callable[[], T]) -> Future[T]:
    """Start ``work`` in a thread that cannot keep the process from ending: a name server can hold one for minutes."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as e:
            future.set_exception(e)

    Thread(target=run, daemon=True).start()
    return future


def _distinct(values: Iterable[T]) -> list[T]:
    """In order, each once; configs compare but do not hash."""
    found: list[T] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


def show(checks: list[Check]) -> None:
    """Print a table, or plain lines where no one watches, and what they come to."""
    problems = sum(check.status == PROBLEM for check in checks)
    verdict = f"A sweep cannot run here: {problems} to mend." if problems else "A sweep can run here."
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        for check in checks:
            print(f"{check.status:8}{check.subject}: {check.finding}{f' -> {check.remedy}' if check.remedy else ''}")
        print(verdict)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}
    table = Table("", "what", "found", box=None, pad_edge=False)
    for check in checks:
        found = Text(check.finding)
        if check.remedy:
            found.append(f"\n-> {check.remedy}", "bold" if check.status == PROBLEM else "dim")
        table.add_row(Text(check.status, styles[check.status]), check.subject, found)
    console = Console()
    console.print(table)
    console.print(verdict, style=styles[PROBLEM if problems else OK])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
