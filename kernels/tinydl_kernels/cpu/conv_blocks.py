"""How the work of a convolution is cut into blocks, and the tables that the tiles read.

A kernel gets one block of 64-bit fields: addresses, sizes, and the tables of offsets behind them.
Python works them out once for each geometry and remembers them; every call copies them and fills in
the addresses. So the kernels are compiled once for an element type, whatever the geometry.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..windows import Pair
from ._jit import jit
from .conv_ahead import AHEAD_FIELDS, LINES, STREAM, set_stream
from .conv_tile import NARROW_HEIGHTS, TALLEST, WIDE_HEIGHTS
from .matmul_tile import VECTORS
from .simd import itemsize as bytes_of
from .target import vector_bytes

# Bytes of input that a block of outputs may cover: with a panel of weights they share the
# second-level cache. Windows so large that a single position needs more are rare.
WINDOW_BYTES = 192 * 1024
POSITIONS = 1024  # positions of a block

# The fields. X is the array that is read through the tables, B the one that is read row by row
# (packed weights, or the gradient of the output), C the result. Addresses are in bytes, all else in
# elements.
(X, B, C, BIAS, SUMS, SLOPE) = range(6)
# This worker's share of the work, and its results' place.
(FIRST, LAST, ROW_FIRST, ROW_LAST) = range(6, 10)
# X: its images, and the pixels and channels of them that are read.
(X_HEIGHT, X_WIDTH, X_PIXEL, X_CHANNEL, CHANNELS) = range(10, 15)
# Positions (outputs of the forward pass), and how they step over X; TOP and LEFT are the place in X
# where the first position's window begins, SPAN its size.
(IMAGES, HEIGHT, WIDTH, STRIDE_H, STRIDE_W, TOP, LEFT, SPAN_H, SPAN_W) = range(15, 24)
# How positions step over the array that holds one vector of numbers for each of them.
(PLACE, PLACE_IMAGE, PLACE_ROW, PLACE_COLUMN) = range(24, 28)
# Blocks of positions, and the window of X that is gathered for one of them.
(BLOCK_IMAGES, BLOCK_HEIGHT, BLOCK_WIDTH, GATHERS, PITCH) = range(28, 33)
# Numbers of taps (with channels) and of columns of the product, and where the tables begin.
(TAPS, COLUMNS, TAP_TABLE, TAP_PLACES, POSITION_TABLE, PLACES) = range(33, 39)
(CHUNK_IMAGES, CHUNK_SIZE, ROW_STEP, ACCUMULATE, WINDOW) = range(39, 44)
# Streams of memory that the next block needs, and how many rows and columns a tile has; 0 rows: it is
# not worth the trouble.
AHEAD = 44
(TILE_ROWS, TILE_COLUMNS) = range(AHEAD + AHEAD_FIELDS, AHEAD + AHEAD_FIELDS + 2)
FIELDS = AHEAD + AHEAD_FIELDS + 2


class Correlation(NamedTuple):
    """A convolution in the form that the kernels take: one group, taps at any offsets.

        y[n, i, j, :] = sum over taps t, channels c
                        of x[n, i u + rows[t], j v + columns[t], c] w[t, c, :]

    The forward pass has the taps that one expects; the gradient with respect to the input has others
    (see `conv_plan`). Places outside of x count as zero.
    """

    images: int
    x_size: Pair
    pixel: int  # numbers from one pixel of x to the next
    channels: int
    size: Pair  # positions along height and width
    strides: Pair
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    filters: int


class Layout(NamedTuple):
    fields: np.ndarray
    blocks: int
    window: int  # elements of workspace that a block's window needs
    positions: int  # of a block


def _parts(total: int, largest: int) -> int:
    """The size of equal parts, none above `largest`."""
    count = -(-total // max(1, largest))
    return -(-total // max(1, count))


def layout(r: Correlation, places: tuple[int, int, int], itemsize: int) -> Layout:
    """Fields for the correlation. `places` are the steps, in elements, from image to image, row to
    row and column to column of the array that belongs to the positions."""
    lanes = vector_bytes() // itemsize
    top, left = min(r.rows, default=0), min(r.columns, default=0)
    span_h = max(r.rows, default=0) - top + 1
    span_w = max(r.columns, default=0) - left + 1
    reach_h = (r.size[0] - 1) * r.strides[0] + span_h
    reach_w = (r.size[1] - 1) * r.strides[1] + span_w
    gathers = top < 0 or left < 0 or top + reach_h > r.x_size[0] or left + reach_w > r.x_size[1]

    def window_size(images: int, height: int, width: int) -> int:
        rows = (height - 1) * r.strides[0] + span_h
        return images * rows * ((width - 1) * r.strides[1] + span_w) * r.channels

    limit = WINDOW_BYTES // itemsize
    images, (height, width) = 1, r.size
    if window_size(1, height, width) > limit or height * width > POSITIONS:
        row = window_size(1, 2, width) - window_size(1, 1, width)
        fit = 1 + (limit - window_size(1, 1, width)) // max(1, row)
        height = _parts(height, min(fit, POSITIONS // width))
        if height == 1 and (window_size(1, 1, width) > 4 * limit or width > POSITIONS):
            column = window_size(1, 1, 2) - window_size(1, 1, 1)
            fit = 1 + (4 * limit - window_size(1, 1, 1)) // max(1, column)
            width = _parts(width, min(fit, POSITIONS))
    else:
        several = min(limit // max(1, window_size(1, height, width)), 256 // (height * width))
        images = _parts(r.images, max(1, several))

    window_width = (width - 1) * r.strides[1] + span_w if gathers else r.x_size[1]
    pixel = r.channels if gathers else r.pixel
    taps = [
        ((row - top) * window_width + column - left) * pixel + c
        for row, column in zip(r.rows, r.columns, strict=True)
        for c in range(r.channels)
    ]
    positions = images * height * width
    tap_table = FIELDS
    tap_places = tap_table + len(taps) + TALLEST
    position_table = tap_places + len(taps) + TALLEST
    position_places = position_table + positions + TALLEST
    fields = np.zeros(position_places + positions + TALLEST, np.int64)
    fields[X_HEIGHT], fields[X_WIDTH] = r.x_size
    fields[X_PIXEL], fields[CHANNELS] = r.pixel, r.channels
    fields[IMAGES], (fields[HEIGHT], fields[WIDTH]) = r.images, r.size
    fields[STRIDE_H], fields[STRIDE_W] = r.strides
    fields[TOP], fields[LEFT], fields[SPAN_H], fields[SPAN_W] = top, left, span_h, span_w
    fields[PLACE_IMAGE], fields[PLACE_ROW], fields[PLACE_COLUMN] = places
    fields[BLOCK_IMAGES], fields[BLOCK_HEIGHT], fields[BLOCK_WIDTH] = images, height, width
    fields[GATHERS], fields[PITCH] = gathers, r.channels
    fields[TAPS], fields[COLUMNS] = len(taps), r.filters
    fields[TILE_ROWS], fields[TILE_COLUMNS] = _tile(r.filters, lanes)
    fields[TAP_TABLE], fields[TAP_PLACES] = tap_table, tap_places
    fields[POSITION_TABLE], fields[PLACES] = position_table, position_places
    fields[tap_table : tap_table + len(taps)] = taps
    blocks = -(-r.images // images) * -(-r.size[0] // height) * -(-r.size[1] // width)
    window = window_size(images, height, width) if gathers else 0
    fields[WINDOW] = -(-window // lanes) * lanes
    return Layout(fields, blocks, int(fields[WINDOW]), positions)


def _tile(columns: int, lanes: int) -> Pair:
    """Rows and columns of the tiles that `conv_tile` uses for so many columns."""
    return (NARROW_HEIGHTS[0], lanes) if columns <= lanes else (WIDE_HEIGHTS[0], VECTORS * lanes)


@jit(cache=False)
def positions_of(size):
    return size[0] * size[1] * size[2]


@jit(cache=False)
def blocks_of(fields, images):
    """How many blocks cover so many images."""
    groups = (images + fields[BLOCK_IMAGES] - 1) // fields[BLOCK_IMAGES]
    down = (fields[HEIGHT] + fields[BLOCK_HEIGHT] - 1) // fields[BLOCK_HEIGHT]
    across = (fields[WIDTH] + fields[BLOCK_WIDTH] - 1) // fields[BLOCK_WIDTH]
    return groups * down * across


@jit(cache=False)
def block_at(fields, block, first_image, last_image):
    """The first position (n, i, j) and the size (images, height, width) of a block, of those that
    cover the images first_image ... last_image - 1."""
    height, width = fields[BLOCK_HEIGHT], fields[BLOCK_WIDTH]
    down = (fields[HEIGHT] + height - 1) // height
    across = (fields[WIDTH] + width - 1) // width
    n = first_image + block // (down * across) * fields[BLOCK_IMAGES]
    i = block // across % down * height
    j = block % across * width
    images = min(fields[BLOCK_IMAGES], last_image - n)
    return (n, i, j), (images, min(height, fields[HEIGHT] - i), min(width, fields[WIDTH] - j))


@jit(cache=False)
def place_of(fields, start):
    """Where the numbers of the position (n, i, j) begin in the array that belongs to positions."""
    n, i, j = start
    offset = n * fields[PLACE_IMAGE] + i * fields[PLACE_ROW] + j * fields[PLACE_COLUMN]
    return fields[PLACE] + offset


@jit(cache=False)
def fill_position_tables(fields, size):
    """Offsets of a block's positions into the window, and into the array of the positions."""
    images, height, width = size
    table, places = fields[POSITION_TABLE], fields[PLACES]
    if fields[GATHERS]:
        pixel = fields[PITCH]
        row = ((fields[BLOCK_WIDTH] - 1) * fields[STRIDE_W] + fields[SPAN_W]) * pixel
        image = row * ((height - 1) * fields[STRIDE_H] + fields[SPAN_H])
    else:
        pixel = fields[X_PIXEL]
        row = fields[X_WIDTH] * pixel
        image = row * fields[X_HEIGHT]
    p = 0
    for n in range(images):
        for i in range(height):
            start = n * image + i * fields[STRIDE_H] * row
            place = n * fields[PLACE_IMAGE] + i * fields[PLACE_ROW]
            for j in range(width):
                fields[table + p] = start + j * fields[STRIDE_W] * pixel
                fields[places + p] = place + j * fields[PLACE_COLUMN]
                p += 1
    # A tile reads offsets for all its rows; rows that do not exist repeat the last one.
    for extra in range(p, p + TALLEST):
        fields[table + extra] = fields[table + p - 1]
        fields[places + extra] = fields[places + p - 1]


