"""Products by warpgroups, for GPUs of compute capability 9.0: C = activation(alpha A B + beta C + bias).

Both factors are packed (see `packing`); then each block computes a tile of C. It keeps `stages` pieces of both
factors in shared memory: while tensor cores multiply one (see `wgmma`), others are copied (see `bulk`). One thread
starts the copies, all start the products; the rest is waiting.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import device, wgmma
from .bulk import begin, copy, expect, fence_begun, wait
from .device import ALIGNED, MOST_BLOCKS, cuda, device_function, kernel
from .gemm import finisher
from .instructions import load4, pointer, quotient, reciprocal, store4
from .operands import _divisor
from .packing import WORDS, pack, stages_of
from .registers import Operations
from .tiles import WarpgroupTile
from .wgmma import descriptor, fence_sums

if TYPE_CHECKING:
    from .products import Ending, Product, Result

COMPUTE = (9, 0)  # the one compute capability that has their instructions
CORE = 128  # bytes of a core matrix: the next one along the sum follows it,
GROUP = 8 * 4 * WORDS  # bytes of 8 rows of a stage: the next rows follow them
STEP = (
    wgmma.STEP_BYTES // 16 * CORE // 4
)  # words from one instruction's part of a row to the next one's
PADDING = 8  # words between rows of C in shared memory: what 16 threads write, 2 words each, meets all banks
FLOAT = np.dtype(np.float32)
# 16 bytes would do. So each core matrix is one row of all banks, not the end of one and the beginning of the next.
BEGIN = ALIGNED and CORE


class Packed(NamedTuple):
    """All that is compiled into a kernel."""

    tile: WarpgroupTile
    precision: str
    wide: bool = False  # C is read and written 16 bytes at a time
    activation: str | None = None  # "sigmoid" or "tanh"; the others are a slope below zero


@functools.cache
def multiplier(spec: Packed) -> Any:
    """The kernel

        multiply_packed(a, a_start, b, b_start, c, c_start, c_row, c_column, bias, has_bias, bias_start,
                        sizes, stage_counts, steps, group, alpha, beta, slope)

    Args:
        a, b: packed factors.
        sizes: (M, N, rows of A and of B with those of padding).
        stage_counts: (of the sum, of one part, parts, and how to divide by parts: `operands._divisor`).
        steps: from one product of a stack to the next of A and B, packed, C and bias; of C from part to part.
        Others: as in `gemm`, which has the same grid.
    """
    tile = spec.tile
    height, width, stages, threads = tile.height, tile.width, tile.stages, tile.threads
    a_words, b_words = height * WORDS, width * WORDS
    stage_words, stage_bytes = a_words + b_words, 4 * (a_words + b_words)
    count, pitch, per_stage = width // 2, width + PADDING, WORDS * 4 // wgmma.STEP_BYTES
    of_warpgroup = wgmma.ROWS // 8 * GROUP // 4
    multiply, finish, store = wgmma.instructions(width, spec.precision)
    clear, write = Operations(count, 1, 1).clear, writer(spec)
    start_products, wait_for_products = wgmma.commit, wgmma.wait_for(1)

    @device_function
    def load(shared, arrived, slot, a, a_place, b, b_place):
        expect(arrived, slot, stage_bytes)
        place = slot * stage_words
        copy(shared, place, a, a_place, a_words, arrived, slot)
        copy(shared, place + a_words, b, b_place, b_words, arrived, slot)

    @kernel(threads, tile.blocks)
    def multiply_packed(
        a, a_start, b, b_start, c, c_start, c_row, c_column, bias, has_bias, bias_start,
        sizes, stage_counts, steps, group, alpha, beta, slope,
    ):  # fmt: skip
        shared = cuda.shared.array(0, FLOAT, BEGIN)
        arrived = cuda.shared.array(stages, np.int64)  # barriers, one for each stage
        sums = cuda.local.array(count, np.float32)
        thread = cuda.threadIdx.x & 1023  # tells the compiler that it is not negative
        m, n, a_rows, b_rows = sizes
        first_row = ((cuda.blockIdx.y << group) + (cuda.blockIdx.x & ((1 << group) - 1))) * height
        first_column = (cuda.blockIdx.x >> group) * width
        if first_row >= m:
            return
        total, of_part, parts, factor, shift = stage_counts
        # No instruction divides integers, and the assembler lets no wgmma run by itself in a kernel that calls
        # the function which does (its warning C7509).
        product = quotient(cuda.blockIdx.z, factor, shift)
        part = cuda.blockIdx.z - product * parts
        first = part * of_part
        here = min(of_part, total - first)
        a_memory, b_memory = pointer(a, alpha), pointer(b, alpha)
        a_place = a_start + product * steps[0] + (first * a_rows + first_row) * WORDS
        b_place = b_start + product * steps[1] + (first * b_rows + first_column) * WORDS
        a_step, b_step = a_rows * WORDS, b_rows * WORDS
        a_first = thread // 128 * of_warpgroup

        clear(sums)
        if thread == 0:
            for slot in range(stages):
                begin(arrived, slot)
            fence_begun()
        cuda.syncthreads()
        if thread == 0:
            for slot in range(min(stages, here)):
                load(shared, arrived, slot, a_memory, a_place + slot * a_step,
                     b_memory, b_place + slot * b_step)  # fmt: skip
        slot, parity, last = 0, 0, 0
        for stage in range(here):
            wait(arrived, slot, parity)
            fence_sums()
            start = slot * stage_words
            for step in range(per_stage):
                multiply(sums, descriptor(shared, start + a_first + step * STEP, CORE, GROUP),
                         descriptor(shared, start + a_words + step * STEP, CORE, GROUP))  # fmt: skip
            start_products()
            # While these run: as soon as the products of the stage before have ended, this warpgroup's and then
            # all warpgroups', its place is free for the stage that follows those which are there.
            wait_for_products()
            cuda.syncthreads()
            following = stage - 1 + stages
            if thread == 0 and stage > 0 and following < here:
                load(shared, arrived, last, a_memory, a_place + following * a_step,
                     b_memory, b_place + following * b_step)  # fmt: skip
            last = slot
            slot += 1
            if slot == stages:
                slot, parity = 0, 1 - parity

        finish(sums)
        cuda.syncthreads()  # all have left the factors, whose place now is C's
        lane = thread % 32
        store(sums, shared, (thread // 32 * 16 + lane // 4) * pitch + lane % 4 * 2, pitch)
        cuda.syncthreads()
        write(shared, thread, first_row, first_column, m, n, pointer(c, alpha),
              c_start + product * steps[2] + part * steps[4], c_row, c_column, pointer(bias, alpha),
              bias_start + product * steps[3], has_bias, alpha, beta, slope)  # fmt: skip

    return multiply_packed


@device_function
def sigmoid(value, slope):
    """Without a division, which is a call, too."""
    e = math.exp(-abs(value))  # never overflows
    return reciprocal(1 + e) if value >= 0 else e * reciprocal(1 + e)


def writer(spec: Packed) -> Any:
    """The device function write(...): what is done to a tile of sums in shared memory, and where it goes. Each
    thread has four columns, and writes every so many rows."""
    tile, wide = spec.tile, spec.wide
    pitch, quads, height = tile.width + PADDING, tile.width // 4, tile.height
    rows_at_once = tile.threads // quads
    zero = np.float32(0)
    activate = sigmoid if spec.activation == "sigmoid" else finisher(spec.activation, np.float32)

    @device_function
    def result(x, old, alpha, beta, bias, slope):
        value = alpha * x + bias
        if beta != 0:
            value += beta * old
        return activate(value, slope)

    @device_function
    def write(
        shared, thread, first_row, first_column, m, n, c, c_start, c_row, c_column,
        bias, bias_start, has_bias, alpha, beta, slope,
    ):  # fmt: skip
        inside = thread % quads * 4
        column = first_column + inside
        b0, b1, b2, b3 = zero, zero, zero, zero
        if has_bias != 0:
            bias_start += column
            b0 = bias[bias_start] if column < n else zero
            b1 = bias[bias_start + 1] if column + 1 < n else zero
            b2 = bias[bias_start + 2] if column + 2 < n else zero
            b3 = bias[bias_start + 3] if column + 3 < n else zero
        for row in range(thread // quads, height, rows_at_once):
            if first_row + row < m and column < n:
                x0, x1, x2, x3 = load4(shared, row * pitch + inside)
                place = c_start + (first_row + row) * c_row + column * c_column
                if wide:  # n is a multiple of four then
                    old0, old1, old2, old3 = zero, zero, zero, zero
                    if beta != 0:
                        old0, old1, old2, old3 = load4(c, place)
                    store4(
                        c, place,
                        result(x0, old0, alpha, beta, b0, slope), result(x1, old1, alpha, beta, b1, slope),
                        result(x2, old2, alpha, beta, b2, slope), result(x3, old3, alpha, beta, b3, slope),
                    )  # fmt: skip
                else:
                    for e in range(4):  # always the first; after four turns the bias is as it was
                        if column + e < n:
                            old = c[place] if beta != 0 else zero
                            c[place] = result(x0, old, alpha, beta, b0, slope)
                        place += c_column
                        x0, x1, x2, b0, b1, b2, b3 = x1, x2, x3, b1, b2, b3, b0

    return write


def launch(
    product: Product,
    result: Result,
    parts: int,
    spec: Packed,
    ending: Ending,
    a: Any,
    b: Any,
    c_place: Any,
    bias_place: Any,
) -> None:
    """Pack both factors and multiply them; see `products.multiply`, which chose the tile.

    Args:
        a, b: the factors' arrays; c_place, bias_place: addresses.
    """
    (m, n, k), tile, stack, bias_step = product.sizes, spec.tile, product.stack, product.bias_step
    a_operand, b_operand = product.a, product.b
    stages = stages_of(k, spec.precision)
    packed_a = pack(a, a_operand, m, k, stack if a_operand.step else 1, tile.height, spec.precision)
    packed_b = pack(b, b_operand, n, k, stack if b_operand.step else 1, tile.width, spec.precision)
    rows = packed_a.shape[2], packed_b.shape[2]
    of_row = stages * WORDS
    a_step, b_step = (
        rows[0] * of_row * bool(a_operand.step),
        rows[1] * of_row * bool(b_operand.step),
    )
    group = min(3, (rows[0] // tile.height - 1).bit_length())
    groups = (rows[0] // tile.height + (1 << group) - 1) >> group
    most = MOST_BLOCKS // parts
    for first in range(0, stack, most):
        here = min(most, stack - first)
        device.launch(
            multiplier(spec),
            (rows[1] // tile.width << group, groups, here * parts),
            tile.threads,
            device.memory(packed_a), first * a_step, device.memory(packed_b), first * b_step,
            c_place, result.start + first * result.step, result.rows[0], result.column,
            bias_place, int(ending.has_bias), first * bias_step,
            (m, n, *rows), (stages, -(-stages // parts), *_divisor(parts)),
            (a_step, b_step, result.step, bias_step, m * n),
            group,
            *ending.scalars("f"),
            shared=tile.shared,
        )  # fmt: skip
