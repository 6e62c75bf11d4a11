"""What an analysis found: plain data, shown on terminal and page, in figures, tables, notebooks and W&B."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.record.record import Epoch
from multirun_analysis.quantities import Quantity

PICTURED = 16  # disputed images of a pair that are shown as pictures
JOINT = "all"  # the key of the front over all costs together


@dataclass(frozen=True)
class Mark:
    """Why some numbers of a candidate must not be compared with the others'.

    ``affects`` are the columns it spoils; None means everything, the accuracy too.
    """

    text: str
    affects: frozenset[str] | None = None

    def spoils(self, column: str) -> bool:
        return self.affects is None or column in self.affects


@dataclass(frozen=True)
class Trial:
    """Runs of one candidate that differ only in their seed. ``selection`` is their mean of the selecting metric."""

    settings: str  # what tells it from the candidate's other trials: "lr 0.001, weight_decay 0.05"; "" for the only one
    rows: tuple[int, ...]
    selection: float
    chosen: bool


@dataclass(frozen=True)
class Candidate:
    """What could be chosen: a model, from given weights at a given input size. ``rows`` are the finished runs of its
    chosen trial, as positions in the table of runs; ``unfinished`` its other runs."""

    label: str
    rows: tuple[int, ...]
    trials: tuple[Trial, ...] = ()
    unfinished: tuple[int, ...] = ()
    family: str = ""
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Tuning:
    """How good a candidate was after so much tuning. Each entry is a trial, in the order they were started: ``trials``
    its place in the candidate's, ``hours`` the device hours of all runs of it and the trials before it, failed ones
    too, ``best`` the best selecting metric of a trial so far (nan before any was finished)."""

    trials: tuple[int, ...]
    hours: NDArray[np.float64]
    best: NDArray[np.float64]

    def after(self, hours: NDArray[np.float64]) -> NDArray[np.float64]:
        """The best for which ``hours`` [n] were enough; nan where no trial was finished for them. Beyond the last trial
        it stays."""
        return np.concatenate([[np.nan], self.best])[np.searchsorted(self.hours, hours, side="right")]


@dataclass(frozen=True)
class Front:
    """The Pareto front of accuracy against ``costs``; every array has one entry a candidate.

    ``contribution`` is a candidate's share (0..1) of the hypervolume. ``points_below`` is how much more accuracy the
    front has at no more cost (0 on it), in the accuracy's own unit; ``cost_ratio`` how many times its cost the front
    needs less for no less accuracy (1 on it); both nan for several costs at once. ``probability`` is the share of
    bootstrap samples in which the candidate is on the front; nan where nothing could be resampled. ``known`` is False
    where accuracy or cost is missing: such a candidate takes no part.
    """

    costs: tuple[Quantity, ...]
    on: NDArray[np.bool_]
    known: NDArray[np.bool_]
    contribution: NDArray[np.float64]
    points_below: NDArray[np.float64]
    cost_ratio: NDArray[np.float64]
    probability: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Two candidates, ``first`` the more accurate. ``p`` is adjusted for all comparisons (Holm); None if there was no
    test, and ``reason`` says why. ``low`` and ``high`` bound the difference (95 %, bootstrap; nan if unknown).

    ``kappa`` is the agreement on errors (Cohen's, after Geirhos et al. 2020); ``only_first``, ``only_second``,
    ``both`` and ``neither`` count the images answered rightly by their representative runs; ``oracle`` is the accuracy
    of always taking the right one of the two answers. All five are None without predictions on the same images.
    """

    first: int
    second: int
    difference: float
    low: float
    high: float
    p: float | None
    test: str
    reason: str = ""
    kappa: float | None = None
    only_first: int | None = None
    only_second: int | None = None
    both: int | None = None
    neither: int | None = None
    oracle: float | None = None

    @property
    def certain(self) -> bool:
        """Whether the data carry the claim that ``first`` is better, at 5 %."""
        return self.p is not None and self.p < 0.05


@dataclass(frozen=True)
class Disputed:
    """An image that only one of two candidates got right."""

    path: str
    truth: str
    answers: tuple[str, str]  # of first and second
    thumbnail: str | None  # data:image/jpeg;base64,..., when the image was at hand


