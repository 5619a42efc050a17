"""Where batches come from: arrays, a DataLoader, or any iterable, behind one small face.

A source has ``steps`` (batches an epoch, None where unknown) and ``batches(epoch, start)``, an iterator over
(x, y, sample_weight) that begins at batch ``start`` of an epoch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import closing
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import finite_number, whole_number
from tinydl.data.loader import DataLoader

# Arrays up to this size are searched for NaN before training. In larger ones (mapped from a file beyond memory) the
# first bad value is found when the loss becomes NaN.
CHECKED_BYTES = 4 << 30

Batch = tuple[Any, Any, NDArray | None]


class LoaderSource:
    """Batches of a DataLoader, or of any object with its ``len`` and ``batches(epoch, start)``.

    ``first_epoch`` is the loader's number of what training calls epoch 0.
    """

    def __init__(self, loader: Any, steps: int | None = None, first_epoch: int = 0) -> None:
        self.loader = loader
        self.steps = len(loader) if steps is None else min(steps, len(loader))
        self.first_epoch = first_epoch

    def part(self, rank: int, size: int) -> LoaderSource:
        """The same steps with a process's own rows of each batch; needs a loader that can tell them."""
        loader = self.loader.part(rank, size) if size > 1 else self.loader
        return LoaderSource(loader, self.steps, self.first_epoch)

    def first(self) -> Batch:
        with closing(self.batches()) as batches:
            return next(batches)

    def batches(self, epoch: int = 0, start: int = 0) -> Generator[Batch, None, None]:
        with closing(self.loader.batches(self.first_epoch + epoch, start)) as batches:
            for batch in islice(batches, self.steps - start):
                yield unpack(batch)


class IterableSource:
    """Batches of any iterable: a list of (x, y), a generator.

    What can be iterated again (a list, an object with ``__iter__``) gives one epoch each time. An iterator can be
    read once only: with ``steps`` an epoch takes the next so many batches; without, all of it is one epoch.
    """

    def __init__(self, iterable: Iterable, steps: int | None = None, first_epoch: int = 0) -> None:
        self.iterable = iterable
        self.read_once = iter(iterable) is iterable
        length = len(iterable) if isinstance(iterable, Sized) else None
        self.steps = length if steps is None else steps if length is None else min(steps, length)
        self.first_epoch = first_epoch
        self.taken = 0  # batches drawn from an iterator so far
        self.alone = True  # no other process expects as many batches

    def part(self, rank: int, size: int) -> IterableSource:
        """Each process is given its own batches by the program."""
        self.alone = size == 1
        return self

    def first(self) -> Batch:
        """The first batch, which an iterator will give again."""
        iterator = iter(self.iterable)
        try:
            batch = next(iterator)
        except StopIteration:
            raise ValueError("the data set is empty: the iterable gives no batch") from None
        if self.read_once:
            self.iterable = chain([batch], iterator)
        return unpack(batch)

    def batches(self, epoch: int = 0, start: int = 0) -> Generator[Batch, None, None]:
        done = start
        for batch in self._unpacked(epoch, start):
            yield batch
            done += 1
        if not self.alone and done != self.steps:
            raise ValueError(
                f"the data ended after {done} of {self.steps} batches: each process must be given as many as the others"
            )

    def _unpacked(self, epoch: int, start: int) -> Iterator[Batch]:
        if not self.read_once:
            yield from map(unpack, islice(iter(self.iterable), start, self.steps))
            return
        # An iterator that a resumed run was given starts from its own beginning: skip what was used before.
        wanted = (epoch - self.first_epoch) * (self.steps or 0) + start
        for _ in islice(self.iterable, max(wanted - self.taken, 0)):
            self.taken += 1
        for batch in islice(self.iterable, None if self.steps is None else self.steps - start):
            self.taken += 1
            yield unpack(batch)


Source = LoaderSource | IterableSource


def is_loader(data: Any) -> bool:
    return hasattr(data, "batches") and hasattr(data, "__len__")


def is_array(data: Any) -> bool:
    """An array, or what NumPy can view as one (a data frame, a tensor), but no list."""
    return hasattr(data, "__array__")


