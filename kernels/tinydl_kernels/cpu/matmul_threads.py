"""Matrix products on several threads: cut into parts that need nothing of each other.

C is cut into a grid, and each thread computes its part of C from whole rows of A and whole columns of
B, as a problem of its own, with a workspace of its own. No two threads write the same memory.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import get_num_threads, prange

from . import matmul_problem as problem
from ._jit import jit
from .simd import call_native, recorded

# Below this many multiply-adds (about 115 cubed), waking other threads takes longer than they save.
PARALLEL_WORK = 1.5e6


def run_one(fields: np.ndarray, address: int, tile: tuple[int, int], workspaces_for) -> None:
    """`run` for one problem, whose fields lie at `address`; without delay if there is one thread."""
    if get_num_threads() == 1:
        _call(address)
    else:
        run(fields[np.newaxis], tile, workspaces_for)


def run(problems: np.ndarray, tile: tuple[int, int], workspaces_for) -> None:
    """Carry out problems of equal shape, one in each row of `problems`, with all threads if that pays.

    `start` has checked them and chosen their kernel. `tile` is (MR, NR), and `workspaces_for(threads)`
    gives an array with a workspace in each row.
    """
    kernel = problems[0, problems[0, problem.CHOSEN]]
    rows, inner, columns = (int(problems[0, at]) for at in problem.SIZES)
    work = float(len(problems)) * rows * inner * columns
    threads = get_num_threads() if work > PARALLEL_WORK else 1
    if threads == 1:
        _run_serial(kernel, problems, workspaces_for(1))
        return
    grid = (1, 1) if len(problems) >= threads else _grid(threads, rows, columns, tile)
    _run_parallel(kernel, problems, grid, tile, workspaces_for(threads)[:threads])


@functools.lru_cache(maxsize=1024)
def _grid(threads: int, rows: int, columns: int, tile: tuple[int, int]) -> tuple[int, int]:
    """How many parts to cut rows and columns into: the least work for the busiest thread, counted in
    whole tiles, and with equal work the least packing, which is proportional to rows + columns."""

    def cost(cuts: tuple[int, int]) -> tuple[int, int]:
        height = -(-rows // tile[0] // cuts[0]) * tile[0]
        width = -(-columns // tile[1] // cuts[1]) * tile[1]
        return height * width, height + width

    return min(((i, threads // i) for i in range(1, threads + 1) if threads % i == 0), key=cost)


@jit
def _call(fields):
    kernel = recorded(fields, recorded(fields, problem.CHOSEN))
    call_native(kernel, fields, recorded(fields, problem.WORKSPACE))


@jit
def _run_serial(kernel, problems, workspaces):
    for i in range(len(problems)):
        call_native(kernel, problems[i].ctypes.data, workspaces.ctypes.data)


@jit(parallel=True)
def _run_parallel(kernel, problems, grid, tile, workspaces):
    """Each problem is cut into a grid of parts; part p is done by thread p % threads."""
    threads, cuts = len(workspaces), grid[0] * grid[1]
    size = workspaces.itemsize
    for thread in prange(threads):
        for task in range(thread, len(problems) * cuts, threads):
            part = problems[task // cuts].copy()
            _cut_rows(part, task % cuts // grid[1], grid[0], tile[0])
            _cut_columns(part, task % cuts % grid[1], grid[1], tile[1], size)
            call_native(kernel, part.ctypes.data, workspaces[thread].ctypes.data)


@jit(cache=False)
def _cut_rows(fields, i, parts, unit):
    first, end = _share(fields[problem.A + 1], i, parts, unit)
    for matrix in (problem.A, problem.C):
        fields[matrix] += first * fields[matrix + 3]
        fields[matrix + 1] = end - first
    if i > 0:  # the sums over b's columns are needed once
        fields[problem.BIAS_GRAD + 1] = 0


@jit(cache=False)
def _cut_columns(fields, j, parts, unit, size):
    first, end = _share(fields[problem.B + 2], j, parts, unit)
    for matrix in (problem.B, problem.C):
        fields[matrix] += first * fields[matrix + 4]
        fields[matrix + 2] = end - first
    for vector in (problem.BIAS, problem.BIAS_GRAD):
        if fields[vector + 1] != 0:
            fields[vector] += first * size
            fields[vector + 1] = end - first


@jit(cache=False)
def _share(size, i, parts, unit):
    """Where part i of `parts` begins and ends, in whole units but for the last."""
    units = -(-size // unit)
    return min(size, units * i // parts * unit), min(size, units * (i + 1) // parts * unit)
