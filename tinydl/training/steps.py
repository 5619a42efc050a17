"""The parts of one training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel


def as_inputs(model: BaseModel, x: Any) -> Any:
    """The batch in the model's precision; integers (indices of words) stay as they are."""
    if isinstance(x, list):
        return [as_inputs(model, array) for array in x]
    x = np.asarray(x)
    is_value = x.dtype.kind == "f" or x.dtype == np.uint8
    return x.astype(model.parameter_dtype, copy=False) if is_value else x


def forward(model: BaseModel, x: Any, *, training: bool) -> tuple[Any, NDArray | None]:
    """(predictions, mask of the time steps that count, or None)."""
    predictions = model.forward(x, training=training)
    return predictions, model.output_mask


def compute_loss(
    model: BaseModel,
    predictions: Any,
    targets: Any,
    sample_weight: NDArray | None,
    mask: NDArray | None,
) -> float:
    """Mean loss of the batch, without the penalties on weights."""
    if targets is None:
        raise ValueError("a loss needs targets: give y, or batches of (x, y)")
    return model.loss.forward(predictions, targets, sample_weight, mask)


def regularization(model: BaseModel) -> float:
    """Σ R(w) over the parameters that have a regularizer R."""
    return sum((r.penalty(p.value) for p, r in model.regularized), 0.0)


def backward(model: BaseModel, count: float) -> None:
    """From dL/d(predictions), for a mean over ``count`` samples, to the gradient of every parameter."""
    model.backward(model.loss.backward(count))
