"""Arrays to batches: shuffled, augmented, transformed, prepared ahead in the background."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinydl.arguments import whole_number
from tinydl.data.errors import DataError
from tinydl.data.prefetch import prefetch as in_background
from tinydl.data.sampling import SampleRandom, epoch_order, fresh_seed
from tinydl.data.validation import check_arrays

Transform = Callable[[NDArray], NDArray]
Augmentation = Callable[[NDArray, SampleRandom], NDArray]


class DataLoader:
    """Batches of samples, epoch after epoch, the same for the same seed.

        loader = DataLoader(x, y, transform=Standardize.fit(x), augment=RandomFlip())
        for epoch in range(10):
            for xb, yb in loader.batches(epoch):
                ...

    What is in batch b of an epoch is a pure function of (seed, epoch, b). A run that was stopped
    goes on with ``batches(epoch, start=b)`` as if it had never stopped.

    Args:
        x: samples, (N, …), or a list of such arrays for a model of several inputs. Floats and uint8
            (images) become ``dtype``; other integers (token indices) stay as they are.
        y: labels or targets, (N, …), or a list of arrays. Floats become ``dtype``, integers stay.
        sample_weight: (N,), not negative.
        batch_size: samples a batch; the last batch of an epoch may be smaller, unless
            ``drop_last``.
        shuffle: a new order each epoch; otherwise the order of the array.
        seed: of the order and the augmentation; ``None`` draws a fresh one.
        transform: a function of a batch, or a list of them, applied in training and prediction
            alike (``Standardize``).
        augment: random functions of (batch, ``SampleRandom``), or a list of them, applied before
            ``transform`` to the samples as they are stored (``RandomCrop``, ``RandomFlip``,
            ``Cutout``).
        prefetch: batches prepared ahead in a background thread; 0 prepares each when it is asked
            for.
        check: look for NaN and infinity once, here. ``False`` spares a pass over arrays known to be
            sound, or mapped from a file larger than memory.

    Raises:
        DataError: an empty data set, arrays of different lengths, a dtype that is not numbers, NaN
            or infinity, a batch larger than the data.
    """

    def __init__(
        self,
        x: NDArray | Sequence[NDArray],
        y: NDArray | Sequence[NDArray] | None = None,
        sample_weight: NDArray | None = None,
        *,
        batch_size: int = 32,
        shuffle: bool = True,
        seed: int | None = 0,
        transform: Transform | Sequence[Transform] | None = None,
        augment: Augmentation | Sequence[Augmentation] | None = None,
        prefetch: int = 2,
        drop_last: bool = False,
        dtype: DTypeLike = "float32",
        check: bool = True,
    ) -> None:
        self.x = _arrays("x", x)
        self.y = None if y is None else _arrays("y", y)
        self.sample_weight = None if sample_weight is None else np.asarray(sample_weight)
        named = _named(self.x, self.y, self.sample_weight)
        check_arrays(named, finite=check)
        self.samples = len(named[0][1])
        self.batch_size = whole_number("batch_size", batch_size)
        self.prefetch = whole_number("prefetch", prefetch, least=0)
        if batch_size > self.samples:
            raise DataError(
                f"batch_size {batch_size} is larger than the data set ({self.samples} samples): "
                f"expected 1 to {self.samples}"
            )
        self.shuffle = shuffle
        self.seed = fresh_seed() if seed is None else seed
        self.transforms = _functions("transform", transform)
        self.augmentations = _functions("augment", augment)
        if isinstance(self.x, list) and (self.transforms or self.augmentations):
            raise ValueError("transform and augment take one array, x is a list of arrays")
        self.drop_last = drop_last
        self.rank, self.size = 0, 1  # which of how many equal parts of each batch (see ``part``)
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(self.samples, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple]:
        """The batches of epoch 0; ``batches(epoch)`` gives each epoch an order of its own."""
        return self.batches(0)

    def batches(self, epoch: int, start: int = 0) -> Generator[tuple, None, None]:
        """The batches of an epoch from ``start`` on: (x, y), or (x, y, sample_weight) where given.

        Without labels y is None. Closing the iterator, or dropping it, ends its background thread.
        """
        whole_number("epoch", epoch, least=0)
        whole_number("start", start, least=0)
        if start > len(self):
            raise ValueError(f"start={start} is beyond the end: an epoch has {len(self)} batches")
        return in_background(self._prepare(epoch, start), self.prefetch)

    def part(self, rank: int, size: int) -> DataLoader:
        """This loader as one of ``size`` processes sees it: the rank-th of equal parts of every batch.

        The parts of all ranks make up the batch: no sample is lost, none is seen twice, whatever the lengths. In
        a last batch of fewer samples than processes some parts are empty.
        """
        if not 0 <= rank < size:
            raise ValueError(f"rank must be in 0 … {size - 1}, got {rank}")
        part = copy.copy(self)
        part.rank, part.size = rank, size
        return part

    def indices(self, epoch: int, batch: int) -> NDArray[np.int64]:
        """Which samples are in a batch, as positions in ``x``."""
        return self._of_batch(self._order(epoch), batch)

    def _prepare(self, epoch: int, start: int) -> Iterator[tuple]:
        order = self._order(epoch)
        for batch in range(start, len(self)):
            yield self._load(epoch, self._of_batch(order, batch))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return epoch_order(self.samples, shuffle=self.shuffle, seed=self.seed, epoch=epoch)

    def _of_batch(self, order: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
        """The one place that says which samples this process reads."""
        whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        n = len(whole)
        return whole[self.rank * n // self.size : (self.rank + 1) * n // self.size]

    def _load(self, epoch: int, indices: NDArray[np.int64]) -> tuple:
        x = _take(self.x, indices)
        if self.augmentations:
            random = SampleRandom(self.seed, epoch, indices)
            for augment in self.augmentations:
                x = self._same_samples(augment, augment(x, random), indices)
        for transform in self.transforms:
            x = self._same_samples(transform, transform(x), indices)
        batch = (self._as_input(x), self._as_target(_take(self.y, indices)))
        if self.sample_weight is None:
            return batch
        return (*batch, self.sample_weight[indices].astype(self.dtype, copy=False))

    def _same_samples(self, function: Any, x: Any, indices: NDArray) -> NDArray:
        """A user's function must give back as many samples as it got."""
        if not isinstance(x, np.ndarray) or len(x) != len(indices):
            got = f"shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise ValueError(
                f"{function!r} must return an array of {len(indices)} samples, got {got}"
            )
        return x

    def _as_input(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self._as_input(array) for array in x]
        is_value = x.dtype.kind == "f" or x.dtype == np.uint8
        return np.ascontiguousarray(x, self.dtype if is_value else None)

    def _as_target(self, y: Any) -> Any:
        if isinstance(y, list):
            return [self._as_target(array) for array in y]
        return y.astype(self.dtype, copy=False) if y is not None and y.dtype.kind == "f" else y


