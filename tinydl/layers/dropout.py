"""Dropout: in training, each element is left out at random."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import fraction
from tinydl.devices import beside
from tinydl.layers.base import Layer


class Dropout(Layer):
    """y = x ⊙ k, where each element of k is 0 with probability ``rate``, else 1 / (1 - rate).

    Shapes: x, k, y (N, …) alike. The factor makes E[y] = x ("inverted" dropout), so that in
    inference y = x, with nothing to rescale.

        dL/dx = dL/dy ⊙ k

    Random numbers come from ``self.rng``, a stream that the model gives to each dropout layer and
    keeps in its checkpoints.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", section 4 (section 10 for the factor in training).
    """

    is_random = True

    def __init__(self, rate: float, name: str | None = None) -> None:
        super().__init__(name)
        self.rate = fraction("Dropout: rate", rate, below_one=True)

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        if not training or self.rate == 0:
            self.k = None
            return x
        self.k = drawn_mask(self, x, self.rate)
        return x * self.k

    def backward(self, grad_output: NDArray) -> NDArray | None:
        if not self.needs_input_grad:
            return None
        return grad_output if self.k is None else grad_output * self.k

    def config(self) -> dict[str, Any]:
        return {"rate": self.rate}


def drawn_mask(layer: Layer, x: NDArray, rate: float) -> NDArray:
    """k as :class:`Dropout` defines it, for x, from the layer's random numbers."""
    if layer.rng is None:
        raise RuntimeError(
            f"layer '{layer.name}' has no random numbers to draw from: put it into a model, "
            "or set layer.rng = np.random.default_rng(seed)"
        )
    # Drawn on the host wherever x is: the same numbers, and the same stream in checkpoints. A GPU waits for them.
    keep = beside(layer.rng.random(x.shape, dtype=np.float32) >= rate, x)
    return keep * x.dtype.type(1 / (1 - rate))
