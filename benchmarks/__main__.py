"""All benchmarks, or those that are named, into ``benchmarks/results/<processor, instructions, cores or GPU>.md``.

    python benchmarks [NAME ...] [--device cuda]

A benchmark that was measured before keeps its section until it is measured again.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from har_sweep.record.environment import git_state
from har_sweep.spec.hardware import LIMITS, Device, find_devices, logical_cores

# The quick ones first; what a GPU has no part in is left out of its list.
ON_CPU = (
    "augmenting",
    "reading",
    "sweep",
    "estimates",
    "inference",
    "predict",
    "compact",
    "training",
    "contention",
    "memory",
    "growth",
    "analysis",
    "accuracy",
    "significance",
)
ON_GPU = ("augmenting", "estimates", "inference", "predict", "training", "memory", "accuracy")
HERE = Path(__file__).parent
# The best first: of those that a processor has one stands in the name of its results.
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "sve", "asimd")


def machine(device: Device, cores: int) -> str:
    """What was measured. Processors that call themselves the same may differ by a factor of three in what they have."""
    if device.kind != "cpu":
        return device.name
    limited = any(limit in device.name for limit in LIMITS)  # which says what the best is
    best = "" if limited else next((name for name in INSTRUCTIONS if name in device.instructions.split()), "")
    return " ".join(filter(None, [device.name, best, f"{cores} cores"]))


def results_file(stem: str) -> Path:
    return HERE / "results" / f"{re.sub(r'[^a-z0-9]+', '-', stem.lower()).strip('-')}.md"


def measure(name: str, device: str) -> str | None:
    """What the benchmark printed, which is shown as it comes; None if it failed."""
    options = ["--device", device] if device != "cpu" else []
    command, lines = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py"), *options], list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return None if process.returncode else "".join(lines)


def section(name: str, printed: str, seconds: float, state: str) -> str:
    """Tables as they are, and the last line as JSON."""
    *text, last = printed.strip().splitlines()
    measured = f"{date.today()}{state}, {seconds / 60:.0f} min"
    body = "\n".join(text).strip()
    return f"## {name}\n\n`python benchmarks/{name}.py` ({measured})\n\n{body}\n\n```json\n{last}\n```\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description="Measure, side by side with what people use instead."
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ON_CPU)}; default: all")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    device = next((d for d in find_devices() if d.kind == args.device), None)
    if device is None:
        print("No CUDA device is here, so nothing was measured. `make bench` measures this processor.")
        return 0
    known = ON_GPU if args.device == "cuda" else ON_CPU
    if unknown := set(args.names) - set(known):
        parser.error(f"no {args.device} benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    stem = machine(device, logical_cores())
    file = results_file(stem)
    sections: dict[str, str] = {}
    if file.exists():
        found = re.split(r"^(?=## )", file.read_text(), flags=re.MULTILINE)[1:]
        sections = {part.splitlines()[0].removeprefix("## "): part.strip() + "\n" for part in found}
    commit, dirty = git_state()  # now, before the results themselves are a change
    state = f", commit {commit[:10]}{' with changes' if dirty else ''}" if commit else ""
    failed = []
    names = args.names or known
    for number, name in enumerate(names, 1):
        what = (HERE / f"{name}.py").read_text().splitlines()[0].strip('"')
        print(f"\n{number} of {len(names)}, {name}: {what}", flush=True)
        started = time.monotonic()
        printed = measure(name, args.device)
        if printed is None:
            failed.append(name)
            continue
        sections[name] = section(name, printed, time.monotonic() - started, state)
        versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "torchvision", "timm"))
        head = f"# {stem}\n\n{platform.system()}, Python {platform.python_version()}, {versions}. See docs/speed.md.\n"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join([head, *(sections[name] for name in known if name in sections)]))
    print(f"\nResults: {file.relative_to(HERE.parent)}")
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
