"""The kernel of everyday use: C = activation(alpha A B + beta C + bias) for operands of any layout.

It is the ladder's last rungs plus what a lesson can do without: operands read along axes (`operands`),
edges of every size, stacks of products, a sum cut into parts, and what is done to the result.

A block computes one tile of C. It keeps `stages` tiles of A and B in shared memory: when it turns to
one, the copies of the next have long been started, by instructions (cp.async) that no thread waits for.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .device import ALIGNED, cuda, device_function, kernel
from .instructions import commit, keep, pointer, store4, wait_for
from .multiply import multiplier
from .operands import ALONG, FOLDED, LINE, Layout, loader
from .registers import Operations
from .tiles import Tile


class Gemm(NamedTuple):
    """All that is compiled into a kernel; one is compiled for each that is asked for."""

    dtype: str
    tile: Tile
    a: Layout = Layout()
    b: Layout = Layout()
    rows: str = LINE  # the axis of C's rows
    wide: bool = False  # C is written 16 bytes at a time
    activation: str | None = None  # "sigmoid" or "tanh"; the others are a slope below zero
    precision: str | None = None  # "tf32" or "bf16": by tensor cores


@functools.cache
def gemm(spec: Gemm) -> Any:
    """The kernel

        gemm(a, a_start, a_outer, a_inner, a_bounds, b, b_start, b_outer, b_inner, b_bounds,
             c, c_start, c_rows, c_column, bias, has_bias, bias_start, sizes, steps, group,
             alpha, beta, slope)

    Args:
        a, b, c, bias: addresses. a_start, b_start, c_start, bias_start: the elements
            at which they begin.
        a_outer, ..., c_rows: axes, as in `operands`; c_column: the step from column to column.
        has_bias: 1, or 0 for none.
        sizes: (M, N, K, K of one part, parts into which the sum is cut).
        steps: of A, B, C and bias from one product of a stack to the next, of C from part to part.
        group: logarithm of how many tiles of rows are neighbors in the grid (see below).
        slope: what a result below zero is multiplied by.

    The grid is (columns of tiles * 2^group, groups of 2^group rows of tiles, products * parts). Blocks
    start in the order of the grid; those at work at one time so cover a piece of C that is rather
    square, and share what they read from the cache.
    """
    tile, dtype = spec.tile, np.dtype(spec.dtype)
    itemsize, threads = dtype.itemsize, tile.threads
    height, width, depth, stages = tile.height, tile.width, tile.depth, tile.stages
    math_of, write = multiplier(tile, dtype, spec.precision), writer(spec)
    # Rows of tiles in shared memory are padded, so that what a warp touches at once, a column of one
    # or rows of the other, lies in different banks; see `multiply` for how much.
    a_pitch, b_pitch = height + math_of.padding, width + math_of.padding
    a_stage, b_stage = depth * a_pitch, depth * b_pitch
    a_size, b_size = stages * a_stage, stages * b_stage
    begin_a, load_a, a_places, a_notes = loader(spec.a, height, depth, a_pitch, threads, itemsize)
    begin_b, load_b, b_places, b_notes = loader(spec.b, width, depth, b_pitch, threads, itemsize)
    (begin, multiply, turn), places = math_of.ahead, math_of.places
    a_parts, b_parts, part_type = math_of.a_parts, math_of.b_parts, math_of.part_type
    rows, columns = math_of.rows, math_of.columns
    clear = Operations(rows, columns, 1).clear
    wait, wait_for_all = wait_for(stages - 2), wait_for(0)

    # To read from images takes registers, which then are not there for more blocks.
    images = FOLDED in (*spec.a, *spec.b)
    blocks = max(1, tile.blocks * 2 // 3) if images else tile.blocks

    @kernel(threads, blocks)
    def multiply_tiles(
        a, a_start, a_outer, a_inner, a_bounds, b, b_start, b_outer, b_inner, b_bounds,
        c, c_start, c_rows, c_column, bias, has_bias, bias_start, sizes, steps, group,
        alpha, beta, slope,
    ):  # fmt: skip
        a_shared = cuda.shared.array(a_size, dtype, ALIGNED)
        b_shared = cuda.shared.array(b_size, dtype, ALIGNED)
        sums = cuda.local.array((rows, columns), dtype)
        a_part = cuda.local.array(a_parts, part_type)
        b_part = cuda.local.array(b_parts, part_type)
        a_from, a_state = cuda.local.array(a_places, np.int64), cuda.local.array(a_notes, np.int32)
        b_from, b_state = cuda.local.array(b_places, np.int64), cuda.local.array(b_notes, np.int32)
        thread = cuda.threadIdx.x & 1023  # tells the compiler that it is not negative
        m, n, k_per_part = sizes[0], sizes[1], sizes[3]
        first_row = ((cuda.blockIdx.y << group) + (cuda.blockIdx.x & ((1 << group) - 1))) * height
        first_column = (cuda.blockIdx.x >> group) * width
        if first_row >= m:
            return
        product = cuda.blockIdx.z // sizes[4]
        part = cuda.blockIdx.z - product * sizes[4]
        a_start += product * steps[0]
        b_start += product * steps[1]
        c_start += product * steps[2] + part * steps[4]
        k_first = part * k_per_part
        k_end = min(sizes[2], k_first + k_per_part)
        a_memory, b_memory = pointer(a, alpha), pointer(b, alpha)
        c_memory, bias_memory = pointer(c, alpha), pointer(bias, alpha)

        clear(sums)
        begin_a(a_from, a_state, a_start, a_outer, a_inner, a_bounds,
                first_row, m, k_first, k_end, thread)  # fmt: skip
        begin_b(b_from, b_state, b_start, b_outer, b_inner, b_bounds,
                first_column, n, k_first, k_end, thread)  # fmt: skip
        for stage in range(stages - 1):
            load_a(a_shared, stage * a_stage, a_memory, a_from, a_state, a_outer, a_inner, a_bounds)
            load_b(b_shared, stage * b_stage, b_memory, b_from, b_state, b_outer, b_inner, b_bounds)
            commit()
        a_place, b_place, row, column = places(thread)
        a_place, b_place = keep(np.int32(a_place)), keep(np.int32(b_place))
        wait()  # for this thread's part of the first stage,
        cuda.syncthreads()  # and for the others'
        begin(a_shared, a_place, b_shared, b_place, a_part, b_part)
        stage, free = np.int32(0), np.int32(stages - 1)
        steps_left = np.int32((k_end - k_first + depth - 1) // depth)
        while steps_left > 0:
            load_a(a_shared, free * a_stage, a_memory, a_from, a_state, a_outer, a_inner, a_bounds)
            load_b(b_shared, free * b_stage, b_memory, b_from, b_state, b_outer, b_inner, b_bounds)
            commit()  # a group of no copies, at the end, keeps the count right
            multiply(a_shared, stage * a_stage + a_place, b_shared, stage * b_stage + b_place,
                     a_part, b_part, sums)  # fmt: skip
            free = stage
            stage = np.int32(stage + 1 if stage + 1 < stages else 0)
            wait()  # for the next stage;
            cuda.syncthreads()  # and all have left the one that is loaded next
            turn(a_shared, stage * a_stage + a_place, b_shared, stage * b_stage + b_place,
                 a_part, b_part, sums)  # fmt: skip
            steps_left = np.int32(steps_left - 1)

        wait_for_all()  # no copy may be under way when the block ends
        bias_start += product * steps[3]
        write(sums, first_row + row, first_column + column, m, n, c_memory, c_start, c_rows, c_column,
              bias_memory, bias_start, has_bias, alpha, beta, slope)  # fmt: skip

    return multiply_tiles


def writer(spec: Gemm) -> Any:
    """The device function write(sums, row, column, m, n, c, c_start, c_rows, c_column, bias, bias_start,
    has_bias, alpha, beta, slope): what a thread does to its sums in the end, and where they go.

    Registers cannot be counted through, so all is done to the first `run` sums, to whose place the others
    move up.
    """
    by = multiplier(spec.tile, np.dtype(spec.dtype), spec.precision)
    rows, columns, run, column_step = by.rows, by.columns, by.column_run, by.column_step
    row_run, row_inside, row_step = by.row_run, by.row_inside, by.row_step
    operations = Operations(rows, columns, run)
    shift_rows, shift_columns = operations.shift_rows, operations.shift_columns
    along_rows, wide = ALONG[spec.rows], spec.wide and run == 4
    finish = finisher(spec.activation, np.dtype(spec.dtype).type)

    @device_function
    def write(
        sums, row, column, m, n, c, c_start, c_rows, c_column,
        bias, bias_start, has_bias, alpha, beta, slope,
    ):  # fmt: skip
        for i in range(rows):
            c_row = row + i // row_run * row_step + i % row_run * row_inside
            c_place = c_start + along_rows(c_row, c_rows)[0]
            for j in range(0, columns, run):
                first = column + j // run * column_step
                for e in range(run):
                    if c_row < m and first + e < n:
                        place = c_place + (first + e) * c_column
                        value = alpha * sums[0, e]
                        if beta != 0:
                            value += beta * c[place]
                        if has_bias != 0:
                            value += bias[bias_start + first + e]
                        sums[0, e] = finish(value, slope)
                        if not wide:
                            c[place] = sums[0, e]
                if wide and c_row < m and first < n:  # n is a multiple of four then
                    store4(c, c_place + first, sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3])
                shift_columns(sums)
            shift_rows(sums)

    return write


def finisher(activation: str | None, scalar: Any) -> Any:
    """The device function finish(value, slope): the activation of one result."""
    if activation == "tanh":
        return device_function(lambda value, slope: scalar(math.tanh(value)))
    if activation == "sigmoid":

        @device_function
        def sigmoid(value, slope):
            e = math.exp(-abs(value))  # never overflows
            return scalar(scalar(1) / (scalar(1) + e) if value >= 0 else e / (scalar(1) + e))

        return sigmoid

    @device_function
    def below_zero(value, slope):
        if value < 0:  # false for NaN, which stays
            return slope * value if slope != 0 else scalar(0)  # 0 * inf would be NaN
        return value

    return below_zero
