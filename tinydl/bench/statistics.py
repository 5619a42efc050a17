"""From times to statements: medians, ratios of paired rounds, and intervals by the bootstrap.

Times of one program scatter upwards: interrupts, other programs and clock changes only ever add. So the median of
the rounds stands for a contender, not the mean. Two contenders are compared within each round, where they ran
milliseconds apart, and only then over the rounds: what slows the machine for a minute slows both and cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds the true value with the stated confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def speed_ratio(ours: ArrayLike, peer: ArrayLike, confidence: float = 0.95) -> Interval:
    """How many times faster than the peer: the median over rounds i of peer_i / ours_i.

    The interval is the percentile bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter
    13): rounds are drawn anew with replacement, as many as there are, and the median is taken of each such draw.

    Args:
        ours, peer: seconds of each round, (R,) both.
        confidence: of the interval, in (0, 1).
    """
    return geometric_mean([(ours, peer)], confidence)


def geometric_mean(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], confidence: float = 0.95
) -> Interval:
    """The geometric mean of the speed ratios of several cases; rounds are resampled within each case.

    The geometric mean is the one that does not depend on who is divided by whom (Fleming & Wallace 1986, "How not
    to lie with statistics: the correct way to summarize benchmark results").
    """
    if not pairs:
        raise ValueError("a mean needs at least one case")
    rng = np.random.default_rng(0)  # the same times give the same interval
    logs = [log_ratios(ours, peer) for ours, peer in pairs]
    draws = np.mean([resampled_medians(r, rng) for r in logs], axis=0)  # (RESAMPLES,)
    value = np.mean([np.median(r) for r in logs])
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(np.exp(value)), float(np.exp(low)), float(np.exp(high)))


def log_ratios(ours: ArrayLike, peer: ArrayLike) -> NDArray:
    """log(peer_i / ours_i) of the rounds."""
    a, b = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"paired rounds need two equally long lists, got {a.shape} and {b.shape}")
    if not (np.all(a > 0) and np.all(b > 0)):
        raise ValueError("times must be positive")
    return np.log(b / a)


def resampled_medians(x: NDArray, rng: np.random.Generator) -> NDArray:
    """Medians of RESAMPLES draws of len(x) values with replacement."""
    return np.median(x[rng.integers(len(x), size=(RESAMPLES, len(x)))], axis=1)


def median(times: ArrayLike) -> float:
    return float(np.median(np.asarray(times, np.float64)))
