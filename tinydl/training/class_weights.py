"""Weights for classes, as weights for samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ClassWeights:
    """w_i = weight of sample i × weight of its class; classes that are not named weigh 1.

    Args:
        weights: class number -> weight.
        one_hot: targets are rows, one-hot, and not class numbers.
    """

    def __init__(self, weights: dict[int, float], one_hot: bool) -> None:
        for label, weight in weights.items():
            if not isinstance(label, int | np.integer) or label < 0:
                raise ValueError(f"class_weight: classes are numbers from 0, got {label!r}")
            if not (np.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"class_weight: class {label} has weight {weight}: expected a number >= 0"
                )
        self.one_hot = one_hot
        self.table = np.ones(
            max(weights, default=-1) + 2
        )  # the last entry stands for all higher classes
        for label, weight in weights.items():
            self.table[label] = weight

    def __call__(self, targets: NDArray, sample_weight: NDArray | None) -> NDArray:
        """Weights in the shape of the class numbers, (N,) or (N, T)."""
        targets = np.asarray(targets)
        labels = targets.argmax(axis=-1) if self.one_hot else targets
        if labels.ndim > 1 and labels.shape[-1] == 1:
            labels = labels[..., 0]
        weights = self.table[np.clip(labels.astype(np.int64), 0, len(self.table) - 1)]
        if sample_weight is None:
            return weights
        given = np.asarray(sample_weight)
        return weights * given.reshape(given.shape + (1,) * (weights.ndim - given.ndim))
