"""The parts of one training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydl import devices
from tinydl.devices import later, now

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel
    from tinydl.training.tracking import Tracker


def as_inputs(model: BaseModel, x: Any) -> Any:
    """The batch in the model's precision, and where the model is; integers (indices of words) stay as they are."""
    if isinstance(x, list):
        return [as_inputs(model, array) for array in x]
    if not devices.is_on_device(x):
        x = np.asarray(x)
        if model.on_device:
            x = devices.library().asarray(x)
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


def measure_later(
    model: BaseModel,
    tracker: Tracker,
    predictions: Any,
    targets: Any,
    sample_weight: NDArray | None,
    mask: NDArray | None,
) -> Callable[[], NDArray]:
    """On a device: begin to compute the loss and to copy what ``Tracker.measure`` needs.

    The loss has its ``count`` and can go ``backward`` at once; calling the result waits, and gives the sums.
    """
    if targets is None:
        raise ValueError("a loss needs targets: give y, or batches of (x, y)")
    loss, mask = model.loss, devices.to_host(mask)
    loss.start(predictions, targets, sample_weight, mask)
    mean, count = loss.mean_later(), loss.count
    copies = later(predictions) if tracker.metrics else None
    return lambda: tracker.measure(mean(), count, now(copies), targets, mask)


def regularization(model: BaseModel) -> Any:
    """Σ R(w) over the parameters that have a regularizer R; on a device what ``devices.now`` makes a number of."""
    if not model.regularized:
        return 0.0
    return later(sum(r.penalty(p.value) for p, r in model.regularized))


def backward(model: BaseModel, count: float) -> None:
    """From dL/d(predictions), for a mean over ``count`` samples, to the gradient of every parameter."""
    model.backward(model.loss.backward(count))
