"""Student's distribution, of ``scipy.special``: ``scipy.stats`` takes most of a second to load."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit


def student_quantile(share: ArrayLike, freedom: ArrayLike) -> NDArray[np.float64]:
    """What Student's t stays below with this probability; of endless degrees of freedom it is the normal one."""
    return np.asarray(stdtrit(freedom, share))


def student_tail(t: ArrayLike, freedom: ArrayLike) -> NDArray[np.float64]:
    """The probability that Student's t is above ``t``."""
    return np.asarray(stdtr(freedom, np.negative(t)))
