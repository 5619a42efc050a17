"""Losses and metrics for models of several outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from tinydl.losses import Loss
from tinydl.metrics import Metric


class SeveralLosses:
    """L = Σ_k c_k L_k(p_k, y_k), with one loss L_k and one weight c_k for each output p_k.

    Predictions, targets and gradients are lists in the order of the outputs; a sample weight holds for all.
    """

    def __init__(self, losses: list[Loss], weights: list[float] | None = None) -> None:
        self.losses = losses
        self.weights = [1.0] * len(losses) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(losses):
            raise ValueError(
                f"there are {len(losses)} losses, loss_weights has {len(self.weights)}"
            )

    def forward(
        self,
        predictions: list[NDArray],
        targets: list[NDArray],
        sample_weight: Any = None,
        mask: Any = None,
    ) -> float:
        self.start(predictions, targets, sample_weight, mask)
        return self.mean_later()()

    def start(
        self, predictions: Any, targets: Any, sample_weight: Any = None, mask: Any = None
    ) -> None:
        """See ``Loss.start``."""
        for name, given in (("outputs", predictions), ("targets", targets)):
            if not isinstance(given, list | tuple) or len(given) != len(self.losses):
                number = len(given) if isinstance(given, list | tuple) else 1
                raise ValueError(f"there are {len(self.losses)} losses, but {number} {name}")
        masks = mask if isinstance(mask, list | tuple) else [mask] * len(self.losses)
        terms = zip(self.losses, predictions, targets, masks, strict=True)
        for loss, p, y, m in terms:
            loss.start(p, y, sample_weight, m)
        self.count = self.losses[0].count

    def mean_later(self) -> Callable[[], float]:
        """See ``Loss.mean_later``."""
        means = [loss.mean_later() for loss in self.losses]
        return lambda: sum(c * mean() for c, mean in zip(self.weights, means, strict=True))

    def backward(self, count: float | None = None) -> list[NDArray]:
        """c_k dL_k/dp_k for each output; ``count`` replaces the batch's own, in proportion for each loss."""
        share = 1.0 if count is None else count / max(self.count, 1)
        return [
            c * loss.backward(loss.count * share)
            for c, loss in zip(self.weights, self.losses, strict=True)
        ]


class MetricOfOutput(Metric):
    """A metric that looks at one output of several. Its name begins with that of the output's layer."""

    def __init__(self, metric: Metric, output: int, layer_name: str) -> None:
        self.metric = metric
        self.output = output
        super().__init__(f"{layer_name}_{metric.name}")

    def update(
        self, predictions: Any, targets: Any, sample_weight: Any = None, mask: Any = None
    ) -> None:
        own_mask = mask[self.output] if isinstance(mask, list | tuple) else mask
        k = self.output
        self.metric.update(predictions[k], targets[k], sample_weight, own_mask)

    def reset(self) -> None:
        self.metric.reset()

    def state(self) -> NDArray:
        return self.metric.state()

    def load_state(self, state: NDArray) -> None:
        self.metric.load_state(state)

    def result(self, state: NDArray | None = None) -> Any:
        return self.metric.result(state)
