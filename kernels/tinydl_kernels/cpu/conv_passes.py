"""The three passes of a dense or depthwise convolution, as calls of the two kernels.

Arrays come checked, contiguous and not empty; see `convolution`.
"""

from __future__ import annotations

import numpy as np

from ..windows import ConvGeometry
from . import conv_apply, conv_plan, conv_weight
from . import conv_blocks as f
from .conv_blocks import Correlation, Layout, layout
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
    correlation = conv_plan.forward(g)
    places = (g.out_height * g.out_width * g.filters, g.out_width * g.filters, g.filters)
    task = _Task(correlation, places, x, y, bias, slope)
    if is_depthwise(g):
        task.run_depthwise(w.reshape(-1, g.channels), 0)
        return
    inner, filters = g.channels // g.groups, g.filters // g.groups
    taps = np.arange(g.kernel[0] * g.kernel[1]) * (inner * g.filters)
    for group in range(g.groups):
        first = group * filters
        task.run_dense(w, taps + first, (inner, g.filters), (filters, 1), group * inner, 0, first)


def grad_input(
    g: ConvGeometry,
    grad: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    slope: float,
    dx: np.ndarray,
) -> None:
    """dx = f(gradient of conv2d's input + bias); bias and f serve the transposed convolution."""
    row, column = g.width * g.channels, g.channels
    places = (g.height * row, g.strides[0] * row, g.strides[1] * column)
    inner, channels = g.filters // g.groups, g.channels // g.groups
    for phase in conv_plan.grad_input(g):
        start = phase.start[0] * row + phase.start[1] * column
        task = _Task(phase.correlation, places, grad, dx, bias, slope)
        if is_depthwise(g):
            task.run_depthwise(w.reshape(-1, g.channels)[phase.taps], start)
            continue
        taps = phase.taps * (channels * g.filters)
        for group in range(g.groups):
            task.run_dense(
                w, taps + group * inner, (inner, 1), (channels, g.filters),
                group * inner, start, group * channels,
            )  # fmt: skip


