"""The candidates by accuracy, with what their runs have in the mean, and whose differences are looked into."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multirun_analysis.analysis.crossed import Components, accuracy_interval
from multirun_analysis.findings import Candidate, Front
from multirun_analysis.quantities import Quantity, to_digits
from multirun_analysis.sources.runs import Runs

MAX_COMPARED = 40  # candidates whose predictions are read: 780 pairs, more than anyone reads


def as_numbers(frame: pd.DataFrame, quantities: Sequence[Quantity]) -> pd.DataFrame:
    """The columns of some quantities as finite numbers in SI units, whatever the source made of missing ones."""
    sizes = {quantity.column: quantity.size for quantity in quantities}
    numbers = frame[list(sizes)].apply(pd.to_numeric, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    for column, size in sizes.items():
        if size != 1:  # divided by whole numbers where it can be: 81.5 % is 0.815, not 0.8150000000000001
            numbers[column] = numbers[column] * size if size > 1 else numbers[column] / (1 / size)
    return numbers


def rank(
    candidates: Sequence[Candidate], numbers: pd.DataFrame, accuracy: Quantity
) -> tuple[list[Candidate], pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The candidates, most accurate first, with ``summarise``'s tables in that order."""
    summaries = summarise(numbers, candidates)
    worst = -accuracy.sign * np.inf
    order = np.argsort(-accuracy.sign * summaries[0][accuracy.column].fillna(worst).to_numpy(), kind="stable")
    means, deviations, counts = (table.iloc[order].reset_index(drop=True) for table in summaries)
    return [candidates[place] for place in order], means, deviations, counts


def summarise(
    numbers: pd.DataFrame, candidates: Sequence[Candidate]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Mean, standard deviation and count of every quantity over each candidate's runs.

    A candidate without a finished run has what is known of the unfinished ones, but no metrics.
    """
    rows = [candidate.rows or candidate.unfinished for candidate in candidates]
    which = np.repeat(np.arange(len(rows)), [len(mine) for mine in rows])
    groups = numbers.iloc[list(itertools.chain.from_iterable(rows))].groupby(which)
    means, deviations, counts = groups.mean(), groups.std(), groups.count()
    several = (counts > 1).any(axis=1)
    # Equal numbers have equal means, but for their rounding, which must not decide who is on a front.
    means.loc[several] = to_digits(means[several].to_numpy(float), 12)
    deviations = deviations.where(~(deviations < 1e-12 * means.abs()), 0.0)  # equal numbers, but for their rounding
    unfinished = [not candidate.rows for candidate in candidates]
    means.loc[unfinished, [column for column in means.columns if column.startswith("metrics/")]] = np.nan
    return means, deviations, counts


def count_images(runs: Runs, candidates: Sequence[Candidate], accuracy: Quantity) -> NDArray[np.float64]:
    """How many images each candidate's accuracy is a share of; nan where it is none, or that is not known."""
    if accuracy.metric != "accuracy":
        return np.full(len(candidates), np.nan)
    of_rows = runs.column(f"dataset/counts/{accuracy.split}").to_numpy(float)
    return np.array([of_rows[c.rows[0]] if c.rows else np.nan for c in candidates])


def find_intervals(
    found: Components,
    compared: Sequence[int],
    means: pd.DataFrame,
    deviations: pd.DataFrame,
    counts: pd.DataFrame,
    images: NDArray[np.float64],
    accuracy: Quantity,
) -> NDArray[np.float64]:
    """The 95 % interval [candidates, 2] of each accuracy: from its predictions where they were read (``found``, of the
    ``compared``), else from its number of images, if that is known, and from its runs."""
    mean, deviation, runs = (table[accuracy.column].to_numpy(float) for table in (means, deviations, counts))
    whole = accuracy.whole
    share = np.clip(mean if whole is None else mean / whole, 0.0, 1.0)
    of_images = np.nan_to_num(share * (1 - share) / images)
    of_runs = np.nan_to_num(deviation**2 / np.maximum(runs, 1))
    noise = np.zeros(len(mean))
    places = np.array(compared, int)
    of_images[places] = np.where(found.known, found.covariance.diagonal(), of_images[places])
    noise[places] = found.noise
    return accuracy_interval(mean, of_images, images, of_runs, noise, runs, whole)


def choose_compared(
    candidates: Sequence[Candidate], accuracies: pd.Series, fronts: dict[str, Front], notes: list[str]
) -> list[int]:
    """Whose predictions to read: those on a front, then the most accurate."""
    measured = accuracies.notna().tolist()
    known = [place for place, candidate in enumerate(candidates) if candidate.rows and measured[place]]
    on = np.any([front.on for front in fronts.values()], axis=0) if fronts else np.zeros(len(candidates), bool)
    chosen = sorted(sorted(known, key=lambda place: (not on[place], place))[:MAX_COMPARED])
    if len(chosen) < len(known):
        notes.append(
            f"Of {len(known):,} candidates {len(chosen)} are compared in pairs: those on a front and the most accurate."
        )
    return chosen
