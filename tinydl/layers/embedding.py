"""A vector for each symbol."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import whole_number
from tinydl.configs import as_config
from tinydl.devices import is_on_device, later, now
from tinydl.initializers import get as get_initializer
from tinydl.layers.base import Layer, Shape
from tinydl.regularizers import Regularizer
from tinydl.regularizers import get as get_regularizer


class Embedding(Layer):
    """y = W[x]: row x of a table, which is Dense on a one-hot x, without the products with zero.

    Shapes: x (N, …) whole numbers in [0, V), W (V, D), y (N, …, D).

        y[n,…,:] = W[x[n,…], :]
        dL/dW[v,:] = Σ dL/dy[n,…,:] over the places where x[n,…] = v

    There is no dL/dx: an index cannot move a little. With ``mask_zero``, symbol 0 stands for padding,
    and the layers behind are told to pass over those steps.

    Source: Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2 (the matrix C).
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Regularizer | str | None = None,
        mask_zero: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.input_dim = whole_number("Embedding: input_dim", input_dim)
        self.output_dim = whole_number("Embedding: output_dim", output_dim)
        self.embeddings_initializer = get_initializer(embeddings_initializer)
        self.embeddings_regularizer = get_regularizer(embeddings_regularizer)
        self.mask_zero = bool(mask_zero)
        # Symbols on a device, and whether some are wrong.
        self.unjudged: tuple[Any, Any] | None = None

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        self.weight = self.add_parameter(
            "weight",
            (self.input_dim, self.output_dim),
            self.embeddings_initializer,
            rng,
            regularizer=self.embeddings_regularizer,
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.output_dim)

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_shape(x)
        self.x = self._indices(x, training)  # (N, …)
        return self.weight.value[self.x]

    def backward(self, grad_output: NDArray) -> None:
        if self.unjudged is not None:
            (x, some_wrong), self.unjudged = self.unjudged, None
            if now(some_wrong):
                self._refuse(x, self._wrong(x))
        kernels.embedding_grad(self.x, grad_output, self.weight.grad)

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> NDArray | None:
        return x != 0 if self.mask_zero else mask

    def _indices(self, x: NDArray, training: bool) -> NDArray:
        """x as integers. Whole numbers that a data loader made floats are fine, others are not.

        In training on a device the answer is not waited for until ``backward``: so long, wrong ones pass for others.
        """
        indices, wrong = as_integers(x), self._wrong(x)
        if training and is_on_device(x):
            self.unjudged = x, later(wrong.any())
            return np.clip(indices, 0, self.input_dim - 1)
        self._refuse(x, wrong)
        return indices

    def _wrong(self, x: NDArray) -> NDArray:
        """Where x is no whole number from 0 to V - 1."""
        indices = as_integers(x)
        wrong = (indices < 0) | (indices >= self.input_dim)
        return wrong if indices is x else wrong | (indices != x)

    def _refuse(self, x: NDArray, wrong: NDArray) -> None:
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"layer '{self.name}' expected whole numbers from 0 to {self.input_dim - 1}, "
                f"got {x[place]} at {place}"
            )

    def config(self) -> dict[str, Any]:
        return {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": as_config(self.embeddings_initializer),
            "embeddings_regularizer": as_config(self.embeddings_regularizer),
            "mask_zero": self.mask_zero,
        }


def as_integers(x: NDArray) -> NDArray:
    with np.errstate(invalid="ignore"):  # a NaN has no integer: it differs from what comes out
        return x if x.dtype.kind in "iu" else x.astype(np.int64)
