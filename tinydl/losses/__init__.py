"""Losses: what training makes small, each with its gradient written by hand."""

from __future__ import annotations

from typing import Any

from tinydl.configs import from_config
from tinydl.losses.base import Loss
from tinydl.losses.crossentropy import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
from tinydl.losses.regression import Huber, MeanAbsoluteError, MeanSquaredError

LOSSES: dict[str, type[Loss]] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "huber": Huber,
}

__all__ = [
    "LOSSES",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "get",
]


def get(loss: Loss | str | dict[str, Any]) -> Loss:
    """A loss, its name, or its config."""
    if isinstance(loss, Loss):
        return loss
    return from_config(loss, LOSSES, "loss")
