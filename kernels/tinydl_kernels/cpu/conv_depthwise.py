"""Depthwise convolutions: one filter for each channel, computed where the images lie.

    for each block of rows of positions (of a piece of them, if very wide)  shared among the threads
        cut the rows into runs whose windows leave the image alike          most of a row is one run
        write down where each run's taps begin: in x, or in a row of zeros
        for each vector of channels
            walk along all runs                                             see `conv_walk`

All three passes are this one loop. The gradient with respect to the input is a convolution of each of
its phases (see `conv_plan`), and all phases of a block follow each other, since they read the same rows
of dy. The gradient with respect to the weights collects sums instead; every chunk of the blocks has sums
of its own, which are added in the end. Chunks depend on the shapes only, never on the number of
threads, so the result is the same to the last bit for any number of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..windows import ConvGeometry, Pair
from . import conv_plan
from ._jit import NativeKernel, jit, native_for_floats
from .conv_ahead import AHEAD_FIELDS, LINES, STREAM, fetch_ahead, set_stream
from .conv_gather import clear
from .conv_plan import Phase
from .conv_run import equal_shares, run, threads_for, vector_lanes
from .conv_walk import RUN_HEAD, TAPS, Turn, apply, collect, make_walk, successors
from .simd import address_of, advance, call_native, itemsize, lanes, pointer

# The gradient with respect to the weights has at most so many chunks, and their sums so many bytes.
CHUNKS = 16
CHUNK_BYTES = 2 << 20

# Rows of x that one row of windows covers stay in the second-level cache, so that they are read from
# memory once. Rows that are too wide for that are cut into pieces.
WINDOW_BYTES = 192 * 1024

# So many rows are walked for one vector of channels before the next: the first-level cache need not hold
# all channels of a few rows of x then, only one vector of them. The list of their runs holds RUNS.
BLOCK_ROWS = 8
RUNS = 32

# Arrays that together are smaller than this are likely to lie in the third-level cache. From there they
# come so soon that asking ahead costs more than it saves.
NEAR_BYTES = 16 << 20

# The fields: addresses in bytes, all else in elements. X is read through taps, Y holds the positions.
(X, Y, ROWS, SLOPE, FIRST, LAST) = range(6)
(X_HEIGHT, X_WIDTH, CHANNELS, PITCH, STRIDE_H, STRIDE_W, TOP, BOTTOM) = range(6, 14)
(HEIGHT, PIECES, PIECE, ZEROS, Y_IMAGE, Y_ROW, Y_COLUMN) = range(14, 21)
(CHUNK_UNITS, CHUNK_SIZE, PARTS, BLOCK, BLOCKS, WALKS, AT, LISTED) = range(21, 29)
AHEAD = 29  # the streams of `conv_ahead`
FIRST_PART = AHEAD + AHEAD_FIELDS
# Behind them one block for each phase: its positions, those whose windows stay inside of the image's
# sides, its place in Y and in the weights; then the offsets of its taps, and room for their addresses.
(P_HEIGHT, P_WIDTH, LEFT, RIGHT, P_START, P_ROWS, P_TAPS, WALK, IS_LAST, TABLES) = range(10)


class Part(NamedTuple):
    """Taps of a phase that are walked in one turn."""

    size: Pair  # of the phase
    place: int  # of its first position
    rows: list[int]
    columns: list[int]
    taps: list[int]
    is_first: bool
    is_last: bool


class Plan(NamedTuple):
    """What a geometry asks for; worked out once and remembered."""

    fields: np.ndarray  # all but the addresses
    units: int
    workspace: int  # bytes
    work: int  # multiply-adds
    taps: np.ndarray  # whose weights stand in the rows 1, 2, ... of each phase
    rows: np.ndarray  # where they stand
    biases: np.ndarray  # the rows 0 of each phase
    turns: tuple  # (the part's field for the address of the code, its turn)


def is_depthwise(g: ConvGeometry) -> bool:
    return g.groups == g.channels == g.filters and g.groups > 1


def forward(
    g: ConvGeometry,
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    slope: float,
    y: np.ndarray,
) -> None:
    """y = f(conv2d(x, w) + bias), with f(z) = z for z >= 0 and slope * z below."""
    _apply(_forward_plan(g, x.itemsize), x, w, bias, slope, y)


def grad_input(
    g: ConvGeometry,
    grad: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    slope: float,
    dx: np.ndarray,
) -> None:
    """dx = f(gradient of conv2d's input + bias); bias and f serve the transposed convolution."""
    _apply(_grad_input_plan(g, grad.itemsize), grad, w, bias, slope, dx)


def _apply(
    plan: Plan,
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    slope: float,
    y: np.ndarray,
) -> None:
    fields, channels = plan.fields.copy(), x.shape[3]
    rows = np.zeros((len(plan.rows) + len(plan.biases), int(fields[PITCH])), x.dtype)
    rows[plan.rows, :channels] = w.reshape(-1, channels)[plan.taps]
    if bias is not None:
        rows[plan.biases, :channels] = bias
    fields[X], fields[Y], fields[ROWS] = x.ctypes.data, y.ctypes.data, rows.ctypes.data
    fields[SLOPE] = np.float64(slope).view(np.int64)
    shares = equal_shares(plan.units, threads_for(plan.work))
    for at, turn in plan.turns:
        fields[at] = _walk_of(apply, turn)[x.dtype].address
    run(DEPTHWISE[x.dtype], fields, shares, FIRST, plan.workspace)


def grad_weight(
    g: ConvGeometry,
    x: np.ndarray,
    grad: np.ndarray,
    dw: np.ndarray,
    accumulate: bool,
    bias_grad: np.ndarray | None,
) -> None:
    """dw (+)= gradient of conv2d's weights; bias_grad += gradient of its bias."""
    plan = _forward_plan(g, x.itemsize)
    fields, channels, pitch = plan.fields.copy(), g.channels, int(plan.fields[PITCH])
    rows = len(plan.rows) + len(plan.biases)
    chunks = max(1, min(CHUNKS, plan.units, CHUNK_BYTES // (rows * pitch * x.itemsize)))
    chunk_units = -(-plan.units // chunks)
    sums = np.zeros((-(-plan.units // chunk_units), rows, pitch), x.dtype)
    fields[CHUNK_UNITS], fields[CHUNK_SIZE] = chunk_units, rows * pitch
    fields[X], fields[Y], fields[ROWS] = x.ctypes.data, grad.ctypes.data, sums.ctypes.data
    shares = equal_shares(plan.units, threads_for(plan.work), chunk_units)
    for at, turn in plan.turns:
        fields[at] = _walk_of(collect, turn)[x.dtype].address
    run(DEPTHWISE[x.dtype], fields, shares, FIRST, plan.workspace)
    total = np.add.reduce(sums, axis=0)[:, :channels]
    target = dw.reshape(-1, channels)
    target[plan.taps] = total[plan.rows] + (target[plan.taps] if accumulate else 0)
    if bias_grad is not None:
        bias_grad += total[0]


# --- plans ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def _forward_plan(g: ConvGeometry, itemsize: int) -> Plan:
    taps = np.arange(g.kernel[0] * g.kernel[1])
    phase = Phase(conv_plan.forward(g), (0, 0), taps)
    row = g.out_width * g.channels
    return _plan(g, (phase,), (g.out_height * row, row, g.channels), (0,), itemsize)


@functools.lru_cache(maxsize=512)
def _grad_input_plan(g: ConvGeometry, itemsize: int) -> Plan:
    phases, row, (down, across) = conv_plan.grad_input(g), g.width * g.channels, g.strides
    starts = tuple(phase.start[0] * row + phase.start[1] * g.channels for phase in phases)
    places = (g.height * row, down * row, across * g.channels)
    return _plan(g, phases, places, starts, itemsize)


def _plan(
    g: ConvGeometry,
    phases: tuple[Phase, ...],
    places: tuple[int, int, int],
    starts: tuple[int, ...],
    itemsize: int,
) -> Plan:
    """`places` are the steps in Y from image to image, row to row and column to column of positions;
    `starts` says where the phases' first positions lie."""
    first, channels = phases[0].correlation, g.channels
    (x_height, x_width), (down, across) = first.x_size, first.strides
    width_of_vector = vector_lanes(np.dtype(f"f{itemsize}"))
    pitch = -(-channels // width_of_vector) * width_of_vector
    rows = [row for phase in phases for row in phase.correlation.rows]
    top, bottom = min(rows, default=0), max(rows, default=0) + 1
    height = max(phase.correlation.size[0] for phase in phases)
    width = max(phase.correlation.size[1] for phase in phases)
    piece = WINDOW_BYTES // (itemsize * channels * across * min(x_height, bottom - top))
    pieces = -(-width // max(1, piece))
    piece = -(-width // pieces)
    row_bytes = itemsize * channels * min(x_width, piece * across)
    blocks = -(
        -height // max(1, min(BLOCK_ROWS, (WINDOW_BYTES // row_bytes - bottom + top) // down))
    )
    block = -(-height // blocks)
    blocks = -(-height // block)

    parts = [part for pair in zip(phases, starts, strict=True) for part in _parts(*pair)]
    size = FIRST_PART + sum(_size(len(part.taps)) for part in parts)
    fields = np.zeros(size, np.int64)
    fields[X_HEIGHT], fields[X_WIDTH], fields[CHANNELS] = x_height, x_width, channels
    fields[PITCH], fields[STRIDE_H], fields[STRIDE_W] = pitch, down, across
    fields[TOP], fields[BOTTOM], fields[HEIGHT] = top, bottom, height
    fields[PIECES], fields[PIECE], fields[PARTS] = pieces, piece, len(parts)
    fields[ZEROS] = (piece - 1) * across * channels + pitch
    fields[Y_IMAGE], fields[Y_ROW], fields[Y_COLUMN] = places
    fields[BLOCK], fields[BLOCKS] = block, blocks
    units = g.batch * pieces * blocks
    fields[CHUNK_UNITS] = units
    walks = []
    at, row, work = FIRST_PART, 0, 0
    for part in parts:
        count, (_, width) = len(part.taps), part.size
        left = min(width, max(0, -(min(part.columns, default=0) // across)))
        right = (x_width - 1 - max(part.columns, default=0)) // across + 1
        right = min(width, max(left, right))
        fields[at : at + TABLES] = (
            *part.size, left, right, part.place, row * pitch, count,
            0, part.is_last,
        )  # fmt: skip
        fields[at + TABLES : at + TABLES + 2 * count] = (*part.rows, *part.columns)
        turn = Turn(part.is_first, successors(part.rows, part.columns, across))
        walks.append((at + WALK, turn))
        at += _size(count)
        row += 1 + count
        fields[WALKS] += (width - right + left + 1) * block * pitch // width_of_vector
        work += g.batch * part.size[0] * width * count * channels
    pixels = g.height * g.width + g.out_height * g.out_width
    if g.batch * pixels * channels * itemsize < NEAR_BYTES:
        fields[WALKS] = 0  # nothing is asked for ahead
    counts = [len(part.taps) for part in parts]
    biases = np.cumsum([0, *(1 + count for count in counts[:-1])])
    return Plan(
        fields, units, int(fields[ZEROS]) * itemsize, work,
        np.array([tap for part in parts for tap in part.taps], np.int64),
        np.delete(np.arange(row), biases), biases, tuple(walks),
    )  # fmt: skip


def _size(taps: int) -> int:
    """How many fields a part with so many taps has."""
    return TABLES + 2 * taps + RUNS * (RUN_HEAD + taps)


def _parts(phase: Phase, place: int) -> list[Part]:
    """A phase's taps in turns of about equal length. No taps are one turn, too: y = f(bias)."""
    r = phase.correlation
    taps = sorted(zip(r.rows, r.columns, phase.taps.tolist(), strict=True))
    count = max(1, -(-len(taps) // TAPS))
    cuts = [len(taps) * i // count for i in range(count + 1)]
    parts = []
    for start, stop in itertools.pairwise(cuts):
        some = [[tap[i] for tap in taps[start:stop]] for i in range(3)]
        parts.append(Part(r.size, place, *some, start == 0, stop == len(taps)))
    return parts


# --- the kernel -----------------------------------------------------------------------------------


@jit(cache=False)
def _add_run(fields, at, run, n, i, j, count, zeros, like):
    """Writes down where the run begins whose first position is (n, i, j); see `conv_walk.make_walk`."""
    taps, height, width = fields[at + P_TAPS], fields[X_HEIGHT], fields[X_WIDTH]
    rows, columns, sources = at + TABLES, at + TABLES + taps, run + RUN_HEAD
    top, left = i * fields[STRIDE_H], j * fields[STRIDE_W]
    pixel, image = fields[CHANNELS], n * height * width
    y = fields[at + P_START] + n * fields[Y_IMAGE] + i * fields[Y_ROW] + j * fields[Y_COLUMN]
    fields[run], fields[run + 1] = count, fields[Y] + y * itemsize(like)
    for t in range(taps):
        h, v = top + fields[rows + t], left + fields[columns + t]
        is_inside = 0 <= h < height and 0 <= v < width
        x = fields[X] + (image + h * width + v) * pixel * itemsize(like)
        fields[sources + t] = x if is_inside else zeros


@jit(cache=False)
def _look_ahead(fields, n, block, like):
    """Let the walks through this unit fetch what the next one needs, if it is the block below."""
    fields[AHEAD + LINES] = fields[AHEAD + STREAM + LINES] = 0
    if fields[WALKS] == 0 or block + 1 >= fields[BLOCKS] or fields[PIECES] > 1:
        return
    size, rows = itemsize(like), fields[BLOCK]
    row, step = fields[X_WIDTH] * fields[CHANNELS] * size, rows * fields[STRIDE_H]
    bottom = (block * rows + rows - 1) * fields[STRIDE_H] + fields[BOTTOM]
    start, stop = max(0, bottom), min(fields[X_HEIGHT], bottom + step)
    x = fields[X] + (n * fields[X_HEIGHT] + start) * row
    set_stream(fields, AHEAD, x, max(0, stop - start) * row, fields[WALKS])
    done = (block + 1) * rows * fields[Y_ROW]
    y = fields[Y] + (n * fields[Y_IMAGE] + done) * size
    numbers = min(rows * fields[Y_ROW], fields[Y_IMAGE] - done)
    set_stream(fields, AHEAD + STREAM, y, numbers * size, fields[WALKS])


@functools.cache
def _walk_of(along: Callable, turn: Turn) -> dict[np.dtype, NativeKernel]:
    """The kernel that walks `along` the runs of a part. It is compiled apart from the loop over all parts,
    which jumps to its address: a new shape of windows asks for these few lines only."""
    walk = make_walk(turn, along)

    def walk_runs(fields, rows):
        """All channels of the LISTED runs of the part at AT."""
        at, channels = fields[AT], fields[CHANNELS]
        pitch, step, y_step = fields[PITCH], fields[STRIDE_W] * channels, fields[Y_COLUMN]
        slope = np.int64(fields[SLOPE]).view(np.float64) if fields[at + IS_LAST] else 1.0
        first, size = at + TABLES + 2 * fields[at + P_TAPS], RUN_HEAD + fields[at + P_TAPS]
        for c in range(0, channels, lanes(rows)):
            of_c = advance(rows, fields[at + P_ROWS] + c)
            for place in range(first, first + fields[LISTED] * size, size):
                fetch_ahead(fields, AHEAD, rows)
                walk(fields, place, c, step, of_c, pitch, y_step, channels - c, slope)
        return 0

    return native_for_floats(walk_runs)


@jit(cache=False)
def _walk_listed(fields, at, runs, rows):
    fields[AT], fields[LISTED] = at, runs
    call_native(fields[at + WALK], fields, rows)


@jit(cache=False)
def _walk_part(fields, at, n, i, piece, rows, workspace):
    """A block of rows, from the i-th on, in runs."""
    zeros, taps = address_of(workspace), fields[at + P_TAPS]
    left, right = fields[at + LEFT], fields[at + RIGHT]
    stop = min((piece + 1) * fields[PIECE], fields[at + P_WIDTH])
    runs = 0
    for row in range(i, min(i + fields[BLOCK], fields[at + P_HEIGHT])):
        j = piece * fields[PIECE]
        while j < stop:
            count = min(stop, right) - j if left <= j < right else 1
            place = at + TABLES + 2 * taps + runs * (RUN_HEAD + taps)
            _add_run(fields, at, place, n, row, j, count, zeros, workspace)
            j += count
            runs += 1
            if runs == RUNS:
                _walk_listed(fields, at, runs, rows)
                runs = 0
    _walk_listed(fields, at, runs, rows)


def depthwise(fields, workspace):
    """The units FIRST ... LAST - 1: blocks of rows (of pieces) of images."""
    clear(fields[ZEROS], workspace)
    for unit in range(fields[FIRST], fields[LAST]):
        block = unit % fields[BLOCKS]
        piece = unit // fields[BLOCKS] % fields[PIECES]
        n = unit // (fields[BLOCKS] * fields[PIECES])
        chunk = unit // fields[CHUNK_UNITS]
        rows = advance(pointer(workspace, fields[ROWS]), chunk * fields[CHUNK_SIZE])
        _look_ahead(fields, n, block, workspace)
        at = FIRST_PART
        for _ in range(fields[PARTS]):
            _walk_part(fields, at, n, block * fields[BLOCK], piece, rows, workspace)
            taps = fields[at + P_TAPS]
            at += TABLES + 2 * taps + RUNS * (RUN_HEAD + taps)
    return 0


DEPTHWISE = native_for_floats(depthwise)
