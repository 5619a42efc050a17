"""How a matrix product reads its operands: not from matrices, but from anything that can be indexed
like one. This is what makes convolution a matrix product without a buffer for its patches.

An operand has two axes. The `outer` one runs along the rows of A (the columns of B), the `inner` one
along the sum. An axis turns an index into three numbers: how many elements the memory address moves,
and, for images, by how many rows and columns the place in the image moves. The two axes' numbers are
added up; where the place falls outside the image, into the padding, the element is zero.

    kind     index                      for
    LINE     i                          matrices: address i * step
    FOLDED   (i0 * n1 + i1) * n2 + i2   pixels (image, row, column), taps (row, column, channel)

For a convolution's forward pass, A's outer axis is folded from pixels, its inner axis from taps: the
element (pixel, tap) of the matrix that "im2col" would write to memory is only ever an address here
(Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", 2014, section 3.1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .device import VECTOR_BYTES, device_function
from .instructions import copy_async, moved

LINE, FOLDED = "line", "folded"
OUTER, INNER = "outer", "inner"  # along which axis neighbors lie side by side in memory
LARGEST_INDEX = 2**31 - 1  # that `quotient` can divide


class Layout(NamedTuple):
    """What is compiled into a kernel of how it reads an operand."""

    contiguous: str = OUTER  # or INNER: along it, neighboring threads read neighboring elements
    wide: bool = False  # 16 bytes a copy, along the outer axis
    outer: str = LINE
    inner: str = LINE
    bounded: bool = False  # elements outside an image are zero


# --- axes, as the host describes them -------------------------------------------------------------


def line(step: int) -> tuple[int, ...]:
    return (int(step),)


def folded(
    sizes: tuple[int, int],
    steps: tuple[int, int, int],
    rows: tuple[int, int] = (0, 0),
    columns: tuple[int, int] = (0, 0),
) -> tuple[int, ...]:
    """An axis folded from three: index = (i0 * sizes[0] + i1) * sizes[1] + i2.

    Args:
        steps: elements of memory by which i0, i1 and i2 move.
        rows: rows of the image by which i0 and i1 move.
        columns: columns of the image by which i1 and i2 move.
    """
    return (*divisor(sizes[0]), *divisor(sizes[1]), *steps, *rows, *columns)


def divisor(d: int) -> tuple[int, int, int]:
    """(d, factor, shift) such that i // d == (i * factor) >> shift for 0 <= i < 2^31.

    GPUs have no instruction for the division of integers. With shift = 31 + ceil(log2 d) and the factor
    2^shift / d rounded up, the error stays too small to matter (Granlund & Montgomery, "Division by
    Invariant Integers using Multiplication", 1994, theorem 4.2).
    """
    d = max(1, d)  # where an axis is empty, nothing is divided
    shift = 31 + (d - 1).bit_length()
    return d, -(-(1 << shift) // d), shift


# --- axes, as a kernel uses them ------------------------------------------------------------------


@device_function
def _along_line(index, axis):
    return index * axis[0], 0, 0


@device_function
def _along_folded(index, axis):
    size1, factor1, shift1, size2, factor2, shift2 = (
        axis[0],
        axis[1],
        axis[2],
        axis[3],
        axis[4],
        axis[5],
    )
    rest = (index * factor2) >> shift2
    i2 = index - rest * size2
    i0 = (rest * factor1) >> shift1
    i1 = rest - i0 * size1
    offset = i0 * axis[6] + i1 * axis[7] + i2 * axis[8]
    return offset, i0 * axis[9] + i1 * axis[10], i1 * axis[11] + i2 * axis[12]


ALONG = {LINE: _along_line, FOLDED: _along_folded}


# --- loaders --------------------------------------------------------------------------------------


class Loader(NamedTuple):
    """Two device functions that all threads of a block call together.

    begin(state, start, outer, inner, bounds, first, limit, k, k_limit, thread) notes in `state` where
    the thread is to read, from the element (first, k) of an operand on that begins at element `start`
    and is `limit` long (and k_limit deep).

    load(shared, place, memory, state, outer, inner, bounds) starts to copy a tile to shared[place:],
    and moves on to the next. The tile lies there as [inner][outer], whatever the layout in the device's
    memory: a row of `length` elements every `pitch`.

    `state` has `size` numbers.
    """

    begin: Any
    load: Any
    size: int


class _Share(NamedTuple):
    """How the threads share out the copies of a tile: thread t begins at (outer, inner) place first(t),
    and its copy number i is shift(i) from there."""

    first: Any
    shift: Any
    width: int  # elements in a copy
    copies: int


def loader(
    layout: Layout, length: int, depth: int, pitch: int, threads: int, itemsize: int
) -> Loader:
    """The loader of tiles of `length` (outer) by `depth` (inner) elements."""
    share = _share(layout, length, depth, threads, itemsize)
    if layout.outer == layout.inner == LINE:
        return _matrix_loader(share, depth, pitch)
    return _image_loader(layout, share, depth, pitch)


def _share(layout: Layout, length: int, depth: int, threads: int, itemsize: int) -> _Share:
    """Neighbors in memory go to neighboring threads. Along the inner axis, 8 threads read 8 neighbors, a
    sector of 32 bytes or two; they write to 8 rows of shared memory, which lie in different banks."""
    width = VECTOR_BYTES // itemsize if layout.wide else 1
    if layout.contiguous == OUTER:
        run = length // width
        fits = run % threads == 0 or threads % run == 0

        @device_function
        def first(thread):
            return thread % run * width, thread // run

        @device_function
        def shift(i):
            return i * threads % run * width, i * threads // run

    else:
        run = max(min(8, depth, threads), threads // length)
        fits = threads % run == 0 and length % (threads // run) == 0 and depth % run == 0

        @device_function
        def first(thread):
            return thread // run, thread % run

        @device_function
        def shift(i):
            return i * threads // run % length, i * threads // (run * length) * run

    copies = length * depth // (width * threads)
    if not fits or copies * width * threads != length * depth:
        raise ValueError(f"{threads} threads cannot share a tile of {length} x {depth} by {width}")
    return _Share(first, shift, width, copies)


def _matrix_loader(share: _Share, depth: int, pitch: int) -> Loader:
    """A matrix is read along straight lines: one place moves on, all others are a few steps from it."""
    first_of, shift, width, copies = share
    copy = copy_async(width)
    CURSOR, OUTER_LEFT, INNER_LEFT, PLACE = range(4)

    @device_function
    def begin(state, start, outer, inner, bounds, first, limit, k, k_limit, thread):
        o, p = first_of(thread)
        state[CURSOR] = start + (first + o) * outer[0] + (k + p) * inner[0]
        state[OUTER_LEFT] = min(limit - first - o, LARGEST_INDEX)
        state[INNER_LEFT] = min(k_limit - k - p, LARGEST_INDEX)
        state[PLACE] = p * pitch + o

    @device_function
    def load(shared, place, memory, state, outer, inner, bounds):
        here = moved(memory, state[CURSOR])
        outer_left, inner_left = np.int32(state[OUTER_LEFT]), np.int32(state[INNER_LEFT])
        outer_step, inner_step = np.int32(outer[0]), np.int32(inner[0])
        place += state[PLACE]
        for i in range(copies):
            o, p = shift(i)
            count = min(width, outer_left - o) if outer_left > o and inner_left > p else 0
            copy(shared, place + (p * pitch + o), here, o * outer_step + p * inner_step, count)
        state[CURSOR] += depth * inner_step
        state[INNER_LEFT] = inner_left - depth

    return Loader(begin, load, 4)


def _image_loader(layout: Layout, share: _Share, depth: int, pitch: int) -> Loader:
    """Of images, each copy's place along the outer axis is noted, since it takes divisions to find it; the
    place along the inner axis is found anew for each tile, once for all copies that have it in common."""
    first_of, shift, width, copies = share
    copy, bounded = copy_async(width), layout.bounded
    along_outer, along_inner = ALONG[layout.outer], ALONG[layout.inner]
    CURSOR, OUTER_LEFT, INNER_LEFT, PLACE, NOTES = range(5)
    NOTED = 3  # numbers for each copy: offset, row and column

    @device_function
    def begin(state, start, outer, inner, bounds, first, limit, k, k_limit, thread):
        o, p = first_of(thread)
        state[CURSOR] = k + p
        state[OUTER_LEFT] = min(limit - first - o, LARGEST_INDEX)
        state[INNER_LEFT] = min(k_limit - k - p, LARGEST_INDEX)
        state[PLACE] = p * pitch + o
        for i in range(copies):
            offset, row, column = along_outer(first + o + shift(i)[0], outer)
            state[NOTES + NOTED * i] = start + offset
            state[NOTES + NOTED * i + 1] = bounds[2] + row
            state[NOTES + NOTED * i + 2] = bounds[3] + column

    @device_function
    def load(shared, place, memory, state, outer, inner, bounds):
        outer_left, inner_left = np.int32(state[OUTER_LEFT]), np.int32(state[INNER_LEFT])
        height, width_of_image = np.int32(bounds[0]), np.int32(bounds[1])
        place += state[PLACE]
        for i in range(copies):
            o, p = shift(i)
            offset, row, column = along_inner(state[CURSOR] + p, inner)
            count = min(width, outer_left - o) if outer_left > o and inner_left > p else 0
            if bounded:
                row = np.int32(state[NOTES + NOTED * i + 1] + row)
                column = np.int32(state[NOTES + NOTED * i + 2] + column)
                if row < 0 or row >= height or column < 0 or column >= width_of_image:
                    count = 0
            source = state[NOTES + NOTED * i] + offset
            copy(shared, place + (p * pitch + o), memory, source, count)
        state[CURSOR] += depth
        state[INNER_LEFT] = inner_left - depth

    return Loader(begin, load, NOTES + NOTED * copies)
