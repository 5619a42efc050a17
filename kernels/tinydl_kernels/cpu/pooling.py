"""Pooling for NumPy arrays; definitions in `reference.pooling`.

Images are channels-last, so the innermost loop of every pass runs over the contiguous channels of one
place, and vectorizes: a comparison becomes a mask, and two selections keep value and place. Where the
channels hardly fill a vector, the maximum goes along whole rows instead. Images are independent, so
each belongs to one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ..windows import PoolGeometry, pool_geometry
from ._jit import jit
from ._passes import Pass, check_floats, check_out, check_shape, deliver

FEW = 16  # channels, as many as a vector's elements at most
NOWHERE = np.int32(1 << 30)  # the place of what is no element: behind all others

# --- loops ------------------------------------------------------------------------------------------
# `window` = (height, width, row stride, column stride, top padding, left padding).


@jit(cache=False)
def _bounds(i, stride, before, taps, size):
    """First and last + 1 of the input places, along one axis, that window i covers."""
    start = i * stride - before
    return max(start, 0), min(start + taps, size)


@jit(cache=False)
def _max_image(x, window, y, argmax):
    """(H, W, C) -> (OH, OW, C) of one image."""
    height, width, channels = x.shape
    taps_h, taps_w, stride_h, stride_w, top, left = window
    for i in range(y.shape[0]):
        h0, h1 = _bounds(i, stride_h, top, taps_h, height)
        for j in range(y.shape[1]):
            w0, w1 = _bounds(j, stride_w, left, taps_w, width)
            best, place = y[i, j], argmax[i, j]
            for c in range(channels):
                best[c] = x[h0, w0, c]
                place[c] = h0 * width + w0
            for h in range(h0, h1):
                for w in range(w0, w1):
                    here = np.int32(h * width + w)
                    values = x[h, w]
                    for c in range(channels):
                        v, b = values[c], best[c]
                        wins = (v > b) | ((v != v) & (b == b))  # a NaN beats all but another NaN
                        best[c] = v if wins else b
                        place[c] = here if wins else place[c]


@jit(cache=False)
def _first(values, here, best, place):
    for q in range(len(values)):
        best[q] = values[q]
        place[q] = here


@jit(cache=False)
def _below(values, here, best, place):
    """best = max(best, values), where `values` come later."""
    for q in range(len(values)):
        v, b = values[q], best[q]
        wins = (v > b) | ((v != v) & (b == b))
        best[q] = v if wins else b
        place[q] = here if wins else place[q]


@jit(cache=False)
def _beside(values, places, column, best, place):
    """best = max(best, values) by elements whose own places tell which comes first."""
    for q in range(len(values)):
        v, b = values[q], best[q]
        p, a = places[q] + column, place[q]
        equal = (v == b) | ((v != v) & (b != b))
        wins = (v > b) | ((v != v) & (b == b)) | (equal & (p < a))
        best[q] = v if wins else b
        place[q] = p if wins else a


@jit(cache=False)
def _max_rows_image(x, width, channels, window, y, argmax, values, places):
    """The same for few channels, x (H, W * C) -> y (OH, OW * C): a window's maximum down its columns, then
    along them, for every place of a row at once, wanted or not; what the strides pick is copied.

    values and places (2, elements of a row with its padding) hold what is no element at first.
    """
    taps_h, taps_w, stride_h, stride_w, top, left = window
    padding, row, padded = left * channels, width * channels, values.shape[1]
    down, best = values[0], values[1]
    down_place, place = places[0], places[1]
    for i in range(y.shape[0]):
        h0, h1 = _bounds(i, stride_h, top, taps_h, len(x))
        inside, its_place = down[padding : padding + row], down_place[padding : padding + row]
        _first(x[h0], np.int32(h0 * width), inside, its_place)
        for h in range(h0 + 1, h1):
            _below(x[h], np.int32(h * width), inside, its_place)
        for q in range(padded):
            best[q] = down[q]
            place[q] = down_place[q]
        for t in range(1, taps_w):
            shift = t * channels
            _beside(down[shift:], down_place[shift:], np.int32(t), best, place)
        y_row, argmax_row = y[i], argmax[i]
        for j in range(len(y_row) // channels):
            here, there, column = j * channels, j * stride_w * channels, j * stride_w - left
            for c in range(channels):
                y_row[here + c] = best[there + c]
                argmax_row[here + c] = place[there + c] + column


@jit(cache=False)
def _max_grad_image(grad, argmax, dx):
    """Each window's gradient to its winner, added to dx (H * W, C)."""
    for i in range(grad.shape[0]):
        for j in range(grad.shape[1]):
            for c in range(grad.shape[2]):
                dx[argmax[i, j, c], c] += grad[i, j, c]


