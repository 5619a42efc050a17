"""Cleaning samples before they are split: values that are not finite, samples that occur twice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydl.data.errors import DataError
from tinydl.data.validation import check_arrays


@dataclass(frozen=True)
class CleaningReport:
    """What ``clean`` found and did.

    Attributes:
        samples: how many there were, and ``kept`` how many are left.
        nonfinite: samples with a NaN or an infinity, dropped or filled.
        duplicates: samples equal to an earlier one, with the same label.
        contradictions: samples equal to an earlier one, with another label. They are never dropped,
            since which of the two labels is wrong is not for a program to say.
    """

    samples: int
    kept: int
    nonfinite: int
    duplicates: int
    contradictions: int

    def __str__(self) -> str:
        return (
            f"{self.kept} of {self.samples} samples kept: {self.nonfinite} not finite, "
            f"{self.duplicates} duplicates, {self.contradictions} with contradicting labels"
        )


def clean(
    x: NDArray,
    y: NDArray | None = None,
    *,
    nonfinite: str | float = "drop",
    duplicates: str = "keep",
) -> tuple[NDArray, NDArray | None, CleaningReport]:
    """Samples that can be trained on, and a report of what was changed.

    Args:
        x: (N, …).
        y: (N, …) labels or targets; a sample with a target that is not finite is always dropped.
        nonfinite: "drop" leaves out samples with NaN or infinity; "mean" puts the mean of the
            feature's finite values in their place; a number puts that number there.
        duplicates: "drop" keeps only the first of equal samples with equal labels; "keep" counts
            them.

    Raises:
        DataError: nothing is left, or a feature has no finite value to take the mean of.
    """
    if duplicates not in ("keep", "drop"):
        raise ValueError(f"duplicates must be 'keep' or 'drop', got {duplicates!r}")
    if isinstance(nonfinite, str) and nonfinite not in ("drop", "mean"):
        raise ValueError(f"nonfinite must be 'drop', 'mean' or a number, got {nonfinite!r}")
    check_arrays([(n, a) for n, a in (("x", x), ("y", y)) if a is not None], finite=False)
    bad = nonfinite_samples(x)
    no_target = np.zeros(len(x), bool) if y is None else nonfinite_samples(y)
    kept = ~no_target
    if nonfinite == "drop":
        kept &= ~bad
    elif bad.any():
        x = _fill(x, nonfinite)
    repeated, contradicting = find_duplicates(x, y)
    if duplicates == "drop":
        kept &= ~repeated
    if not kept.any():
        raise DataError(f"none of {len(x)} samples is left: all have NaN or infinity")
    report = CleaningReport(
        samples=len(x),
        kept=int(kept.sum()),
        nonfinite=int((bad | no_target).sum()),
        duplicates=int(repeated.sum()),
        contradictions=int(contradicting.sum()),
    )
    return x[kept], None if y is None else y[kept], report


def nonfinite_samples(x: NDArray) -> NDArray[np.bool_]:
    """(N,): which samples hold a NaN or an infinity."""
    if x.dtype.kind != "f":
        return np.zeros(len(x), bool)
    return ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))


def find_duplicates(
    x: NDArray, y: NDArray | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) twice: which samples equal an earlier one and its label; which equal one with another label."""
    first: dict[bytes, int] = {}
    repeated, contradicting = np.zeros(len(x), bool), np.zeros(len(x), bool)
    for k, sample in enumerate(np.ascontiguousarray(x)):
        earlier = first.setdefault(hashlib.blake2b(sample.data, digest_size=16).digest(), k)
        if earlier != k:
            same = y is None or np.array_equal(y[earlier], y[k])
            (repeated if same else contradicting)[k] = True
    return repeated, contradicting


def _fill(x: NDArray, value: str | float) -> NDArray:
    """Put the feature's mean over finite values, or a number, in place of what is not finite."""
    finite = np.isfinite(x)
    if value == "mean":
        counts = finite.sum(axis=0)
        if (counts == 0).any():
            feature = tuple(int(k) for k in np.argwhere(counts == 0)[0])
            raise DataError(f"feature {feature} of x has no finite value to take a mean of")
        value = np.where(finite, x, 0).sum(axis=0, dtype=np.float64) / counts
    return np.where(finite, x, value).astype(x.dtype)
