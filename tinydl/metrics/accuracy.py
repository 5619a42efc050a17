"""Accuracy: the share of samples that the model gets right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import whole_number
from tinydl.metrics.base import Metric, ratio
from tinydl.metrics.classes import binary_targets, class_numbers, class_targets, yes_or_no


class _ShareOfHits(Metric):
    """Σ w_i h_i / Σ w_i, where h_i says whether sample i is right. A subclass writes ``hits``."""

    def hits(self, predictions: NDArray, targets: NDArray) -> NDArray:
        """One number in [0, 1] for each sample, flat."""
        raise NotImplementedError(f"{type(self).__name__} must define hits(predictions, targets)")

    def sums(self, predictions, targets, weight):
        h = self.hits(predictions, targets)
        w = weight.ravel()
        return np.array([np.sum(w * h), np.sum(w)])

    def value(self, state):
        return ratio(state[0], state[1])


class Accuracy(_ShareOfHits):
    """The share of samples whose class is predicted, whichever way classes are written.

    Predictions (…, K) with K > 1 predict their largest element; targets are class numbers (…) or one-hot (…, K).
    One output, (N,) or (…, 1), is a yes where it is above 0 (``from_logits=True``) or above 1/2. For many
    independent labels at once see :class:`BinaryAccuracy`.
    """

    has_threshold = True

    def __init__(self, from_logits: bool = True, name: str | None = None) -> None:
        super().__init__(name)
        self.from_logits = bool(from_logits)

    def hits(self, predictions, targets):
        predicted, true = class_numbers(predictions, targets, self.from_logits, self.name)
        return predicted == true

    def config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits, **super().config()}


class BinaryAccuracy(Accuracy):
    """The share of single outputs (N,) or (…, K) on the right side of the threshold, each a label of its own."""

    def hits(self, predictions, targets):
        right = yes_or_no(predictions, self.from_logits) == binary_targets(
            predictions, targets, self.name
        )
        labels = 1 if predictions.ndim == 1 else predictions.shape[-1]
        return right.reshape(-1, labels).mean(axis=1)


class SparseCategoricalAccuracy(_ShareOfHits):
    """The share of samples whose class is predicted; targets are class numbers (…), predictions (…, K)."""

    def hits(self, predictions, targets):
        if targets.shape == predictions.shape:
            raise ValueError(
                f"{self.name}: targets must be class numbers of shape {predictions.shape[:-1]}, "
                f"got {targets.shape}"
            )
        return top_k_hits(predictions, targets, 1, self.name)


class CategoricalAccuracy(_ShareOfHits):
    """The share of samples whose class is predicted; targets are one-hot, predictions (…, K)."""

    def hits(self, predictions, targets):
        if targets.shape != predictions.shape:
            raise ValueError(
                f"{self.name}: targets must be one-hot, of shape {predictions.shape}, got {targets.shape}"
            )
        return top_k_hits(predictions, targets, 1, self.name)


class TopKAccuracy(_ShareOfHits):
    """The share of samples whose true class is among the k that the model scores highest.

    Classes of equal score are ranked by their number, as ``argmax`` does: a model that gives all classes the
    same score is right by chance only, and k = 1 is accuracy.
    """

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name or f"top_{k}_accuracy")
        self.k = whole_number("TopKAccuracy: k", k)

    def hits(self, predictions, targets):
        return top_k_hits(predictions, targets, self.k, self.name)

    def config(self) -> dict[str, Any]:
        return {"k": self.k, **super().config()}


def top_k_hits(predictions: NDArray, targets: NDArray, k: int, label: str) -> NDArray:
    """Whether fewer than k classes come before the true one; a row that holds a NaN is wrong."""
    true = class_targets(predictions, targets, label)
    scores = predictions.reshape(-1, predictions.shape[-1])
    known = (true >= 0) & (true < scores.shape[1])
    true = np.where(known, true, 0)
    own = np.take_along_axis(scores, true[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < true[:, None]
    before = np.count_nonzero((scores > own) | ((scores == own) & earlier), axis=1)
    return known & (before < k) & ~np.isnan(scores).any(axis=1)
