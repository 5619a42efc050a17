"""A model: a layer that owns its parameters' flat buffers, and knows its loss, metrics and optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinydl.layers.base import Layer, Shape
from tinydl.layers.containers import Chain
from tinydl.parameters import ParameterStore
from tinydl.randomness import stream


class BaseModel(Layer):
    """Base of ``Sequential`` and of the functional ``tl.Model``.

    Life of a model: constructed (layers known) -> built (input shape known: parameters exist, in one flat
    buffer each for values and gradients) -> compiled (optimizer, loss, metrics) -> fitted.
    """

    seed: int | None
    parameter_dtype: np.dtype

    def build_model(self, input_shape: Shape) -> None:
        """Create the parameters, lay them out in the flat buffers, and give random layers their streams."""
        self.initialize(input_shape, stream(self.seed, "initialization"), self.parameter_dtype)
        named = list(self.named_parameters())
        for name, parameter in named:
            parameter.name = name
        self.store = ParameterStore(p for _, p in named)
        for k, layer in enumerate(self.layers_in_order()):
            if layer.is_random:
                layer.rng = stream(self.seed, "dropout", k)

    def get_weights(self) -> list[NDArray]:
        """Copies of all parameters, then of all states, in forward order."""
        self._require_built()
        arrays = [p.value for p in self.parameters()] + [a for _, a in self.named_states()]
        return [a.copy() for a in arrays]

    def set_weights(self, weights: list[NDArray]) -> None:
        """Write arrays as ``get_weights`` gives them; nothing is written unless all of them fit."""
        self._require_built()
        targets = [(n, p.value) for n, p in self.named_parameters()] + list(self.named_states())
        if len(weights) != len(targets):
            raise ValueError(f"this model has {len(targets)} arrays, set_weights got {len(weights)}")
        for (name, target), array in zip(targets, weights, strict=True):
            if np.shape(array) != target.shape:
                raise ValueError(f"'{name}' has shape {target.shape}, got {np.shape(array)}")
        for (_, target), array in zip(targets, weights, strict=True):
            target[...] = array

    def _require_built(self) -> None:
        if not self.built:
            raise RuntimeError(
                f"model '{self.name}' is not built: give its input shape (model.build_model(shape)), "
                "or call fit or predict on data first"
            )


class Sequential(BaseModel, Chain):
    """Layers one after another, with everything a model has.

    Args:
        layers: applied in this order; a ``Sequential`` may itself be one of them.
        seed: makes initial weights, dropout and the order of samples repeatable; ``None`` draws fresh numbers.
        dtype: of the parameters, float32 or float64.
    """

    def __init__(
        self,
        layers: list[Layer],
        seed: int | None = 0,
        dtype: DTypeLike = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(layers, name)
        self.seed = seed
        self.parameter_dtype = np.dtype(dtype)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "seed": self.seed, "dtype": self.parameter_dtype.name}
