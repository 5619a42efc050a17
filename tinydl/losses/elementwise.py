"""Losses that compare predictions and targets element by element."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydl.devices import is_on_device
from tinydl.losses.base import Loss


class ElementwiseLoss(Loss):
    """ℓ_i = (1/K) Σ_k e(p_ik, t_ik): the mean over the last axis of an elementwise loss e.

    Predictions and targets have one shape: (N, K), (N, T, K), or (N,) with each element a sample. Predictions
    (N, 1), as a last layer of one unit gives them, take targets (N,) as well: there is one way only to pair them.

    A subclass writes ``elementwise``.
    """

    def elementwise(self, predictions: NDArray, targets: NDArray) -> tuple[NDArray, NDArray]:
        """(e(p, t), de/dp), both in the shape of the predictions."""
        raise NotImplementedError(f"{type(self).__name__} must define elementwise")

    def samples_shape(self, predictions):
        return predictions.shape[:1] if predictions.ndim == 1 else predictions.shape[:-1]

    def check_predictions(self, predictions):
        if not is_on_device(predictions):
            predictions = np.asarray(predictions)
        if predictions.ndim == 1:  # a column of one, and back: the shape stays the caller's
            super().check_predictions(predictions[:, None])
            return predictions
        return super().check_predictions(predictions)

    def check_targets(self, predictions, targets, keep):
        shape = predictions.shape
        if shape[-1] == 1 and targets.shape == shape[:-1]:
            targets = targets[..., None]
        if targets.shape != shape:
            raise ValueError(
                f"{self.label}: targets must have the predictions' shape {shape}, got {targets.shape}"
            )
        targets = self.as_numbers(targets, predictions.dtype)
        if keep is not None:
            targets = np.where(keep if keep.ndim == targets.ndim else keep[..., None], targets, 0)
        self.refuse(~np.isfinite(targets), targets, "target is not finite")
        return targets

    def weighted(self, predictions, targets, weight):
        losses, grad = self.elementwise(predictions, targets)
        columns = 1 if predictions.ndim == 1 else predictions.shape[-1]
        if weight is None:
            share = 1.0 / columns
        else:
            share = (weight / columns).reshape(self.samples_shape(predictions))
            share = share if predictions.ndim == 1 else share[..., None]
        return share * losses, (share * grad).astype(predictions.dtype, copy=False)
