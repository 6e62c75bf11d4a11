"""The peer for sweeps: one function under Hydra's own launcher, the runs one after the other in one process.

    python benchmarks/hydra_app.py -m labels=labels.csv seed=0,1,2

Each job prints the seconds that its training took. ``done=true``: it finds its result written and returns at once.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore


@dataclass
class App:
    labels: str = ""
    model: str = "resnet18"
    size: int = 32
    batch_size: int = 16
    lr: float = 1e-3
    seed: int = 0
    done: bool = False


ConfigStore.instance().store(name="app", node=App)


@hydra.main(version_base="1.3", config_path=None, config_name="app")
def main(app: App) -> None:
    if app.done and Path(app.labels).exists():
        return
    import plain_script
    import torch

    torch.manual_seed(app.seed)
    halves = [0.5, 0.5, 0.5]
    loaders = plain_script.load(Path(app.labels), app.size, app.batch_size, halves, halves)
    model = plain_script.build(app.model, len(set(loaders["train"].dataset.labels)), app.size)  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(model.parameters(), lr=app.lr)
    started = time.perf_counter()
    plain_script.train_epoch(model, loaders["train"], optimizer, "fp32")
    print(f"training took {time.perf_counter() - started}", flush=True)
    plain_script.predict(model, loaders["val"])
    plain_script.predict(model, loaders["test"])


if __name__ == "__main__":
    sys.argv += ["hydra.run.dir=.", "hydra.sweep.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"]
    main()
