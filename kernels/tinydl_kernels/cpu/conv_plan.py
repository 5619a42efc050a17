"""What a convolution's three passes ask of the two kernels: which taps, at which offsets.

For one axis with stride u, dilation d and padding p before the data, tap r of output i meets input

    h = i u + r d - p.                                                    (forward)

The gradient with respect to input h collects the outputs that met it: i = (h + p - r d) / u for all
taps r for which that is a whole number. With h = h0 + u j, j = 0, 1, ..., it is whole for the same
taps at every j, and

    i = j + (h0 + p - r d) / u,                                           (gradient)

a convolution with stride one again. So the inputs fall into u phases h0 = 0 ... u - 1, each with its
own share of the taps, and no multiplication by an inserted zero is ever made (Dumoulin & Visin 2016,
section 4, describe the zeros that this avoids).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..windows import ConvGeometry, Pair
from .conv_blocks import Correlation


class Phase(NamedTuple):
    """One call of a kernel: positions (h0 + u j, w0 + v l), and the taps that contribute to them."""

    correlation: Correlation
    start: Pair  # (h0, w0)
    taps: np.ndarray  # r * S + s of each tap


def forward(g: ConvGeometry) -> Correlation:
    """The forward pass of one group; the gradient with respect to the weights has the same taps."""
    rows = [r * g.dilation[0] - g.padding[0][0] for r in range(g.kernel[0])]
    columns = [s * g.dilation[1] - g.padding[1][0] for s in range(g.kernel[1])]
    return Correlation(
        images=g.batch,
        x_size=(g.height, g.width),
        pixel=g.channels,
        channels=g.channels // g.groups,
        size=(g.out_height, g.out_width),
        strides=g.strides,
        rows=tuple(row for row in rows for _ in columns),
        columns=tuple(column for _ in rows for column in columns),
        filters=g.filters // g.groups,
    )


def grad_input(g: ConvGeometry) -> tuple[Phase, ...]:
    """The gradient with respect to the input of one group."""
    phases = []
    for h0 in range(min(g.strides[0], g.height)):
        rows = _taps_of_phase(h0, g.kernel[0], g.strides[0], g.dilation[0], g.padding[0][0])
        for w0 in range(min(g.strides[1], g.width)):
            columns = _taps_of_phase(w0, g.kernel[1], g.strides[1], g.dilation[1], g.padding[1][0])
            correlation = Correlation(
                images=g.batch,
                x_size=(g.out_height, g.out_width),
                pixel=g.filters,
                channels=g.filters // g.groups,
                size=(
                    len(range(h0, g.height, g.strides[0])),
                    len(range(w0, g.width, g.strides[1])),
                ),
                strides=(1, 1),
                rows=tuple(row for _, row in rows for _ in columns),
                columns=tuple(column for _ in rows for _, column in columns),
                filters=g.channels // g.groups,
            )
            taps = [r * g.kernel[1] + s for r, _ in rows for s, _ in columns]
            phases.append(Phase(correlation, (h0, w0), np.array(taps, np.int64)))
    return tuple(phases)


def _taps_of_phase(first: int, taps: int, stride: int, dilation: int, pad: int) -> list[Pair]:
    """(r, (first + pad - r dilation) / stride) for the taps r for which that is whole."""
    found = []
    for r in range(taps):
        offset = first + pad - r * dilation
        if offset % stride == 0:
            found.append((r, offset // stride))
    return found
