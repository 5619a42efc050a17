"""Bringing the window that a block of outputs needs next to each other, with zeros around the image.

Padding is never stored in a whole padded copy of the input. For each block of output positions, the
part of the input that its windows cover is copied into a small workspace which stays in the second-
level cache; places outside the image become zeros there, and the innermost loop needs no tests. When
nothing has to be added, the tiles read the input where it lies.
"""

from __future__ import annotations

from llvmlite import ir

from ._jit import jit
from .matmul_tile import VECTORS
from .simd import I64, Emitter, advance, intrinsic

# No loop here is unrolled: LLVM would unroll those around it as well, again and again, until copying
# is the larger part of every kernel, while it waits for memory anyway.


@intrinsic
def copy(e: Emitter, count: ir.Value, source: ir.Value, target: ir.Value) -> None:
    """target[i] = source[i], i < count."""
    full = e.builder.sdiv(count, I64(e.lanes))

    def one(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        offset = e.builder.mul(i, I64(e.lanes))
        e.store(e.load(e.at(source, offset)), e.at(target, offset))
        return []

    e.loop(full, [], one, unroll=False)
    done = e.builder.mul(full, I64(e.lanes))
    mask = e.mask(e.builder.sub(count, done))
    e.masked_store(e.masked_load(e.at(source, done), mask), e.at(target, done), mask)


@intrinsic
def clear(e: Emitter, count: ir.Value, target: ir.Value) -> None:
    """target[i] = 0, i < count."""

    def one(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        offset = e.builder.mul(i, I64(e.lanes))
        e.masked_store(e.zero, e.at(target, offset), e.mask(e.builder.sub(count, offset)))
        return []

    e.loop(_vectors(e, count), [], one, unroll=False)


@intrinsic
def copy_pixels(
    e: Emitter,
    count: ir.Value,
    source: ir.Value,
    pixel: ir.Value,
    channels: ir.Value,
    target: ir.Value,
    pitch: ir.Value,
) -> None:
    """target[s, c] = source[s, c] for c < channels, 0 for channels <= c < pitch, s < count; pixels are
    `pixel` numbers apart in the source and `pitch` in the target."""

    def part(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        """One vector of all pixels: its masks are made once."""
        offset = e.builder.mul(i, I64(e.lanes))
        wanted = e.mask(e.builder.sub(channels, offset))
        inside = e.mask(e.builder.sub(pitch, offset))

        def one(_: ir.Value, places: list[ir.Value]) -> list[ir.Value]:
            source, target = places
            e.masked_store(e.masked_load(source, wanted), target, inside)
            return [e.at(source, pixel), e.at(target, pitch)]

        e.loop(count, [e.at(source, offset), e.at(target, offset)], one, unroll=False)
        return []

    e.loop(_vectors(e, pitch), [], part, unroll=False)


def _vectors(e: Emitter, count: ir.Value) -> ir.Value:
    """How many vectors hold so many numbers."""
    return e.builder.sdiv(e.builder.add(count, I64(e.lanes - 1)), I64(e.lanes))


@jit(cache=False)
def gather(image, height, width, pixel, channels, top, left, rows, columns, pitch, window):
    """window[r, s, c] = image[top + r, left + s, c], or 0 outside of the image.

    image: pointer to (height, width) pixels, `pixel` numbers apart, of which `channels` are wanted.
    window: pointer to (rows, columns) pixels, `pitch` >= channels numbers apart; numbers from
        `channels` on become 0.
    top, left: may be negative, or beyond the image.
    """
    start = min(max(0, -left), columns)  # columns start ... stop - 1 lie inside of the image
    stop = max(start, min(columns, width - left))
    for r in range(rows):
        line = advance(window, r * columns * pitch)
        if top + r < 0 or top + r >= height:
            clear(columns * pitch, line)
            continue
        source = advance(image, ((top + r) * width + left + start) * pixel)
        target = advance(line, start * pitch)
        clear(start * pitch, line)
        if pitch == pixel and pitch == channels:
            copy((stop - start) * pitch, source, target)
        else:
            copy_pixels(stop - start, source, pixel, channels, target, pitch)
        clear((columns - stop) * pitch, advance(line, stop * pitch))


@intrinsic
def copy_row(e: Emitter, source: ir.Value, count: ir.Value, panel: ir.Value) -> None:
    """One row of a panel of VECTORS vectors: `count` numbers, then zeros."""
    for j in range(VECTORS):
        mask = e.mask(e.builder.sub(count, I64(j * e.lanes)))
        e.store(e.masked_load(e.at(source, j * e.lanes), mask), e.at(panel, j * e.lanes))


@intrinsic
def add_rows(
    e: Emitter, count: ir.Value, b: ir.Value, b_step: ir.Value, n: ir.Value, sums: ir.Value
) -> None:
    """sums[j] += the sum over p < count of b[p * b_step + j], j < n <= a panel's width. Only the
    vectors that n reaches into are read, but these as a whole."""
    chains = 4  # an addition takes several cycles: so many are under way at a time

    def add(j: int) -> None:
        def one(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            place, *totals = carried
            following = []
            for total in totals:
                following.append(e.add(total, e.load(place)))
                place = e.at(place, b_step)
            return [place, *following]

        def rest(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            place, total = carried
            return [e.at(place, b_step), e.add(total, e.load(place))]

        start = e.at(b, j * e.lanes)
        place, *totals = e.loop(
            e.builder.sdiv(count, I64(chains)), [start, *[e.zero] * chains], one
        )
        total = e.add(e.add(totals[0], totals[1]), e.add(totals[2], totals[3]))
        _, total = e.loop(e.builder.srem(count, I64(chains)), [place, total], rest)
        mask = e.mask(e.builder.sub(n, I64(j * e.lanes)))
        target = e.at(sums, j * e.lanes)
        e.masked_store(e.add(e.masked_load(target, mask), total), target, mask)

    for j in range(VECTORS):
        with e.builder.if_then(e.builder.icmp_signed(">", n, I64(j * e.lanes))):
            add(j)
