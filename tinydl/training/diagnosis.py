"""Where a NaN or an infinity came from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydl.layers.base import Layer

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite. The weights are those from before the step.

    Attributes:
        origin: path of the layer or parameter in which it first appeared, "input", or "loss".
        epoch, step: where training stopped, both counted from 0 as callbacks are told them; the message counts from
            1, as the line of progress does.
    """

    def __init__(self, message: str, origin: str, epoch: int, step: int) -> None:
        super().__init__(message)
        self.origin = origin
        self.epoch = epoch
        self.step = step


class _Found(Exception):
    def __init__(self, layer: Layer, output: NDArray) -> None:
        self.layer = layer
        self.output = output


def find_origin(model: BaseModel, x: Any) -> tuple[str, str]:
    """(path, description) of what is first not finite when the model is applied to ``x`` as in training."""
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.value).all():
            return name, f"parameter '{name}' {_first_bad(parameter.value)} before this step"
    for array in x if isinstance(x, list) else [x]:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return "input", f"the batch's input {_first_bad(array)}"
    paths = {id(layer): path.rstrip(".") for path, layer in model._named_layers("")}
    try:
        with watched(model), np.errstate(all="ignore"):
            model.forward(x, training=True)
    except _Found as found:
        path = paths[id(found.layer)] or model.name
        kind = type(found.layer).__name__
        return (
            path,
            f"it first appeared in layer '{path}' ({kind}), whose output {_first_bad(found.output)}",
        )
    return (
        "loss",
        "all layers' outputs are finite, so it arose in the loss (targets, weights, or its own overflow)",
    )


@contextlib.contextmanager
def watched(model: BaseModel) -> Iterator[None]:
    """While entered, the first layer whose output is not finite raises ``_Found``, wherever it is nested."""
    layers = [layer for layer in model.layers_in_order() if layer is not model]
    for layer in layers:
        layer.forward = _watch(layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own method shows again


def _watch(layer: Layer) -> Any:
    forward = layer.forward

    def watching(*args: Any, **kwargs: Any) -> Any:
        y = forward(*args, **kwargs)
        for array in y if isinstance(y, list | tuple) else [y]:
            if not np.isfinite(array).all():
                raise _Found(layer, array)
        return y

    return watching


def _first_bad(array: NDArray) -> str:
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    count = int(np.count_nonzero(~np.isfinite(array)))
    return f"holds {array[where]} at {list(where)} ({count} of {array.size} values are not finite)"