def _arrays(name: str, data: Any) -> Any:
    """One array, or a list of arrays; lists of numbers become an array."""
    if isinstance(data, list | tuple) and data and all(isinstance(a, np.ndarray) for a in data):
        return list(data)
    try:
        return np.asanyarray(data)
    except ValueError as error:
        raise DataError(f"{name} is no array (rows of different lengths?): {error}") from None


def _take(data: Any, indices: NDArray) -> Any:
    """The chosen samples as new arrays in memory, so that a batch may be changed without harm."""
    if data is None:
        return None
    if isinstance(data, list):
        return [_take(array, indices) for array in data]
    return np.asarray(data[indices])


def _named(x: Any, y: Any, sample_weight: Any) -> list[tuple[str, NDArray]]:
    """All arrays with their names: ("x", …), or ("x[0]", …), ("x[1]", …) for a list of them."""
    named: list[tuple[str, NDArray]] = []
    for name, data in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        if isinstance(data, list):
            named += [(f"{name}[{k}]", array) for k, array in enumerate(data)]
        elif data is not None:
            named.append((name, data))
    return named


def _functions(name: str, given: Any) -> tuple[Callable, ...]:
    functions = (
        () if given is None else tuple(given) if isinstance(given, list | tuple) else (given,)
    )
    for function in functions:
        if not callable(function):
            raise TypeError(
                f"{name} must be a function of a batch, or a list of them, got {function!r}"
            )
    return functions
