"""Passes over the rows of a matrix, with a sum or a maximum along each: softmax and layer normalization.

32 neighboring threads share a row: each goes over every 32nd element, then they combine what they found
in shared memory, in the same order always.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from . import device
from .arrays import name_of
from .device import ALIGNED, cuda, kernel
from .instructions import pointer

LANES, TEAMS = 32, 8  # threads for a row, rows of a block
SIZE = LANES * TEAMS


def launch_rows(function: Any, rows: int, columns: int, arrays: tuple, *rest: Any) -> None:
    """Start a kernel over rows: function(rows, columns, *addresses, *rest)."""
    device.require()
    arguments = (*map(device.memory, arrays), *rest)
    device.launch(function, (-(-rows // TEAMS),), SIZE, rows, columns, *arguments)


def softmax_rows(kind: str, x: Any, y: Any, out: Any) -> None:
    """out = softmax(x) ("value"), its logarithm ("log"), or, with x = dL/dy, its gradient ("grad")."""
    function = (softmax_grad_kernel if kind == "grad" else softmax_kernel(kind))(name_of(x.dtype))
    launch_rows(function, *x.shape, (x, y, out), x.dtype.type(0))


def softmax_kernel(kind: str) -> Any:
    return functools.partial(_softmax_kernel, kind)


@functools.cache
def _softmax_kernel(kind: str, dtype: str) -> Any:
    element, logarithm = np.dtype(dtype), kind == "log"
    lowest, zero = element.type(-np.inf), element.type(0)

    @kernel(SIZE)
    def softmax(rows, columns, x, y, out, like):
        shared = cuda.shared.array(SIZE, element, ALIGNED)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        row = cuda.blockIdx.x * TEAMS + team
        memory, result = pointer(x, like), pointer(out, like)
        start = row * columns
        largest = lowest
        if row < rows:
            for k in range(lane, columns, LANES):
                value = memory[start + k]
                if value > largest or value != value:
                    largest = value
        shared[cuda.threadIdx.x] = largest
        cuda.syncthreads()
        for other in range(LANES):
            value = shared[team * LANES + other]
            if value > largest or value != value:
                largest = value
        cuda.syncthreads()
        total = zero
        if row < rows:
            for k in range(lane, columns, LANES):
                total += math.exp(memory[start + k] - largest)
        shared[cuda.threadIdx.x] = total
        cuda.syncthreads()
        total = zero
        for other in range(LANES):
            total += shared[team * LANES + other]
        if row < rows:
            log_total = math.log(total)
            for k in range(lane, columns, LANES):
                shifted = memory[start + k] - largest
                if logarithm:
                    result[start + k] = shifted - log_total
                else:
                    result[start + k] = math.exp(shifted) / total

    return softmax


@functools.cache
def softmax_grad_kernel(dtype: str) -> Any:
    element = np.dtype(dtype)
    zero = element.type(0)

    @kernel(SIZE)
    def softmax_grad(rows, columns, g, y, out, like):
        shared = cuda.shared.array(SIZE, element, ALIGNED)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        row = cuda.blockIdx.x * TEAMS + team
        g_memory, y_memory, result = pointer(g, like), pointer(y, like), pointer(out, like)
        start = row * columns
        inner = zero
        if row < rows:
            for k in range(lane, columns, LANES):
                inner += g_memory[start + k] * y_memory[start + k]
        shared[cuda.threadIdx.x] = inner
        cuda.syncthreads()
        inner = zero
        for other in range(LANES):
            inner += shared[team * LANES + other]
        if row < rows:
            for k in range(lane, columns, LANES):
                result[start + k] = y_memory[start + k] * (g_memory[start + k] - inner)

    return softmax_grad
