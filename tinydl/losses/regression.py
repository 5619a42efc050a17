"""Losses for real-valued targets. With the residual r = p - t, elementwise; means as in ``ElementwiseLoss``."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinydl.arguments import finite_number
from tinydl.losses.elementwise import ElementwiseLoss


class MeanSquaredError(ElementwiseLoss):
    """e = r²,  de/dp = 2 r.

    Minimal at the mean of the targets: minus the log-likelihood under Gaussian noise, up to constants (Bishop
    2006, Pattern Recognition and Machine Learning, section 1.2.5).
    """

    def elementwise(self, predictions, targets):
        r = predictions - targets
        return np.square(r, dtype=np.float64), 2 * r


class MeanAbsoluteError(ElementwiseLoss):
    """e = |r|,  de/dp = sign(r), and 0 at r = 0.

    Minimal at the median of the targets, hence indifferent to how far off an outlier is.
    """

    def elementwise(self, predictions, targets):
        r = predictions - targets
        return np.abs(r), np.sign(r)


class Huber(ElementwiseLoss):
    """e = r²/2 for |r| ≤ δ, else δ |r| - δ²/2;  de/dp = clip(r, -δ, δ).

    Quadratic near 0 and linear far out, with a continuous slope: Huber 1964, "Robust Estimation of a Location
    Parameter".
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = finite_number("Huber: delta", delta, 0, above=True)

    def elementwise(self, predictions, targets):
        r = predictions - targets
        clipped = np.clip(r, -self.delta, self.delta)
        # c (r - c/2) is r²/2 inside, where c = r, and δ |r| - δ²/2 outside, where c = ±δ.
        return clipped * (r - clipped / 2), clipped

    def config(self) -> dict[str, Any]:
        return {"delta": self.delta}
