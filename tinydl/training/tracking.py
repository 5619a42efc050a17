"""What is measured over an epoch: the loss and the metrics, as sums and counts."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydl.metrics import MeanLoss

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel


class Tracker:
    """Means over the batches seen since the last ``reset``, each sample counting alike.

    The metrics are copies of the model's, so that validation does not disturb what training has summed up.
    """

    def __init__(self, model: BaseModel) -> None:
        self.loss = MeanLoss("loss")
        self.metrics = copy.deepcopy(model.metrics)
        self._shapes: list[tuple[int, ...]] = [()] * len(self.metrics)
        self.reset()

    def reset(self) -> None:
        for metric in (self.loss, *self.metrics):
            metric.reset()

    def measure(
        self, loss: float, count: int, predictions: Any, targets: Any, mask: NDArray | None
    ) -> NDArray:
        """The batch's sums in one float64 array: [Σ loss, count, the metrics' sums …].

        ``loss`` is the batch's mean over ``count`` samples. As in Keras, metrics leave sample weights aside. Such
        arrays may be added up, over batches (``add``) and over processes.
        """
        sums = [np.array([loss * count, count], np.float64)]
        for k, metric in enumerate(self.metrics):
            before = metric.state()
            metric.reset()
            metric.update(predictions, targets, mask=mask)
            batch = metric.state()
            metric.load_state(before)
            self._shapes[k] = batch.shape
            sums.append(batch.ravel())
        return np.concatenate(sums)

    def add(self, sums: NDArray) -> None:
        """Take sums into account: those of one batch, or added up over several."""
        self.loss.add(sums[0], sums[1])
        offset = 2
        for metric, shape in zip(self.metrics, self._shapes, strict=True):
            size = math.prod(shape)
            added = sums[offset : offset + size].reshape(shape)
            state = metric.state()
            metric.load_state(state + added if state.size else added)
            offset += size

    def results(self) -> dict[str, Any]:
        return {metric.name: metric.result() for metric in (self.loss, *self.metrics)}

    @property
    def names(self) -> list[str]:
        return ["loss", *(metric.name for metric in self.metrics)]

    def state_dict(self) -> dict[str, Any]:
        return {metric.name: metric.state() for metric in (self.loss, *self.metrics)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for metric in (self.loss, *self.metrics):
            metric.load_state(state[metric.name])
