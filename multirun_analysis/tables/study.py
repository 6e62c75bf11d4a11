"""The study's two tables: what runs of its recipe give here, beside what it published."""

from __future__ import annotations

import numpy as np

from multirun_analysis.findings import Reproduced, StudyTable
from multirun_analysis.tables.columns import Cell
from multirun_analysis.tables.table import Table, name_cell, number_text, with_spread

NOTE = (
    "Runs of experiment=paper; ± is the standard deviation over runs. As in the study, val and test are the same "
    "images, watched while training: no accuracy here is of held-out images. Costs are of this machine; each run was "
    "measured alone in its process, where the study had both models on the GPU at once."
)


def study_tables(found: list[StudyTable]) -> list[Table]:
    """A row for each number, two columns for each model: here and as published."""
    return [_table(number, each) for number, each in enumerate(found, 1)]


def _table(number: int, found: StudyTable) -> Table:
    shown = [model for model in found.models if any(row.here[model] or model in row.published for row in found.rows)]
    heads = ["", *(f"{found.models[model]}{part}" for model in shown for part in ("", ", published"))]
    rows = [
        [name_cell(row.name), *(cell for model in shown for cell in (_here(row, model), _published(row, model)))]
        for row in found.rows
    ]
    return Table(f"study{number}", found.title, heads, rows, NOTE)


def _here(row: Reproduced, model: str) -> Cell:
    values = row.here[model]
    if not values:
        return Cell(None, "-")
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Cell(mean, with_spread(mean, spread) if spread > 0 else number_text(mean))


def _published(row: Reproduced, model: str) -> Cell:
    value = row.published.get(model)
    return Cell(value, "-" if value is None else f"{value:g}")
