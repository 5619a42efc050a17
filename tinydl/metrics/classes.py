"""From predictions and targets, in whichever form they come, to class numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def is_binary(predictions: NDArray) -> bool:
    """One output per sample: (N,) or (N, …, 1). A yes or no, told by a threshold."""
    return predictions.ndim == 1 or predictions.shape[-1] == 1


def class_numbers(
    predictions: NDArray, targets: NDArray, from_logits: bool, label: str
) -> tuple[NDArray, NDArray]:
    """(predicted, true), flat over samples: of K outputs the largest, of one output the threshold's side.

    Targets are class numbers in the shape of the samples, or one-hot rows in that of the predictions. What
    holds a NaN predicts class -1, which is never right.
    """
    if is_binary(predictions):
        return yes_or_no(predictions, from_logits), binary_targets(predictions, targets, label)
    rows = predictions.reshape(-1, predictions.shape[-1])
    predicted = np.where(np.isnan(rows).any(axis=1), -1, rows.argmax(axis=1))
    return predicted, class_targets(predictions, targets, label)


def yes_or_no(scores: NDArray, from_logits: bool) -> NDArray:
    """1 where a probability is above 1/2, which is where its logit is above 0; flat."""
    scores = scores.reshape(-1)
    return np.where(np.isnan(scores), -1, scores > (0.0 if from_logits else 0.5))


def binary_targets(predictions: NDArray, targets: NDArray, label: str) -> NDArray:
    """0 or 1 for every output, flat; predictions (N, 1) take targets (N,) as well."""
    if targets.shape not in (predictions.shape, predictions.shape[:-1], (*predictions.shape, 1)):
        raise ValueError(
            f"{label}: predictions {predictions.shape} need as many targets, got {targets.shape}"
        )
    flat = targets.reshape(-1)
    if len(flat) != predictions.size:
        raise ValueError(
            f"{label}: predictions {predictions.shape} need as many targets, got {targets.shape}"
        )
    bad = np.flatnonzero((flat != 0) & (flat != 1))
    if bad.size:
        raise ValueError(f"{label}: a binary target must be 0 or 1, got {flat[bad[0]]} at {bad[0]}")
    return flat.astype(np.int64)


def class_targets(predictions: NDArray, targets: NDArray, label: str) -> NDArray:
    """The true class of each sample, flat, from class numbers or from one-hot (or soft) rows."""
    samples, classes = predictions.shape[:-1], predictions.shape[-1]
    if targets.shape == predictions.shape:
        return targets.reshape(-1, classes).argmax(axis=1)
    if targets.shape not in (samples, (*samples, 1)):
        raise ValueError(
            f"{label}: predictions {predictions.shape} need class numbers of shape {samples} "
            f"or rows of shape {predictions.shape}, got {targets.shape}"
        )
    if targets.dtype.kind not in "iub":
        raise TypeError(f"{label}: class numbers must be integers, got {targets.dtype}")
    return targets.reshape(-1).astype(np.int64)
