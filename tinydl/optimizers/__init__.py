"""Optimizers: each as its equations, and as one fused pass over the flat parameter buffer."""

from __future__ import annotations

from typing import Any

from tinydl.configs import from_config
from tinydl.optimizers import schedules
from tinydl.optimizers.adam import Adam, AdamW, NAdam
from tinydl.optimizers.base import Optimizer, StepInfo
from tinydl.optimizers.das import DAS
from tinydl.optimizers.rmsprop import RMSProp
from tinydl.optimizers.sgd import SGD, Momentum, Nesterov

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "das": DAS,
}

Nadam, RMSprop = NAdam, RMSProp  # Keras' names

__all__ = [
    "DAS",
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "Momentum",
    "NAdam",
    "Nadam",
    "Nesterov",
    "Optimizer",
    "RMSProp",
    "RMSprop",
    "StepInfo",
    "get",
    "schedules",
]


def get(optimizer: Optimizer | str | dict[str, Any]) -> Optimizer:
    """An optimizer, its name, or its config."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    return from_config(optimizer, OPTIMIZERS, "optimizer")
