"""Training beside others: with a busy loop a core, what is kept of the rate that a training has alone.

    python benchmarks/contention.py [--models resnet18,vit_tiny] [--pairs 3]

The loops take half of the processor, so that half of the rate is all that can be kept. The plain and the tuned script
have PyTorch's own ways, and are the peers. The last line is JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from training import BATCH_SIZE, PEERS, ROUNDS, begun, theirs
from turns import result, rivals, table, take_turns

from har_sweep.spec.hardware import logical_cores

SCRIPTS = ("plain script", "tuned script")


@contextmanager
def busy_cores() -> Iterator[None]:
    """Inside, a busy loop for each core of this process."""
    with ExitStack() as stack:
        for _ in range(logical_cores()):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(loop.kill)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet18,vit_tiny")
    parser.add_argument("--pairs", type=int, default=ROUNDS)
    args = parser.parse_args()
    rows, kept = [], {}
    for model_name in args.models.split(","):
        with begun(model_name, "cpu", BATCH_SIZE, "auto") as (place, timm_name, _, (our, _)):
            works = [(theirs, place, timm_name, "cpu", PEERS[script]) for script in SCRIPTS]
            with rivals(*works) as scripts:
                take_turns(*scripts, pairs=1)  # their first epochs start their workers
                alone = take_turns(our, *scripts, pairs=args.pairs)
                with busy_cores():
                    beside = take_turns(our, *scripts, pairs=args.pairs)
        for name, quiet, busy in zip(("har_sweep", *SCRIPTS), alone, beside, strict=True):
            rates = [BATCH_SIZE / median(epoch.seconds for epoch in epochs) for epochs in (quiet, busy)]
            kept[f"{model_name} {name}"] = rates[1] / rates[0]
            texts = (f"{rate:.3g}" for rate in rates)
            rows.append([f"{model_name} {quiet[0].precision}", name, *texts, f"{100 * rates[1] / rates[0]:.0f} %"])
    title = f"Training beside {logical_cores()} busy loops on as many cores, images/s at 224 px"
    table(title, ["model", "by", "alone", "beside them", "kept"], rows)
    result(kept=kept)


if __name__ == "__main__":
    main()
