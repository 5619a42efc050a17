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

import functools
from typing import Any, NamedTuple

import numpy as np

from .device import VECTOR_BYTES, device_function
from .instructions import copy_async, keep, moved, multiply_add, quotient

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
    if max(map(abs, steps)) > LARGEST_INDEX:
        raise ValueError(f"images beyond 2^31 - 1 elements are not supported: steps of {steps}")
    return (*_divisor(sizes[0]), *_divisor(sizes[1]), *steps, *rows, *columns)


FOLDED_STEPS = slice(6, 9)  # where they lie in it


@functools.lru_cache(maxsize=4096)
def divisor(d: int) -> tuple[int, int, int]:
    """(d, factor, shift) such that i // d == (i * factor) >> shift for 0 <= i < 2^31.

    GPUs have no instruction for the division of integers. With shift = 31 + ceil(log2 d) and the factor
    2^shift / d rounded up, the error stays too small to matter (Granlund & Montgomery, "Division by
    Invariant Integers using Multiplication", 1994, theorem 4.2).
    """
    d = max(1, d)  # where an axis is empty, nothing is divided
    shift = 31 + (d - 1).bit_length()
    return d, -(-(1 << shift) // d), shift


def _divisor(d: int) -> tuple[int, int, int]:
    """(d, factor, shift) for `quotient`: factors are below 2^32, all but the last 31 bits of the shift."""
    d, factor, shift = divisor(d)
    return d, factor, shift - 31


# --- axes, as a kernel uses them ------------------------------------------------------------------


# Everything but places in memory fits into 32 bits, which is what the hardware multiplies: a product of two
# numbers of 64 bits takes four instructions, of two that were 32 bits wide one.


@device_function
def _along_line(index, axis):
    return index * axis[0], 0, 0


@device_function
def _along_folded(index, axis):
    rest = quotient(index, axis[4], axis[5])
    i2 = np.int32(index - rest * np.int32(axis[3]))
    i0 = quotient(rest, axis[1], axis[2])
    i1 = np.int32(rest - i0 * np.int32(axis[0]))
    offset = multiply_add(i2, axis[8], multiply_add(i1, axis[7], multiply_add(i0, axis[6], 0)))
    row = i0 * np.int32(axis[9]) + i1 * np.int32(axis[10])
    return offset, row, i1 * np.int32(axis[11]) + i2 * np.int32(axis[12])


ALONG = {LINE: _along_line, FOLDED: _along_folded}


# --- loaders --------------------------------------------------------------------------------------


class Loader(NamedTuple):
    """Two device functions that all threads of a block call together.

    begin(places, notes, start, outer, inner, bounds, first, limit, k, k_limit, thread) notes where
    the thread is to read, from the element (first, k) of an operand on that begins at element `start`
    and is `limit` long (and k_limit deep).

    load(shared, place, memory, places, notes, outer, inner, bounds) starts to copy a tile to
    shared[place:], and moves on to the next. The tile lies there as [inner][outer], whatever the layout in
    the device's memory: a row of `length` elements every `pitch`.

    What is noted lies in two arrays: `places` in memory, of 64 bits, and `notes` of 32.
    """

    begin: Any
    load: Any
    places: int
    notes: int


class _Share(NamedTuple):
    """How the threads share out the copies of a tile: thread t begins at (outer, inner) place first(t),
    and its copy number i is shift(i) from there."""

    first: Any
    shift: Any
    width: int  # elements in a copy
    copies: int
    steps: int  # inner places among all copies: so many copies in a row have one in common


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

        def first(thread):
            return thread % run * width, thread // run

        def shift(i):
            return i * threads % run * width, i * threads // run

    else:
        run = max(min(8, depth, threads), threads // length)
        fits = threads % run == 0 and length % (threads // run) == 0 and depth % run == 0

        def first(thread):
            return thread // run, thread % run

        def shift(i):
            return i * threads // run % length, i * threads // (run * length) * run

    copies = length * depth // (width * threads)
    if not fits or copies * width * threads != length * depth:
        raise ValueError(f"{threads} threads cannot share a tile of {length} x {depth} by {width}")
    steps = len({shift(i)[1] for i in range(copies)})
    return _Share(device_function(first), device_function(shift), width, copies, steps)


def _matrix_loader(share: _Share, depth: int, pitch: int) -> Loader:
    """A matrix is read along straight lines: one place moves on, all others are a few steps from it."""
    first_of, shift, width, copies, _ = share
    copy = copy_async(width)
    OUTER_LEFT, INNER_LEFT, PLACE = range(3)

    @device_function
    def begin(places, notes, start, outer, inner, bounds, first, limit, k, k_limit, thread):
        o, p = first_of(thread)
        places[0] = start + (first + o) * outer[0] + (k + p) * inner[0]
        notes[OUTER_LEFT] = keep(np.int32(limit - first - o))
        notes[INNER_LEFT] = k_limit - k - p
        notes[PLACE] = keep(np.int32(p * pitch + o))

    @device_function
    def copy_number(i, shared, place, here, outer_left, inner_left, outer_step, inner_step):
        o, p = shift(i)
        inside = (outer_left > o) & (inner_left > p)  # `and` would be a branch
        count = (1 if width == 1 else min(width, outer_left - o)) if inside else 0
        copy(shared, place + (p * pitch + o), here, o * outer_step + p * inner_step, count)

    copy_all = _unrolled(copy_number, 0, copies)

    @device_function
    def load(shared, place, memory, places, notes, outer, inner, bounds):
        here = moved(memory, places[0])
        outer_step, inner_step = np.int32(outer[0]), np.int32(inner[0])
        outer_left, inner_left = notes[OUTER_LEFT], notes[INNER_LEFT]
        place += notes[PLACE]
        copy_all(shared, place, here, outer_left, inner_left, outer_step, inner_step)
        places[0] += depth * inner_step
        notes[INNER_LEFT] = inner_left - depth

    return Loader(begin, load, 1, 3)


def _unrolled(copy_number: Any, first: int, count: int) -> Any:
    """The device function that makes the copies first, first + 1, ... The compiler unrolls loops of eight; in
    longer ones every copy would find its place and its step anew."""
    if count <= 8:

        @device_function
        def few(shared, place, here, outer_left, inner_left, outer_step, inner_step):
            for i in range(first, first + count):
                copy_number(i, shared, place, here, outer_left, inner_left, outer_step, inner_step)

        return few
    one_half = _unrolled(copy_number, first, count // 2)
    other_half = _unrolled(copy_number, first + count // 2, count - count // 2)

    @device_function
    def both(shared, place, here, outer_left, inner_left, outer_step, inner_step):
        one_half(shared, place, here, outer_left, inner_left, outer_step, inner_step)
        other_half(shared, place, here, outer_left, inner_left, outer_step, inner_step)

    return both


def _image_loader(layout: Layout, share: _Share, depth: int, pitch: int) -> Loader:
    """Of images, each copy's place along the outer axis is noted, since it takes divisions to find it; the
    place along the inner axis is found anew for each tile, once for all copies that have it in common."""
    first_of, shift, width, copies, steps = share
    each_step = copies // steps
    copy, bounded = copy_async(width), layout.bounded
    along_outer, along_inner = ALONG[layout.outer], ALONG[layout.inner]
    CURSOR, OUTER_LEFT, INNER_LEFT, PLACE, PIXELS = range(5)

    @device_function
    def begin(places, notes, start, outer, inner, bounds, first, limit, k, k_limit, thread):
        o, p = first_of(thread)
        notes[CURSOR] = k + p
        notes[OUTER_LEFT] = keep(np.int32(limit - first - o))
        notes[INNER_LEFT] = k_limit - k - p
        notes[PLACE] = keep(np.int32(p * pitch + o))
        for i in range(copies):
            offset, row, column = along_outer(first + o + shift(i)[0], outer)
            places[i] = keep(start + offset)
            if bounded:
                notes[PIXELS + 2 * i] = keep(np.int32(bounds[2] + row))
                notes[PIXELS + 2 * i + 1] = keep(np.int32(bounds[3] + column))

    @device_function
    def load(shared, place, memory, places, notes, outer, inner, bounds):
        outer_left, inner_left = notes[OUTER_LEFT], notes[INNER_LEFT]
        height, width_of_image = np.uint32(bounds[0]), np.uint32(bounds[1])
        place += notes[PLACE]
        for step in range(steps):
            p = shift(step * each_step)[1]
            offset, row, column = along_inner(notes[CURSOR] + p, inner)
            for i in range(step * each_step, (step + 1) * each_step):
                o = shift(i)[0]
                inside = (outer_left > o) & (inner_left > p)  # `and` would be a branch
                if bounded:
                    # One comparison for both ends: what is negative becomes very large.
                    y = np.uint32(np.int32(notes[PIXELS + 2 * i] + row))
                    x = np.uint32(np.int32(notes[PIXELS + 2 * i + 1] + column))
                    inside = inside & (y < height) & (x < width_of_image)
                count = (1 if width == 1 else min(width, outer_left - o)) if inside else 0
                copy(shared, place + (p * pitch + o), memory, places[i] + offset, count)
        notes[CURSOR] += depth
        notes[INNER_LEFT] = inner_left - depth

    return Loader(begin, load, copies, PIXELS + (2 * copies if bounded else 0))
