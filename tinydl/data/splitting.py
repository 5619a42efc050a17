"""Splitting samples into two parts that have the same share of every class."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinydl.data.errors import DataError


def stratified_indices(
    labels: NDArray, fraction: float, seed: int = 0, class_names: Sequence[str] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the samples that stay and of those, about ``fraction`` of each class, that are
    split off.

    Args:
        labels: (N,) whole numbers.
        fraction: in (0, 1).
        class_names: where given, every one of these classes must occur.

    Returns:
        Two sorted arrays which together hold each position once.

    Raises:
        DataError: a class with no sample, or with fewer than the two that a split needs; a part too
            small to hold every class.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            "a stratified split needs one integer label a sample, got labels of shape "
            f"{labels.shape} ({labels.dtype})"
        )
    if not (isinstance(fraction, numbers.Real) and 0 < fraction < 1):
        raise ValueError(f"the fraction to split off must be between 0 and 1, got {fraction!r}")
    if len(labels) == 0:
        raise DataError("cannot split an empty data set")
    classes, counts = np.unique(labels, return_counts=True)
    present = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    for label in range(len(class_names)) if class_names else present:
        if present.get(label, 0) < 2:
            name = f" ('{class_names[label]}')" if class_names else ""
            count = "no sample" if label not in present else "only one sample"
            raise DataError(
                f"class {label}{name} has {count}: a stratified split needs at least two, "
                "one for each part"
            )
    split_off = math.ceil(fraction * len(labels) - 1e-9)  # 20 % of 1,797 are 360
    if min(split_off, len(labels) - split_off) < len(present):
        raise DataError(
            f"splitting {len(labels)} samples by {fraction} leaves a part of "
            f"{min(split_off, len(labels) - split_off)}: too few for {len(present)} classes"
        )
    from sklearn.model_selection import train_test_split

    kept, taken = train_test_split(
        np.arange(len(labels)), test_size=split_off, stratify=labels, random_state=seed
    )
    return np.sort(kept), np.sort(taken)


def stratified_split(
    x: NDArray,
    y: NDArray,
    test_fraction: float = 0.2,
    seed: int = 0,
    class_names: Sequence[str] = (),
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """(x_train, x_test, y_train, y_test), every class with the same share in both parts.

    Shapes: x (N, …), y (N,) whole numbers. Both parts keep the samples' order.

    Raises:
        DataError: x and y of different lengths, or as of ``stratified_indices``.
    """
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y):
        raise DataError(f"x has {len(x)} samples, y has {len(y)}: they must have the same number")
    train, test = stratified_indices(y, test_fraction, seed, class_names)
    return x[train], x[test], y[train], y[test]
