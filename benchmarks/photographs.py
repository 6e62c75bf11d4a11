"""Real photographs for the benchmarks: solar cells (ELPV), as a table that both rivals read, and as a planned run."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd

from har_sweep.config.compose import compose_runs
from har_sweep.launch.plan import plan
from har_sweep.launch.terminal import Screen
from har_sweep.spec.run_spec import RunSpec

TRAIN, VAL = 0.7, 0.15


def elpv() -> pd.DataFrame:
    """Path, label and split of all 2,624 photographs, 300 x 300 PNG in four classes; split at random, but always so.

    Raises
    ------
    SystemExit
        if the package with them is not installed.
    """
    try:
        import elpv_dataset
    except ImportError:
        raise SystemExit("The photographs are missing: pip install -c requirements.lock -e '.[bench]'") from None
    root = Path(elpv_dataset.__file__).parent / "data"
    rows = pd.read_csv(root / "labels.csv", sep=r"\s+", header=None, names=["path", "label", "type"], dtype=str)
    random = np.random.default_rng(0).permutation(len(rows)) / len(rows)
    rows["split"] = np.select([random < TRAIN, random < TRAIN + VAL], ["train", "val"], "test")
    rows["path"] = [str(root / path) for path in rows["path"]]
    return rows[["path", "label", "split"]]


@contextmanager
def folder(table: pd.DataFrame) -> Iterator[Path]:
    """A place for a benchmark's files that holds the table as ``labels.csv``; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        table.to_csv(Path(place) / "labels.csv", index=False)
        yield Path(place)


def some(train: int, val: int, test: int) -> pd.DataFrame:
    """So many photographs of each split, the classes in turn."""
    counts, rows = {"train": train, "val": val, "test": test}, elpv()
    rows = rows.iloc[rows.groupby(["split", "label"]).cumcount().argsort(kind="stable")]
    return pd.concat([rows[rows["split"] == split].head(count) for split, count in counts.items()])


def overrides(place: Path, *more: str) -> list[str]:
    """What a sweep is given for a run on the photographs of ``folder``."""
    root = os.path.commonpath(list(pd.read_csv(place / "labels.csv")["path"]))
    return [
        "data=csv", "data.name=elpv", f"data.csv={place}/labels.csv", f"data.root={root}", "data.split_column=split",
        f"paths.runs={place}/runs", f"paths.cache={place}/cache", "tracking=none", "model.weights=scratch", *more,
    ]  # fmt: skip


def planned(place: Path, *more: str) -> RunSpec:
    """A run on the photographs of ``folder``, decided as a sweep decides it, decoded to its cache."""
    return decided([overrides(place, *more)])[0]


def decided(choices: list[list[str]]) -> list[RunSpec]:
    """Runs as a sweep decides them, with their data ready; what a sweep would say goes to stderr."""
    with redirect_stdout(sys.stderr):
        return [p.spec for p in plan(compose_runs(choices), Screen())]
