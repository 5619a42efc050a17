"""Checks that arrays can be trained on, each with one error that names the first bad sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinydl.data.errors import DataError

CHUNK_BYTES = 1 << 20  # arrays are scanned in pieces that stay in the processor's cache


def check_samples(
    x: NDArray,
    y: NDArray | None = None,
    sample_weight: NDArray | None = None,
    *,
    num_classes: int | None = None,
) -> None:
    """Refuse arrays that cannot be trained on.

    Args:
        x: (N, …), numbers, all finite.
        y: (N, …), numbers, all finite; with ``num_classes``, whole numbers in 0 … num_classes - 1.
        sample_weight: (N,), finite and not negative.

    Raises:
        DataError: with the first sample at fault.
    """
    named = {"x": x, "y": y, "sample_weight": sample_weight}
    check_arrays([(name, array) for name, array in named.items() if array is not None])
    if y is not None and num_classes is not None:
        check_labels(y, num_classes)


def check_arrays(named: Sequence[tuple[str, NDArray]], *, finite: bool = True) -> None:
    """Refuse (name, array) pairs that do not hold the same number of samples, at least one, of
    finite numbers.

    ``finite=False`` leaves out the search for NaN and infinity, the one check that reads all of the
    data.
    """
    for name, array in named:
        check_numbers(array, name)
    first = named[0][1]
    if len(first) == 0:
        raise DataError(f"the data set is empty: {named[0][0]} has shape {first.shape}")
    for name, array in named:
        if len(array) != len(first):
            raise DataError(
                f"{named[0][0]} has {len(first)} samples, {name} has {len(array)}: "
                "they must have the same number"
            )
    for name, array in named:
        if finite:
            check_finite(array, name)
        if name == "sample_weight" and (array < 0).any():
            sample = int(np.argwhere(array < 0)[0][0])
            raise DataError(f"the sample_weight of sample {sample} is negative: weights are >= 0")


def check_numbers(array: NDArray, name: str) -> None:
    """Refuse what is not an array of real numbers with at least one axis."""
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name} must be a NumPy array, got {type(array).__name__}")
    if array.dtype.kind not in "biuf":
        hint = " (rows of different lengths?)" if array.dtype.kind == "O" else ""
        raise DataError(f"{name} has dtype {array.dtype}{hint}: expected integers or floats")
    if array.ndim == 0:
        raise DataError(f"{name} is a single number: expected samples along the first axis")


def check_finite(array: NDArray, name: str) -> None:
    """Refuse NaN and infinity, naming the first sample and the position in it."""
    if array.dtype.kind != "f" or array.size == 0:
        return
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        finite = np.isfinite(array[start : start + rows])
        if not finite.all():
            where = np.argwhere(~finite)[0]
            where[0] += start
            sample, position = int(where[0]), tuple(int(i) for i in where[1:])
            at = f" at position {position}" if position else ""
            raise DataError(
                f"{name} holds {array[tuple(where)]} in sample {sample}{at}: every value must be "
                "finite (tinydl.data.clean drops or fills such samples)"
            )


def check_labels(y: NDArray, num_classes: int, class_names: Sequence[str] = ()) -> None:
    """Refuse labels that are not whole numbers in 0 … num_classes - 1, naming the first."""
    if y.dtype.kind not in "iub":
        raise DataError(f"labels must be integers, got dtype {y.dtype}")
    bad = (_rows(y) < 0) | (_rows(y) >= num_classes)
    if bad.any():
        sample = int(np.flatnonzero(bad.any(axis=1))[0])
        label = _rows(y)[sample][bad[sample]][0]
        raise DataError(
            f"label {label} of sample {sample} is out of range: {num_classes} classes have labels "
            f"0 to {num_classes - 1}"
        )


def _rows(array: NDArray) -> NDArray:
    """(N, …) as (N, M), also where N is 0."""
    return array.reshape(len(array), int(np.prod(array.shape[1:])))
