"""Deterministic preparation of batches, alike in training and in prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import finite_number
from tinydl.data.errors import DataError
from tinydl.data.validation import check_numbers

PIECE_BYTES = 1 << 20  # stays in the processor's cache


class Standardize:
    """z = (x - mean) / std: every feature with mean 0 and standard deviation 1.

    Fit it on the training samples alone: statistics that have seen the test set leak it into
    training. Takes any dtype, uint8 images among them; float64 stays float64, everything else
    becomes float32.

    Args:
        mean, std: numbers, or arrays that broadcast against a sample; one number per channel, (C,),
            for images. A std of 0 (a feature that never changes) counts as 1.
    """

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = np.asarray(mean, np.float64)
        self.std = np.asarray(std, np.float64)
        for name, array in (("mean", self.mean), ("std", self.std)):
            if not np.isfinite(array).all():
                raise DataError(f"Standardize: {name} must be finite, got {array}")
        if (self.std < 0).any():
            raise DataError(f"Standardize: std must be >= 0, got {self.std}")

    @classmethod
    def fit(cls, x: NDArray, per: str = "channel") -> Standardize:
        """Mean and (population) standard deviation of training samples.

        Args:
            x: (N, …, C).
            per: "channel" takes the statistics over all axes but the last, giving (C,): over
                samples and pixels for images, over samples for a table (N, C). "feature" takes them
                over the samples only, giving every pixel its own.
        """
        if per not in ("channel", "feature"):
            raise ValueError(f"per must be 'channel' or 'feature', got {per!r}")
        check_numbers(x, "x")
        if x.size == 0:
            raise DataError(f"Standardize.fit needs at least one sample, got shape {x.shape}")
        positions = tuple(range(x.ndim - 2)) if per == "channel" and x.ndim > 1 else ()
        # Two passes in float64: the one-pass formula E[x²] - E[x]² cancels where the mean is large.
        mean = _sample_mean(x).mean(axis=positions)
        if not np.isfinite(mean).all():
            raise DataError("Standardize.fit: the samples hold NaN or infinity")
        center = _spread(mean, x.shape[1:], np.dtype(np.float64))
        variance = _sample_mean(x, center.reshape(-1)).mean(axis=positions)
        return cls(mean, np.sqrt(variance))

    def __call__(self, x: NDArray) -> NDArray:
        dtype = x.dtype if x.dtype == np.float64 else np.dtype(np.float32)
        # Spread over a whole sample, so that the inner loop runs over H·W·C numbers and not over C.
        scale = 1.0 / np.where(self.std == 0, 1.0, self.std)
        z = np.subtract(x, _spread(self.mean, x.shape[1:], dtype), dtype=dtype)
        z *= _spread(scale, x.shape[1:], dtype)
        return z

    def invert(self, z: NDArray) -> NDArray:
        """x = z * std + mean, e.g. to show an image that was standardized."""
        return z * np.where(self.std == 0, 1.0, self.std) + self.mean

    def config(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def __repr__(self) -> str:
        return f"Standardize(mean={_short(self.mean)}, std={_short(self.std)})"


class Rescale:
    """y = scale * x + offset, e.g. ``Rescale(1 / 255)`` for uint8 images to [0, 1]."""

    def __init__(self, scale: float, offset: float = 0.0) -> None:
        self.scale = finite_number("Rescale: scale", scale)
        self.offset = finite_number("Rescale: offset", offset)

    def __call__(self, x: NDArray) -> NDArray:
        dtype = x.dtype if x.dtype == np.float64 else np.dtype(np.float32)
        return np.multiply(x, dtype.type(self.scale), dtype=dtype) + dtype.type(self.offset)

    def __repr__(self) -> str:
        return f"Rescale({self.scale!r}, {self.offset!r})"


def _sample_mean(x: NDArray, center: NDArray | None = None) -> NDArray[np.float64]:
    """The mean over samples of x, or of (x - center)², shaped as a sample.

    Piece by piece through one small buffer, so that no copy of x in float64 is ever made.
    """
    rows = x.reshape(len(x), -1)
    step = max(1, PIECE_BYTES // (8 * rows.shape[1]))
    buffer = np.empty((min(step, len(rows)), rows.shape[1]))
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), step):
        piece = buffer[: len(rows) - start]
        piece[...] = rows[start : start + step]
        if center is not None:
            piece -= center
            piece *= piece
        total += piece.sum(axis=0)
    return (total / len(rows)).reshape(x.shape[1:])


def _spread(values: NDArray, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    try:
        return np.broadcast_to(values, shape).astype(dtype, order="C")
    except ValueError:
        raise DataError(
            f"Standardize: mean and std of shape {values.shape} do not fit samples of shape {shape}"
        ) from None


def _short(array: NDArray) -> str:
    return np.array2string(array, precision=4, threshold=8, separator=", ")
