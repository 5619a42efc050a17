"""Fetching the next block's memory while this block is computed.

A convolution computes one block of positions after the other, and each touches memory that has not been
touched before: its window of the input, and its part of the output. The innermost loops hardly use the
memory, so its latency need not be waited for. After every tile, a few cache lines of what the next
block needs are asked for, and they travel to the caches while the processor goes on computing.

A stream is a run of memory to be fetched. Two of them stand behind each other in a table of fields.

Source of the idea: Mowry, Lam & Gupta, "Design and evaluation of a compiler algorithm for prefetching"
(ASPLOS 1992).
"""

from __future__ import annotations

from llvmlite import ir

from ._jit import jit
from .simd import I64, Emitter, intrinsic, pointer

# Bytes of a cache line on almost all processors; elsewhere some are asked for twice, or not.
LINE = 64
# Where the stream goes on, lines that are left, lines for one tile.
(ADDRESS, LINES, SHARE) = range(3)
STREAM = 3
AHEAD_FIELDS = 2 * STREAM


@jit(cache=False)
def set_stream(fields, at, address, size, tiles):
    """Let `tiles` tiles fetch `size` bytes from `address` on."""
    lines = (size + LINE - 1) // LINE
    fields[at + ADDRESS], fields[at + LINES] = address, lines
    fields[at + SHARE] = (lines + tiles - 1) // tiles


@jit(cache=False)
def fetch_ahead(fields, at, like):
    """One tile's share of the two streams that begin at field `at`. `like` points to elements."""
    for stream in range(at, at + AHEAD_FIELDS, STREAM):
        lines = min(fields[stream + LINES], fields[stream + SHARE])
        if lines > 0:
            _fetch(pointer(like, fields[stream + ADDRESS]), lines)
            fields[stream + ADDRESS] += lines * LINE
            fields[stream + LINES] -= lines


@intrinsic
def _fetch(e: Emitter, address: ir.Value, lines: ir.Value) -> None:
    def one(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        e.prefetch(e.at(address, e.builder.mul(i, I64(LINE // e.itemsize))))
        return []

    e.loop(lines, [], one, unroll=False)
