"""What a run returns to a search: the numbers of its record that ``sweep.objective`` names."""

from __future__ import annotations

from typing import Any

from har_sweep.errors import RunFailure
from har_sweep.record.folder import find_record
from har_sweep.record.record import flatten
from har_sweep.spec.run_spec import RunSpec


def objective_of(spec: RunSpec) -> Any:
    """The number, or the list of numbers, that ``sweep.objective`` names.

    Raises
    ------
    RunFailure
        if the run is not done.
    """
    record = find_record(spec.paths)
    if record is None or record.status != "done":
        cause = record.error.message if record and record.error else "it is not done"
        raise RunFailure("not_done", f"{spec.label} ({spec.run_id}) has no result: {cause}", f"See {spec.paths.log}.")
    numbers, named = flatten(record), spec.config.sweep.objective
    return numbers[named] if isinstance(named, str) else [numbers[name] for name in named]
