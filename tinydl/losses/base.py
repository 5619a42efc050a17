"""What every loss does alike: check its inputs, weigh and mask samples, average."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydl.devices import beside, is_on_device, later, now, to_host


class Loss:
    """The mean loss of a batch, and its gradient by the predictions.

    With ℓ_i the loss of sample i, w_i its weight (1 unless given) and k_i whether the mask keeps it:

        total = Σ_i k_i w_i ℓ_i        count = Σ_i k_i        loss = total / count
        dL/dp_i = k_i w_i dℓ_i/dp_i / count

    A sample is a row of the predictions: of (N, K) each of the N, of (N, T, K) each of the N·T time steps. Weights
    change the total, never the count (as in Keras), so that a weight of 2 acts like seeing the sample twice as
    strongly, not like a change of everyone else's share. Where nothing is kept the loss and its gradient are 0.

    Averages over several processes are made of sums: reduce ``total`` and ``count``, then ``backward(count=…)``
    with the reduced count.

    A subclass writes ``check_targets`` and ``weighted``.

    Attributes:
        takes_logits: whether the predictions are scores to which the loss itself applies softmax or sigmoid.
        total, count: sums over the last batch, after ``forward``.
    """

    takes_logits = False

    def forward(
        self,
        predictions: NDArray,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: NDArray | None = None,
    ) -> float:
        """The mean loss. ``sample_weight`` is (N,) or (N, T); ``mask`` is bool, (N,) or (N, T), True = keep."""
        self.start(predictions, targets, sample_weight, mask)
        self.total = float(now(self.summed))
        return self.total / max(self.count, 1)

    def start(
        self,
        predictions: NDArray,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: NDArray | None = None,
    ) -> None:
        """``forward`` without the number: for predictions on a device, which need not be waited for.

        Targets and weights are the host's in any case: they are judged here, and copied where the predictions are.
        """
        predictions = self.check_predictions(predictions)
        samples = self.samples_shape(predictions)
        keep = None if mask is None else self.check_mask(to_host(mask), samples)
        checked = self.check_targets(predictions, np.asarray(targets), keep)
        weight = self.check_weight(sample_weight, samples, keep, predictions.dtype)

        on_device = is_on_device(predictions)
        if on_device:
            checked = beside(checked, predictions)
            weight = None if weight is None else beside(weight, predictions)
        losses, self.grad = self.weighted(predictions, checked, weight)
        summed = losses.sum(dtype=np.float64) if losses.ndim else losses
        self.summed = later(summed) if on_device else summed
        self.count = math.prod(samples) if keep is None else int(np.count_nonzero(keep))

    def mean_later(self) -> Callable[[], float]:
        """The mean of what was just started; to ask for it waits until it is there."""
        count = self.count
        summed, self.summed = self.summed, None  # not to be kept beyond the step
        return lambda: float(now(summed)) / max(count, 1)

    def backward(self, count: float | None = None) -> NDArray:
        """dL/d(predictions) of the last ``forward``, in their shape and dtype.

        ``count`` replaces the batch's own count, for a mean over the batches of several processes.
        """
        return self.grad * (1.0 / max(self.count if count is None else count, 1))

    # ---- what a subclass defines --------------------------------------------------------------------------

    def check_targets(
        self, predictions: NDArray, targets: NDArray, keep: NDArray | None
    ) -> NDArray:
        """The targets in the form that ``weighted`` takes, or an error that names the first bad one.

        Targets that the mask drops (``keep`` False) are not judged: padding may hold anything.
        """
        raise NotImplementedError(f"{type(self).__name__} must define check_targets")

    def weighted(
        self, predictions: NDArray, targets: NDArray, weight: NDArray | None
    ) -> tuple[NDArray, NDArray]:
        """(w ⊙ ℓ in any shape, w ⊙ dℓ/dp in that of the predictions); ``weight`` (M,) is flat over samples.

        The first may also be the sum of all w ⊙ ℓ already, in float64, of shape ().
        """
        raise NotImplementedError(f"{type(self).__name__} must define weighted")

    def samples_shape(self, predictions: NDArray) -> tuple[int, ...]:
        """The axes that count samples: all but the last."""
        return predictions.shape[:-1]

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain data."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"

    # ---- checks that all losses share ---------------------------------------------------------------------

    def check_predictions(self, predictions: NDArray) -> NDArray:
        if not is_on_device(predictions):
            predictions = np.asarray(predictions)
        if predictions.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"{self.label}: predictions must be float32 or float64, got {predictions.dtype}"
            )
        if predictions.ndim < 2:
            raise ValueError(
                f"{self.label}: predictions must be (N, K) or (N, T, K), got shape {predictions.shape}"
            )
        return predictions

    def check_mask(self, mask: NDArray | None, samples: tuple[int, ...]) -> NDArray | None:
        if mask is None:
            return None
        mask = np.asarray(mask)
        if mask.dtype != np.bool_:
            raise TypeError(f"{self.label}: a mask must be bool (True = keep), got {mask.dtype}")
        return self._spread(mask, samples, "mask")

    def check_weight(
        self,
        sample_weight: ArrayLike | None,
        samples: tuple[int, ...],
        keep: NDArray | None,
        dtype: np.dtype,
    ) -> NDArray | None:
        """One weight per sample, 0 where the mask drops it, flat; None where all are 1."""
        if sample_weight is None:
            return None if keep is None else keep.astype(dtype).ravel()
        weight = np.asarray(sample_weight)
        if weight.dtype.kind not in "fiub":
            raise TypeError(f"{self.label}: sample_weight must be numbers, got {weight.dtype}")
        weight = self._spread(weight.astype(dtype), samples, "sample_weight")
        if keep is not None:
            weight = np.where(keep, weight, 0)
        self.refuse(~np.isfinite(weight), weight, "sample_weight is not finite")
        return weight.ravel()

    def _spread(self, array: NDArray, samples: tuple[int, ...], name: str) -> NDArray:
        """(N,) or (N, T) to the shape of the samples: a value for a sequence holds for each of its steps."""
        if array.ndim == 0 or array.shape != samples[: array.ndim]:
            raise ValueError(
                f"{self.label}: {name} must have shape {samples} or (N,), got {array.shape}"
            )
        trailing = (1,) * (len(samples) - array.ndim)
        return np.broadcast_to(array.reshape(array.shape + trailing), samples)

    def as_numbers(self, targets: NDArray, dtype: np.dtype) -> NDArray:
        if targets.dtype.kind not in "fiub":
            raise TypeError(f"{self.label}: targets must be numbers, got {targets.dtype}")
        return targets.astype(dtype, copy=False)

    def refuse(self, bad: NDArray, values: NDArray, problem: str) -> None:
        """An error that names the first element of ``values`` for which ``bad`` holds, if there is one."""
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            where = index[0] if len(index) == 1 else index
            raise ValueError(f"{self.label}: {problem}: {values[index]} at index {where}")

    @property
    def label(self) -> str:
        return type(self).__name__
