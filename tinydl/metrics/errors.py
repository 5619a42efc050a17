"""Mean errors of predicted values, for regressions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydl.metrics.base import Metric, ratio


class _MeanError(Metric):
    """Σ w_i e_i / Σ w_i, where e_i is the mean over a sample's values of the errors. A subclass writes ``errors``."""

    def errors(self, difference: NDArray) -> NDArray:
        """Of each value, from prediction - target."""
        raise NotImplementedError(f"{type(self).__name__} must define errors(difference)")

    def sums(self, predictions, targets, weight):
        if predictions.size != targets.size or len(predictions) != len(targets):
            raise ValueError(
                f"{self.name}: targets must have the predictions' shape {predictions.shape}, got {targets.shape}"
            )
        difference = predictions.astype(np.float64) - targets.reshape(predictions.shape)
        values = 1 if weight.ndim == predictions.ndim else predictions.shape[-1]  # of a sample
        e = self.errors(difference).reshape(weight.size, values)
        w = weight.ravel()
        counted = w != 0  # what a mask drops may hold anything
        return np.array([np.sum(w[counted] * e[counted].mean(axis=1)), np.sum(w)])

    def value(self, state):
        return ratio(state[0], state[1])


class MeanAbsoluteError(_MeanError):
    """Mean of |prediction - target|."""

    def errors(self, difference):
        return np.abs(difference)


class MeanSquaredError(_MeanError):
    """Mean of (prediction - target)²."""

    def errors(self, difference):
        return difference**2
