"""Are the parameters still equal on all ranks? A checksum now and then, compared across ranks.

Equal starting points and equal updates keep the ranks equal. A different library on one machine, memory that
flips a bit, or a program that treats ranks differently breaks that silently: training goes on, and is wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydl.distributed.world import World
from tinydl.parameters import ParameterStore


class DriftError(RuntimeError):
    """The ranks' parameters differ."""


def checksum(array: NDArray) -> NDArray[np.uint64]:
    """Two numbers that a change of any bits of ``array`` changes: the sum of its words, and their exclusive or."""
    words = array.reshape(-1).view(np.uint32)
    return np.array(
        [words.sum(dtype=np.uint64), np.bitwise_xor.reduce(words, initial=0)], np.uint64
    )


def check_equal(world: World, store: ParameterStore, step: int) -> None:
    """Raise ``DriftError`` on every rank, naming the first parameter that differs in forward order."""
    if _equal(world, checksum(store.values)[None])[0]:
        return
    parameters = list(store)
    equal = _equal(world, np.stack([checksum(p.value) for p in parameters]))
    name = parameters[int(np.argmin(equal))].name
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
