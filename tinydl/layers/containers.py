"""Layers made of layers: a chain, a residual block, parallel branches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.layers.base import Layer, Shape, make_names_unique


class Chain(Layer):
    """Layers one after another: forward runs them in order, backward in reverse.

        y = f_n(… f_2(f_1(x)))        dL/dx = J_1ᵀ J_2ᵀ … J_nᵀ dL/dy        (the chain rule)

    where multiplying by J_kᵀ is what layer k's ``backward`` does.
    """

    uses_mask = True

    def __init__(self, layers: list[Layer], name: str | None = None) -> None:
        super().__init__(name)
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"item {i} of {self.name} is not a layer: {layer!r}")
        if not layers:
            raise ValueError(f"{type(self).__name__} needs at least one layer")
        self.sublayers = list(layers)
        make_names_unique(self.sublayers)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        for layer in self.sublayers:
            layer.initialize(input_shape, rng, self.dtype)
            input_shape = layer.output_shape

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.sublayers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def forward(self, x: NDArray, training: bool = False, mask: NDArray | None = None) -> NDArray:
        for layer in self.sublayers:
            y = layer.forward(x, training, mask) if layer.uses_mask else layer.forward(x, training)
            mask = layer.compute_mask(x, mask)
            x = y
        self.output_mask = mask
        return x

    def backward(self, grad_output: NDArray) -> NDArray | None:
        grad: NDArray | None = grad_output
        for layer in reversed(self.sublayers):
            if grad is None:  # nobody reads this gradient: no parameters from here down
                break
            grad = layer.backward(grad)
            if self.after_backward is not None:
                self.after_backward(layer)
        return grad

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> NDArray | None:
        return self.output_mask  # found during forward

    def set_needs_input_grad(self, flag: bool) -> None:
        """Without a reader for dL/dx, every layer up to the first that has parameters can skip it."""
        self.needs_input_grad = flag
        for layer in self.sublayers:
            layer.set_needs_input_grad(flag)
            if layer.parameters():
                break

    def config(self) -> dict[str, Any]:
        from tinydl.layers import layer_config

        return {"layers": [layer_config(layer) for layer in self.sublayers]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Chain:
        from tinydl.layers import layer_from_config

        arguments = {**config, "layers": [layer_from_config(c) for c in config["layers"]]}
        return cls(**arguments)

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(map(repr, self.sublayers))}])"
