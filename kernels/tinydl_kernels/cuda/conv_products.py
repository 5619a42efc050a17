"""Convolutions as matrix products whose operands are read straight from images (see `operands`).

With strides (u, v), dilation (d, e) and padding (top, left), for each group,

    forward      y[pixel, k]   = sum over taps (r, s, c) of  x[pixel at tap] w[tap, k]
    grad weight  dw[tap, k]    = sum over pixels of          x[pixel at tap] dy[pixel, k]
    grad input   dx[pixel, c]  = sum over taps (r, s, k) of  dy[pixel at tap] w[tap, c]

where x[(n, i, j) at (r, s, c)] = x[n, i u + r d - top, j v + s e - left, c], or zero outside. Groups are a
stack of products.

The gradient by the input asks which outputs an input element took part in: row h in output row
(h + top - r d) / u, if that is whole. For rows h = p, p + u, p + 2 u, ... it is whole for the same taps, and
these are again evenly spaced. So for each of the u v phases of rows and columns it is a convolution with
stride 1 of its own, and no tap is tried in vain (the sub-pixel view of Shi et al., "Is the deconvolution
layer the same as a convolutional layer?", 2016).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from .. import windows
from .device import VECTOR_BYTES
from .operands import FOLDED, INNER, LINE, OUTER, Layout, folded, line
from .products import ADDED, PLAIN, Epilogue, Operand, Product, Result, matrix, multiply

# Training asks for the same few convolutions over and over.
planned = functools.lru_cache(maxsize=1024)


def forward(
    g: windows.ConvGeometry, x: Any, w: Any, y: Any, epilogue: Epilogue, precision: Any = None
) -> None:
    """y = activation(x convolved with w + bias), all arrays in one piece."""
    multiply(forward_product(g, x.dtype.itemsize), x, w, y, epilogue, precision)


@planned
def forward_product(g: windows.ConvGeometry, itemsize: int) -> Product:
    filters = g.filters // g.groups
    patches = _patches(g, Layout(INNER, False, FOLDED, FOLDED, _is_padded(g)))
    weight = matrix(itemsize, 1, g.filters, step=filters)
    result = Result(line(g.filters), step=filters)
    return Product(patches, weight, result, (_pixels(g), filters, _taps(g)), g.groups, filters)


def grad_weight(
    g: windows.ConvGeometry, x: Any, dy: Any, dw: Any, epilogue: Epilogue, precision: Any = None
) -> None:
    """dw = the gradient, or the gradient + dw."""
    multiply(grad_weight_product(g, x.dtype.itemsize), x, dy, dw, epilogue, precision)


@planned
def grad_weight_product(g: windows.ConvGeometry, itemsize: int) -> Product:
    filters, channels = g.filters // g.groups, g.channels // g.groups
    wide = channels % (VECTOR_BYTES // itemsize) == 0
    # The same elements as in the forward pass, with the axes exchanged.
    patches = _patches(g, Layout(OUTER, wide, FOLDED, FOLDED, _is_padded(g)))
    patches = patches._replace(outer=patches.inner, inner=patches.outer)
    grads = matrix(itemsize, 1, g.filters, step=filters)
    result = Result(line(g.filters), step=filters)
    return Product(patches, grads, result, (_taps(g), filters, _pixels(g)), g.groups)


def grad_input(
    g: windows.ConvGeometry, dy: Any, w: Any, dx: Any, epilogue: Epilogue, precision: Any = None
) -> None:
    """dx = activation(the gradient + bias), or the gradient + dx."""
    seen, unseen = grad_input_products(g)
    if unseen and epilogue is PLAIN:
        dx.fill(0)  # one pass over dx, not a product for each phase
    elif unseen and epilogue is not ADDED:
        seen = seen + unseen
    for product in seen:
        multiply(product, dy, w, dx, epilogue, precision)


@planned
def grad_input_products(g: windows.ConvGeometry) -> tuple[list[Product], list[Product]]:
    """Of the phases that some output has seen, and of those that none has, whose gradients are zero."""
    found = [
        _grad_input_phase(g, rows, columns)
        for rows in phases(g.height, g.kernel[0], g.strides[0], g.dilation[0], g.padding[0][0])
        for columns in phases(g.width, g.kernel[1], g.strides[1], g.dilation[1], g.padding[1][0])
    ]
    return [p for p in found if p.sizes[2]], [p for p in found if not p.sizes[2]]


class Phase(NamedTuple):
    """Places of the input, first, first + u, ..., `size` of them, which see the taps tap, tap + tap_step,
    ..., `taps` of them: place number i sees through tap number j the output place
    i + place + j * place_step."""

    first: int
    size: int
    tap: int
    taps: int
    tap_step: int
    place: int
    place_step: int


def phases(size: int, taps: int, stride: int, dilation: int, before: int) -> list[Phase]:
    """Along one axis; `before` is the padding before the data."""
    found = []
    tap_step = stride // math.gcd(stride, dilation)
    for first in range(min(stride, size)):
        places = -(-(size - first) // stride)
        tap = next(
            (
                r
                for r in range(min(taps, tap_step))
                if (first + before - r * dilation) % stride == 0
            ),
            taps,
        )
        count = -(-(taps - tap) // tap_step)
        place = (first + before - tap * dilation) // stride
        move = -(tap_step * dilation // stride)
        found.append(Phase(first, places, tap, count, tap_step, place, move))
    return found


def _grad_input_phase(g: windows.ConvGeometry, rows: Phase, columns: Phase) -> Product:
    height, width, taps_s = rows.size, columns.size, max(1, columns.taps)
    channels, filters = g.channels // g.groups, g.filters // g.groups
    # dy, seen from the pixels of dx through the taps
    row, column = g.out_width * g.filters, g.filters
    pixels = folded((height, width), (g.out_height * row, row, column), (0, 1), (0, 1))
    taps = folded(
        (taps_s, filters),
        (rows.place_step * row, columns.place_step * column, 1),
        (rows.place_step, 0),
        (columns.place_step, 0),
    )
    grads = Operand(
        Layout(INNER, False, FOLDED, FOLDED, True),
        pixels,
        taps,
        (g.out_height, g.out_width, rows.place, columns.place),
        start=rows.place * row + columns.place * column,
        step=filters,
    )
    # w[tap, c, k], whose taps are some of all
    w_column = channels * g.filters
    w_row = g.kernel[1] * w_column
    w_taps = folded((taps_s, filters), (rows.tap_step * w_row, columns.tap_step * w_column, 1))
    weight = Operand(
        Layout(INNER, False, LINE, FOLDED), line(g.filters), w_taps,
        start=rows.tap * w_row + columns.tap * w_column, step=filters,
    )  # fmt: skip
    # dx, every u-th row and v-th column
    row, column = g.width * g.channels, g.channels
    places = folded((height, width), (g.height * row, g.strides[0] * row, g.strides[1] * column))
    start = rows.first * row + columns.first * column
    result = Result(places, 1, FOLDED, start, channels)
    sizes = g.batch * height * width, channels, rows.taps * columns.taps * filters
    return Product(grads, weight, result, sizes, g.groups, channels)


def _patches(g: windows.ConvGeometry, layout: Layout) -> Operand:
    """x as the matrix of pixels by taps."""
    (u, v), (d, e), ((top, _), (left, _)) = g.strides, g.dilation, g.padding
    channels = g.channels // g.groups
    row, column = g.width * g.channels, g.channels
    pixels = folded(
        (g.out_height, g.out_width), (g.height * row, u * row, v * column), (0, u), (0, v)
    )
    taps = folded((g.kernel[1], channels), (d * row, e * column, 1), (d, 0), (e, 0))
    start = -top * row - left * column
    bounds = (g.height, g.width, -top, -left)
    return Operand(layout, pixels, taps, bounds, start, channels)


def _pixels(g: windows.ConvGeometry) -> int:
    return g.batch * g.out_height * g.out_width


def _taps(g: windows.ConvGeometry) -> int:
    return g.kernel[0] * g.kernel[1] * (g.channels // g.groups)


def _is_padded(g: windows.ConvGeometry) -> bool:
    return any(map(any, g.padding))
