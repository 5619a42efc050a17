"""Weights for classes, as weights for samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import finite_number


class ClassWeights:
    """w_i = weight of sample i × weight of its class; classes that are not named weigh 1.

    Args:
        weights: class number -> weight.
        one_hot: targets are rows, one-hot, and not class numbers.
        classes: how many there are.
    """

    def __init__(self, weights: dict[int, float], one_hot: bool, classes: int) -> None:
        if not isinstance(weights, dict):
            raise TypeError(f"class_weight must be a dict, class number -> weight, got {weights!r}")
        for label, weight in weights.items():
            is_number = isinstance(label, int | np.integer) and not isinstance(label, bool)
            if not is_number or not 0 <= label < classes:
                raise ValueError(
                    f"class_weight: classes are numbers from 0 to {classes - 1}, got {label!r}"
                )
            finite_number(f"class_weight: the weight of class {label}", weight, low=0)
        self.one_hot = one_hot
        self.table = np.ones(classes)
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
