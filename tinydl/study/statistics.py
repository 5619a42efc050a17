"""From runs to statements: means with confidence, what a tuning budget buys, how wide a window of rates is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mean:
    """A mean over n seeds, and half the width of its confidence interval; None of a single seed."""

    value: float
    half_width: float | None
    n: int

    def text(self, digits: int = 1) -> str:
        if self.half_width is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} ± {self.half_width:.{digits}f}"


def mean(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """x̄ ± t s / √n, with s the sample's standard deviation and t Student's quantile of n - 1 degrees of freedom.

    Source: Student 1908, "The probable error of a mean", Biometrika 6.
    """
    x = np.asarray(values, np.float64)
    if x.size == 0:
        raise ValueError("a mean needs at least one value")
    if x.size == 1:
        return Mean(float(x[0]), None, 1)
    from scipy.stats import t  # comes with scikit-learn

    quantile = float(t.ppf((1 + confidence) / 2, x.size - 1))
    return Mean(float(x.mean()), quantile * float(x.std(ddof=1)) / math.sqrt(x.size), x.size)


def expected_best(values: Sequence[float], budget: int, higher_is_better: bool = True) -> float:
    """E[best of ``budget`` independent draws from ``values``], each as likely as the others.

    With v_1 ≤ … ≤ v_n and the empirical distribution P(V ≤ v_i) = i / n, the largest of k draws has

        P(max ≤ v_i) = (i / n)^k,        E[max] = Σ_i v_i ((i / n)^k - ((i - 1) / n)^k)

    Source: Dodge et al. 2019, "Show your work", arXiv 1909.03004, section 3.
    """
    if budget < 1:
        raise ValueError(f"a tuning budget is at least one run, got {budget}")
    v = np.sort(np.asarray(values, np.float64) * (1 if higher_is_better else -1))
    if v.size == 0:
        raise ValueError("a distribution needs at least one value")
    below = (np.arange(v.size + 1) / v.size) ** budget
    best = float(np.sum(v * np.diff(below)))
    return best if higher_is_better else -best


def window(
    by_rate: Mapping[float, float], tolerance: float, higher_is_better: bool = True
) -> float:
    """Decades of neighbouring rates, the best among them, whose metric is within ``tolerance`` of the best."""
    rates = sorted(by_rate)
    sign = 1 if higher_is_better else -1
    losses = [-sign * by_rate[rate] for rate in rates]
    best = int(np.argmin(losses))
    good = [loss <= losses[best] + tolerance for loss in losses]
    low = high = best
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(rates) - 1 and good[high + 1]:
        high += 1
    return math.log10(rates[high] / rates[low])


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean logarithm: of ratios, the mean that does not depend on who is divided by whom."""
    if not values or min(values) <= 0:
        raise ValueError("a geometric mean needs positive values")
    return math.exp(sum(math.log(v) for v in values) / len(values))
