"""Sizes of the tiles in which matrix products are computed, and which of them is taken.

`tuned` holds what was measured on a GPU, and decides on such a GPU. For all else, and for what was not measured,
`estimate` does.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from . import tuned
from .device import MOST_BLOCKS


class Tile(NamedTuple):
    """How a block, its warps and its threads share C.

    A thread computes `rows` x `columns` elements, in groups of four side by side. A warp is a grid of
    lanes, a block a grid of warps. `depth` elements of the sum at a time lie in shared memory, `stages`
    times: while one stage is computed, the others are on their way.
    """

    rows: int
    columns: int
    lanes: tuple[int, int]
    warps: tuple[int, int]
    depth: int = 8
    stages: int = 3
    blocks: int = 1  # that shall fit on a multiprocessor at once

    @property
    def height(self) -> int:
        return self.rows * self.lanes[0] * self.warps[0]

    @property
    def width(self) -> int:
        return self.columns * self.lanes[1] * self.warps[1]

    @property
    def threads(self) -> int:
        return self.lanes[0] * self.lanes[1] * self.warps[0] * self.warps[1]


class WarpgroupTile(NamedTuple):
    """How a block of warpgroups shares C, each 64 whole rows of the tile; see `warpgroups`."""

    warpgroups: int
    width: int
    stages: int = 4
    blocks: int = 1  # that shall fit on a multiprocessor at once
    depth: int = 64  # numbers of the sum in a stage, in TF32 half as many

    @property
    def height(self) -> int:
        return 64 * self.warpgroups

    @property
    def threads(self) -> int:
        return 128 * self.warpgroups

    @property
    def shared(self) -> int:
        """Bytes of shared memory: stages with 128 bytes of each row, and in the end the sums."""
        return max(
            128 * self.stages * (self.height + self.width), 4 * self.height * (self.width + 8)
        )


H200, H200_MULTIPROCESSORS = "NVIDIA H200", 132

# Large tiles make more of what they load, small ones give all multiprocessors something to do.
#
# What is known of them without a GPU is the machine code. Of all instructions in the loop over the sum, counted
# in the assembler's output for sm_90, so many are multiply-adds, the work itself (matrices; images, forward):
#     128x256: 90 %; 85 %      128x128: 89 %; 81 %
# It is what the arithmetic could reach if nothing were ever waited for. Speeds are not measured.
TILES = {
    "float32": {
        "128x256": Tile(8, 16, (4, 8), (4, 2), depth=8, stages=3, blocks=1),
        "128x128": Tile(8, 16, (4, 8), (4, 1), depth=8, stages=4, blocks=2),
        "64x64": Tile(8, 8, (4, 8), (2, 1), depth=8, stages=4, blocks=5),
        "128x32": Tile(4, 8, (8, 4), (4, 1), depth=8, stages=4, blocks=4),
        "128x16": Tile(4, 4, (8, 4), (4, 1), depth=8, stages=4, blocks=4),
        "32x128": Tile(8, 4, (4, 8), (1, 4), depth=8, stages=4, blocks=4),
        "4x128": Tile(4, 4, (1, 32), (1, 1), depth=16, stages=3, blocks=6),
    },
    "float64": {
        "64x64": Tile(4, 8, (8, 4), (2, 2), depth=8, stages=3, blocks=2),
        "64x16": Tile(4, 4, (8, 4), (2, 1), depth=8, stages=4, blocks=6),
        "4x128": Tile(4, 4, (1, 32), (1, 1), depth=16, stages=2, blocks=4),
    },
    "tensor cores": {
        "128x128": Tile(8, 16, (8, 4), (2, 2), depth=16, stages=2, blocks=2),
        "64x64": Tile(4, 8, (8, 4), (2, 2), depth=16, stages=2, blocks=3),
    },
}

WARPGROUP_TILES = {
    "w128x256": WarpgroupTile(2, 256, stages=4, blocks=1),
    "w128x128": WarpgroupTile(2, 128, stages=3, blocks=2),
}
# Rows, and numbers of a sum, of a packed factor. A block packs 32, of the rows up to a whole tile, too.
MOST_PACKED = 32 * MOST_BLOCKS // 256 * 256

# What a kernel does besides multiply-adds, from its machine code: instructions for each step in depth, to
# start copies and to count, and for each four numbers read from shared memory.
STEP_OVERHEAD, LOAD_OVERHEAD = 90, 1
READING = 16  # multiply-adds in the time in which a number comes from the L2 cache
ENOUGH_WARPS = 8  # on a multiprocessor, for one to compute while others wait
MOST_PARTS = 512
# Of the kernel that adds parts up: threads that share the parts of an element, and how many each has at least.
MOST_ADDERS, LEAST_ADDED = 32, 4
ADDING = (
    40  # what it costs to write and add up one more element, in multiply-adds of one multiprocessor
)
ADDED = 2e4  # and to wait for one that is added up: some 600 clocks for four, which are asked for together
STARTING = 7e5  # and to start the kernel that adds them up: some 3 us
# The same for products by warpgroups: the tensor cores do this many multiply-adds in the time of one by mma;
# a number comes from the L2 cache in the time of so many; to begin and to end a tile takes as long as so many
# numbers of its sum; so much takes the packing of a number, and the start of both kernels that pack.
WARPGROUP_SPEED, PACKED_READING, PACKED_ENDS = 4, 25, 128
PACKING, PACKING_START = 100, 2e6


@functools.lru_cache(maxsize=4096)  # training asks for the same few shapes over and over
def choose(
    dtype: str,
    m: int,
    n: int,
    k: int,
    products: int,
    precision: str | None = None,
    images: bool = False,
    may_split: bool = True,
    multiprocessors: int = H200_MULTIPROCESSORS,
    warpgroups: bool = False,
    gpu: str = H200,
) -> tuple[Tile | WarpgroupTile, int]:
    """The tile for a product of (m, k) by (k, n), and into how many parts the sum is cut.

    Args:
        images: an operand is read from images; then each thread should have few copies to note.
        warpgroups: the GPU has their instructions, and C is written row by row.
        gpu: its name. What was measured on another is no use.
    """
    table = available(dtype, m, n, k, products, precision, images, warpgroups)
    choices = tuned.CHOICES if gpu == tuned.DEVICE else {}
    measured = choices.get((precision or dtype, *shape_class(m, n, k)))
    if measured and measured[0] in table and products == 1 and not images:
        tile = table[measured[0]]
        allowed = [p for p in parts_of(k, tile) if p <= measured[1]]
        return tile, max(allowed) if may_split else 1
    candidates = []
    for name, tile in table.items():
        cost_of = estimate_packed if isinstance(tile, WarpgroupTile) else estimate
        for parts in parts_of(k, tile) if may_split else (1,):
            cost = cost_of(tile, m, n, k, products, parts, multiprocessors)
            candidates.append((cost, name, parts))
    _, name, parts = min(candidates)
    return table[name], parts


def available(
    dtype: str,
    m: int,
    n: int,
    k: int,
    products: int = 1,
    precision: str | None = None,
    images: bool = False,
    warpgroups: bool = False,
) -> dict[str, Tile | WarpgroupTile]:
    """The tiles that a product can be computed with, by name."""
    table = TILES["tensor cores" if precision else dtype]
    if images:
        return {name: tile for name, tile in table.items() if suits_images(tile, precision)}
    fits_grid = max(m, n, k) <= MOST_PACKED and products <= MOST_BLOCKS
    packed = precision is not None and warpgroups and k > 0 and fits_grid
    return {**table, **WARPGROUP_TILES} if packed else {**table}


def shape_class(*sizes: int) -> tuple[int, ...]:
    """Sizes that are alike: class 0 up to 16, 1 up to 64, and so on by factors of 4, 5 for all above 4096."""
    return tuple(min(5, max(0, ((size - 1).bit_length() - 3) // 2)) for size in sizes)


def suits_images(tile: Tile, precision: str | None) -> bool:
    """Threads note the places that they read from, in registers: not where each has many copies to make, or
    none to spare."""
    return tile.height >= 8 and not (precision == "bf16" and tile.rows * tile.columns >= 128)


def parts_of(k: int, tile: Tile | WarpgroupTile) -> list[int]:
    """Powers of two that leave every part a few steps."""
    powers = (1 << exponent for exponent in range(MOST_PARTS.bit_length()))
    return [p for p in powers if p == 1 or k >= 8 * p * tile.depth]


def adders_of(parts: int) -> int:
    """How many threads add up the parts of an element: a power of two."""
    return min(MOST_ADDERS, 1 << (max(1, parts // LEAST_ADDED).bit_length() - 1))


def estimate(
    tile: Tile, m: int, n: int, k: int, products: int, parts: int, multiprocessors: int
) -> float:
    """What the product costs, in multiply-adds that one multiprocessor could do in the time.

    An estimate from counts, not a measurement: blocks are dealt out evenly, those on one multiprocessor
    share its arithmetic, and with too few warps some of it stands idle.
    """
    tiles = -(-m // tile.height) * -(-n // tile.width) * products * parts
    blocks = -(-tiles // multiprocessors)
    warps = max(1, tile.threads // 32) * min(blocks, tile.blocks)
    useful = tile.rows * tile.columns
    issued = useful + LOAD_OVERHEAD * (tile.rows + tile.columns) / 4 + STEP_OVERHEAD / tile.depth
    waiting = max(1.0, ENOUGH_WARPS / warps)
    steps = -(-k // (parts * tile.depth)) + tile.stages  # the first copies are waited for
    arithmetic = tile.height * tile.width * issued / useful * waiting
    reading = READING * (tile.height + tile.width)
    cost = blocks * steps * tile.depth * max(arithmetic, reading)
    return cost + adding_up(m, n, products, parts, multiprocessors)


def adding_up(m: int, n: int, products: int, parts: int, multiprocessors: int) -> float:
    if parts == 1:
        return 0.0
    one_by_one = -(-parts // adders_of(parts))
    return ADDING * m * n * products * (parts + 1) / multiprocessors + ADDED * one_by_one + STARTING


def estimate_packed(
    tile: WarpgroupTile, m: int, n: int, k: int, products: int, parts: int, multiprocessors: int
) -> float:
    """The same for products by warpgroups, in the same unit: multiply-adds by mma, some 256 in a clock of a
    multiprocessor. Nothing of it is measured."""
    tiles = -(-m // tile.height) * -(-n // tile.width) * products * parts
    arithmetic = tile.height * tile.width / WARPGROUP_SPEED
    reading = PACKED_READING * (tile.height + tile.width)
    steps = -(-k // parts) + PACKED_ENDS
    cost = -(-tiles // multiprocessors) * steps * max(arithmetic, reading)
    packing = PACKING * (m + n) * k * products / multiprocessors + PACKING_START
    return cost + packing + adding_up(m, n, products, parts, multiprocessors)
