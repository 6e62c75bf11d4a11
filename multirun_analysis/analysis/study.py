"""The study that har_sweep began with, beside what runs of its recipe (``experiment=paper``) give here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from multirun_analysis.findings import Reproduced, StudyTable
from multirun_analysis.sources.runs import Runs

PUBLISHED = Path(__file__).parent.parent / "study.json"
# What may be said beside it: it changes nothing of what is learned.
_KEYS = {
    "seed", "model", "rerun", "data.root", "hardware", "hardware.device", "hardware.cpu_threads",
    "hardware.loader_threads", "hardware.price_per_device_hour", "tracking",
}  # fmt: skip
_SECTIONS = ("hydra.", "hydra/", "tracking.", "paths.", "launch.", "sweep.")


def find_study(runs: Runs, numbers: pd.DataFrame) -> list[StudyTable]:
    """The study's tables with the numbers of the finished runs of its recipe; nothing where there are none.

    ``numbers`` has a run's number by column, in SI units.
    """
    overrides, name = runs.column("overrides").tolist(), runs.column("model/name").tolist()
    published = json.loads(PUBLISHED.read_text())
    rows: dict[str, list[int]] = {model: [] for model in published["models"]}
    for row, said in enumerate(overrides):
        if runs.info[row].status == "done" and name[row] in rows and _is_the_recipe(said):
            rows[name[row]].append(row)
    if not any(rows.values()):
        return []
    return [
        StudyTable(table["title"], published["models"], [_reproduced(line, rows, numbers) for line in table["rows"]])
        for table in published["tables"]
    ]


def _is_the_recipe(overrides: Any) -> bool:
    """Whether a run was asked for as ``experiment=paper`` and nothing else of what was learned was said."""
    if not isinstance(overrides, Sequence) or isinstance(overrides, str) or "experiment=paper" not in overrides:
        return False
    keys = [str(line).lstrip("+").partition("=")[0] for line in overrides if line != "experiment=paper"]
    return all(key in _KEYS or key.startswith(_SECTIONS) for key in keys)


def _reproduced(line: dict[str, Any], rows: dict[str, list[int]], numbers: pd.DataFrame) -> Reproduced:
    known = numbers[line["column"]] if line["column"] in numbers else pd.Series(np.nan, numbers.index)
    here = {model: (known.iloc[own].dropna() / line["unit"]).tolist() for model, own in rows.items()}
    return Reproduced(line["name"], line["published"], here)
