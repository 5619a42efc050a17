"""Layers that only rearrange the axes of a sample."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from tinydl.layers.base import Layer, Shape


class _Shaping(Layer):
    """The same elements in the same order under another shape: y = x, hence dL/dx = dL/dy."""

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x_shape = x.shape
        return x.reshape(len(x), *self.output_shape)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        return grad_output.reshape(self.x_shape) if self.needs_input_grad else None

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> None:
        return None  # the axis of time that the mask was about is gone

    def _elements(self, input_shape: Shape) -> int:
        sizes = [n for n in input_shape if n is not None]
        if len(sizes) < len(input_shape):
            raise ValueError(
                f"layer '{self.name}' needs an input whose shape is known, got {input_shape}"
            )
        return math.prod(sizes)


class Flatten(_Shaping):
    """(N, a, b, …) → (N, a·b·…)."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (self._elements(input_shape),)


class Reshape(_Shaping):
    """(N, …) → (N, *target_shape); one axis may be -1, and takes what the others leave."""

    def __init__(self, target_shape: tuple[int, ...] | list[int], name: str | None = None) -> None:
        super().__init__(name)
        sizes = tuple(target_shape) if isinstance(target_shape, list | tuple) else (target_shape,)
        valid = all(isinstance(n, int) and (n >= 1 or n == -1) for n in sizes)
        if not valid or sizes.count(-1) > 1:
            raise ValueError(
                "Reshape: target_shape must hold positive integers, at most one of them -1, "
                f"got {target_shape!r}"
            )
        self.target_shape = sizes

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        total = self._elements(input_shape)
        known = math.prod(n for n in self.target_shape if n != -1)
        sizes = tuple(total // known if n == -1 else n for n in self.target_shape)
        if math.prod(sizes) != total:
            raise ValueError(
                f"layer '{self.name}' cannot reshape {input_shape} ({total} elements) "
                f"to {self.target_shape}"
            )
        return sizes

    def config(self) -> dict[str, Any]:
        return {"target_shape": self.target_shape}
