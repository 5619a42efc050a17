"""What the passes over arrays share: the check of their arguments, and one loop in two versions.

A pass is bound by memory, not by arithmetic. So each is written to read and write every element once,
and its loop runs over blocks that fit into the first-level cache:

    def add_one(x, out):
        for block in prange(blocks(x.size)):
            here, there = part(x, block), part(out, block)
            for k in range(here.size):
                there[k] = here[k] + 1

    add_one = Pass(add_one)
    add_one(x.size, x, out)

Vector code needs to know that no index is negative, which in Python would count from the end. So inner
loops count from 0 and index with nothing else: a block is cut out first, and rows are `x[row, k]`, never
`x[row * columns + k]`. (`x[start + k]` is vectorized in the serial version, where LLVM sees where `start`
comes from, and not in the threaded one, which then takes several times as long as one thread.)

`Pass` compiles such a function at its first call: serial for small arrays, where waking threads would
cost more than it saves, and threaded for large ones. What a block computes depends on the block
alone, never on the thread: results are equal to the last bit for any number of threads.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import get_num_threads

from ._jit import jit

CONTRACT = frozenset({"contract"})  # fused multiply-add, nothing else
STRICT: frozenset[str] = frozenset()

# Elements of a block: 32 KiB of float32, so that a few arrays' blocks share a first-level cache.
BLOCK = 8192

# Elements from which on threads are used. One thread passes over them in about 10 us; starting and
# joining the threads takes 3 us or more.
PARALLEL_SIZE = 65536

SUPPORTED = (np.dtype(np.float32), np.dtype(np.float64))


@jit(cache=False)
def blocks(size: int) -> int:
    """Number of blocks that cover `size` elements."""
    return (size + BLOCK - 1) // BLOCK


@jit(cache=False)
def part(x: np.ndarray, block: int) -> np.ndarray:
    """The elements of x (flat) in a block: BLOCK of them, but for the last."""
    start = np.int64(block) * BLOCK
    return x[start : start + BLOCK]


class Pass:
    """A loop over blocks, written with `numba.prange`, that is compiled serial and threaded."""

    def __init__(self, function: Callable, fastmath: frozenset[str] = STRICT) -> None:
        self.serial = jit(function, fastmath=fastmath)
        # Compiled code is cached by name, so the second version needs a name of its own.
        twin = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        twin.__qualname__ = f"{function.__qualname__}_threaded"
        twin.__module__ = function.__module__
        self.threaded = jit(twin, fastmath=fastmath, parallel=True)

    def __call__(self, size: int, *arguments: Any) -> Any:
        """Run over arrays of `size` elements."""
        if size >= PARALLEL_SIZE and get_num_threads() > 1:
            return self.threaded(*arguments)
        return self.serial(*arguments)


def check_floats(name: str, **arrays: np.ndarray) -> None:
    """All float32 or all float64, else a TypeError that names the first culprit."""
    expected = None
    for argument, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: {argument} must be a NumPy array, not {type(array).__name__}")
        if array.dtype not in SUPPORTED:
            raise TypeError(f"{name}: {argument} must be float32 or float64, not {array.dtype}")
        if expected is None:
            first, expected = argument, array.dtype
        elif array.dtype != expected:
            raise TypeError(
                f"{name}: {argument} is {array.dtype} but {first} is {expected}; convert one of them"
            )


def check_shape(name: str, argument: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: {argument} must have shape {shape}, not {array.shape}")


def overlaps(out: np.ndarray | None, *inputs: np.ndarray) -> bool:
    """Whether memory of `out` lies within the bounds of an input's memory."""
    return out is not None and any(np.may_share_memory(out, array) for array in inputs)


def check_out(name: str, out: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """`out` must be a writable array of this shape and dtype."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        kind = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{name}: out must be an array of {dtype}, not {kind}")
    check_shape(name, "out", out, shape)
    if not out.flags.writeable:
        raise ValueError(f"{name}: out is read-only")


def memory_for(
    name: str,
    out: np.ndarray | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *inputs: np.ndarray | None,
) -> np.ndarray:
    """Where a kernel writes: `out`, if it may go straight there, else fresh memory (see `deliver`)."""
    if out is not None:
        check_out(name, out, shape, dtype)
        read = [array for array in inputs if array is not None]
        if out.flags.c_contiguous and out.flags.aligned and not overlaps(out, *read):
            return out
    return np.empty(shape, dtype)


def deliver(result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The result in `out`, wherever it was computed; without an `out`, as it is."""
    if out is None or out is result:
        return result
    out[...] = result
    return out