@jit(cache=False)
def _avg_image(x, window, y):
    height, width, channels = x.shape
    taps_h, taps_w, stride_h, stride_w, top, left = window
    for i in range(y.shape[0]):
        h0, h1 = _bounds(i, stride_h, top, taps_h, height)
        for j in range(y.shape[1]):
            w0, w1 = _bounds(j, stride_w, left, taps_w, width)
            total = y[i, j]
            for c in range(channels):
                total[c] = 0
            for h in range(h0, h1):
                for w in range(w0, w1):
                    for c in range(channels):
                        total[c] += x[h, w, c]
            share = x.dtype.type(1.0 / ((h1 - h0) * (w1 - w0)))
            for c in range(channels):
                total[c] *= share


@jit(cache=False)
def _avg_grad_image(grad, window, dx):
    height, width, channels = dx.shape
    taps_h, taps_w, stride_h, stride_w, top, left = window
    for i in range(grad.shape[0]):
        h0, h1 = _bounds(i, stride_h, top, taps_h, height)
        for j in range(grad.shape[1]):
            w0, w1 = _bounds(j, stride_w, left, taps_w, width)
            share = grad.dtype.type(1.0 / ((h1 - h0) * (w1 - w0)))
            for h in range(h0, h1):
                for w in range(w0, w1):
                    for c in range(channels):
                        dx[h, w, c] += share * grad[i, j, c]


def _max(x, window, y, argmax):
    for n in prange(len(x)):
        _max_image(x[n], window, y[n], argmax[n])


def _max_rows(x, width, channels, window, y, argmax, values, places):
    for n in prange(len(x)):
        _max_rows_image(x[n], width, channels, window, y[n], argmax[n], values[n], places[n])


def _max_grad(grad, argmax, dx):
    for n in prange(len(grad)):
        _max_grad_image(grad[n], argmax[n], dx[n])


def _avg(x, window, y):
    for n in prange(len(x)):
        _avg_image(x[n], window, y[n])


def _avg_grad(grad, window, dx):
    for n in prange(len(grad)):
        _avg_grad_image(grad[n], window, dx[n])


_MAX, _MAX_ROWS, _MAX_GRAD = Pass(_max), Pass(_max_rows), Pass(_max_grad)
_AVG, _AVG_GRAD = Pass(_avg), Pass(_avg_grad)


# --- kernels ----------------------------------------------------------------------------------------


def max_pool2d(
    x: np.ndarray, pool_size: Any, *, strides: Any = None, padding: Any = "valid"
) -> tuple[np.ndarray, np.ndarray]:
    """Maximum of each window, and where it was. See `reference.max_pool2d`."""
    check_floats("max_pool2d", x=x)
    g = pool_geometry(x.shape, pool_size, strides, padding)
    y = np.empty(g.output_shape, x.dtype)
    argmax = np.empty(g.output_shape, np.int32)
    x = np.ascontiguousarray(x)
    if g.channels > FEW or g.size[1] == 1:
        _MAX(x.size, x, _window(g), y, argmax)
    else:
        _max_by_rows(x, g, y, argmax)
    return y, argmax


