"""Memory: the most that the training loop holds, against the plain script in the same precision; and shared pages.

    python benchmarks/memory.py [--models resnet18,vit_tiny] [--device cuda]

Both are measured in the same way, above what the process held before there was a model (on a CPU what is resident, but
for mapped files). The script's loader decodes in processes of its own, ours in a thread, so on Linux the script is also
measured with its workers, pages that they share counted once. Shared pages of the cache: two processes read it, and
Linux says of how many pages each has a share. The last line is JSON.
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import photographs
import psutil
import training
from turns import Answer, result, rivals, table

from har_sweep.cost.memory import repeatedly
from har_sweep.spec.hardware import device_of

MIB, TRAINED, READ = 1 << 20, 64, 1000
LINUX = sys.platform == "linux"


def theirs(answer: Answer, *args: Any) -> None:
    """The script's epochs, each with the most bytes that its processes together have held so far (Linux alone)."""
    before = most = _in_use_by_all()

    def sample() -> None:  # seldom, since it takes a tenth of a second: what is missed would make the script's more
        nonlocal most
        most = max(most, _in_use_by_all())

    with repeatedly(sample, 0.25):
        training.theirs(lambda epoch: answer((epoch, most - before)), *args)


def _in_use_by_all() -> int:
    """Bytes of memory that this process and its children have between them, without mapped files."""
    found, this = 0, psutil.Process()
    for process in [this, *this.children(recursive=True)] if LINUX else []:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:  # a worker that has ended
            continue
        found += 1024 * sum(map(int, re.findall(r"Pss_(?:Anon|Shmem): +(\d+)", text)))
    return found


def reads_all(answer: Answer, place: Path) -> None:
    """Goes through the cache as a training does, and tells how much of it is resident here, and its share (bytes)."""
    from har_sweep.data.batches import batches
    from har_sweep.data.dataset import Dataset

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
    parser.add_argument("--pairs", type=int, default=training.ROUNDS)
    args = parser.parse_args()
    whole = LINUX and args.device == "cpu"
    precisions = ["bf16"] * device_of(args.device).bf16 + ["fp32"]  # without hardware for it, bf16 takes half an hour
    rows, of_process, of_all = [], {}, {}
    for model_name in args.models.split(","):
        for precision in precisions:
            with training.begun(model_name, args.device, TRAINED, precision) as (place, timm_name, _, (our_epoch, _)):
                script = partial(training.plain, precision=precision)
                work = (theirs, place, timm_name, args.device, script)
                their, our = training.against(work, [our_epoch], args.pairs)
            name, mine = f"{model_name} {precision}", median(epoch.peak_bytes for epoch in our)
            process, all_of_it = median(epoch.peak_bytes for epoch, _ in their), median(total for _, total in their)
            of_process[name] = mine / process
            row = [name, f"{mine / MIB:.0f} MiB", f"{process / MIB:.0f} MiB", f"{mine / process:.2f}"]
            if whole:
                of_all[name] = mine / all_of_it
                row += [f"{all_of_it / MIB:.0f} MiB", f"{mine / all_of_it:.2f}"]
            rows.append(row)
    columns = ["model and precision", "har_sweep", "plain script's process", "of it"]
    table("The most memory in training", columns + ["plain script with its workers", "of it"] * whole, rows)
    if not LINUX:
        result(memory_of_their_process=of_process)
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
    result(
        memory_of_their_process=of_process,
        memory_of_all_of_theirs=of_all,
        share_of_resident_cache_pages=sum(s for _, s in found) / sum(r for r, _ in found),
    )


if __name__ == "__main__":
    main()
