"""One model of the data: images crossed with runs, runs nested in candidates.

Whether a run gets an image right depends on the image, on how the image suits the candidate, on how well that training
went, and on chance that no two runs share. The variance of a mean accuracy is then that of its images, plus that of its
runs, minus what both contain: the chance of a single run on a single image (Dorfman, Berbaum and Metz 1992, and Hillis
2007, for readers crossed with cases in radiology; here each run belongs to one candidate). Its degrees of freedom are
Satterthwaite's (1946). Test, interval, probability and sample size come from here, so that none contradicts another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multirun_analysis.analysis.distributions import student_quantile, student_tail

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

LEVEL = 0.95
POWER = 0.8  # with which a difference is to be seen, where it is asked how much data that takes
MOST_NEEDED = 1e9  # images or runs; two models that differ by rounding alone would need 1e30

UNEVEN = np.array([[1.58], [0.42]])  # two equal variances as few runs show them: 1.5 (n - 1) degrees of freedom


@dataclass(frozen=True)
class Answered:
    """One candidate's runs: ``accuracies`` [runs], and, where predictions are there, ``right`` [runs, images] on the
    images of ``split``. ``images`` is how many there were, nan if unknown."""

    accuracies: Floats
    right: NDArray[np.bool_] | None
    split: str
    images: float


@dataclass(frozen=True)
class Components:
    """What the accuracies of some candidates vary by; [candidates] unless said.

    ``covariance`` [candidates, candidates] of the means from the images, 0 between those of different images;
    ``of_runs`` the variance of a mean from its runs, ``noise`` the part of it that ``covariance`` has, too; both 0 for
    one run. ``known`` says whose predictions are there; of the others ``covariance`` is binomial, or 0. ``split`` is
    a number for each set of images.
    """

    mean: Floats
    runs: Floats
    images: Floats
    known: NDArray[np.bool_]
    split: Places
    covariance: Floats
    of_runs: Floats
    noise: Floats

    @property
    def varies(self) -> bool:
        """Whether there is anything to go by."""
        return bool((self.covariance.diagonal() + self.of_runs > 0).any())

    @property
    def of_training(self) -> Floats:
        """The variance of each mean from training again alone: that over endless images."""
        return np.maximum(0.0, self.of_runs - self.noise)

    def paired(self, first: int, second: int) -> bool:
        """Whether both answered the same images."""
        return bool(self.known[first] and self.known[second] and self.split[first] == self.split[second])

    def testable(self, first: Places, second: Places) -> NDArray[np.bool_]:
        """Where candidates can be told apart: both trained more than once, or both have answered the same images."""
        same = self.known[first] & self.known[second] & (self.split[first] == self.split[second])
        return np.asarray(same | ((self.runs[first] > 1) & (self.runs[second] > 1)))

    def difference(self, first: Places, second: Places, of_runs: Floats | None = None) -> tuple[Floats, Floats]:
        """The variance of ``mean[first] - mean[second]``, and its degrees of freedom, each of the shape of the places.

        Without the predictions of both it is that over runs alone (Welch 1947). ``of_runs`` are other estimates of the
        runs' variance, of ``first`` and of ``second``: [2, ...].
        """
        both = self.known[first] & self.known[second]
        diagonal = self.covariance.diagonal()
        of_images = np.where(both, diagonal[first] + diagonal[second] - 2 * self.covariance[first, second], 0.0)
        noise = np.where(both, np.stack([self.noise[first], self.noise[second]]), 0.0)
        runs = np.stack([self.of_runs[first], self.of_runs[second]]) if of_runs is None else of_runs
        images = np.where(both, np.minimum(self.images[first], self.images[second]), 2.0)
        return _sum(of_images, images, runs, noise, np.stack([self.runs[first], self.runs[second]]))

    def interval(self) -> Floats:
        """The 95 % interval [candidates, 2] of each accuracy, a share of 1."""
        of_images = self.covariance.diagonal()
        return accuracy_interval(self.mean, of_images, self.images, self.of_runs, self.noise, self.runs, 1.0)

    def contrast(self, weights: Floats, of_runs: Floats | None = None) -> tuple[Floats, Floats]:
        """The variance of weighted sums of the means, and its degrees of freedom; ``weights`` [..., candidates] sum to
        0 and are 0 for those whose predictions are missing or of other images. ``of_runs`` are as in ``difference``:
        [..., candidates]."""
        squares = weights**2
        runs = np.broadcast_to(self.runs, weights.shape)
        each = [squares * (self.of_runs if of_runs is None else of_runs), squares * self.noise, runs]
        return _sum(
            ((weights @ self.covariance) * weights).sum(-1),
            np.where(weights != 0, self.images, np.inf).min(-1),
            *(np.moveaxis(values, -1, 0) for values in each),
        )

    def beats(self, first: int, second: int, sign: float) -> float:
        """The probability that one more training of ``first`` is better than one of ``second``, ``sign`` 1 where more
        is; nan for what was trained once."""
        if min(self.runs[first], self.runs[second]) < 2:
            return float("nan")
        again = replace(self, of_runs=self.of_runs * (1 + self.runs), noise=self.noise * (1 + self.runs))
        variance, freedom = again.difference(np.array(first), np.array(second))
        gap = sign * (self.mean[first] - self.mean[second])
        return (
            float(student_tail(-gap / np.sqrt(variance), freedom))
            if variance > 0
            else float(gap > 0) or 0.5 * (gap == 0)
        )

    def needed(self, first: int, second: int, level: float) -> tuple[float, float]:
        """How many images, and how many runs each, would show a difference of the size found with ``POWER``, in an
        interval of this level, the other number left as it is; inf where none that anyone has (``MOST_NEEDED``) would,
        nan where that is not known. Runs are at least two, and more than there are where those do not show it."""
        pair, runs = [first, second], self.runs[[first, second]]
        gap = abs(float(self.mean[first] - self.mean[second]))
        known = bool(self.known[pair].all())
        images = float(self.images[pair].min()) if known else 2.0
        noise = self.noise[pair] if known else np.zeros(2)
        training = self.of_training[pair] if known else self.of_runs[pair]
        of_images = float(self.difference(np.array(first), np.array(second), np.zeros(2))[0])

        def shown(of_images: Floats, images: Floats, of_runs: Floats, noise: Floats, runs: Floats) -> NDArray[np.bool_]:
            variance, freedom = _sum(of_images, images, of_runs, noise, runs)
            quantiles = student_quantile(0.5 + level / 2, freedom) + student_quantile(POWER, freedom)
            return np.asarray(gap > quantiles * np.sqrt(variance))

        def by_images(number: Floats) -> NDArray[np.bool_]:
            fewer = images / number
            own = noise[:, None] * fewer
            return shown(of_images * fewer, number, training[:, None] + own, own, runs[:, None])

        def by_runs(number: Floats) -> NDArray[np.bool_]:
            # A single run's, of both together: two runs of one model tell too little to plan with its own.
            # ``UNEVEN`` because the estimates in a test to come will differ by chance, which costs degrees of freedom.
            own, all_of_it = ((runs * part).mean() / number for part in (noise, training + noise))
            both = max(0.0, of_images - noise.sum()) + 2 * own
            return shown(both, np.asarray(images), UNEVEN * all_of_it, UNEVEN * own, number[None])

        variance, freedom = self.difference(np.array(first), np.array(second))
        certain = judge(gap, float(variance), float(freedom), level)[0] < 1 - level
        there = len(runs) / (1 / runs).sum()  # as many each would tell as much
        return (
            _least(by_images, 2.0) if self.paired(first, second) else np.nan,
            _least(by_runs, 2.0 if certain else max(2.0, np.floor(there) + 1)) if runs.min() > 1 else np.nan,
        )


def _least(enough: Callable[[Floats], NDArray[np.bool_]], low: float) -> float:
    """The least whole number from ``low`` on that is enough, as all above it are, to half a percent; inf where none up
    to ``MOST_NEEDED`` is."""
    high = MOST_NEEDED
    for _ in range(2):
        tried = np.unique(np.ceil(np.geomspace(low, high, 64).round(6)))
        places = np.flatnonzero(enough(tried))
        if not len(places):
            return np.inf
        low, high = float(tried[max(places[0] - 1, 0)]), float(tried[places[0]])
    return high


def _sum(of_images: Floats, images: Floats, of_runs: Floats, noise: Floats, runs: Floats) -> tuple[Floats, Floats]:
    """Variance and degrees of freedom of what several means, of ``of_runs``, ``noise`` and ``runs`` [means, ...], give
    together; never below that of the images, which contains each run's noise once."""
    variance = np.maximum(of_images, of_images + (of_runs - noise).sum(0))
    free, free_images = np.maximum(runs - 1, 1), np.maximum(images - 1, 1)
    spread = of_images**2 / free_images + (of_runs**2 / free + noise**2 / (free * free_images)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return variance, np.where(spread > 0, variance**2 / spread, np.inf)


def judge(gap: float, variance: float, freedom: float, level: float) -> tuple[float, float, float]:
    """The two-sided p of a difference, and its interval of this ``level``: Student's t; of no variance the difference
    alone."""
    if not variance:
        return float(gap == 0), gap, gap
    half = float(student_quantile(0.5 + level / 2, freedom)) * variance**0.5
    return float(2 * student_tail(abs(gap) / variance**0.5, freedom)), gap - half, gap + half


def components(candidates: Sequence[Answered]) -> Components:
    """What is known of some candidates' accuracies."""
    count = len(candidates)
    covariance = np.zeros((count, count))
    splits = {split: number for number, split in enumerate(dict.fromkeys(c.split for c in candidates))}
    noise = np.zeros(count)
    for split in splits:
        mine = [i for i, c in enumerate(candidates) if c.split == split and c.right is not None]
        means = [right.mean(axis=0) for i in mine if (right := candidates[i].right) is not None]
        if mine and len(means[0]) > 1:
            covariance[np.ix_(mine, mine)] = np.atleast_2d(np.cov(np.stack(means))) / len(means[0])
    for place, candidate in enumerate(candidates):
        if candidate.right is not None:
            noise[place] = _noise(candidate.right)
        elif candidate.images > 0:
            share = float(np.clip(candidate.accuracies.mean(), 0, 1))
            covariance[place, place] = share * (1 - share) / candidate.images
    return Components(
        mean=np.array([c.accuracies.mean() for c in candidates]),
        runs=np.array([float(len(c.accuracies)) for c in candidates]),
        images=np.array([c.images if c.right is None else c.right.shape[1] for c in candidates], float),
        known=np.array([c.right is not None for c in candidates], bool),
        split=np.array([splits[c.split] for c in candidates], int),
        covariance=covariance,
        of_runs=np.array([_of_runs(c.accuracies) for c in candidates]),
        noise=noise,
    )


def _of_runs(accuracies: Floats) -> float:
    return float(accuracies.var(ddof=1) / len(accuracies)) if len(accuracies) > 1 else 0.0


def paired_change(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[float, float]:
    """The variance of the difference of two mean accuracies, and its degrees of freedom, where both come from the same
    trainings and images: ``ours`` and ``theirs`` [runs, images] are right or not, run by run, image by image."""
    change = ours.astype(float) - theirs
    runs, images = change.shape
    variance, freedom = _sum(
        np.asarray(change.mean(axis=0).var(ddof=1) / images),
        np.asarray(float(images)),
        np.array([_of_runs(change.mean(axis=1))]),
        np.array([_noise(change)]),
        np.array([float(runs)]),
    )
    return float(variance), float(freedom)


def _noise(right: NDArray[np.bool_] | Floats) -> float:
    """The variance of the mean of ``right`` [runs, images] from what neither images nor runs explain."""
    runs, images = right.shape
    if runs < 2 or images < 2:
        return 0.0
    of_images, of_run, whole = right.mean(axis=0), right.mean(axis=1), right.mean()
    squares = (
        np.square(right, dtype=float).sum()
        - images * (of_run**2).sum()
        - runs * (of_images**2).sum()
        + runs * images * whole**2
    )
    return float(squares / ((images - 1) * (runs - 1)) / (images * runs))


def accuracy_interval(
    mean: Floats, of_images: Floats, images: Floats, of_runs: Floats, noise: Floats, runs: Floats, whole: float | None
) -> Floats:
    """The 95 % interval [n, 2] of mean accuracies from other images and other trainings; of one run from other images
    alone; nan where nothing is known. ``images`` is nan where the number is not known.

    Of a share, whose largest value is ``whole``, it is Wilson's (1927) for as many images as would give the mean's own
    variance (Kish's effective sample size, 1965), so that it stays within 0 and ``whole``; else Student's.
    """
    variance, freedom = _sum(of_images, np.full_like(mean, np.inf), of_runs[None], noise[None], runs[None])
    known = (runs > 1) | (images > 0)
    z = student_quantile(0.5 + LEVEL / 2, freedom)
    if whole is None:
        half = np.where(known, z * np.sqrt(variance), np.nan)
        return np.stack([mean - half, mean + half], axis=1)
    share = mean / whole
    most = np.where(images > 0, images * runs, np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.minimum(share * (1 - share) / (variance / whole**2), most)
    count = np.where(variance > 0, count, np.where(images > 0, images, np.inf))  # of all right one knows no variance
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    bounds = np.clip(np.stack([centre - half, centre + half], axis=1), 0.0, 1.0) * whole
    return np.where(known[:, None], bounds, np.nan)


def draw(found: Components, samples: int, random: np.random.Generator) -> Floats:
    """Deviations [samples, candidates] of the accuracies from their means, as other images and other trainings might
    give them; images are those of all who answered the same ones. The runs' variance is not known better than its
    degrees of freedom say."""
    free = np.maximum(found.runs - 1, 1)
    shape = (samples, len(found.mean))
    return of_images(found, samples, random) + np.sqrt(found.of_training) * random.standard_t(free, shape)


def of_images(found: Components, samples: int, random: np.random.Generator) -> Floats:
    """The part of ``draw`` that comes from the images."""
    values, vectors = np.linalg.eigh(found.covariance)
    return np.asarray(random.standard_normal((samples, len(values))) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T)