def _max_by_rows(x: np.ndarray, g: PoolGeometry, y: np.ndarray, argmax: np.ndarray) -> None:
    """`_MAX_ROWS` with rows in one piece, and its working memory."""
    left, right = g.padding[1]
    padded = max(left + g.width + right, (y.shape[2] - 1) * g.strides[1] + g.size[1]) * g.channels
    values = np.full((g.batch, 2, padded), -np.inf, x.dtype)
    places = np.full((g.batch, 2, padded), NOWHERE, np.int32)
    rows = x.reshape(g.batch, g.height, g.width * g.channels)
    y_rows, argmax_rows = (
        out.reshape(*out.shape[:2], out.shape[2] * g.channels) for out in (y, argmax)
    )
    _MAX_ROWS(x.size, rows, g.width, g.channels, _window(g), y_rows, argmax_rows, values, places)


def max_pool2d_grad(
    grad: np.ndarray,
    argmax: np.ndarray,
    input_shape: tuple[int, int, int, int],
    out: np.ndarray | None = None,
    *,
    pool_size: Any = None,
    strides: Any = None,
    padding: Any = "valid",
) -> np.ndarray:
    """Gradient with respect to max_pool2d's x. See `reference.max_pool2d_grad`."""
    name = "max_pool2d_grad"
    check_floats(name, grad=grad)
    if pool_size is not None:
        g = pool_geometry(input_shape, pool_size, strides, padding)
        check_shape(name, "grad", grad, g.output_shape)
    check_shape(name, "argmax", argmax, grad.shape)
    places = input_shape[1] * input_shape[2]
    if argmax.dtype != np.int32:
        raise TypeError(f"{name}: argmax must be int32, not {argmax.dtype}")
    if argmax.size and (argmax.min() < 0 or argmax.max() >= places):
        raise ValueError(f"{name}: argmax must lie in [0, {places}), the places of x")
    if grad.shape[0] != input_shape[0] or grad.shape[3] != input_shape[3]:
        raise ValueError(f"{name}: grad {grad.shape} does not fit an input of shape {input_shape}")
    batch, height, width, channels = input_shape
    dx = np.zeros((batch, height * width, channels), grad.dtype)
    _MAX_GRAD(dx.size, np.ascontiguousarray(grad), np.ascontiguousarray(argmax), dx)
    return _give(name, dx.reshape(input_shape), out)


def avg_pool2d(
    x: np.ndarray, pool_size: Any, *, strides: Any = None, padding: Any = "valid"
) -> np.ndarray:
    """Mean of each window over its real elements. See `reference.avg_pool2d`."""
    check_floats("avg_pool2d", x=x)
    g = pool_geometry(x.shape, pool_size, strides, padding)
    y = np.empty(g.output_shape, x.dtype)
    _AVG(x.size, np.ascontiguousarray(x), _window(g), y)
    return y


def avg_pool2d_grad(
    grad: np.ndarray,
    input_shape: tuple[int, int, int, int],
    pool_size: Any,
    *,
    strides: Any = None,
    padding: Any = "valid",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Gradient with respect to avg_pool2d's x. See `reference.avg_pool2d_grad`."""
    name = "avg_pool2d_grad"
    check_floats(name, grad=grad)
    g = pool_geometry(input_shape, pool_size, strides, padding)
    check_shape(name, "grad", grad, g.output_shape)
    dx = np.zeros(g.input_shape, grad.dtype)
    _AVG_GRAD(dx.size, np.ascontiguousarray(grad), _window(g), dx)
    return _give(name, dx, out)


def _window(g: PoolGeometry) -> tuple[int, int, int, int, int, int]:
    (top, _), (left, _) = g.padding
    return (*g.size, *g.strides, top, left)


def _give(name: str, result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is not None:
        check_out(name, out, result.shape, result.dtype)
    return deliver(result, out)
