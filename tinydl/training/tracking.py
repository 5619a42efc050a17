"""What is measured over an epoch: the loss and the metrics, as sums and counts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

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
        self.reset()

    def reset(self) -> None:
        for metric in (self.loss, *self.metrics):
            metric.reset()

    def update(
        self, loss: float, count: int, predictions: Any, targets: Any, mask: NDArray | None
    ) -> None:
        """``loss`` is the batch's mean over ``count`` samples. As in Keras, metrics leave sample weights aside."""
        self.loss.add(loss * count, count)
        for metric in self.metrics:
            metric.update(predictions, targets, mask=mask)

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
