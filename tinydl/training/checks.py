"""Do data and model fit together? One clear error before training, not a puzzle in the middle of it.

What can be said of the data alone (NaN, empty, lengths that differ) the ``DataLoader`` has checked before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinydl.layers.base import fits, shape_text
from tinydl.training.objectives import SeveralLosses

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel


def check_inputs(model: BaseModel, x: Any, label: str = "") -> None:
    """Does a batch of inputs have the shape that the model was built for?"""
    several = isinstance(model.input_shape, list)
    if several != isinstance(x, list):
        wanted = f"a list of {len(model.input_shape)} arrays" if several else "one array"
        raise ValueError(f"{label}model '{model.name}' takes {wanted} as input, got {describe(x)}")
    shapes = model.input_shape if several else [model.input_shape]
    arrays = x if several else [x]
    if len(arrays) != len(shapes):
        raise ValueError(f"{label}model '{model.name}' has {len(shapes)} inputs, got {len(arrays)}")
    for array, shape in zip(arrays, shapes, strict=True):
        if not fits(np.shape(array)[1:], shape):
            raise ValueError(
                f"{label}model '{model.name}' was built for inputs of shape {shape_text(shape)}, "
                f"got {np.shape(array)}"
            )


def check_targets(model: BaseModel, y: Any, label: str = "") -> None:
    """Do the targets have the shape, dtype and range that the loss needs for the model's outputs?

    Outputs with a time axis are left to the loss, batch by batch: there a mask may say that some do not count.
    """
    several = isinstance(model.output_shape, list)
    if several != isinstance(model.loss, SeveralLosses):
        wanted = "a list of losses, one for each output" if several else "one loss"
        raise ValueError(f"model '{model.name}' needs {wanted}: compile(loss=…)")
    if isinstance(model.loss, SeveralLosses):
        if not isinstance(y, list) or len(y) != len(model.output_shape):
            raise ValueError(
                f"{label}model '{model.name}' has {len(model.output_shape)} outputs: "
                f"give y as a list of as many arrays, got {describe(y)}"
            )
        checks = list(zip(model.loss.losses, y, model.output_shape, strict=True))
    else:
        checks = [(model.loss, y, model.output_shape)]
    for loss, targets, shape in checks:
        if len(shape) == 1 and hasattr(loss, "check_targets"):
            targets = np.asarray(targets)
            outputs = np.broadcast_to(np.zeros((), model.dtype), (len(targets), *shape))
            try:
                loss.check_targets(outputs, targets, None)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{label}{error}") from None


def refuse_missing_targets(y: Any, label: str = "") -> None:
    if y is None:
        raise ValueError(f"{label}there are no targets: give y, or batches of (x, y)")


def describe(x: Any) -> str:
    if isinstance(x, list):
        return f"a list of {len(x)}"
    return f"an array of shape {np.shape(x)}"
