"""Are the parameters still equal on all ranks? A checksum now and then, compared across ranks.

Equal starting points and equal updates keep the ranks equal. A different library on one machine, memory that
flips a bit, or a program that treats ranks differently breaks that silently: training goes on, and is wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydl.devices import to_host
from tinydl.distributed.world import World
from tinydl.parameters import ParameterStore


class DriftError(RuntimeError):
    """The ranks' parameters differ."""


def checksum(values: NDArray) -> NDArray[np.uint64]:
    """Two numbers of a stretch of the value buffer: the sum of its 8-byte words, and their exclusive or.

    A change of any one word changes both; it takes about as long as reading the buffer twice.
    """
    words = values.view(np.uint64)  # the buffer is whole cache lines
    return np.array([words.sum(), np.bitwise_xor.reduce(words)], np.uint64)


def check_equal(world: World, store: ParameterStore, step: int) -> None:
    """Raise ``DriftError`` on every rank, naming the first parameter that differs in forward order."""
    values = to_host(store.values)
    if _equal(world, checksum(values)[None])[0]:
        return
    ends = [*(s.start for s in store.segments[1:]), values.size]
    parts = [values[s.start : end] for s, end in zip(store.segments, ends, strict=True)]
    equal = _equal(world, np.stack([checksum(part) for part in parts]))
    last = int(np.flatnonzero(~equal)[-1])  # the buffer is in reverse order
    name = store.segments[last].parameter.name
    raise DriftError(
        f"after step {step} the parameters differ between ranks; the first one that does is '{name}'. All ranks must "
        "run the same program with the same library versions, and leave the parameters to the optimizer"
    )


def _equal(world: World, rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """For each row: is it the same on all ranks?"""
    low, high = rows.copy(), rows.copy()
    world.allreduce(low, "min")
    world.allreduce(high, "max")
    return (low == high).all(axis=1)
