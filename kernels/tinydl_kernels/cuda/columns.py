"""Sums along the columns of a matrix (M, C), two at a time, in float64: what normalization needs. M may be several
axes.

A block sums up 32 neighboring columns of some rows, eight rows at a time; the last block to end (`arrivals`) adds
up what all have left. Each part begins at a multiple of ROWS: the result depends on the sizes alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from . import device
from .activations import LEAKY_SLOPE, slope_of_output
from .arrays import name_of
from .arrivals import arrive, workspace
from .device import ALIGNED, cuda, kernel
from .instructions import pointer

LANES, TEAMS = 32, 8
SIZE = LANES * TEAMS
ROWS = 512  # that a block sums up, at least
MOST_PARTS = 512

MOMENTS, MOVING_MOMENTS, CHANNEL, SAMPLE = "moments", "moving moments", "channel", "sample"


def column_moments(x: Any, mean: Any, var: Any) -> None:
    """Mean and variance (C,) of x."""
    function, place = sums_kernel(MOMENTS, name_of(x.dtype)), device.memory(x)
    _sum(function, x, (place,) * 5, (mean, var, mean, var))


def batch_moments(x: Any, mean: Any, inv_std: Any, running: Any, factors: tuple) -> None:
    """The same with 1 / sqrt(var + epsilon) for var, and running (mean, var) moved; factors: momentum,
    1 - momentum, epsilon and 1."""
    function, place = sums_kernel(MOVING_MOMENTS, name_of(x.dtype)), device.memory(x)
    _sum(function, x, (place,) * 5, (mean, inv_std, *running), factors=factors)


def grad_sums(
    kind: str, activation: str, x: Any, grads: tuple, moments: Any, sums: tuple, totals: tuple
) -> None:
    """sums = sum of dz (x - mean) inv_std and sum of dz, (C,), both also added to the totals that are not None, with
    dz = dL/dz for y = activation(z).

    Args:
        kind: whether mean and inv_std are one for each column (CHANNEL) or for each row (SAMPLE).
        grads: dL/dy and y, which may be anything if the activation is "linear".
        moments: mean and inv_std.
    """
    first, second = totals
    results = *sums, sums[0] if first is None else first, sums[0] if second is None else second
    has_totals = int(first is not None), int(second is not None)
    function = sums_kernel(kind, name_of(x.dtype), activation)
    _sum(function, x, map(device.memory, (x, *grads, *moments)), results, has_totals)


def _sum(
    function: Any, x: Any, places: Any, results: tuple, has_totals: tuple = (0, 0), factors: tuple = ()
) -> None:  # fmt: skip
    columns = x.shape[-1]
    rows = x.size // max(1, columns)
    share = max(ROWS, -(-rows // MOST_PARTS))
    column_blocks, parts = -(-columns // LANES), -(-rows // share)
    counters, sums = workspace(column_blocks, 2 * parts * columns)
    device.launch(
        function, (column_blocks, parts), SIZE,
        rows, columns, share, *places, *map(device.memory, (sums, counters, *results)),
        has_totals, *(factors or (x.dtype.type(0),) * 4),
    )  # fmt: skip


@functools.cache
def sums_kernel(kind: str, dtype: str, activation: str = "linear") -> Any:
    """Each block adds up some rows and leaves two sums, of

        MOMENTS, MOVING_MOMENTS     x - x_0 and (x - x_0)^2, with x_0 the first row
        CHANNEL, SAMPLE             dz (x - mean) inv_std and dz

    The last block to come adds up what all have left, in their order, not in that in which they came.
    """
    moments, moving, by_sample = (
        kind in (MOMENTS, MOVING_MOMENTS),
        kind == MOVING_MOMENTS,
        kind == SAMPLE,
    )
    wide, narrow, integer = np.dtype("float64"), np.dtype(dtype).type, np.int32(0)
    slope_by_output = slope_of_output("batch_norm_grad", activation, dtype)
    zero, alpha, activates = np.float64(0), narrow(LEAKY_SLOPE), activation != "linear"

    @kernel(SIZE)
    def sums_of_columns(
        rows, columns, share, x, g, y, mean, inv_std, sums, counters, first_result, second_result,
        first_total, second_total, has_totals, momentum, rest, epsilon, unit,
    ):  # fmt: skip
        first_shared = cuda.shared.array(SIZE, wide, ALIGNED)
        second_shared = cuda.shared.array(SIZE, wide, ALIGNED)
        before = cuda.shared.array(1, np.int32, ALIGNED)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        column, part = cuda.blockIdx.x * LANES + lane, cuda.blockIdx.y
        x_memory, g_memory = pointer(x, unit), pointer(g, unit)
        mean_memory, std_memory = pointer(mean, unit), pointer(inv_std, unit)
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
                    if activates:
                        y_value = pointer(y, unit)[row * columns + column]
                        slope = slope_by_output(slope, y_value, y_value, alpha)
                    first += np.float64(slope * ((value - center) * factor))
                    second += np.float64(slope)
        first_shared[cuda.threadIdx.x], second_shared[cuda.threadIdx.x] = first, second
        cuda.syncthreads()
        parts, memory = cuda.gridDim.y, pointer(sums, zero)
        if team == 0 and column < columns:
            for other in range(1, TEAMS):
                first += first_shared[other * LANES + lane]
                second += second_shared[other * LANES + lane]
            memory[(2 * part) * columns + column] = first
            memory[(2 * part + 1) * columns + column] = second
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            before[0] = arrive(pointer(counters, integer), cuda.blockIdx.x, parts - 1)
        cuda.syncthreads()
        if before[0] < parts - 1:
            return

        first, second = zero, zero
        if column < columns:
            for other in range(team, parts, TEAMS):
                first += memory[(2 * other) * columns + column]
                second += memory[(2 * other + 1) * columns + column]
        first_shared[cuda.threadIdx.x], second_shared[cuda.threadIdx.x] = first, second
        cuda.syncthreads()
        if team > 0 or column >= columns:
            return
        for other in range(1, TEAMS):
            first += first_shared[other * LANES + lane]
            second += second_shared[other * LANES + lane]
        if moments:
            # var = <d^2> - <d>^2 for d = x - x_0; rounding must not push it below 0
            first /= rows
            second = second / rows - first * first
            if second < zero:
                second = zero
            first += np.float64(x_memory[column])
        one, two = narrow(first), narrow(second)
        pointer(first_result, unit)[column] = one
        if moving:
            means, variances = pointer(first_total, unit), pointer(second_total, unit)
            means[column] = momentum * means[column] + rest * one
            variances[column] = momentum * variances[column] + rest * two
            two = unit / math.sqrt(two + epsilon)
        pointer(second_result, unit)[column] = two
        if has_totals[0] != 0:
            pointer(first_total, unit)[column] += one
        if has_totals[1] != 0:
            pointer(second_total, unit)[column] += two

    return sums_of_columns


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
