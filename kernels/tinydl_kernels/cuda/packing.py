"""Packing: a factor of a product is rounded and laid out as `wgmma` reads it.

Tensor cores on Hopper read core matrices, 8 rows of 16 bytes each (see `wgmma`), in TF32 only with the sum along
the 16 bytes. So each factor is copied once, whatever its layout was, into

    packed[product, stage, row // 8, chunk, row % 8, :] = four words: 16 bytes of a row

where a stage is 128 bytes, 8 chunks, of each row: 32 numbers in TF32 or 64 in bf16. B's rows are its columns.
Behind the last row and the last number of the sum lie zeros. What a tile needs of a stage, some neighboring rows,
is one run of memory.

What it costs for two factors of 4096 x 4096: 128 MB are read, 128 MB (TF32) or 64 MB (bf16) written; at 4 TB/s
some 50 to 70 us, a quarter (bf16) or sixth (TF32) of what the product takes. An estimate, not measured.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import device
from .device import ALIGNED, cuda, device_function, kernel
from .instructions import float_of_bits, load, pointer, store4
from .mma import pack_bf16, to_tf32

WORDS = 32  # of 4 bytes, in a row of a stage
NUMBERS_IN_A_WORD = {"tf32": 1, "bf16": 2}
ROWS = 32  # that a block packs, of one stage
THREADS = 256
ZERO = np.float32(0)


def stages_of(k: int, precision: str) -> int:
    return -(-k // (WORDS * NUMBERS_IN_A_WORD[precision]))


def pack(
    x: Any, operand: Any, rows: int, k: int, products: int, multiple: int, precision: str
) -> Any:
    """A factor's matrices (rows, k) as (products, stages, rows up to a multiple, 32) words.

    Args:
        x, operand: an array, and a `products.Operand` whose axes are lines.
        products: how many matrices; one is enough for all products if operand.step is 0.
    """
    stages, padded = stages_of(k, precision), -(-rows // multiple) * multiple
    packed = device.namespace().empty((products, stages, padded, WORDS), np.float32)
    row_step, k_step = operand.outer[0], operand.inner[0]
    along_rows = abs(row_step) < abs(k_step)
    blocks = stages, -(-padded // ROWS)  # those that run at one time read what lies side by side
    device.launch(
        packer(precision, along_rows),
        (*(reversed(blocks) if along_rows else blocks), products),
        THREADS,
        device.memory(x), operand.start, (operand.step, row_step, k_step),
        device.memory(packed), (rows, k, padded, stages), ZERO,
    )  # fmt: skip
    return packed


@functools.cache
def packer(precision: str, along_rows: bool) -> Any:
    """The kernel pack(x, start, steps, packed, sizes, zero): a block packs 32 rows of one stage, through shared
    memory, so that both reading, along rows or along the sum, and writing go along memory."""
    depth = WORDS * NUMBERS_IN_A_WORD[precision]
    per_word, threads = NUMBERS_IN_A_WORD[precision], THREADS
    reads, writes = ROWS * depth // threads, ROWS * WORDS // 4 // threads
    # How many rows, and how many numbers of the sum, a thread moves on from one read to the next.
    rows_on, on = (0, threads // ROWS) if along_rows else (threads // depth, 0)
    pitch = depth + 1  # an odd one: neighbors along both axes lie in different banks
    size = ROWS * pitch

    if precision == "tf32":

        @device_function
        def word(tile, place):
            return to_tf32(load(tile, place))
    else:

        @device_function
        def word(tile, place):
            return float_of_bits(pack_bf16(load(tile, place), load(tile, place + 1)))

    @kernel(threads, 6)
    def pack_rows(x, start, steps, packed, sizes, zero):
        tile = cuda.shared.array(size, np.float32, ALIGNED)
        thread = cuda.threadIdx.x & 1023
        rows, k, padded, stages = sizes
        if along_rows:
            stage, first_row = cuda.blockIdx.y, cuda.blockIdx.x * ROWS
            row, p = thread % ROWS, thread // ROWS
        else:
            stage, first_row = cuda.blockIdx.x, cuda.blockIdx.y * ROWS
            row, p = thread // depth, thread % depth
        memory, packed_memory = pointer(x, zero), pointer(packed, zero)
        start += cuda.blockIdx.z * steps[0]
        place = start + (first_row + row) * steps[1] + (stage * depth + p) * steps[2]
        move = rows_on * steps[1] + on * steps[2]
        for _ in range(reads):
            value = zero
            if first_row + row < rows and stage * depth + p < k:
                value = memory[place]
            tile[row * pitch + p] = value
            row, p, place = row + rows_on, p + on, place + move
        cuda.syncthreads()
        for turn in range(writes):
            i = turn * threads + thread
            chunk, row = i // 8 % 8, i // 64 * 8 + i % 8
            if first_row + row < padded:
                place = row * pitch + chunk * 4 * per_word
                block = (cuda.blockIdx.z * stages + stage) * padded + first_row
                store4(
                    packed_memory, block * WORDS + i * 4,
                    word(tile, place), word(tile, place + per_word),
                    word(tile, place + 2 * per_word), word(tile, place + 3 * per_word),
                )  # fmt: skip

    return pack_rows
