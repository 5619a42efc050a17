"""Sums along the columns of a matrix (M, C), two at a time, in float64: what normalization needs.

A block sums up 32 neighboring columns of some rows, eight rows at a time; a second, small kernel adds up
the blocks' parts. Each part begins at a multiple of ROWS: the result depends on the sizes alone.
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

LANES, TEAMS = 32, 8
SIZE = LANES * TEAMS
ROWS = 512  # that a block sums up, at least
MOST_PARTS = 512
FLOAT64 = np.dtype("float64")
ADDERS = 128  # threads in a block of the kernels that add up parts

MOMENTS, CHANNEL, SAMPLE = "moments", "channel", "sample"


def column_sums(kind: str, arrays: tuple, like: Any) -> Any:
    """(parts, 2, C) in float64: sums over some rows each of

        MOMENTS   x - x_0 and (x - x_0)^2, with x_0 the first row
        CHANNEL   g (x - mean) inv_std and g, with a mean and inv_std for each column
        SAMPLE    the same, with a mean and inv_std for each row

    Args:
        arrays: (x, x, x, x), or (x, g, mean, inv_std).
        like: the zero of their type.
    """
    rows, columns = arrays[0].shape
    share = max(ROWS, -(-rows // MOST_PARTS))
    parts = max(1, -(-rows // share))
    sums = device.namespace().empty((parts, 2, columns), FLOAT64)
    grid = (-(-columns // LANES), parts)
    arguments = (rows, columns, share, *map(device.memory, (*arrays, sums)), like)
    device.launch(sums_kernel(kind, name_of(like.dtype)), grid, SIZE, *arguments)
    return sums


@functools.cache
def sums_kernel(kind: str, dtype: str) -> Any:
    moments, by_sample, zero = kind == MOMENTS, kind == SAMPLE, np.float64(0)
    wide = np.dtype("float64")

    @kernel(SIZE)
    def sums_of_columns(rows, columns, share, x, g, mean, inv_std, sums, like):
        first_shared = cuda.shared.array(SIZE, wide, ALIGNED)
        second_shared = cuda.shared.array(SIZE, wide, ALIGNED)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        column, part = cuda.blockIdx.x * LANES + lane, cuda.blockIdx.y
        x_memory, g_memory = pointer(x, like), pointer(g, like)
        mean_memory, std_memory = pointer(mean, like), pointer(inv_std, like)
        first, second = zero, zero
        if column < columns:
            # Far from zero, squares would swallow the differences that make the variance.
            place = 0 if by_sample else column
            center, factor = mean_memory[place], std_memory[place]
            for row in range(part * share + team, min(rows, (part + 1) * share), TEAMS):
                value = x_memory[row * columns + column]
                if moments:
                    distance = np.float64(value) - np.float64(center)
                    first += distance
                    second += distance * distance
                else:
                    if by_sample:
                        center, factor = mean_memory[row], std_memory[row]
                    slope = g_memory[row * columns + column]
                    first += np.float64(slope * ((value - center) * factor))
                    second += np.float64(slope)
        first_shared[cuda.threadIdx.x], second_shared[cuda.threadIdx.x] = first, second
        cuda.syncthreads()
        if team == 0 and column < columns:
            for other in range(1, TEAMS):
                first += first_shared[other * LANES + lane]
                second += second_shared[other * LANES + lane]
            result = pointer(sums, zero)
            result[(2 * part) * columns + column] = first
            result[(2 * part + 1) * columns + column] = second

    return sums_of_columns


def finish_moments(sums: Any, rows: int, x: Any, mean: Any, var: Any) -> None:
    """Mean and variance (C,) of x, from the parts of its sums."""
    like = mean.dtype.type(0)
    _finish(
        moments_kernel(name_of(mean.dtype), False),
        sums,
        rows,
        (x, mean, var, mean, var),
        *[like] * 4,
    )


def finish_batch_moments(
    sums: Any, rows: int, x: Any, mean: Any, inv_std: Any, running: tuple, *factors: Any
) -> None:
    """The same with 1 / sqrt(var + epsilon) for var, and running (mean, var) moved; factors: momentum, 1 - momentum,
    epsilon and 1."""
    arrays = (x, mean, inv_std, *running)
    _finish(moments_kernel(name_of(mean.dtype), True), sums, rows, arrays, *factors)


def finish_sums(sums: Any, first: Any, second: Any, totals: tuple) -> None:
    """Both sums (C,), which are also added to the totals that are not None."""
    arrays = first, second, *(first if total is None else total for total in totals)
    has_totals = tuple(int(total is not None) for total in totals)
    _finish(
        sums_of_parts_kernel(name_of(first.dtype)), sums, 0, arrays, has_totals, first.dtype.type(0)
    )


def _finish(function: Any, sums: Any, rows: int, arrays: tuple, *rest: Any) -> None:
    parts, _, columns = sums.shape
    addresses = map(device.memory, (sums, *arrays))
    grid = (-(-columns // ADDERS),)
    device.launch(function, grid, ADDERS, parts, columns, rows, *addresses, *rest)


@functools.cache
def moments_kernel(dtype: str, moving: bool) -> Any:
    zero, narrow = np.float64(0), np.dtype(dtype).type

    @kernel(ADDERS)
    def add_parts_of_moments(
        parts, columns, rows, sums, x, mean, var, running_mean, running_var,
        momentum, rest, epsilon, unit,
    ):  # fmt: skip
        column = cuda.blockIdx.x * ADDERS + cuda.threadIdx.x
        if column >= columns:
            return
        memory = pointer(sums, zero)
        one, two = zero, zero
        for part in range(parts):
            one += memory[(2 * part) * columns + column]
            two += memory[(2 * part + 1) * columns + column]
        # var = <d^2> - <d>^2 for d = x - x_0; rounding must not push it below 0
        one /= rows
        two = two / rows - one * one
        if two < zero:
            two = zero
        one += np.float64(pointer(x, unit)[column])
        mu, v = narrow(one), narrow(two)
        pointer(mean, unit)[column] = mu
        if moving:
            means, variances = pointer(running_mean, unit), pointer(running_var, unit)
            means[column] = momentum * means[column] + rest * mu
            variances[column] = momentum * variances[column] + rest * v
            v = unit / math.sqrt(v + epsilon)
        pointer(var, unit)[column] = v

    return add_parts_of_moments


@functools.cache
def sums_of_parts_kernel(dtype: str) -> Any:
    zero, narrow = np.float64(0), np.dtype(dtype).type

    @kernel(ADDERS)
    def add_parts_of_columns(
        parts, columns, rows, sums, first, second, first_total, second_total, has_totals, like
    ):
        column = cuda.blockIdx.x * ADDERS + cuda.threadIdx.x
        if column >= columns:
            return
        memory = pointer(sums, zero)
        one, two = zero, zero
        for part in range(parts):
            one += memory[(2 * part) * columns + column]
            two += memory[(2 * part + 1) * columns + column]
        pointer(first, like)[column] = narrow(one)
        pointer(second, like)[column] = narrow(two)
        if has_totals[0] != 0:
            pointer(first_total, like)[column] += narrow(one)
        if has_totals[1] != 0:
            pointer(second_total, like)[column] += narrow(two)

    return add_parts_of_columns


# --- rows: layer normalization --------------------------------------------------------------------


@functools.cache
def layer_norm_kernel(dtype: str) -> Any:
    """y, mean and inv_std of each row; sums in float64."""
    wide, zero, narrow = np.dtype("float64"), np.float64(0), np.dtype(dtype).type

    @kernel(SIZE)
    def layer_norm(rows, columns, x, gamma, beta, y, mean, inv_std, eps, like):
        shared = cuda.shared.array(SIZE, wide, ALIGNED)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        row = cuda.blockIdx.x * TEAMS + team
        memory, start = pointer(x, like), row * columns
        total = zero
        if row < rows:
            for k in range(lane, columns, LANES):
                total += np.float64(memory[start + k])
        shared[cuda.threadIdx.x] = total
        cuda.syncthreads()
        total = zero
        for other in range(LANES):
            total += shared[team * LANES + other]
        cuda.syncthreads()
        center = total / columns
        total = zero
        if row < rows:
            for k in range(lane, columns, LANES):
                distance = np.float64(memory[start + k]) - center
                total += distance * distance
        shared[cuda.threadIdx.x] = total
        cuda.syncthreads()
        total = zero
        for other in range(LANES):
            total += shared[team * LANES + other]
        if row < rows:
            factor = 1 / math.sqrt(total / columns + eps)
            for k in range(lane, columns, LANES):
                normal = narrow((np.float64(memory[start + k]) - center) * factor)
                value = pointer(gamma, like)[k] * normal + pointer(beta, like)[k]
                pointer(y, like)[start + k] = value
            if lane == 0:
                pointer(mean, like)[row] = narrow(center)
                pointer(inv_std, like)[row] = narrow(factor)

    return layer_norm


@functools.cache
def layer_norm_grad_kernel(dtype: str) -> Any:
    """dx = inv_std (g' - <g'> - x_hat <g' x_hat>) for g' = grad gamma, row by row."""
    element, narrow = np.dtype(dtype), np.dtype(dtype).type
    zero = narrow(0)

    @kernel(SIZE)
    def layer_norm_grad(rows, columns, g, x, gamma, mean, inv_std, dx, like):
        plain_shared = cuda.shared.array(SIZE, element, ALIGNED)
        hat_shared = cuda.shared.array(SIZE, element, ALIGNED)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        row = cuda.blockIdx.x * TEAMS + team
        g_memory, x_memory, scale = pointer(g, like), pointer(x, like), pointer(gamma, like)
        start = row * columns
        center, factor, total, total_hat = zero, zero, zero, zero
        if row < rows:
            center, factor = pointer(mean, like)[row], pointer(inv_std, like)[row]
            for k in range(lane, columns, LANES):
                slope = g_memory[start + k] * scale[k]
                total += slope
                total_hat += slope * ((x_memory[start + k] - center) * factor)
        plain_shared[cuda.threadIdx.x], hat_shared[cuda.threadIdx.x] = total, total_hat
        cuda.syncthreads()
        total, total_hat = zero, zero
        for other in range(LANES):
            total += plain_shared[team * LANES + other]
            total_hat += hat_shared[team * LANES + other]
        if row < rows:
            total, total_hat = total / narrow(columns), total_hat / narrow(columns)
            for k in range(lane, columns, LANES):
                hat = (x_memory[start + k] - center) * factor
                slope = g_memory[start + k] * scale[k]
                pointer(dx, like)[start + k] = factor * (slope - total - hat * total_hat)

    return layer_norm_grad
