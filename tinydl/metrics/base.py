"""What every metric is: sums in float64, from which its result is made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Metric:
    """Sums over the samples seen since ``reset``, and the value made of them.

    Never an average of averages: batches of different sizes, or processes with different shares, only add
    their sums. Across processes: add up the ``state()`` arrays, then ``result(state)``.

    A subclass writes ``sums`` and ``value``.
    """

    has_threshold = False  # True: takes from_logits, to tell yes from no by a single output

    def __init__(self, name: str | None = None) -> None:
        self.name = name or default_name(type(self))
        self._state: NDArray = self.empty_state()

    def update(
        self,
        predictions: NDArray,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: NDArray | None = None,
    ) -> None:
        """Take a batch into account: shapes as for losses, ``sample_weight`` and ``mask`` (N,) or (N, T)."""
        predictions, targets = np.asarray(predictions), np.asarray(targets)
        # With one output, or one-dimensional predictions, every element before the last axis is a sample.
        samples = predictions.shape[:-1] if predictions.ndim > 1 else predictions.shape
        weight = np.ones(samples)
        for name, factor in (("sample_weight", sample_weight), ("mask", mask)):
            if factor is not None:
                weight = weight * spread(
                    np.asarray(factor, np.float64), samples, f"{self.name}: {name}"
                )
        added = self.sums(predictions, targets, weight)
        self._state = self._state + added if self._state.size else added

    def sums(self, predictions: NDArray, targets: NDArray, weight: NDArray) -> NDArray:
        """What a batch adds to the state; ``weight`` has one entry per sample, 0 where the mask drops it."""
        raise NotImplementedError(
            f"{type(self).__name__} must define sums(predictions, targets, weight)"
        )

    def value(self, state: NDArray) -> Any:
        """The metric made of the sums."""
        raise NotImplementedError(f"{type(self).__name__} must define value(state)")

    def empty_state(self) -> NDArray:
        """The sums before the first sample."""
        return np.zeros(2)

    def reset(self) -> None:
        self._state = self.empty_state()

    def state(self) -> NDArray:
        """The sums, a float64 array that may be added up over processes."""
        return self._state.copy()

    def load_state(self, state: NDArray) -> None:
        """Go on from the sums that ``state()`` gave."""
        self._state = np.array(state, np.float64)

    def result(self, state: NDArray | None = None) -> Any:
        """The value over all samples since ``reset``, or of sums given (added up over processes)."""
        return self.value(self._state if state is None else state)

    def config(self) -> dict[str, Any]:
        return {"name": self.name}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


class MeanLoss(Metric):
    """The mean of a loss over all samples: Σ total / Σ count, from what ``Loss.forward`` leaves behind."""

    def __init__(self, name: str = "loss") -> None:
        super().__init__(name)

    def add(self, total: float, count: float) -> None:
        self._state += (total, count)

    def value(self, state):
        return ratio(state[0], state[1])

    def update(self, predictions, targets, sample_weight=None, mask=None):
        raise TypeError("MeanLoss takes a loss's sums: add(loss.total, loss.count)")


def ratio(numerator: float, denominator: float) -> float:
    """0 where there is nothing to divide by: no sample seen, or a class that never occurs."""
    return float(numerator / denominator) if denominator else 0.0


def spread(factor: NDArray, samples: tuple[int, ...], label: str) -> NDArray:
    """(N,) or (N, T) to the shape of the samples: a value for a sequence holds for each of its steps."""
    if factor.ndim == 0 or factor.shape != samples[: factor.ndim]:
        raise ValueError(f"{label} must have shape {samples} or (N,), got {factor.shape}")
    return np.broadcast_to(
        factor.reshape(factor.shape + (1,) * (len(samples) - factor.ndim)), samples
    )


def default_name(cls: type) -> str:
    """``TopKAccuracy`` -> ``top_k_accuracy``."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)
    return name.lstrip("_")
