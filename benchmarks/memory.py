"""Memory: the most that the training loop holds, against the plain script in the same precision; and shared pages.

    python benchmarks/memory.py [--models resnet18,vit_tiny] [--device cuda]

Both are measured in the same way, above what the process held before there was a model (on a CPU what is resident, but
for mapped files). Shared pages: two processes read one cache, and Linux says of how many pages each has a share. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

import photographs
from training import compare
from turns import Answer, result, rivals, table

MIB, TRAINED, READ = 1 << 20, 64, 1000


def reads_all(answer: Answer, place: Path) -> None:
    """Goes through the cache as a training does, and tells how much of it is resident here, and its share (bytes)."""
    from har_sweep.data import Dataset
    from har_sweep.data.batches import batches

    spec = photographs.planned(place, "model=resnet18", "hardware=cpu")
    answer(None)
    stream = batches(Dataset.read(spec.dataset_file), "train", spec.source_size, 32, order=(0, 0))
    for _ in range(READ // 32):  # not to the end, where the map is closed
        next(stream)
    while True:
        answer(_mapped(".u8"))


def _mapped(ending: str) -> tuple[int, int]:
    """Resident and proportional size, in bytes, of the files with this ending that the process has mapped."""
    resident = share = 0
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            ours = bool(rest) and rest[-1].endswith(ending)
        elif ours and key == "Rss:":
            resident += int(rest[0]) * 1024
        elif ours and key == "Pss:":
            share += int(rest[0]) * 1024
    return resident, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet18,vit_tiny")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    rows, ratios = [], {}
    for model_name in args.models.split(","):
        for precision in ("bf16", "fp32"):
            _, our, their, _ = compare(model_name, args.device, args.pairs, TRAINED, (precision, precision))
            mine, other = (median(e.peak_bytes for e in epochs) for epochs in (our, their))
            ratios[f"{model_name} {precision}"] = mine / other
            rows.append(
                [f"{model_name} {precision}", f"{mine / MIB:.0f} MiB", f"{other / MIB:.0f} MiB", f"{mine / other:.2f}"]
            )
    table("The most memory in training", ["model and precision", "har_sweep", "plain script", "of theirs"], rows)
    if sys.platform != "linux":
        result(memory_of_theirs=ratios)
        return
    with photographs.folder(photographs.some(READ, 32, 8)) as place:
        photographs.planned(place, "model=resnet18", "hardware=cpu")
        with rivals((reads_all, place), (reads_all, place)) as asks:
            for ask in asks:
                ask()
            for ask in asks:
                ask()
            found = [ask() for ask in asks]
    table(
        "One cache, read by two runs at once",
        ["run", "resident", "its share of that"],
        [
            [str(n), f"{resident / MIB:.0f} MiB", f"{share / MIB:.0f} MiB"]
            for n, (resident, share) in enumerate(found, 1)
        ],
    )
    result(memory_of_theirs=ratios, share_of_resident_cache_pages=sum(s for _, s in found) / sum(r for r, _ in found))


if __name__ == "__main__":
    main()
