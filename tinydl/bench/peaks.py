"""What the machine could do at most: multiply-adds a second, and bytes a second from each level of memory.

The specification does not say it: clocks depend on heat and on how many cores are busy, virtual machines on their
neighbors. So both are measured, with the simplest program that reaches them.

**Multiply-adds.** One fused multiply-add is two floating-point operations, on every lane of a vector. A core can
start two of them in a cycle, but each needs its result only four cycles later; so 8 chains that do not depend on
each other must be under way. The kernel here keeps 24 (12 where there are 16 registers) and touches no memory.

**Bandwidth.** The triad of the STREAM benchmark, a_i = b_i + s c_i, over arrays that fit into one level of the
caches, or, for memory, are four times as large as the last. Three arrays are counted, as STREAM does: what the
processor reads of a before it writes is not.

Source: McCalpin 1995, "Memory bandwidth and machine balance in current high performance computers".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange
from numpy.typing import NDArray

from tinydl.bench.results import Peaks
from tinydl_kernels.cpu._jit import jit
from tinydl_kernels.cpu.simd import Emitter, intrinsic
from tinydl_kernels.cpu.target import cache_bytes, vector_bytes, vector_registers

CHAINS = 24 if vector_registers() == 32 else 12
ROUNDS = 1_000_000  # of multiply-adds in each chain: a few milliseconds
UNROLLED = 4
MOVED = 2e8  # bytes a thread moves in one run: milliseconds
WHILE = 0.4  # seconds for each figure, unless told otherwise
LARGEST_ARRAY = 512 << 20  # bytes: enough for any cache, and no burden for a small machine


@intrinsic(returns="element")
def multiply_add_chains(e: Emitter, x: Any, rounds: Any) -> ir.Value:
    """``rounds`` multiply-adds of whole vectors in each of CHAINS independent chains; their sum.

    z <- z * x[0] + x[1] with x[0] = 1 - 2⁻ⁿ and a small x[1] stays near 1: no overflow, no denormal numbers.
    """
    factor, term = e.splat(e.load_scalar(x)), e.splat(e.load_scalar(e.at(x, 1)))
    starts = [e.constant(1.0 + i / 64) for i in range(CHAINS)]
    sums = e.loop(rounds, starts, lambda _, chains: [e.fma(z, factor, term) for z in chains])
    total = sums[0]
    for other in sums[1:]:
        total = e.add(total, other)
    return e.sum_lanes(total)


@jit
def chains(x: NDArray, rounds: int, threads: int) -> float:
    return multiply_add_chains(x, rounds)


@jit(parallel=True)
def chains_on_all(x: NDArray, rounds: int, threads: int) -> float:
    total = 0.0
    for _ in prange(threads):
        total += multiply_add_chains(x, rounds)
    return total


@intrinsic
def triad_vectors(e: Emitter, a: Any, b: Any, c: Any, s: Any, vectors: Any) -> None:
    """a = b + s c over whole vectors, four in a round: what is left of loop counting disappears."""
    factor = e.splat(s)

    def round_(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        for k in range(UNROLLED):
            at = e.builder.mul(i, ir.IntType(64)(UNROLLED * e.lanes))
            at = e.builder.add(at, ir.IntType(64)(k * e.lanes))
            e.store(e.fma(factor, e.load(e.at(c, at)), e.load(e.at(b, at))), e.at(a, at))
        return []

    e.loop(e.builder.sdiv(vectors, ir.IntType(64)(UNROLLED)), [], round_)


@jit
def triad(arrays: NDArray, s: float, vectors: int, passes: int) -> None:
    """``arrays``: (threads, 3, n); each thread has its own, as each core has its own caches."""
    for t in range(len(arrays)):
        for _ in range(passes):
            triad_vectors(arrays[t, 0], arrays[t, 1], arrays[t, 2], s, vectors)


@jit(parallel=True)
def triad_on_all(arrays: NDArray, s: float, vectors: int, passes: int) -> None:
    for t in prange(len(arrays)):
        for _ in range(passes):
            triad_vectors(arrays[t, 0], arrays[t, 1], arrays[t, 2], s, vectors)


def measure_peaks(dtype: str, threads: int, seconds: float = WHILE) -> Peaks:
    """The best of several short runs each: a peak is what is possible, so whatever disturbs is left out.

    Args:
        seconds: for each figure.
    """
    levels = cache_levels()
    levels["memory"] = min(4 * max(levels.values()), LARGEST_ARRAY)
    return Peaks(
        dtype=dtype,
        threads=threads,
        gflops=multiply_add_peak(dtype, threads, seconds),
        bandwidth={name: bandwidth(dtype, threads, size, seconds) for name, size in levels.items()},
    )


def multiply_add_peak(dtype: str, threads: int, seconds: float) -> float:
    """GFLOP/s of multiply-adds between registers."""
    x = np.array([1 - 2.0**-10, 2.0**-10], dtype)
    lanes = vector_bytes() // x.itemsize
    kernel = chains if threads == 1 else chains_on_all
    fastest = best(lambda: kernel(x, ROUNDS, threads), seconds)
    return 2.0 * lanes * CHAINS * ROUNDS * threads / fastest / 1e9


def bandwidth(dtype: str, threads: int, size: int, seconds: float) -> float:
    """GB/s of the triad over ``size`` bytes a thread; the last cache and memory are shared by all threads."""
    itemsize = np.dtype(dtype).itemsize
    private = size <= max(cache_bytes())
    lanes = UNROLLED * vector_bytes() // itemsize
    count = max(1, size // (3 * itemsize) // (1 if private else threads) // lanes) * lanes
    # The arrays lie one cache line apart from a multiple of their size, or they would compete for the same
    # places of a cache.
    padded = count + 64 // itemsize
    arrays = aligned_ones((threads, 3, padded), dtype)[:, :, :count]
    moved = 3.0 * threads * count * itemsize
    passes = max(1, int(MOVED * threads / moved))
    kernel = triad if threads == 1 else triad_on_all
    s, vectors = arrays.dtype.type(0.5), count * itemsize // vector_bytes()
    fastest = best(lambda: kernel(arrays, s, vectors, passes), seconds)
    return moved * passes / fastest / 1e9


def aligned_ones(shape: tuple[int, ...], dtype: str) -> NDArray:
    """Ones that begin at a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    array = buffer[start : start + size].view(dtype).reshape(shape)
    array[...] = 1
    return array


def best(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of as many runs as fit into ``seconds``."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def cache_levels() -> dict[str, int]:
    """Bytes that fit comfortably (half the size) into each level of cache that this system tells of."""
    first, second = cache_bytes()
    levels = {"L1": first // 2, "L2": second // 2}
    third = last_level_bytes()
    if third > second:
        levels["L3"] = third // 2
    return levels


def last_level_bytes() -> int:
    """Size of the largest cache; 0 where the system does not say."""
    largest = 0
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):  # Linux
        text = size.read_text().strip()
        scale = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 0)
        if scale:
            largest = max(largest, int(text[:-1]) * scale)
    return largest
