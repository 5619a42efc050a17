"""Applying a model to data without changing it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydl.training.batches import Source
from tinydl.training.steps import as_inputs, compute_loss, forward, regularization
from tinydl.training.tracking import Tracker

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel


def evaluate(
    model: BaseModel,
    source: Source,
    stop: Callable[[], bool] = lambda: False,
    add_up: Callable[[NDArray], None] = lambda sums: None,
) -> dict[str, Any] | None:
    """Loss and metrics over all batches; None if ``stop`` became true before the end.

    Where several processes have a part of each batch, ``add_up`` makes the sums over all of them, in place.
    """
    tracker, penalty = Tracker(model), regularization(model)
    total: Any = 0.0
    with closing(source.batches()) as batches:
        for x, y, sample_weight in batches:
            predictions, mask = forward(model, as_inputs(model, x), training=False)
            loss = compute_loss(model, predictions, y, sample_weight, mask) + penalty
            total = total + tracker.measure(loss, model.loss.count, predictions, y, mask)
            if stop():
                return None
    add_up(total)
    tracker.add(total)
    return tracker.results()


def predict(model: BaseModel, source: Source) -> Any:
    """The outputs for all batches, one after another; a list of arrays for a model of several outputs."""
    outputs: list[Any] = []
    with closing(source.batches()) as batches:
        for x, _, _ in batches:
            y, _ = forward(model, as_inputs(model, x), training=False)
            outputs.append(y)
    if isinstance(outputs[0], list | tuple):
        return [_join(arrays) for arrays in zip(*outputs, strict=True)]
    return _join(outputs)


def _join(arrays: Any) -> NDArray:
    """One array of all rows; always a new one, since a layer may keep what it returned."""
    return np.concatenate(list(arrays))
