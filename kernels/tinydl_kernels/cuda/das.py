"""The passes of DAS over all layers at once, for device arrays; see `reference.das`.

A block takes one piece of a layer. What a pass sums up comes back to the host, where the pieces of a layer
are added up in their order: DAS decides there how far to go.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..cpu.das import das_slopes, das_units  # numbers of layers: they are on the host
from . import device
from .arrays import check_floats, name_of
from .device import ALIGNED, cuda, kernel
from .instructions import pointer
from .passes import THREADS, add_up, check_flat

SUMS = 4  # of das_moments

__all__ = ["das_apply", "das_moments", "das_norms", "das_sizes", "das_slopes", "das_units"]


def das_norms(grad: Any, pieces: Any, layers: int) -> Any:
    """See `reference.das_norms`. Waits for the device."""
    check_floats("das_norms", grad=grad)
    return _sums(norms_kernel(name_of(grad.dtype)), 1, pieces, layers, (grad,), grad.dtype.type(0))[
        :, 0
    ]


@functools.cache
def norms_kernel(dtype: str) -> Any:
    zero, wide, index = np.float64(0), np.dtype("float64"), np.int64(0)

    @kernel(THREADS)
    def norms(grad, pieces, parts, like):
        shared = cuda.shared.array((1, THREADS), wide, ALIGNED)
        thread, piece, total = cuda.threadIdx.x, cuda.blockIdx.x, zero
        start, stop = pointer(pieces, index)[3 * piece + 1], pointer(pieces, index)[3 * piece + 2]
        for i in range(start + thread, stop, THREADS):
            g = np.float64(pointer(grad, like)[i])
            total += g * g
        shared[0, thread] = total
        add_up(shared, thread, 1, cuda.syncthreads)
        if thread == 0:
            pointer(parts, zero)[piece] = shared[0, 0]

    return norms


def das_sizes(value: Any, grad: Any, pieces: Any, layers: int) -> Any:
    """See `reference.das_sizes`. Waits for the device."""
    check_flat("das_sizes", value=value, grad=grad)
    like = value.dtype.type(0)
    return _sums(sizes_kernel(name_of(value.dtype)), 2, pieces, layers, (value, grad), like)


@functools.cache
def sizes_kernel(dtype: str) -> Any:
    zero, wide, index = np.float64(0), np.dtype("float64"), np.int64(0)

    @kernel(THREADS)
    def sizes(value, grad, pieces, parts, like):
        shared = cuda.shared.array((2, THREADS), wide, ALIGNED)
        thread, piece, squares, products = cuda.threadIdx.x, cuda.blockIdx.x, zero, zero
        start, stop = pointer(pieces, index)[3 * piece + 1], pointer(pieces, index)[3 * piece + 2]
        for i in range(start + thread, stop, THREADS):
            w, g = np.float64(pointer(value, like)[i]), np.float64(pointer(grad, like)[i])
            squares += w * w
            products += w * g
        shared[0, thread], shared[1, thread] = squares, products
        add_up(shared, thread, 1, cuda.syncthreads)
        if thread < 2:
            pointer(parts, zero)[2 * piece + thread] = shared[thread, 0]

    return sizes


def das_moments(
    value: Any,
    grad: Any,
    m: Any,
    v: Any,
    pieces: Any,
    g_scale: Any,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
) -> Any:
    """See `reference.das_moments`. Waits for the device."""
    check_flat("das_moments", value=value, grad=grad, m=m, v=v)
    t = value.dtype.type
    before = (
        (1 / (1 - beta_1 ** (step - 1)), 1 / (1 - beta_2 ** (step - 1))) if step > 1 else (0, 0)
    )
    now = 1 / (1 - beta_1**step), 1 / (1 - beta_2**step)
    scalars = (beta_1, 1 - beta_1, beta_2, 1 - beta_2, epsilon, *now, *before)
    scales = _on_device(g_scale, value.dtype)
    function, arrays = moments_kernel(name_of(value.dtype)), (value, grad, m, v, scales)
    return _sums(function, SUMS, pieces, len(g_scale), arrays, *map(t, scalars))


@functools.cache
def moments_kernel(dtype: str) -> Any:
    zero, wide, index = np.float64(0), np.dtype("float64"), np.int64(0)

    @kernel(THREADS)
    def moments(
        value, grad, mean, square, scales, pieces, parts, beta_1, rest_1, beta_2, rest_2, epsilon,
        of_mean, of_square, of_mean_before, of_square_before,
    ):  # fmt: skip
        shared = cuda.shared.array((SUMS, THREADS), wide, ALIGNED)
        thread, piece, where = cuda.threadIdx.x, cuda.blockIdx.x, pointer(pieces, index)
        scale = pointer(scales, beta_1)[where[3 * piece]]
        u_squares, m_times_u, w_squares, g_times_before = zero, zero, zero, zero
        for i in range(where[3 * piece + 1] + thread, where[3 * piece + 2], THREADS):
            g, w = scale * pointer(grad, beta_1)[i], np.float64(pointer(value, beta_1)[i])
            m, v = pointer(mean, beta_1)[i], pointer(square, beta_1)[i]
            root = math.sqrt(of_square_before * v) + epsilon
            g_times_before += np.float64(g) * np.float64(of_mean_before * m / root)
            m = beta_1 * m + rest_1 * g
            v = beta_2 * v + rest_2 * g * g
            pointer(mean, beta_1)[i], pointer(square, beta_1)[i] = m, v
            u = np.float64(of_mean * m / (math.sqrt(of_square * v) + epsilon))
            u_squares += u * u
            m_times_u += np.float64(of_mean * m) * u
            w_squares += w * w
        shared[0, thread], shared[1, thread] = u_squares, m_times_u
        shared[2, thread], shared[3, thread] = w_squares, g_times_before
        add_up(shared, thread, 1, cuda.syncthreads)
        if thread < SUMS:
            pointer(parts, zero)[SUMS * piece + thread] = shared[thread, 0]

    return moments


def das_apply(
    value: Any,
    average: Any,
    m: Any,
    v: Any,
    pieces: Any,
    rates: Any,
    decays: Any,
    share: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
) -> None:
    """See `reference.das_apply`."""
    check_flat("das_apply", value=value, average=average, m=m, v=v)
    device.require()
    of_layers = (_on_device(x, value.dtype) for x in (rates, decays))
    arrays = (value, average, m, v, *of_layers, _pieces(pieces.tobytes(), device.place()))
    scalars = (share, 1 / (1 - beta_1**step), 1 / (1 - beta_2**step), epsilon)
    device.launch(
        apply_kernel(name_of(value.dtype)), (len(pieces),), THREADS,
        *map(device.memory, arrays), *map(value.dtype.type, scalars),
    )  # fmt: skip


@functools.cache
def apply_kernel(dtype: str) -> Any:
    index = np.int64(0)

    @kernel(THREADS)
    def apply_direction(
        value, average, mean, square, rates, decays, pieces, share, of_mean, of_square, epsilon
    ):
        where = pointer(pieces, index)
        piece = 3 * cuda.blockIdx.x
        rate = pointer(rates, share)[where[piece]]
        decay = pointer(decays, share)[where[piece]]
        for i in range(where[piece + 1] + cuda.threadIdx.x, where[piece + 2], THREADS):
            u = of_mean * pointer(mean, share)[i]
            u /= math.sqrt(of_square * pointer(square, share)[i]) + epsilon
            w = pointer(value, share)[i]
            w = w - decay * w - rate * u
            pointer(value, share)[i] = w
            # Without an average of its own, value itself is given for it: it must not change again.
            x = pointer(average, share)[i]
            pointer(average, share)[i] = x + share * (w - x)

    return apply_direction


def _sums(function: Any, number: int, pieces: Any, layers: int, arrays: tuple, *rest: Any) -> Any:
    """Sums over each layer, (layers, number) in float64, on the host; the kernel leaves those of each piece."""
    device.require()
    parts = device.namespace().empty((len(pieces), number), np.dtype("float64"))
    given = map(device.memory, (*arrays, _pieces(pieces.tobytes(), device.place()), parts))
    device.launch(function, (len(pieces),), THREADS, *given, *rest)
    sums = np.zeros((layers, number))
    np.add.at(sums, pieces[:, 0], parts.get() if hasattr(parts, "get") else parts)
    return sums


def _on_device(numbers: Any, dtype: Any) -> Any:
    array = device.namespace().empty(numbers.shape, dtype)
    if hasattr(array, "set"):
        array.set(numbers.astype(dtype))
    else:
        array[...] = numbers
    return array


@functools.lru_cache(maxsize=8)
def _pieces(content: bytes, place: tuple) -> Any:
    """The table of pieces on the device; it stays the same from step to step."""
    return _on_device(np.frombuffer(content, np.int64), np.dtype("int64"))
