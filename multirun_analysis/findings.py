"""What an analysis found: plain data, shown on terminal and page, in figures, tables, notebooks and W&B."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_sweep.record.record import Epoch
from multirun_analysis.quantities import Quantity

PICTURED = 16  # disputed images of a pair that are shown as pictures
JOINT = "all"  # the key of the front over all costs together, unless a cost is called so


@dataclass(frozen=True, slots=True)
class Mark:
    """Why some numbers of a candidate must not be compared with the others'.

    ``cause`` is what it can share with other candidates', ``detail`` what is this one's own. ``affects`` are the
    columns it spoils; None means everything, the accuracy too. ``sets_aside``: they take no part in fronts, sentences
    and budgets while there are others.
    """

    cause: str
    affects: frozenset[str] | None = None
    detail: str = ""
    sets_aside: bool = False

    @property
    def text(self) -> str:
        return f"{self.cause}: {self.detail}" if self.detail else self.cause

    def spoils(self, column: str) -> bool:
        return self.affects is None or column in self.affects


@dataclass(frozen=True, slots=True)
class Trial:
    """Runs of one candidate that differ only in their seed. ``selection`` is their mean of the selecting metric."""

    settings: str  # what tells it from the candidate's other trials: "lr 0.001, weight_decay 0.05"; "" for the only one
    rows: tuple[int, ...]
    selection: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """What could be chosen: a model, from given weights at a given input size. ``rows`` are the finished runs of its
    chosen trial, as positions in the table of runs; ``unfinished`` its other runs. ``variant`` is how it was made from
    finished runs, empty for what was trained."""

    label: str
    rows: tuple[int, ...]
    trials: tuple[Trial, ...] = ()
    unfinished: tuple[int, ...] = ()
    family: str = ""
    marks: tuple[Mark, ...] = ()
    variant: str = ""


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
    samples, as other images and other trainings might give them, in which it is on the front; nan where nothing varies.
    ``known`` is False where accuracy or cost is missing: such a candidate takes no part.
    """

    costs: tuple[Quantity, ...]
    on: NDArray[np.bool_]
    known: NDArray[np.bool_]
    contribution: NDArray[np.float64]
    points_below: NDArray[np.float64]
    cost_ratio: NDArray[np.float64]
    probability: NDArray[np.float64]

    @property
    def is_joint(self) -> bool:
        """Whether it is of several costs at once."""
        return len(self.costs) > 1


