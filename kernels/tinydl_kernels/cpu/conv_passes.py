"""The three passes of a dense convolution, as calls of the two kernels.

Arrays come checked, contiguous and not empty; see `convolution`. What a geometry asks for is worked
out once and remembered: the kernels' fields except for the addresses. A small layer takes no longer
than a few Python statements, so there are few.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ..windows import ConvGeometry
from . import conv_apply, conv_plan, conv_scatter, conv_weight
from . import conv_blocks as f
from .conv_blocks import Correlation, layout
from .conv_run import (
    columns_at_a_time,
    equal_shares,
    pack_weights,
    run,
    threads_for,
    vector_lanes,
)
from .conv_tile import WIDE_HEIGHTS
from .matmul_tile import VECTORS

# The weight gradient of few taps is computed in this many chunks of the batch, if their results
# need no more than so many bytes.
CHUNKS = 16
CHUNK_BYTES = 2 << 20


class Call(NamedTuple):
    """One call of the kernel of `conv_apply`."""

    fields: np.ndarray  # all but the addresses
    blocks: int
    workspace: int  # bytes
    work: int  # multiply-adds
    column: int  # the first column of the result, and so the first bias
    # The weight of tap t, channel c, column k is w[taps[t] + c * inner[1] + k * columns[1]], for
    # c < inner[0] and k < columns[0].
    taps: np.ndarray
    inner: tuple[int, int]
    columns: tuple[int, int]


def forward(
    g: ConvGeometry,
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    slope: float,
    y: np.ndarray,
) -> None:
    """y = f(conv2d(x, w) + bias), with f(z) = z for z >= 0 and slope * z below."""
    _apply(_forward_calls(g, x.itemsize), x, w, bias, slope, y)


def grad_input(
    g: ConvGeometry,
    grad: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    slope: float,
    dx: np.ndarray,
) -> None:
    """dx = f(gradient of conv2d's input + bias); bias and f serve the transposed convolution."""
    calls = _grad_input_calls(g, grad.itemsize, bias is None and slope == 1)
    if calls:
        _apply(calls, grad, w, bias, slope, dx)
    else:
        conv_scatter.grad_input(g, grad, w, dx)


def _apply(
    calls: tuple[Call, ...],
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    slope: float,
    y: np.ndarray,
) -> None:
    addresses = x.ctypes.data, y.ctypes.data, 0 if bias is None else bias.ctypes.data
    for call in calls:
        weights = pack_weights(w, call.taps, call.inner, call.columns)
        fields = call.fields.copy()
        fields[f.X], fields[f.C], fields[f.BIAS] = addresses
        fields[f.B], fields[f.SLOPE] = weights.ctypes.data, np.float64(slope).view(np.int64)
        if bias is not None:
            fields[f.BIAS] += call.column * x.itemsize
        shares = equal_shares(call.blocks, threads_for(call.work))
        run(conv_apply.DENSE[x.dtype], fields, shares, f.FIRST, call.workspace)


@functools.lru_cache(maxsize=512)
def _forward_calls(g: ConvGeometry, itemsize: int) -> tuple[Call, ...]:
    correlation = conv_plan.forward(g)
    places = (g.out_height * g.out_width * g.filters, g.out_width * g.filters, g.filters)
    taps = np.arange(g.kernel[0] * g.kernel[1])
    inner, filters = g.channels // g.groups, g.filters // g.groups
    calls = []
    for group in range(g.groups):
        calls += _dense_calls(
            correlation, places, 0, group * filters, group * inner, itemsize,
            taps * (inner * g.filters) + group * filters, (inner, g.filters), (filters, 1),
        )  # fmt: skip
    return tuple(calls)


@functools.lru_cache(maxsize=512)
def _grad_input_calls(g: ConvGeometry, itemsize: int, may_scatter: bool) -> tuple[Call, ...]:
    """Without any call where `conv_scatter` is the better way."""
    if may_scatter and conv_scatter.pays(g, itemsize):
        return ()
    row, column = g.width * g.channels, g.channels
    places = (g.height * row, g.strides[0] * row, g.strides[1] * column)
    inner, channels = g.filters // g.groups, g.channels // g.groups
    calls = []
    for phase in conv_plan.grad_input(g):
        start = phase.start[0] * row + phase.start[1] * column
        for group in range(g.groups):
            taps = phase.taps * (channels * g.filters) + group * inner
            calls += _dense_calls(
                phase.correlation, places, start, group * channels, group * inner, itemsize,
                taps, (inner, 1), (channels, g.filters),
            )  # fmt: skip
    return tuple(calls)


def _dense_calls(
    correlation: Correlation,
    places: tuple[int, int, int],
    start: int,
    column: int,
    channel: int,
    itemsize: int,
    taps: np.ndarray,
    inner: tuple[int, int],
    columns: tuple[int, int],
) -> list[Call]:
    """One group, whose x begins at `channel` and whose results go to the columns from `column` on of
    positions that begin at `start`; as many columns at a time as packed weights have room for."""
    plan = layout(correlation, places, itemsize)
    at_a_time = columns_at_a_time(len(taps) * inner[0], itemsize)
    positions = correlation.images * correlation.size[0] * correlation.size[1]
    calls = []
    for first in range(0, columns[0], at_a_time):
        count = min(at_a_time, columns[0] - first)
        fields = plan.fields.copy()
        fields[f.X_CHANNEL], fields[f.COLUMNS] = channel, count
        fields[f.PLACE] = start + column + first
        work = positions * len(taps) * inner[0] * count
        weights = (taps + first * columns[1], inner, (count, columns[1]))
        sizes = (plan.blocks, plan.window * itemsize, work, column + first)
        calls.append(Call(fields, *sizes, *weights))
    return calls


class WeightPlan(NamedTuple):
    """How the weight gradient is computed."""

    fields: np.ndarray  # all but the addresses
    workspace: int  # bytes
    work: int  # multiply-adds
    groups: int
    channels: int  # of one group
    filters: int
    taps: int  # times channels, in one group
    chunks: int


@functools.lru_cache(maxsize=512)
def _weight_plan(g: ConvGeometry, itemsize: int) -> WeightPlan:
    correlation, groups = conv_plan.forward(g), g.groups
    places = (g.out_height * g.out_width * g.filters, g.out_width * g.filters, g.filters)
    plan = layout(correlation, places, itemsize)
    fields, filters = plan.fields, correlation.filters
    taps = int(fields[f.TAPS])
    images = _images_of_chunk(g.batch, int(fields[f.BLOCK_IMAGES]), taps, filters, itemsize)
    chunks = -(-g.batch // images)
    fields[f.CHUNK_IMAGES], fields[f.CHUNK_SIZE] = images, taps * filters
    fields[f.ROW_STEP] = filters if chunks > 1 else g.filters
    fields[f.FIRST], fields[f.LAST] = 0, chunks
    fields[f.ROW_FIRST], fields[f.ROW_LAST] = 0, taps
    panel = plan.positions * VECTORS * vector_lanes(np.dtype(f"f{itemsize}"))
    work = g.batch * g.out_height * g.out_width * taps * filters
    return WeightPlan(
        fields, (plan.window + panel) * itemsize, work, groups, correlation.channels, filters,
        taps, chunks,
    )  # fmt: skip


def _images_of_chunk(batch: int, block: int, taps: int, filters: int, itemsize: int) -> int:
    """All images, or a share of them if there are too few taps to divide the work by."""
    is_large = CHUNKS * taps * filters * itemsize > CHUNK_BYTES
    if is_large or -(-taps // WIDE_HEIGHTS[0]) >= CHUNKS:
        return batch
    return -(-batch // CHUNKS // block) * block


def grad_weight(
    g: ConvGeometry,
    x: np.ndarray,
    grad: np.ndarray,
    dw: np.ndarray,
    accumulate: bool,
    bias_grad: np.ndarray | None,
) -> None:
    """dw (+)= gradient of conv2d's weights; bias_grad += gradient of its bias."""
    plan, dtype = _weight_plan(g, x.itemsize), x.dtype
    fields, threads = plan.fields.copy(), threads_for(plan.work)
    fields[f.X], fields[f.B] = x.ctypes.data, grad.ctypes.data
    if plan.chunks > 1:
        shares, share_at = equal_shares(plan.chunks, threads), f.FIRST
        parts = np.empty((plan.chunks, plan.taps, plan.filters), dtype)
        fields[f.C] = parts.ctypes.data
    else:
        shares, share_at = equal_shares(plan.taps, threads, WIDE_HEIGHTS[0]), f.ROW_FIRST
        fields[f.C], fields[f.ACCUMULATE] = dw.ctypes.data, accumulate
    for group in range(plan.groups):
        columns = slice(group * plan.filters, (group + 1) * plan.filters)
        fields[f.X_CHANNEL], fields[f.PLACE] = group * plan.channels, columns.start
        if bias_grad is not None:
            sums = np.zeros((plan.chunks, plan.filters), dtype)
            fields[f.SUMS] = sums.ctypes.data
        run(conv_weight.DENSE[dtype], fields, shares, share_at, plan.workspace)
        # Added in the order of the batch, so that the number of threads makes no difference.
        if plan.chunks > 1:
            total = np.add.reduce(parts, axis=0)
            target = dw.reshape(plan.taps, g.filters)[:, columns]
            target[...] = target + total if accumulate else total
        else:
            fields[f.C] += plan.filters * dtype.itemsize
        if bias_grad is not None:
            bias_grad[columns] += np.add.reduce(sums, axis=0)
