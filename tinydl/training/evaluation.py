"""Applying a model to data without changing it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydl import devices
from tinydl.training.batches import Batch, Source
from tinydl.training.steps import (
    as_inputs,
    compute_loss,
    forward,
    measure_later,
    regularization,
)
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
    tracker, penalty = Tracker(model), float(devices.now(regularization(model)))
    total: Any = 0.0
    with closing(source.batches()) as batches:
        for sums in measured_batches(model, tracker, batches):
            if penalty:
                sums[0] += penalty * sums[1]
            total = total + sums
            if stop():
                return None
    add_up(total)
    tracker.add(total)
    return tracker.results()


def measured_batches(
    model: BaseModel, tracker: Tracker, batches: Generator[Batch, None, None]
) -> Iterator[NDArray]:
    """Each batch's sums [Σ loss, count, the metrics' …]; on a device, read when the next batch is under way."""
    if not model.on_device:
        for x, y, sample_weight in batches:
            predictions, mask = forward(model, as_inputs(model, x), training=False)
            loss = compute_loss(model, predictions, y, sample_weight, mask)
            yield tracker.measure(loss, model.loss.count, predictions, y, mask)
        return
    read = None
    with closing(devices.ahead(batches)) as copied:
        for x, y, sample_weight in copied:
            predictions, mask = forward(model, as_inputs(model, x), training=False)
            following = measure_later(model, tracker, predictions, y, sample_weight, mask)
            if read is not None:
                yield read()
            read = following
        if read is not None:
            yield read()


def predict(model: BaseModel, source: Source) -> Any:
    """The outputs for all batches, one after another; a list of arrays for a model of several outputs."""
    with closing(source.batches()) as batches:
        outputs = list(outputs_of(model, batches))
    if isinstance(outputs[0], list | tuple):
        return [_join(arrays) for arrays in zip(*outputs, strict=True)]
    return _join(outputs)


def outputs_of(model: BaseModel, batches: Generator[Batch, None, None]) -> Iterator[Any]:
    """Each batch's outputs; on a device, read when the next batch is under way."""
    if not model.on_device:
        for x, _, _ in batches:
            yield forward(model, as_inputs(model, x), training=False)[0]
        return
    coming = None
    with closing(devices.ahead(batches)) as copied:
        for x, _, _ in copied:
            following = devices.later(forward(model, as_inputs(model, x), training=False)[0])
            if coming is not None:
                yield pageable(coming)
            coming = following
        if coming is not None:
            yield pageable(coming)


def pageable(coming: Any) -> Any:
    """What ``devices.later`` promised, in ordinary memory: all outputs together may be large."""
    if isinstance(coming, list):
        return [pageable(array) for array in coming]
    return devices.now(coming).copy()


def _join(arrays: Any) -> NDArray:
    """One array of all rows; always a new one, since a layer may keep what it returned."""
    return np.concatenate(list(arrays))
