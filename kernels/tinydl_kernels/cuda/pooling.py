"""Pooling for device arrays; `reference.pooling` holds the definitions.

Everything is a gather: a thread computes one output, or the gradient of one input, and reads what
belongs to it. No two threads write to one place, so no order of theirs can change a bit.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..windows import PoolGeometry, pool_geometry
from . import device
from .arrays import check_floats, deliver, name_of, output, plain
from .device import cuda, device_function, kernel
from .instructions import pointer
from .operands import divisor
from .passes import THREADS, divide, each

EVERYWHERE = 2**30  # rows and columns


def max_pool2d(
    x: Any, pool_size: Any, *, strides: Any = None, padding: Any = "valid"
) -> tuple[Any, Any]:
    """See `reference.max_pool2d`."""
    check_floats("max_pool2d", x=x)
    g = pool_geometry(x.shape, pool_size, strides, padding)
    xp, x = device.namespace(), plain(x)
    y, argmax = xp.empty(g.output_shape, x.dtype), xp.empty(g.output_shape, np.dtype("int32"))
    each(max_kernel(name_of(x.dtype)), y.size, (x, y, argmax), *_geometry(g), x.dtype.type(0))
    return y, argmax


def avg_pool2d(x: Any, pool_size: Any, *, strides: Any = None, padding: Any = "valid") -> Any:
    """See `reference.avg_pool2d`."""
    check_floats("avg_pool2d", x=x)
    g = pool_geometry(x.shape, pool_size, strides, padding)
    x = plain(x)
    y = device.namespace().empty(g.output_shape, x.dtype)
    each(mean_kernel(name_of(x.dtype)), y.size, (x, y), *_geometry(g), x.dtype.type(0))
    return y


def _geometry(g: PoolGeometry) -> tuple[tuple[int, ...], tuple]:
    """What kernels over outputs take: sizes, and divisors for an output's index."""
    (top, _), (left, _) = g.padding
    sizes = (g.height, g.width, g.channels, *g.size, *g.strides, top, left)
    return sizes, (divisor(g.channels), divisor(g.out_width), divisor(g.out_height))


@functools.cache
def max_kernel(dtype: str) -> Any:
    index = np.int32(0)

    @kernel(THREADS)
    def max_pool(elements, x, y, argmax, sizes, by, like):
        height, width, channels, rows, columns, u, v, top, left = sizes
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        pixel, c = divide(i, by[0])
        line, q = divide(pixel, by[1])
        n, p = divide(line, by[2])
        h_first, w_first = p * u - top, q * v - left
        h_end, w_end = min(h_first + rows, height), min(w_first + columns, width)
        h_first, w_first = max(h_first, 0), max(w_first, 0)
        memory, image = pointer(x, like), n * height * width
        winner = h_first * width + w_first
        largest = memory[(image + winner) * channels + c]
        for h in range(h_first, h_end):
            for w in range(w_first, w_end):
                place = h * width + w
                value = memory[(image + place) * channels + c]
                # The first NaN wins over everything, and keeps its place.
                if value > largest or (value != value and largest == largest):
                    largest, winner = value, place
        pointer(y, like)[i] = largest
        pointer(argmax, index)[i] = np.int32(winner)

    return max_pool


@functools.cache
def mean_kernel(dtype: str) -> Any:
    zero, narrow = np.dtype(dtype).type(0), np.dtype(dtype).type

    @kernel(THREADS)
    def mean_pool(elements, x, y, sizes, by, like):
        height, width, channels, rows, columns, u, v, top, left = sizes
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        pixel, c = divide(i, by[0])
        line, q = divide(pixel, by[1])
        n, p = divide(line, by[2])
        h_first, w_first = p * u - top, q * v - left
        h_end, w_end = min(h_first + rows, height), min(w_first + columns, width)
        h_first, w_first = max(h_first, 0), max(w_first, 0)
        memory, total = pointer(x, like), zero
        for h in range(h_first, h_end):
            for w in range(w_first, w_end):
                total += memory[((n * height + h) * width + w) * channels + c]
        pointer(y, like)[i] = total / narrow((h_end - h_first) * (w_end - w_first))

    return mean_pool


