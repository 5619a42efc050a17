"""Penalties on weights: added to the loss, with their gradient added to the weight's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import finite_number
from tinydl.configs import from_config


class Regularizer:
    """R(w), a scalar added to the loss, and dR/dw."""

    def penalty(self, w: NDArray) -> float:
        """R(w): a number; for a w on a GPU it may stay there, as an array of no dimensions, that nobody waits for."""
        raise NotImplementedError(f"{type(self).__name__} must define penalty(w)")

    def gradient(self, w: NDArray) -> NDArray:
        raise NotImplementedError(f"{type(self).__name__} must define gradient(w)")

    def config(self) -> dict:
        return dict(vars(self))


class L1L2(Regularizer):
    """R(w) = l1 Σ|w| + l2 Σw²,  dR/dw = l1 sign(w) + 2 l2 w  (Goodfellow et al. 2016, Deep Learning, 7.1)."""

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = finite_number("l1", l1, 0)
        self.l2 = finite_number("l2", l2, 0)

    def penalty(self, w: NDArray) -> float:
        w64 = w.astype(np.float64)
        return self.l1 * np.abs(w64).sum() + self.l2 * np.square(w64).sum()

    def gradient(self, w: NDArray) -> NDArray:
        return (self.l1 * np.sign(w) + 2 * self.l2 * w).astype(w.dtype)


class L1(L1L2):
    """R(w) = l1 Σ|w|."""

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)

    def config(self) -> dict:
        return {"l1": self.l1}


class L2(L1L2):
    """R(w) = l2 Σw²."""

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)

    def config(self) -> dict:
        return {"l2": self.l2}


REGULARIZERS = {"l1": L1, "l2": L2, "l1_l2": L1L2}


def get(regularizer: Regularizer | str | dict | None) -> Regularizer | None:
    """``None``, a regularizer, its name, or its config."""
    if regularizer is None or isinstance(regularizer, Regularizer):
        return regularizer
    return from_config(regularizer, REGULARIZERS, "regularizer")
