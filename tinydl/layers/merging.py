"""Layers that join several inputs into one, and what all layers with several inputs share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.devices import namespace
from tinydl.layers.base import Layer, Shape, fits, shape_text


class Add(Layer):
    """y = x_1 + x_2 + … + x_k, element by element.

    Shapes: all x_i and y alike (N, …). Every input gets the whole gradient: dL/dx_i = dL/dy.

    Source: the shortcut connections of He et al. 2015, arXiv 1512.03385, section 3.2.
    """

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = require_several(self, input_shape)
        for i, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise ValueError(
                    f"layer '{self.name}' adds inputs of one shape, input 0 has {shapes[0]}, "
                    f"input {i} has {shape}"
                )
        return shapes[0]

    def forward(self, x: Any, training: bool = False) -> NDArray:
        check_inputs(self, x)
        y = x[0] + x[1]
        for array in x[2:]:
            y += array
        return y

    def backward(self, grad_output: NDArray) -> Any:
        return [grad_output] * len(self.input_shape) if self.needs_input_grad else None

    def compute_mask(self, x: Any, mask: Any) -> NDArray | None:
        return all_masks(mask)


class Concatenate(Layer):
    """y = [x_1, x_2, …, x_k], one behind the other along ``axis``.

    Shapes: x_i (N, …), alike but for ``axis``, along which y is as long as all of them together. ``axis`` counts the
    batch axis as 0 (which cannot be joined) and may be negative.

    The gradient is cut at the same places: dL/dx_i is the part of dL/dy that x_i became.
    """

    def __init__(self, axis: int = -1, name: str | None = None) -> None:
        super().__init__(name)
        if not isinstance(axis, int) or axis == 0:
            raise ValueError(
                f"Concatenate: axis must be an integer other than 0 (the batch), got {axis!r}"
            )
        self.axis = axis

    def compute_output_shape(self, input_shape: Any) -> Shape:
        shapes = require_several(self, input_shape)
        axis = self._sample_axis(shapes[0])
        for i, shape in enumerate(shapes):
            if len(shape) != len(shapes[0]) or any(
                a != b for k, (a, b) in enumerate(zip(shape, shapes[0], strict=True)) if k != axis
            ):
                raise ValueError(
                    f"layer '{self.name}' joins inputs whose shapes differ along axis {self.axis} "
                    f"only, input 0 has {shapes[0]}, input {i} has {shape}"
                )
        lengths = [shape[axis] for shape in shapes]
        total = None if None in lengths else sum(n for n in lengths if n is not None)
        return (*shapes[0][:axis], total, *shapes[0][axis + 1 :])

    def forward(self, x: Any, training: bool = False) -> NDArray:
        check_inputs(self, x)
        self.cuts = np.cumsum([array.shape[self.axis] for array in x[:-1]]).tolist()
        return np.concatenate(x, axis=self.axis)

    def backward(self, grad_output: NDArray) -> Any:
        if not self.needs_input_grad:
            return None
        parts = np.split(grad_output, self.cuts, axis=self.axis)
        return [namespace(part).ascontiguousarray(part) for part in parts]

    def compute_mask(self, x: Any, mask: Any) -> NDArray | None:
        """Joined along with the steps if ``axis`` is that of time, else what all masks keep."""
        if mask is None or all(m is None for m in mask) or self.axis not in (1, 1 - x[0].ndim):
            return all_masks(mask)
        pairs = zip(x, mask, strict=True)
        return np.concatenate(
            [namespace(a).ones(a.shape[:2], bool) if m is None else m for a, m in pairs], axis=1
        )

    def _sample_axis(self, shape: Shape) -> int:
        """``axis`` as an index into the shape of a sample."""
        axis = self.axis - 1 if self.axis > 0 else self.axis + len(shape)
        if not 0 <= axis < len(shape):
            raise ValueError(
                f"layer '{self.name}' cannot join inputs of shape {('N', *shape)} along axis {self.axis}"
            )
        return axis

    def config(self) -> dict[str, Any]:
        return {"axis": self.axis}


def all_masks(masks: list[NDArray | None] | None) -> NDArray | None:
    """The steps that all of the masks keep; None, for no mask, keeps all."""
    combined = None
    for mask in masks or ():
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined


def require_several(layer: Layer, shapes: Any, least: int = 2) -> list[Shape]:
    """The shapes of a list of inputs; an error for a single one."""
    if not isinstance(shapes, list) or len(shapes) < least:
        raise ValueError(
            f"layer '{layer.name}' takes a list of {least} or more inputs, got {shapes}"
        )
    return shapes


def check_inputs(layer: Layer, inputs: Any) -> None:
    """What ``Layer.check_input`` does, for a layer that was built for a list of inputs."""
    check_shapes(layer, inputs)
    for i, x in enumerate(inputs):
        if x.dtype != layer.dtype:
            raise TypeError(
                f"layer '{layer.name}' computes in {layer.dtype}, got input {i} of {x.dtype}"
                f" (convert it: x.astype({layer.dtype.name!r}))"
            )


def check_shapes(layer: Layer, inputs: Any) -> None:
    """What ``Layer.check_shape`` does, for a list of inputs; they must also have one batch size."""
    shapes = layer.input_shape
    if not isinstance(inputs, list | tuple) or len(inputs) != len(shapes):
        got = str(len(inputs)) if isinstance(inputs, list | tuple) else "one array"
        raise ValueError(f"layer '{layer.name}' takes a list of {len(shapes)} inputs, got {got}")
    for i, (x, shape) in enumerate(zip(inputs, shapes, strict=True)):
        samples = len(inputs[0])
        if x.ndim == 0 or len(x) != samples or not fits(x.shape[1:], shape):
            raise ValueError(
                f"layer '{layer.name}' expected input {i} of shape {shape_text(shape, samples)}, got {x.shape}"
            )