def is_arrays(data: Any) -> bool:
    """An array, or a list of arrays: the samples of a model with one or several inputs."""
    return is_array(data) or (isinstance(data, list) and bool(data) and all(map(is_array, data)))


def as_arrays(data: Any, name: str = "x") -> Any:
    """NumPy arrays of array-likes; None stays None. ``name`` is what an error calls them.

    Raises:
        ValueError: a list whose entries differ in shape.
    """
    if data is None:
        return None
    if isinstance(data, list) and is_arrays(data):
        return [np.asarray(a) for a in data]
    try:
        return np.asarray(data)
    except ValueError:
        if is_array(data):  # a failure of its own
            raise
        raise ValueError(
            f"{name} is a {type(data).__name__} with entries of different shapes: expected an array, or entries that "
            "are all alike (sequences are padded to one length)"
        ) from None


def make_source(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    dtype: Any = np.float32,
    steps: int | None = None,
    initial_epoch: int = 0,
    order_epoch: int = 0,
    label: str = "",
) -> Source:
    """The source for what a user gave as ``x``, ``y`` and ``sample_weight``.

    ``initial_epoch`` is the first epoch that will be asked for; ``order_epoch`` the number of the order that a
    loader gives to epoch 0; ``label`` is put before their names, as in "validation_data: y".
    """
    if steps is not None:
        steps = whole_number("steps_per_epoch", steps)
    if x is None:
        raise TypeError("x is None: expected arrays, a DataLoader or an iterable of batches")
    if is_loader(x) or not (is_arrays(x) or y is not None):
        for name, extra in (("y", y), ("sample_weight", sample_weight)):
            if extra is not None:
                raise ValueError(
                    f"batches bring their own {name}: give x alone, or arrays for both"
                )
        if is_loader(x):
            return LoaderSource(x, steps, order_epoch)
        if not isinstance(x, Iterable) or isinstance(x, str | bytes | dict):
            raise TypeError(
                f"x must be arrays, a DataLoader or an iterable of batches, got {type(x).__name__}"
            )
        return IterableSource(x, steps, initial_epoch)
    x = as_arrays(x, f"{label}x")
    size = sum(array.nbytes for array in (x if isinstance(x, list) else [x]))
    loader = DataLoader(
        x,
        as_arrays(y, f"{label}y"),
        as_arrays(sample_weight, f"{label}sample_weight"),
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        prefetch=0,  # taking rows of an array is quicker than a word with another thread
        dtype=dtype,
        check=size <= CHECKED_BYTES,
    )
    return LoaderSource(loader, steps, order_epoch)


def unpack(batch: Any) -> Batch:
    """x, (x, y) or (x, y, sample_weight) as a triple."""
    if not isinstance(batch, tuple):
        return batch, None, None
    if not 1 <= len(batch) <= 3:
        raise ValueError(
            f"a batch must be x, (x, y) or (x, y, sample_weight), got {len(batch)} parts"
        )
    x, y, weight = (*batch, None, None)[:3]
    return x, y, weight


def count_samples(x: Any) -> int:
    return len(x[0] if isinstance(x, list) else x)


def split_validation(x: Any, y: Any, weight: Any, fraction: float) -> tuple[tuple, tuple]:
    """(x, y, weight) for training and for validation: the last ``fraction`` of the samples, before any shuffle."""
    finite_number("validation_split", fraction, 0, 1, above=True)
    if not is_arrays(x):
        raise ValueError("validation_split needs arrays; for batches give validation_data")
    x, y, weight = as_arrays(x), as_arrays(y, "y"), as_arrays(weight, "sample_weight")
    samples = count_samples(x)
    cut = int(samples * (1 - fraction))
    if not 0 < cut < samples:
        raise ValueError(
            f"validation_split={fraction} of {samples} samples leaves {cut} for training and "
            f"{samples - cut} for validation: both need at least one"
        )

    def part(data: Any, where: slice) -> Any:
        if data is None:
            return None
        return [a[where] for a in data] if isinstance(data, list) else data[where]

    first, last = slice(None, cut), slice(cut, None)
    return tuple(part(d, first) for d in (x, y, weight)), tuple(
        part(d, last) for d in (x, y, weight)
    )
