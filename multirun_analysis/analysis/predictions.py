"""The candidates' answers to the same images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from har_sweep.errors import InputError
from har_sweep.record.record import same_accuracy
from multirun_analysis.findings import Candidate
from multirun_analysis.quantities import Quantity, plural
from multirun_analysis.sources.runs import Progress, Runs

# Why there is nothing to pair: not a run's own fault, and so said once.
OF_A_TABLE = "a table of results has no predictions (rows of several seeds, or the folder of the runs, would tell)"
OF_ANOTHER = "the paired test is of accuracy alone"


@dataclass(frozen=True)
class Answers:
    """A run's predictions on one split: ``truth`` and ``answer`` are names, in the order of the sorted ``paths``."""

    split: str  # fingerprint of the images and of how they were split: only answers to the same can be paired
    paths: NDArray[np.object_]
    truth: NDArray[np.object_]
    answer: NDArray[np.object_]
    confidence: NDArray[np.float64] | None = None  # in the answer, where it is known

    @cached_property
    def images(self) -> str:
        """Which images they are of, as text that is the same for the same ones."""
        names = "\0".join(self.paths).encode("utf-8", "surrogatepass")
        return f"{self.split} {xxhash.xxh3_128_hexdigest(names)}"

    def same_images(self, other: Answers) -> bool:
        return self.images == other.images

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.truth == self.answer)


@dataclass(frozen=True)
class Predictions:
    """What runs answered, and why it is not known of others; both by row of the table of runs."""

    found: dict[int, Answers]
    missing: dict[int, str]

    def that_pair(self, accuracy: Quantity) -> Predictions:
        """Those that paired tests of ``accuracy`` can use: it must be right or wrong for each image."""
        if accuracy.metric == "accuracy":
            return self
        return Predictions({}, dict.fromkeys(self.found, OF_ANOTHER) | self.missing)


def read_predictions(
    runs: Runs, candidates: Sequence[Candidate], accuracy: Quantity, notes: list[str], progress: Progress
) -> Predictions:
    """The predictions of the candidates' runs on the split that ``accuracy`` is of."""
    found: dict[int, Answers] = {}
    missing: dict[int, str] = {}
    rows = [row for candidate in candidates for row in candidate.rows]
    of_tables = {row for row in rows if runs.info[row].row is not None}
    if not accuracy.split:
        return Predictions({}, {row: OF_A_TABLE if row in of_tables else OF_ANOTHER for row in rows})

    def read(row: int) -> pd.DataFrame | InputError | None:
        try:
            return runs.origins[row].predictions()
        except InputError as e:
            return e

    with ThreadPoolExecutor(8) as pool:
        for done, (row, table) in enumerate(zip(rows, pool.map(read, rows), strict=True), 1):
            progress("Reading predictions", done, len(rows))
            if table is None or isinstance(table, InputError):
                none = OF_A_TABLE if row in of_tables else "it has no predictions"
                missing[row] = none if table is None else table.message
                continue
            table = table[table["split"] == accuracy.split].sort_values("path", kind="stable")
            frame = runs.frame
            share = float((table["label"] == table["prediction"]).mean())
            recorded = frame[f"metrics/{accuracy.split}/accuracy"].iat[row]
            if not same_accuracy(share, recorded, len(table)):
                missing[row] = f"its predictions have an accuracy of {share:.4f}, its record {recorded:.4f}"
                continue
            fingerprint = "/".join(
                str(frame[f"dataset/{name}"].iat[row])
                for name in ("fingerprint", "split_fingerprint")
                if f"dataset/{name}" in frame
            )
            path, label, answer = (table[name].to_numpy(object) for name in ("path", "label", "prediction"))
            sure = table["confidence"].to_numpy(float) if "confidence" in table else None
            found[row] = Answers(fingerprint, path, label, answer, sure)
    if missing:
        have = plural(len(missing), f"of {len(rows)} runs has", f"of {len(rows)} runs have")
        notes.append(f"{have} no predictions to pair: {next(iter(missing.values()))}.")
    return Predictions(found, missing)


def typical_run(rows: Sequence[int], accuracies: NDArray[np.float64]) -> int:
    """The row of the run in the middle: of an even number the better of the two that are."""
    return rows[int(np.argsort(accuracies, kind="stable")[len(rows) // 2])]