class _Task:
    """A correlation of x that is written to y; `places` are the steps of its positions in y."""

    def __init__(
        self,
        correlation: Correlation,
        places: tuple[int, int, int],
        x: np.ndarray,
        y: np.ndarray,
        bias: np.ndarray | None,
        slope: float,
    ) -> None:
        self.correlation = correlation
        self.places = places
        self.dtype = x.dtype
        self.bias = 0 if bias is None else bias.ctypes.data
        self.fields = {
            f.X: x.ctypes.data,
            f.C: y.ctypes.data,
            f.SLOPE: np.float64(slope).view(np.int64),
        }

    def run_dense(
        self,
        w: np.ndarray,
        taps: np.ndarray,
        inner: tuple[int, int],
        columns: tuple[int, int],
        channel: int,
        start: int,
        column: int,
    ) -> None:
        """One group, whose x begins at `channel`. The element of w for tap t, the group's channel c
        of x and its column k of y lies at taps[t] + c * inner[1] + k * columns[1]. The results go to
        the columns of y from `column` on, of positions that begin at `start`."""
        size = self.dtype.itemsize
        plan = layout(self.correlation, self.places, size, False)
        at_a_time = columns_at_a_time(len(taps) * inner[0], self.dtype)
        shares = self._shares(plan, len(taps) * inner[0] * columns[0])
        for first in range(0, columns[0], at_a_time):
            count = min(at_a_time, columns[0] - first)
            panels = pack_weights(w, taps + first * columns[1], inner, (count, columns[1]))
            fields = {
                **self.fields,
                f.X_CHANNEL: channel,
                f.B: panels.ctypes.data,
                f.COLUMNS: count,
                f.PLACE: start + column + first,
                f.BIAS: self.bias and self.bias + (column + first) * size,
            }
            kernel = conv_apply.DENSE[self.dtype.name]
            run(kernel, plan, fields, shares, f.FIRST, plan.window * size)

    def run_depthwise(self, w: np.ndarray, start: int) -> None:
        """All channels; w: (taps, C)."""
        size, lanes = self.dtype.itemsize, vector_lanes(self.dtype)
        taps, channels = w.shape
        correlation = self.correlation._replace(channels=channels, filters=channels)
        plan = layout(correlation, self.places, size, True)
        padded = np.zeros((taps, -(-channels // lanes) * lanes), self.dtype)
        padded[:, :channels] = w
        fields = {**self.fields, f.B: padded.ctypes.data, f.PLACE: start, f.BIAS: self.bias}
        kernel = conv_apply.DEPTHWISE[self.dtype.name]
        run(kernel, plan, fields, self._shares(plan, w.size), f.FIRST, plan.window * size)

    def _shares(self, plan: Layout, work_per_position: int) -> list[tuple[int, int]]:
        images, (height, width) = self.correlation.images, self.correlation.size
        return equal_shares(plan.blocks, threads_for(images * height * width * work_per_position))


def grad_weight(
    g: ConvGeometry,
    x: np.ndarray,
    grad: np.ndarray,
    dw: np.ndarray,
    accumulate: bool,
    bias_grad: np.ndarray | None,
) -> None:
    """dw (+)= gradient of conv2d's weights; bias_grad += gradient of its bias."""
    correlation, dtype, groups = conv_plan.forward(g), x.dtype, g.groups
    depthwise = is_depthwise(g)
    if depthwise:
        correlation, groups = correlation._replace(channels=g.channels, filters=g.channels), 1
    places = (g.out_height * g.out_width * g.filters, g.out_width * g.filters, g.filters)
    plan = layout(correlation, places, dtype.itemsize, depthwise)
    taps, filters = int(plan.fields[f.TAPS]), correlation.filters
    images = _images_of_chunk(g.batch, int(plan.fields[f.BLOCK_IMAGES]), taps, filters, dtype)
    chunks = -(-g.batch // images)
    threads = threads_for(g.batch * g.out_height * g.out_width * taps * filters)
    if chunks > 1:
        shares, share_at = equal_shares(chunks, threads), f.FIRST
        fields = {f.ROW_FIRST: 0, f.ROW_LAST: taps, f.ROW_STEP: filters}
    else:
        shares, share_at = equal_shares(taps, threads, WIDE_HEIGHTS[0]), f.ROW_FIRST
        fields = {f.FIRST: 0, f.LAST: 1, f.ROW_STEP: g.filters, f.ACCUMULATE: accumulate}
    fields |= {f.X: x.ctypes.data, f.B: grad.ctypes.data, f.CHUNK_IMAGES: images}
    fields[f.CHUNK_SIZE] = taps * filters
    panel = plan.positions * VECTORS * vector_lanes(dtype)
    kernel = (conv_weight.DEPTHWISE if depthwise else conv_weight.DENSE)[dtype.name]
    for group in range(groups):
        first = group * filters
        fields[f.X_CHANNEL], fields[f.PLACE] = group * correlation.channels, first
        parts = np.empty((chunks if chunks > 1 else 0, taps, filters), dtype)
        fields[f.C] = parts.ctypes.data if chunks > 1 else dw.ctypes.data + first * dtype.itemsize
        sums = np.zeros((chunks, filters), dtype)
        fields[f.SUMS] = 0 if bias_grad is None else sums.ctypes.data
        run(kernel, plan, fields, shares, share_at, (plan.window + panel) * dtype.itemsize)
        # Added in the order of the batch, so that the number of threads makes no difference.
        columns = slice(first, first + filters)
        if chunks > 1:
            total = np.add.reduce(parts, axis=0)
            target = dw.reshape(taps, g.filters)[:, columns]
            target[...] = target + total if accumulate else total
        if bias_grad is not None:
            bias_grad[columns] += np.add.reduce(sums, axis=0)


def _images_of_chunk(batch: int, block: int, taps: int, filters: int, dtype: np.dtype) -> int:
    """All images, or a share of them if there are too few taps to divide the work by."""
    is_large = CHUNKS * taps * filters * dtype.itemsize > CHUNK_BYTES
    if is_large or -(-taps // WIDE_HEIGHTS[0]) >= CHUNKS:
        return batch
    return -(-batch // CHUNKS // block) * block
