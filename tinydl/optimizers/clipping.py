"""Gradients made smaller where they are too large, and refused where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.devices import to_host
from tinydl.parameters import ParameterStore


def global_norm(arrays: Iterable[NDArray]) -> float:
    """‖g‖ = √(Σ g²) over all elements, in float64 and in a fixed order: the same bits in every run.

    NaN or infinite where an element is. Squares beyond float64 (elements above 1e154) are scaled first.
    """
    arrays = list(arrays)
    total = math.fsum(kernels.squared_norm(a) for a in arrays)
    if math.isfinite(total) or not all(kernels.all_finite(a) for a in arrays):
        return math.sqrt(total)
    largest = max(float(np.abs(a).max()) for a in arrays if a.size)
    return largest * math.sqrt(sum(kernels.squared_norm(a / largest) for a in arrays))


def clip_by_norm(arrays: Iterable[NDArray], limit: float, norm: float) -> None:
    """g ← g · min(1, limit / ‖g‖), in place; ``norm`` is the arrays' common norm."""
    if norm > limit:
        for a in arrays:
            kernels.scale_(a, limit / norm)


def clip_by_value(arrays: Iterable[NDArray], limit: float) -> None:
    """g ← max(-limit, min(limit, g)), in place, element by element."""
    for a in arrays:
        kernels.clip_(a, limit)


def check_finite(store: ParameterStore) -> None:
    """An error that names the first gradient, in the order of backward, that holds a NaN or an infinity."""
    for s in store.segments:
        if s.parameter.trainable and not kernels.all_finite(store.grads[s.start : s.stop]):
            gradient = to_host(s.parameter.grad)
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(gradient))[0])
            raise FloatingPointError(
                f"the gradient of '{s.parameter.name}' is {gradient[index]} at index {index}: "
                "nothing was updated (a smaller learning rate, global_clipnorm or cleaner data may help)"
            )