@jit(cache=False)
def look_ahead(fields, block, blocks, images, rows, places, like):
    """Let the tiles that follow, over `rows` rows and all columns, fetch what `block` will need: its
    part of X, and of the array at the address `places` that belongs to the positions. There are
    `blocks` blocks; they cover images[0] ... images[1] - 1. `like` points to elements."""
    fields[AHEAD + LINES] = fields[AHEAD + STREAM + LINES] = 0
    height, width = fields[TILE_ROWS], fields[TILE_COLUMNS]
    if block >= blocks or height == 0 or fields[BLOCK_WIDTH] != fields[WIDTH]:
        return
    tiles = (rows + height - 1) // height * ((fields[COLUMNS] + width - 1) // width)
    start, (count, height, _) = block_at(fields, block, images[0], images[1])
    n, i, _ = start
    row = fields[X_WIDTH] * fields[X_PIXEL] * bytes_of(like)
    top = i * fields[STRIDE_H] + fields[TOP]
    bottom = min(top + (height - 1) * fields[STRIDE_H] + fields[SPAN_H], fields[X_HEIGHT])
    top = max(0, top)
    x = fields[X] + (n * fields[X_HEIGHT] + top) * row
    set_stream(fields, AHEAD, x, ((count - 1) * fields[X_HEIGHT] + bottom - top) * row, tiles)
    place = places + place_of(fields, start) * bytes_of(like)
    numbers = (count - 1) * fields[PLACE_IMAGE] + height * fields[PLACE_ROW]
    set_stream(fields, AHEAD + STREAM, place, numbers * bytes_of(like), tiles)
