"""What element-wise kernels and reductions share: launching them, and cutting up indices.

A pass over memory does one thing to each element; neighboring threads take neighboring elements, so that
a warp reads and writes one run of memory. A reduction is cut into parts by the sizes of its arrays alone
(never by the device or by chance), each block sums up one part in a fixed order, and the parts are added
up in a fixed order: the same bits in every run.
"""

from __future__ import annotations

from typing import Any

from . import device
from .arrays import check_floats, check_pieces, plain
from .device import device_function
from .operands import LARGEST_INDEX

THREADS = 256


@device_function
def divide(index, by):
    """(index // d, index % d) for by = operands.divisor(d)."""
    quotient = (index * by[1]) >> by[2]
    return quotient, index - quotient * by[0]


@device_function
def add_up(sums, thread, apart, barrier):
    """Let sums[k, i] become, for i < apart, the sum of sums[k, i], sums[k, i + apart], sums[k, i + 2 apart] and so on.

    All threads of a block call it, each with its own number; sums are in shared memory, a column for each thread, and
    threads and apart are powers of two. Those of the upper half are added to those of the lower, over and over: in
    the same order each time. `barrier` is cuda.syncthreads, at which all have left their numbers, and see the sums.
    """
    rows, half = sums.shape[0], sums.shape[1] // 2
    barrier()
    while half >= apart:
        if thread < half:
            for k in range(rows):
                sums[k, thread] += sums[k, thread + half]
        barrier()
        half //= 2


def each(function: Any, elements: int, arrays: tuple, *rest: Any) -> None:
    """Start a kernel with one thread for each element: function(elements, *addresses, *rest)."""
    device.require()
    if elements > LARGEST_INDEX:
        raise ValueError(f"passes over {elements} elements are not supported (at most 2^31 - 1)")
    blocks = (-(-elements // THREADS),)
    device.launch(function, blocks, THREADS, elements, *map(device.memory, arrays), *rest)


def check_flat(where: str, **vectors: Any) -> None:
    """Kernels that change parameters in place take vectors without gaps, all alike.

    Raises:
        TypeError, ValueError: that name the first that is not.
    """
    check_floats(where, **vectors)
    first = next(iter(vectors.values()))
    check_pieces(where, first, first.size, vectors)


def check_alike(where: str, **arrays: Any) -> None:
    """
    Raises:
        ValueError: arrays of different shapes.
    """
    first = None
    for name, x in arrays.items():
        if first is None:
            first, shape = name, x.shape
        elif x.shape != shape:
            raise ValueError(f"{where}: {name} has shape {x.shape}, but {first} has {shape}")


def as_rows(x: Any) -> Any:
    """(…, K) as a matrix (M, K) in one piece."""
    x = plain(x)
    return x.reshape(-1, x.shape[-1]) if x.size else x.reshape(0, x.shape[-1])
