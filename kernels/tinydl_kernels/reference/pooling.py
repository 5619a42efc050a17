"""Pooling in plain NumPy: the definitions that every other implementation must equal.

A window of `pool_size` slides over each channel's plane and is replaced by its maximum or mean
(Goodfellow, Bengio & Courville, "Deep Learning", section 9.3). Padding holds no values: it can be
no maximum, and a mean divides by the number of real elements, as Keras does with "same".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..windows import PoolGeometry, pool_geometry


def max_pool2d(
    x: np.ndarray, pool_size: Any, *, strides: Any = None, padding: Any = "valid"
) -> tuple[np.ndarray, np.ndarray]:
    """Maximum of each window, and where it was.

    Args:
        x: (N, H, W, C).
        pool_size: int or (height, width).
        strides: int or pair; None means pool_size.
        padding: as in `conv2d`, smaller than the window.

    Returns:
        y: (N, OH, OW, C). A NaN in a window is its maximum.
        argmax: (N, OH, OW, C) int32, the winner's place h * W + w in the input plane. Of equal
            elements the first one, row by row, wins; of several NaNs, too.
    """
    g = pool_geometry(x.shape, pool_size, strides, padding)
    y = np.empty(g.output_shape, x.dtype)
    argmax = np.empty(g.output_shape, np.int32)
    for i, j, rows, columns in _windows(g):
        place = np.arange(g.height * g.width).reshape(g.height, g.width)[rows, columns].ravel()
        window = x[:, rows, columns].reshape(g.batch, place.size, g.channels)
        winner = window.argmax(axis=1)  # numpy, too, takes a NaN for the maximum
        y[:, i, j] = np.take_along_axis(window, winner[:, None], axis=1)[:, 0]
        argmax[:, i, j] = place[winner]
    return y, argmax


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
    """Gradient with respect to max_pool2d's x: each window's gradient goes to its winner.

    Args:
        grad: (N, OH, OW, C).
        argmax: (N, OH, OW, C) int32 from `max_pool2d`.
        input_shape: (N, H, W, C).
        pool_size, strides, padding: those of `max_pool2d`. Not needed, but where each element collects
            its gradient, as on a GPU, they tell in which windows to look.

    Returns:
        (N, H, W, C); elements that won several windows get the sum.
    """
    if argmax.shape != grad.shape:
        raise ValueError(f"argmax must have the shape of grad, {grad.shape}, got {argmax.shape}")
    if pool_size is not None:
        g = pool_geometry(input_shape, pool_size, strides, padding)
        if grad.shape != g.output_shape:
            raise ValueError(f"grad must have shape {g.output_shape}, got {grad.shape}")
    batch, height, width, channels = input_shape
    dx = np.zeros((batch, height * width, channels), grad.dtype)
    image = np.arange(batch)[:, None, None, None]
    channel = np.arange(channels)
    np.add.at(dx, (image, argmax, channel), grad)
    return _give(dx.reshape(input_shape), out)


def avg_pool2d(
    x: np.ndarray, pool_size: Any, *, strides: Any = None, padding: Any = "valid"
) -> np.ndarray:
    """Mean of each window over its real (not padding) elements. Arguments as in `max_pool2d`.

    Returns:
        (N, OH, OW, C).
    """
    g = pool_geometry(x.shape, pool_size, strides, padding)
    y = np.empty(g.output_shape, x.dtype)
    for i, j, rows, columns in _windows(g):
        y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
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
    """Gradient with respect to avg_pool2d's x: each window's gradient in equal shares.

    Args:
        grad: (N, OH, OW, C).
        input_shape: (N, H, W, C).

    Returns:
        (N, H, W, C).
    """
    g = pool_geometry(input_shape, pool_size, strides, padding)
    if grad.shape != g.output_shape:
        raise ValueError(
            f"grad must have the shape of avg_pool2d's output, {g.output_shape}, got {grad.shape}"
        )
    dx = np.zeros(g.input_shape, grad.dtype)
    for i, j, rows, columns in _windows(g):
        count = (rows.stop - rows.start) * (columns.stop - columns.start)
        dx[:, rows, columns] += grad[:, i, j][:, None, None] / count
    return _give(dx, out)


def _windows(g: PoolGeometry) -> Iterator[tuple[int, int, slice, slice]]:
    """Each output place (i, j) with the rows and columns of the input that its window covers."""
    (top, _), (left, _) = g.padding
    for i in range(g.out_height):
        h = i * g.strides[0] - top
        rows = slice(max(h, 0), min(h + g.size[0], g.height))
        for j in range(g.out_width):
            w = j * g.strides[1] - left
            yield i, j, rows, slice(max(w, 0), min(w + g.size[1], g.width))


def _give(result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return result
    out[...] = result
    return out