@dataclass(frozen=True)
class Errors:
    """How models err on the split that is reported. ``confusion`` [classes, classes] (rows: truth) is summed over a
    candidate's runs; ``disputed`` has, for some pairs of candidates (by position, as in ``Comparison``), the images
    that only one of the two got right, ``PICTURED`` ones first."""

    classes: list[str]
    confusion: dict[int, NDArray[np.int64]]
    disputed: dict[tuple[int, int], list[Disputed]]

    def recall(self, candidate: int) -> NDArray[np.float64]:
        """[classes]; nan for a class without images."""
        matrix = self.confusion[candidate]
        with np.errstate(invalid="ignore"):
            return np.asarray(matrix.diagonal() / matrix.sum(1))

    def confusions(self, candidate: int, most: int = 10) -> list[tuple[str, str, float]]:
        """The most frequent mistakes: truth, answer, share of the truth's images."""
        matrix = self.confusion[candidate].astype(float)
        with np.errstate(invalid="ignore"):
            shares = np.nan_to_num(matrix / matrix.sum(1, keepdims=True))
        np.fill_diagonal(shares, 0)
        order = np.argsort(-shares, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), len(self.classes)) for place in order]
        return [(self.classes[t], self.classes[a], float(shares[t, a])) for t, a in pairs if shares[t, a] > 0]


@dataclass(frozen=True)
class Family:
    """Members of one architecture by size. ``slopes`` are points of accuracy for each doubling of a column."""

    name: str
    members: tuple[int, ...]
    slopes: dict[str, float]


@dataclass(frozen=True)
class Recommendation:
    """What to take under the budgets. Positions of candidates, or None where there is none; ``sentences`` say it."""

    budgets: tuple[str, ...]
    best: int | None
    runner_up: int | None
    next_step: int | None
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One dataset, or one value of ``--by``. Row i of every table and array is ``candidates[i]``, most accurate first.

    ``means`` and ``deviations`` (over seeds; nan for one run) have a column for each of the analysis's quantities.
    ``image_interval`` and ``seed_interval`` [candidates, 2] bound the accuracy (95 %): from its number of images
    (Wilson), and from its runs (Student's t; nan for one run). ``compared`` are the candidates whose predictions were
    read. ``epochs`` has the learning curves of their runs. ``selecting`` is what trials are chosen by;
    ``tuning`` has the candidates with several.
    """

    name: str
    accuracy: Quantity
    selecting: Quantity
    candidates: list[Candidate]
    means: pd.DataFrame
    deviations: pd.DataFrame
    images: NDArray[np.float64]
    image_interval: NDArray[np.float64]
    seed_interval: NDArray[np.float64]
    fronts: dict[str, Front]
    compared: list[int] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    errors: Errors | None = None
    epochs: dict[int, list[list[Epoch]]] = field(default_factory=dict)
    families: list[Family] = field(default_factory=list)
    tuning: dict[int, Tuning] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    recommendation: Recommendation | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def labels(self) -> list[str]:
        return [candidate.label for candidate in self.candidates]


@dataclass(frozen=True)
class RunInfo:
    """Where a row of the table of runs comes from. ``source`` is a folder, a file's row or a ``wandb://`` address;
    ``url`` the run's page in W&B, if it has one."""

    run_id: str
    name: str
    seed: int | None
    status: str
    source: str
    url: str | None


@dataclass(frozen=True)
class Analysis:
    """Everything. ``frame`` is the table of runs as it was read, with its ``front/<cost>`` columns; ``info`` has an
    entry a row, ``numbers`` the values of all quantities in SI units, without those that cannot be used.

    ``metrics`` and ``costs`` are the quantities known of at least one run, the chosen accuracy and costs first.
    ``notes`` are what a reader must know: what was left out, and why.
    """

    frame: pd.DataFrame
    info: list[RunInfo]
    metrics: list[Quantity]
    costs: list[Quantity]
    chosen_costs: list[Quantity]
    blocks: list[Block]
    sources: list[str]
    command: str
    created_at: str
    notes: list[str]
    numbers: pd.DataFrame
