"""Class labels: names to numbers, one-hot vectors, how often each class occurs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinydl.data.errors import DataError
from tinydl.data.validation import check_finite, check_labels


def encode_labels(names: Sequence[str] | NDArray) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels 0 … K-1 for class names, in sorted order, and the names: ``class_names[label]``.

    Raises:
        DataError: a missing name, or text beside numbers.
    """
    array = np.asarray(names)
    if array.dtype.kind == "f":
        check_finite(array, "names")
    try:
        class_names, labels = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise DataError(f"class names must be all text or all numbers: {error}") from None
    return labels.reshape(-1).astype(np.int64), tuple(str(name) for name in class_names)


def one_hot(labels: NDArray, num_classes: int, dtype: DTypeLike = np.float32) -> NDArray:
    """(…,) labels to (…, num_classes): 1 at the label, 0 elsewhere.

    Raises:
        DataError: a label outside 0 … num_classes - 1, which would otherwise be wrapped or lost.
    """
    labels = np.asarray(labels)
    if labels.size:
        check_labels(np.atleast_1d(labels), num_classes)
    return (labels[..., None] == np.arange(num_classes)).astype(dtype)


def class_histogram(labels: NDArray, class_names: Sequence[str] = ()) -> dict[str, int]:
    """How many samples each class has, classes without any among them."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iub" or (labels.size and labels.min() < 0):
        raise DataError(f"labels must be integers >= 0, got dtype {labels.dtype}")
    counts = np.bincount(labels.reshape(-1), minlength=len(class_names))
    if class_names and len(counts) > len(class_names):
        raise DataError(f"label {len(counts) - 1} has no name: there are {len(class_names)} names")
    keys = class_names or [str(label) for label in range(len(counts))]
    return dict(zip(keys, counts.tolist(), strict=True))