@dataclass(frozen=True)
class Comparison:
    """Two candidates, ``first`` the better. ``low`` and ``high`` bound the ``difference`` (95 %; nan if unknown).

    ``p`` is of this pair alone, None if there was no test, and ``reason`` says why; ``p_of_all`` is corrected for the
    number of all pairs (Holm), ``p_corrected`` for what the report claims if it claims this (``claimed``), else as
    ``p_of_all``. ``claim_low`` and ``claim_high`` are wider, and exclude 0 just where a claim is certain.
    ``of_models`` says whether both were trained more than once: else it is of the trained networks alone. ``beats`` is
    the probability that one training of ``first`` is better than one of ``second`` (nan if unknown); ``images_needed``
    and ``runs_needed`` would show a difference of this size (inf where none would, nan if unknown).

    ``kappa`` is the agreement on errors (Cohen's, after Geirhos et al. 2020) with its 95 % interval; ``only_first``,
    ``only_second``, ``both`` and ``neither`` count the images answered rightly by their representative runs; ``oracle``
    is the accuracy of always taking the right one of the two answers. None without predictions on the same images.
    """

    first: int
    second: int
    difference: float
    low: float = math.nan
    high: float = math.nan
    p: float | None = None
    p_of_all: float | None = None
    p_corrected: float | None = None
    claimed: bool = False
    of_models: bool = False
    test: str = ""
    reason: str = ""
    claim_low: float = math.nan
    claim_high: float = math.nan
    beats: float = math.nan
    images_needed: float = math.nan
    runs_needed: float = math.nan
    kappa: float | None = None
    kappa_low: float | None = None
    kappa_high: float | None = None
    only_first: int | None = None
    only_second: int | None = None
    both: int | None = None
    neither: int | None = None
    oracle: float | None = None

    @property
    def beyond_chance(self) -> bool:
        """Whether the data carry, at 5 %, that ``first`` is better: the model, or the network as it was trained."""
        return self.p_corrected is not None and self.p_corrected < 0.05

    @property
    def certain(self) -> bool:
        """Whether the data carry, at 5 %, that the model ``first`` is better."""
        return self.of_models and self.beyond_chance


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
    candidate's runs; ``recall_interval`` [classes, 2] bounds each recall (95 %); ``disputed`` has, for some pairs of
    candidates (by position, as in ``Comparison``), the images that only one of the two got right, ``PICTURED`` first.
    """

    classes: list[str]
    confusion: dict[int, NDArray[np.int64]]
    disputed: dict[tuple[int, int], list[Disputed]]
    recall_interval: dict[int, NDArray[np.float64]] = field(default_factory=dict)

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
class Reliability:
    """How right a candidate is where it is so sure, over its runs: for each of some bins of confidence [bins] the mean
    ``confidence``, the ``accuracy``, and how many ``answers`` fell into it (nan and 0 where none did). ``interval``
    [bins, 2] bounds the accuracy (95 %, Wilson's for the answers of one run)."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    answers: NDArray[np.int64]
    interval: NDArray[np.float64]


@dataclass(frozen=True)
class VariantChange:
    """A candidate (by position) that was made from the runs of another, its ``parent``, in the way of this ``name``.

    ``difference`` is the variant's accuracy less the parent's, ``low`` and ``high`` its 95 % interval and ``p`` its
    test, over images and ``runs`` that are paired, ``p_corrected`` for all variants (Holm); None without predictions.
    ``otherwise`` is the share of images that it answers rightly and the parent does not, or the other way round.
    ``ratios`` are the parent's costs as shares of the variant's, by column; nan where they cannot be compared. For its
    precision, if it is named as ``unaccelerated``, the device has no instructions.
    """

    variant: int
    parent: int
    name: str
    ratios: dict[str, float]
    unaccelerated: str = ""
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float | None = None
    p_corrected: float | None = None
    runs: int = 0
    otherwise: float = math.nan


@dataclass(frozen=True)
class Family:
    """Members of one architecture by size. ``slopes`` are points of accuracy for each doubling of a column."""

    name: str
    members: tuple[int, ...]
    slopes: dict[str, float]


@dataclass(frozen=True)
class FamilyComparison:
    """Two families by what is on the front of each: the ``first`` is the more accurate in the mean of its ``members``.

    ``cost_ratio`` is that of the geometric means of their costs (nan if one is not positive), the rest as in
    ``Comparison``; ``p_corrected`` and the interval are for all families and costs that are compared, and for who is on
    a front by chance.
    """

    first: str
    second: str
    members: tuple[tuple[int, ...], tuple[int, ...]]
    cost_ratio: float
    difference: float
    of_models: bool
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_corrected: float = math.nan


@dataclass(frozen=True)
class Importance:
    """Which settings mattered among so many ``trials``, by column: ``shares`` add up to 1; ``correlations`` are rank
    correlations of what has an order. ``explained`` is the share of unseen trials' variance that settings foretell; at
    0 or below, the shares say nothing."""

    trials: int
    explained: float
    shares: dict[str, float]
    correlations: dict[str, float]


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

    ``means`` and ``deviations`` (over seeds; nan for one run) have a column for each of the analysis's quantities;
    where it is known how disturbed runs were, times of inference and images/s are the best of the undisturbed runs.
    ``interval`` [candidates, 2] bounds the accuracy (95 %), of one run for other images alone; nan where nothing is
    known. ``aside`` has, by column, the candidates whose cost takes no part in fronts, sentences and budgets, for a
    mark of theirs. ``compared`` are the candidates whose predictions were read, ``pairs_that_matter`` the pairs of
    them to look at first. ``epochs`` has the learning curves of their runs. ``selecting`` is what trials are chosen
    by; ``tuning`` has the candidates with several, ``varied`` the columns that those differ in, ``importance`` which
    of them mattered. ``headlines`` and ``sentences_on`` say it in words, for each cost by its column, ``remarks``
    whatever the cost is.
    """

    name: str
    accuracy: Quantity
    selecting: Quantity
    candidates: list[Candidate]
    means: pd.DataFrame
    deviations: pd.DataFrame
    images: NDArray[np.float64]
    interval: NDArray[np.float64]
    fronts: dict[str, Front]
    aside: dict[str, list[int]] = field(default_factory=dict)
    compared: list[int] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    pairs_that_matter: list[tuple[int, int]] = field(default_factory=list)
    errors: Errors | None = None
    reliability: dict[int, Reliability] = field(default_factory=dict)
    epochs: dict[int, list[list[Epoch]]] = field(default_factory=dict)
    variants: list[VariantChange] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)
    between_families: dict[str, list[FamilyComparison]] = field(default_factory=dict)
    tuning: dict[int, Tuning] = field(default_factory=dict)
    varied: list[str] = field(default_factory=list)
    importance: dict[int, Importance] = field(default_factory=dict)
    headlines: dict[str, str] = field(default_factory=dict)
    sentences_on: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    recommendation: Recommendation | None = None
    notes: list[str] = field(default_factory=list)

    @cached_property
    def labels(self) -> list[str]:
        return [candidate.label for candidate in self.candidates]

    @cached_property
    def doubtful(self) -> set[int]:
        """Those with a mark, or without a finished run: few of many."""
        return {place for place, candidate in enumerate(self.candidates) if candidate.marks or not candidate.rows}

    @cached_property
    def trainings(self) -> list[int]:
        """Of each candidate, whose trainings it comes from: its own, or its parent's, of a variant that is tied to
        one."""
        of = {change.variant: change.parent for change in self.variants}
        return [of.get(place, place) for place in range(len(self.candidates))]

    @cached_property
    def pairs(self) -> dict[tuple[int, int], Comparison]:
        """The comparisons by their candidates, the better first."""
        return {(pair.first, pair.second): pair for pair in self.comparisons}

    @property
    def headline(self) -> str:
        """That of the first cost."""
        return next(iter(self.headlines.values()), "")

    @property
    def sentences(self) -> list[str]:
        """Those on the first cost, and the remarks."""
        return [*next(iter(self.sentences_on.values()), []), *self.remarks]


@dataclass(frozen=True)
class Reproduced:
    """A number of the study that har_sweep began with: as ``published``, and of each run ``here``, by model."""

    name: str
    published: dict[str, float]
    here: dict[str, list[float]]


@dataclass(frozen=True)
class StudyTable:
    """One of the study's tables; ``models`` are its names for them, by ours."""

    title: str
    models: dict[str, str]
    rows: list[Reproduced]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where a row of the table of runs comes from. ``at`` is a folder, a ``wandb://`` address or a table, with its
    ``row`` there; ``url`` the run's page in W&B, if it has one."""

    run_id: str
    name: str
    seed: int | None
    status: str
    at: str
    url: str | None
    row: int | None = None

    @property
    def source(self) -> str:
        return self.at if self.row is None else f"{self.at}, row {self.row}"


@dataclass(frozen=True)
class Analysis:
    """Everything. ``frame`` is the table of runs as it was read, with its ``front/<cost>`` columns; ``info`` has an
    entry a row, ``numbers`` the values of all quantities in SI units, without those that cannot be used.

    ``metrics`` and ``costs`` are the quantities known of at least one run, the chosen accuracy and costs first.
    ``notes`` are what a reader must know: what was left out, and why. ``study`` has the tables of the study that this
    began with, where runs of its recipe are there.
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
    study: list[StudyTable] = field(default_factory=list)
