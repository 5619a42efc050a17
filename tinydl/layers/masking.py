"""Marking the steps of padded sequences that do not count."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tinydl.layers.base import Layer, Shape


class Masking(Layer):
    """Passes x on, and tells the layers behind to pass over the steps in which every feature is ``mask_value``.

    Shapes: x, y (N, T, D); the mask k (N, T) is True where the step counts: k_nt = any_d(x_ntd ≠ mask_value).

        y_ntd = k_nt x_ntd                  dL/dx_ntd = k_nt dL/dy_ntd

    (masked steps become 0 whatever ``mask_value`` is, so that sums over time are not disturbed by it).
    """

    def __init__(self, mask_value: float = 0.0, name: str | None = None) -> None:
        super().__init__(name)
        self.mask_value = float(mask_value)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 2:
            raise ValueError(
                f"layer '{self.name}' takes sequences of shape (N, steps, features), "
                f"got samples of shape {input_shape}"
            )
        return input_shape

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.k = self._counts(x)[..., None]  # (N, T, 1)
        return x * self.k

    def backward(self, grad_output: NDArray) -> NDArray | None:
        return grad_output * self.k if self.needs_input_grad else None

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> NDArray:
        counts = self._counts(x)
        return counts if mask is None else counts & mask

    def _counts(self, x: NDArray) -> NDArray:
        return (x != self.mask_value).any(axis=-1)

    def config(self) -> dict[str, Any]:
        return {"mask_value": self.mask_value}
