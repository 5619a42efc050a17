"""The backward pass of a table look-up for device arrays; see `reference.embedding_grad`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import device
from .arrays import check_floats, deliver, name_of, plain
from .device import cuda, kernel
from .instructions import pointer
from .operands import divisor
from .passes import THREADS, divide, each


def embedding_grad(indices: Any, grad: Any, out: Any) -> Any:
    """See `reference.embedding_grad`.

    Whether indices lie among the rows of out could be told only by waiting for the device: those that do not add
    nothing, where the definition has an error.

    Atomic additions would come in another order each time. Instead the places are sorted by their index,
    those of one index in their own order, and a thread adds up one column of one index's run.
    """
    name = "embedding_grad"
    check_floats(name, grad=grad, out=out)
    device.check_array(name, "indices", indices)
    rows, width = out.shape
    if indices.size == 0:
        return out
    if grad.shape != (*indices.shape, width):
        raise ValueError(
            f"{name}: grad must have shape {(*indices.shape, width)}, got {grad.shape}"
        )
    flat = plain(indices.reshape(-1).astype(np.int64))
    order = plain(flat.argsort(kind="stable").astype(np.int64))
    straight, run = plain(out), plain(flat[order])
    arrays = (run, order, plain(grad), straight)
    function, by = embedding_kernel(name_of(grad.dtype)), divisor(width)
    each(function, flat.size * width, arrays, flat.size, rows, width, by, grad.dtype.type(0))
    return deliver(straight, out)


@functools.cache
def embedding_kernel(dtype: str) -> Any:
    index = np.int64(0)

    @kernel(THREADS)
    def add_rows(elements, run, order, grad, out, places, rows, width, by, like):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        place, column = divide(i, by)
        symbols, sources = pointer(run, index), pointer(order, index)
        symbol = symbols[place]
        if place > 0 and symbols[place - 1] == symbol:
            return  # the first place of a run adds up all of it
        if symbol < 0 or symbol >= rows:
            return
        g = pointer(grad, like)
        total = pointer(out, like)[symbol * width + column]
        while place < places and symbols[place] == symbol:
            total += g[sources[place] * width + column]
            place += 1
        pointer(out, like)[symbol * width + column] = total

    return add_rows
