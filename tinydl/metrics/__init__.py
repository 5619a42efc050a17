"""Metrics: what people read off a model, kept as sums that can be added up across batches and processes."""

from __future__ import annotations

from typing import Any

from tinydl.configs import from_config, lookup
from tinydl.metrics.accuracy import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    TopKAccuracy,
)
from tinydl.metrics.base import MeanLoss, Metric
from tinydl.metrics.confusion import F1, ConfusionMatrix, F1Score, Precision, Recall
from tinydl.metrics.errors import MeanAbsoluteError, MeanSquaredError

METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_accuracy": TopKAccuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "f1_score": F1Score,
    "confusion_matrix": ConfusionMatrix,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
}

__all__ = [
    "F1",
    "METRICS",
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "ConfusionMatrix",
    "F1Score",
    "MeanAbsoluteError",
    "MeanLoss",
    "MeanSquaredError",
    "Metric",
    "Precision",
    "Recall",
    "SparseCategoricalAccuracy",
    "TopKAccuracy",
    "get",
]


def get(metric: Metric | str | dict[str, Any], *, from_logits: bool = True) -> Metric:
    """A metric, its name, or its config.

    A metric given by name, where it tells yes from no by a single output, takes it to be a logit or a
    probability as ``from_logits`` says: hand in ``loss.takes_logits``.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        cls = lookup(metric, METRICS, "metric")
        arguments: dict[str, Any] = {"from_logits": from_logits} if cls.has_threshold else {}
        chosen = cls(**arguments)
        chosen.name = metric.lower()
        return chosen
    return from_config(metric, METRICS, "metric")