def max_pool2d_grad(
    grad: Any,
    argmax: Any,
    input_shape: tuple[int, int, int, int],
    out: Any = None,
    *,
    pool_size: Any = None,
    strides: Any = None,
    padding: Any = "valid",
) -> Any:
    """See `reference.max_pool2d_grad`.

    A thread owns one element of the input, and takes the gradients of the windows that it won, always in
    the same order. Without `pool_size` it has to ask all windows of its channel.
    """
    name = "max_pool2d_grad"
    check_floats(name, grad=grad)
    if argmax.shape != grad.shape:
        raise ValueError(
            f"{name}: argmax must have the shape of grad, {grad.shape}, got {argmax.shape}"
        )
    if argmax.dtype != np.int32:
        raise TypeError(f"{name}: argmax must be int32, not {argmax.dtype}")
    device.check_array(name, "argmax", argmax)
    _, height, width, channels = input_shape
    _, out_height, out_width, _ = grad.shape
    # Windows so large, and beginning so early, that every one reaches every element
    rows, columns, u, v, top, left = EVERYWHERE, EVERYWHERE, 1, 1, out_height, out_width
    if pool_size is not None:
        g = pool_geometry(tuple(input_shape), pool_size, strides, padding)
        if grad.shape != g.output_shape:
            raise ValueError(
                f"{name}: grad must have the shape of max_pool2d's output, {g.output_shape}, got {grad.shape}"
            )
        (rows, columns), (u, v), ((top, _), (left, _)) = g.size, g.strides, g.padding
    grad, argmax = plain(grad), plain(argmax)
    dx = output(name, out, tuple(input_shape), grad.dtype, grad, argmax)
    sizes = (width, channels, rows, columns, u, v, top, left, out_height, out_width)
    by = tuple(map(divisor, (channels, width, height, u, v)))
    arrays = (grad, argmax, dx)
    each(max_grad_kernel(name_of(grad.dtype)), dx.size, arrays, sizes, by, grad.dtype.type(0))
    return deliver(dx, out)


@functools.cache
def max_grad_kernel(dtype: str) -> Any:
    index, zero = np.int32(0), np.dtype(dtype).type(0)

    @kernel(THREADS)
    def max_pool_grad(elements, g, argmax, dx, sizes, by, like):
        width, channels, rows, columns, u, v, top, left, out_height, out_width = sizes
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        pixel, c = divide(i, by[0])
        line, w = divide(pixel, by[1])
        n, h = divide(line, by[2])
        p_first, p_end = _windows_over(h, top, rows, u, by[3], out_height)
        q_first, q_end = _windows_over(w, left, columns, v, by[4], out_width)
        g_memory, winners, total = pointer(g, like), pointer(argmax, index), zero
        for p in range(p_first, p_end):
            for q in range(q_first, q_end):
                place = ((n * out_height + p) * out_width + q) * channels + c
                if winners[place] == h * width + w:
                    total += g_memory[place]
        pointer(dx, like)[i] = total

    return max_pool_grad


@device_function
def _windows_over(place, before, taps, stride, by, windows):
    """The first window p with p stride - before <= place < p stride - before + taps, and the end of them."""
    first, _ = divide(max(place + before - taps + stride, 0), by)
    last, _ = divide(place + before, by)
    return first, min(last + 1, windows)


def avg_pool2d_grad(
    grad: Any,
    input_shape: tuple[int, int, int, int],
    pool_size: Any,
    *,
    strides: Any = None,
    padding: Any = "valid",
    out: Any = None,
) -> Any:
    """See `reference.avg_pool2d_grad`."""
    name = "avg_pool2d_grad"
    check_floats(name, grad=grad)
    g = pool_geometry(input_shape, pool_size, strides, padding)
    if grad.shape != g.output_shape:
        raise ValueError(
            f"grad must have the shape of avg_pool2d's output, {g.output_shape}, got {grad.shape}"
        )
    grad = plain(grad)
    dx = output(name, out, g.input_shape, grad.dtype, grad)
    sizes = (*_geometry(g)[0], g.out_height, g.out_width)
    by = tuple(map(divisor, (g.channels, g.width, g.height, *g.strides)))
    each(mean_grad_kernel(name_of(grad.dtype)), dx.size, (grad, dx), sizes, by, grad.dtype.type(0))
    return deliver(dx, out)


@functools.cache
def mean_grad_kernel(dtype: str) -> Any:
    zero, narrow = np.dtype(dtype).type(0), np.dtype(dtype).type

    @kernel(THREADS)
    def mean_pool_grad(elements, g, dx, sizes, by, like):
        height, width, channels, rows, columns, u, v, top, left, out_height, out_width = sizes
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        pixel, c = divide(i, by[0])
        line, w = divide(pixel, by[1])
        n, h = divide(line, by[2])
        p_first, p_end = _windows_over(h, top, rows, u, by[3], out_height)
        q_first, q_end = _windows_over(w, left, columns, v, by[4], out_width)
        memory, total = pointer(g, like), zero
        for p in range(p_first, p_end):
            inside_h = min(p * u - top + rows, height) - max(p * u - top, 0)
            for q in range(q_first, q_end):
                inside_w = min(q * v - left + columns, width) - max(q * v - left, 0)
                place = ((n * out_height + p) * out_width + q) * channels + c
                total += memory[place] / narrow(inside_h * inside_w)
        pointer(dx, like)[i] = total

    return mean_pool_grad
