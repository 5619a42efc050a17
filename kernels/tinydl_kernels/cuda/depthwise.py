"""Depthwise convolutions: each channel has filters of its own, so there is nothing to multiply as
matrices. Every element is a sum of R S products, and almost all time goes into reading and writing:
one thread computes one element, neighbors along the channels, so that each access of a warp is one
run of memory. What neighboring pixels share comes from the caches.

With `m` filters for each channel, filter k sees channel k // m.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import windows
from . import device
from .arrays import name_of
from .device import cuda, device_function, kernel
from .gemm import finisher
from .instructions import pointer
from .operands import LARGEST_INDEX, divisor
from .products import COMPILED_IN, SLOPES, Ending, Epilogue, Result, adding, line, start

THREADS = 256
LANES, TEAMS = 32, 8  # of a block for the gradient by the weight: channels, and pixels at a time
PIXELS = 2048  # that a block sums up


@device_function
def _divide(index, by):
    """(index // d, index % d) for by = divisor(d)."""
    quotient = (index * by[1]) >> by[2]
    return quotient, index - quotient * by[0]


def is_depthwise(g: windows.ConvGeometry) -> bool:
    return g.groups == g.channels and g.groups > 1


def _geometry(g: windows.ConvGeometry) -> tuple[tuple[int, ...], ...]:
    """What all three kernels take: sizes, how to step, and divisors for the index of an output."""
    multiplier = g.filters // g.channels
    sizes = (g.height, g.width, g.channels, g.out_height, g.out_width, g.filters, multiplier)
    window = (*g.kernel, *g.strides, *g.dilation, g.padding[0][0], g.padding[1][0])
    return sizes, window


def forward(g: windows.ConvGeometry, x: Any, w: Any, y: Any, epilogue: Epilogue) -> None:
    activation = epilogue.activation if epilogue.activation in COMPILED_IN else None
    bias = y if epilogue.bias is None else epilogue.bias
    by = (
        divisor(g.filters),
        divisor(g.out_width),
        divisor(g.out_height),
        divisor(g.filters // g.channels),
    )
    _launch(
        forward_kernel(name_of(x.dtype), activation), y.size, x, w, y, bias,
        0 if epilogue.bias is None else 1, y.size, *_geometry(g), by,
        x.dtype.type(SLOPES.get(epilogue.activation, 1.0)),
    )  # fmt: skip


@functools.cache
def forward_kernel(dtype: str, activation: str | None) -> Any:
    finish, zero = finisher(activation, np.dtype(dtype).type), np.dtype(dtype).type(0)

    @kernel(THREADS)
    def depthwise_forward(x, w, y, bias, has_bias, elements, sizes, window, by, slope):
        height, width, channels, _, _, filters, _ = sizes
        rows, columns, u, v, d, e, top, left = window
        element = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if element >= elements:
            return
        pixel, k = _divide(element, by[0])
        line_of_pixels, j = _divide(pixel, by[1])
        n, i = _divide(line_of_pixels, by[2])
        c, _ = _divide(k, by[3])
        x_memory, w_memory = pointer(x, slope), pointer(w, slope)
        total = zero
        for r in range(rows):
            h = i * u + r * d - top
            if h >= 0 and h < height:
                for s in range(columns):
                    q = j * v + s * e - left
                    if q >= 0 and q < width:
                        place = ((n * height + h) * width + q) * channels + c
                        total += x_memory[place] * w_memory[(r * columns + s) * filters + k]
        if has_bias != 0:
            total += pointer(bias, slope)[k]
        pointer(y, slope)[element] = finish(total, slope)

    return depthwise_forward


def grad_input(g: windows.ConvGeometry, dy: Any, w: Any, dx: Any, epilogue: Epilogue) -> None:
    activation = epilogue.activation if epilogue.activation in COMPILED_IN else None
    bias = dx if epilogue.bias is None else epilogue.bias
    by = (
        divisor(g.channels),
        divisor(g.width),
        divisor(g.height),
        divisor(g.strides[0]),
        divisor(g.strides[1]),
    )
    _launch(
        grad_input_kernel(name_of(dy.dtype), activation), dx.size, dy, w, dx, bias,
        0 if epilogue.bias is None else 1, dx.size, *_geometry(g), by,
        dy.dtype.type(SLOPES.get(epilogue.activation, 1.0)),
    )  # fmt: skip


@functools.cache
def grad_input_kernel(dtype: str, activation: str | None) -> Any:
    finish, zero = finisher(activation, np.dtype(dtype).type), np.dtype(dtype).type(0)

    @kernel(THREADS)
    def depthwise_grad_input(dy, w, dx, bias, has_bias, elements, sizes, window, by, slope):
        _, _, _, out_height, out_width, filters, multiplier = sizes
        rows, columns, _, _, d, e, top, left = window
        element = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if element >= elements:
            return
        pixel, c = _divide(element, by[0])
        line_of_pixels, q = _divide(pixel, by[1])
        n, h = _divide(line_of_pixels, by[2])
        dy_memory, w_memory = pointer(dy, slope), pointer(w, slope)
        total = zero
        for r in range(rows):
            above = h + top - r * d
            i, rest = _divide(max(above, 0), by[3])
            if above >= 0 and rest == 0 and i < out_height:
                for s in range(columns):
                    before = q + left - s * e
                    j, rest = _divide(max(before, 0), by[4])
                    if before >= 0 and rest == 0 and j < out_width:
                        place = ((n * out_height + i) * out_width + j) * filters + c * multiplier
                        weight = (r * columns + s) * filters + c * multiplier
                        for f in range(multiplier):
                            total += dy_memory[place + f] * w_memory[weight + f]
        if has_bias != 0:
            total += pointer(bias, slope)[c]
        pointer(dx, slope)[element] = finish(total, slope)

    return depthwise_grad_input


def grad_weight(g: windows.ConvGeometry, x: Any, dy: Any, dw: Any, beta: float) -> None:
    """Each block sums up one tap of 32 filters over some pixels; the parts are added up afterwards."""
    pixels, taps = g.batch * g.out_height * g.out_width, g.kernel[0] * g.kernel[1]
    _check_size(pixels)
    parts = min(-(-pixels // PIXELS), 1024)
    share = -(-pixels // parts)
    sums = device.namespace().empty((parts, taps, g.filters), x.dtype)
    by = (
        divisor(g.out_width),
        divisor(g.out_height),
        divisor(g.filters // g.channels),
        divisor(g.kernel[1]),
    )
    device.launch(
        grad_weight_kernel(name_of(x.dtype)), (-(-g.filters // LANES), taps, parts), LANES * TEAMS,
        *map(device.memory, (x, dy, sums)), pixels, share, *_geometry(g), by, x.dtype.type(0),
    )  # fmt: skip
    launches = adding(
        Result(line(g.filters)), x.dtype.char, taps, g.filters, parts, Ending(beta=beta)
    )
    start(launches, *map(device.memory, (sums, dw, dw)))


@functools.cache
def grad_weight_kernel(dtype: str) -> Any:
    size, element = LANES * TEAMS, np.dtype(dtype)

    @kernel(size)
    def depthwise_grad_weight(x, dy, sums, pixels, share, sizes, window, by, zero):
        height, width, channels, _, _, filters, _ = sizes
        _, _, u, v, d, e, top, left = window
        shared = cuda.shared.array(size, element)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        k, tap, part = cuda.blockIdx.x * LANES + lane, cuda.blockIdx.y, cuda.blockIdx.z
        r, s = _divide(tap, by[3])
        x_memory, dy_memory = pointer(x, zero), pointer(dy, zero)
        total = zero
        if k < filters:
            c, _ = _divide(k, by[2])
            for pixel in range(part * share + team, min(pixels, (part + 1) * share), TEAMS):
                line_of_pixels, j = _divide(pixel, by[0])
                n, i = _divide(line_of_pixels, by[1])
                h, q = i * u + r * d - top, j * v + s * e - left
                if h >= 0 and h < height and q >= 0 and q < width:
                    place = ((n * height + h) * width + q) * channels + c
                    total += x_memory[place] * dy_memory[pixel * filters + k]
        shared[cuda.threadIdx.x] = total
        cuda.syncthreads()
        if team == 0 and k < filters:
            for other in range(1, TEAMS):
                total += shared[other * LANES + lane]
            taps = cuda.gridDim.y
            pointer(sums, zero)[(part * taps + tap) * filters + k] = total

    return depthwise_grad_weight


def _launch(function, elements, x, w, y, bias, *rest) -> None:
    _check_size(elements)
    arrays = map(device.memory, (x, w, y, bias))
    device.launch(function, (-(-elements // THREADS),), THREADS, *arrays, *rest)


def _check_size(elements: int) -> None:
    if elements > LARGEST_INDEX:
        raise ValueError(f"depthwise convolutions of {elements} elements are not supported")
