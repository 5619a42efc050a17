"""Characters as numbers: a vocabulary, padded sequences, windows, and what comes next.

Index 0 is padding, as ``Embedding(mask_zero=True)`` has it; characters are 1, 2, … in sorted order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import whole_number
from tinydl.data.errors import DataError, existing

PADDING = 0


class Vocabulary:
    """The characters of a text, each with its index.

    Args:
        characters: each a string of length one, in the order of their indices 1, 2, …
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = tuple(characters)
        self._index = {c: k for k, c in enumerate(self.characters, start=PADDING + 1)}
        if len(self._index) != len(self.characters) or any(len(c) != 1 for c in self.characters):
            raise ValueError(
                f"a vocabulary holds single characters, each once: got {self.characters}"
            )

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The characters that occur in ``text``, sorted."""
        return cls(sorted(set(text)))

    def __len__(self) -> int:
        """Number of indices, padding among them: ``Embedding(len(vocabulary), …)``."""
        return len(self.characters) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """``class_names[index]`` is the character; padding is the empty string."""
        return ("", *self.characters)

    def encode(self, text: str) -> NDArray[np.int64]:
        """(len(text),) indices; an unknown character is an error that names it and its position."""
        try:
            return np.fromiter((self._index[c] for c in text), np.int64, len(text))
        except KeyError as error:
            at = next(k for k, c in enumerate(text) if c not in self._index)
            raise DataError(
                f"character {error.args[0]!r} at position {at} is not in the vocabulary"
            ) from None

    def decode(self, indices: NDArray | Sequence[int]) -> str:
        """The text of indices (T,); padding gives nothing."""
        names = self.class_names
        flat = np.asarray(indices).reshape(-1)
        if flat.size and not (flat.min() >= 0 and flat.max() < len(names)):
            raise DataError(
                f"indices must be in 0 to {len(names) - 1}, got {flat.min()} to {flat.max()}"
            )
        return "".join(names[int(k)] for k in flat)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, its line ends as \\n.

    Raises:
        MissingDataError: no such file.
        DataError: an empty file, or bytes that are not UTF-8 (their position is named).
    """
    path = existing(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}: {error.reason}") from None
    if not text:
        raise DataError(f"{path}: the file is empty")
    return text


def pad_sequences(
    sequences: Sequence[NDArray | Sequence[int]], length: int | None = None
) -> NDArray[np.int64]:
    """Sequences of different lengths as one array (N, length), filled up with padding at their
    ends.

    ``length`` is by default that of the longest.

    Raises:
        DataError: a sequence that is longer than ``length``, whose end would be lost without a
            word, or that does not hold whole numbers.
    """
    arrays = [np.asarray(sequence) for sequence in sequences]
    for k, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise DataError(f"sequence {k} must hold whole numbers, got {sequences[k]!r}")
    longest = max(map(len, arrays), default=0)
    length = longest if length is None else length
    if longest > length:
        at = next(k for k, array in enumerate(arrays) if len(array) > length)
        raise DataError(f"sequence {at} has {len(arrays[at])} steps, more than length={length}")
    padded = np.full((len(arrays), length), PADDING, np.int64)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def windows(indices: NDArray, length: int, stride: int | None = None) -> NDArray:
    """(N, length): pieces of a long sequence (T,), beginning every ``stride`` steps (by default
    ``length``).

    What is left at the end, shorter than ``length``, is dropped.

    Raises:
        DataError: a sequence that is shorter than ``length``, or no sequence of numbers.
    """
    indices = np.asarray(indices)
    length = whole_number("windows: length", length)
    every = length if stride is None else whole_number("windows: stride", stride)
    if indices.ndim != 1 or len(indices) < length:
        raise DataError(
            f"windows of length {length} do not fit a sequence of shape {indices.shape}"
        )
    return np.lib.stride_tricks.sliding_window_view(indices, length)[::every].copy()


def next_step_pairs(sequences: NDArray) -> tuple[NDArray, NDArray]:
    """(N, T + 1) as inputs (N, T) and targets (N, T): each target is the step after its input."""
    sequences = np.asarray(sequences)
    if sequences.ndim < 2:
        raise DataError(f"expected sequences (N, T + 1), got shape {sequences.shape}")
    return np.ascontiguousarray(sequences[:, :-1]), np.ascontiguousarray(sequences[:, 1:])
