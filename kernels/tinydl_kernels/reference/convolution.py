"""Convolutions in plain NumPy: the definitions that every other implementation must equal.

What networks call convolution is a cross-correlation: the kernel is not flipped. With strides
(u, v), dilation (d, e) and padding (top, left), for one group,

    y[n, i, j, k] = sum over r, s, c of x[n, i u + r d - top, j v + s e - left, c] w[r, s, c, k]

where x is zero outside its bounds (Goodfellow, Bengio & Courville, "Deep Learning", equation 9.6).
With G groups, channels and filters are cut into G equal runs, and each run of filters sees only its
run of channels; G = C is the depthwise convolution.

Below, the sum over (r, s) is a Python loop: for one tap, the x values that it meets form a strided
view of the padded input, and what remains is a matrix product over channels. The two gradients
follow by the product rule from the same loop: each tap's view is where its gradient goes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..windows import (
    ConvGeometry,
    as_pair,
    conv2d_output_shape,
    conv_geometry,
    resolve_padding,
    transposed_size,
)
from .activations import activation as apply_activation

__all__ = [
    "conv1d",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv2d_output_shape",
    "conv2d_transpose",
    "resolve_padding",
]


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """activation(x convolved with w + bias), by the equation at the top of this file.

    Args:
        x: (N, H, W, C).
        w: (R, S, C // groups, K).
        strides: int or (along height, along width); likewise `dilation`.
        padding: "valid", "same", int, (height, width) or ((top, bottom), (left, right));
            see `resolve_padding`.
        bias: (K,).
        activation: None, "relu", "leaky_relu" (slope 0.2), "sigmoid" or "tanh".
        out: (N, OH, OW, K) to write into.

    Returns:
        (N, OH, OW, K).

    Raises:
        ValueError: shapes that do not fit one another; the message names the argument.
    """
    g = conv_geometry(x.shape, w.shape, strides, padding, dilation, groups)
    padded = _pad(x, g)
    y = np.zeros(g.output_shape, x.dtype)
    for r, s in np.ndindex(*g.kernel):
        for channels, filters in _groups(g):
            y[..., filters] += _tap(padded, r, s, g)[..., channels] @ w[r, s, :, filters]
    if bias is not None:
        y += bias
    y = apply_activation(activation or "linear", y)
    if out is None:
        return y
    out[...] = y
    return out


def conv2d_grad_input(
    grad: np.ndarray,
    w: np.ndarray,
    input_shape: tuple[int, int, int, int],
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    out: np.ndarray | None = None,
    accumulate: bool = False,
) -> np.ndarray:
    """Gradient of the loss with respect to conv2d's x, from `grad` with respect to its output:

        dx[n, i u + r d - top, j v + s e - left, c] += sum over k of dy[n, i, j, k] w[r, s, c, k]

    Args:
        grad: (N, OH, OW, K).
        w: (R, S, C // groups, K).
        input_shape: (N, H, W, C), which the output's shape does not tell when strides > 1.
        out: of input_shape; with `accumulate` the gradient is added to what it holds.

    Returns:
        (N, H, W, C).
    """
    g = conv_geometry(input_shape, w.shape, strides, padding, dilation, groups)
    _check_grad(grad, g)
    padded = _pad(np.zeros(g.input_shape, grad.dtype), g)
    for r, s in np.ndindex(*g.kernel):
        for channels, filters in _groups(g):
            _tap(padded, r, s, g)[..., channels] += grad[..., filters] @ w[r, s, :, filters].T
    (top, _), (left, _) = g.padding
    dx = padded[:, top : top + g.height, left : left + g.width]
    if out is None:
        return np.ascontiguousarray(dx)
    out[...] = out + dx if accumulate else dx
    return out


def conv2d_grad_weight(
    x: np.ndarray,
    grad: np.ndarray,
    kernel_shape: tuple[int, int, int, int],
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    out: np.ndarray | None = None,
    accumulate: bool = False,
    bias_grad: np.ndarray | None = None,
) -> np.ndarray:
    """Gradient of the loss with respect to conv2d's w, from `grad` with respect to its output:

        dw[r, s, c, k] = sum over n, i, j
            of x[n, i u + r d - top, j v + s e - left, c] dy[n, i, j, k]

    Args:
        x: (N, H, W, C).
        grad: (N, OH, OW, K).
        kernel_shape: (R, S, C // groups, K).
        out: of kernel_shape; with `accumulate` the gradient is added to what it holds.
        bias_grad: (K,), into which the sum of grad over n, i, j is ADDED.

    Returns:
        (R, S, C // groups, K).
    """
    g = conv_geometry(x.shape, kernel_shape, strides, padding, dilation, groups)
    _check_grad(grad, g)
    padded = _pad(x, g)
    dw = np.zeros(g.kernel_shape, x.dtype)
    for r, s in np.ndindex(*g.kernel):
        for channels, filters in _groups(g):
            seen = _tap(padded, r, s, g)[..., channels].reshape(-1, g.channels // g.groups)
            dw[r, s, :, filters] = seen.T @ grad[..., filters].reshape(len(seen), -1)
    if bias_grad is not None:
        bias_grad += grad.sum(axis=(0, 1, 2))
    if out is None:
        return dw
    out[...] = out + dw if accumulate else dw
    return out


def conv2d_transpose(
    x: np.ndarray,
    w: np.ndarray,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    output_padding: Any = 0,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Transposed convolution: conv2d's gradient with respect to its input, used as a layer of its
    own (Dumoulin & Visin 2016, section 4). It spreads every input element over R x S outputs.

    Its own gradients are convolutions that exist: with respect to x `conv2d(grad, w, ...)`, with
    respect to w `conv2d_grad_weight(grad, x, w.shape, ...)`.

    Args:
        x: (N, H, W, C).
        w: (R, S, K // groups, C): the weight of the convolution that is reversed, which has K
            input channels and C filters (Keras keeps the same order).
        padding: of the convolution that is reversed: it crops the output.
        output_padding: rows and columns added at the bottom and at the right, for explicit padding;
            see `windows.transposed_size`.
        bias: (K,).

    Returns:
        (N, OH, OW, K): stride * H with "same", (H - 1) * stride + max(span, stride) with "valid",
        (H - 1) * stride + span - padding + output_padding else, span = (R - 1) * dilation + 1.
    """
    output_shape = transposed_output_shape(
        x.shape, w.shape, strides, padding, dilation, groups, output_padding
    )
    y = conv2d_grad_input(
        x, w, output_shape, strides=strides, padding=padding, dilation=dilation, groups=groups
    )
    if bias is not None:
        y += bias
    return apply_activation(activation or "linear", y, out)


def conv1d(
    x: np.ndarray,
    w: np.ndarray,
    *,
    strides: int = 1,
    padding: Any = "valid",
    dilation: int = 1,
    groups: int = 1,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Convolution along one axis: a conv2d over images of height one. Its gradients are those of
    conv2d over the same views.

    Args:
        x: (N, T, C).
        w: (R, C // groups, K).
        padding: "valid", "same", "causal" (all before the data, so that output t sees no input
            after t), int or (before, after).

    Returns:
        (N, OT, K).
    """
    y = conv2d(
        *as_images(x, w),
        strides=(1, strides),
        padding=conv1d_padding(x, w, strides, padding, dilation),
        dilation=(1, dilation),
        groups=groups,
        bias=bias,
        activation=activation,
    )[:, 0]
    if out is None:
        return y
    out[...] = y
    return out


def as_images(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences and kernel as images of height one: (N, 1, T, C) and (1, R, C // groups, K)."""
    if x.ndim != 3:
        raise ValueError(f"x must have shape (N, T, C), got {x.shape}")
    if w.ndim != 3:
        raise ValueError(f"w must have shape (R, C // groups, K), got {w.shape}")
    return x[:, None], w[None]


def conv1d_padding(x: np.ndarray, w: np.ndarray, strides: Any, padding: Any, dilation: Any) -> Any:
    """conv1d's padding as conv2d's."""
    if padding == "causal":
        return (0, 0), ((w.shape[0] - 1) * dilation, 0)
    if isinstance(padding, str):
        return resolve_padding(
            padding, (1, x.shape[1]), (1, w.shape[0]), (1, strides), (1, dilation)
        )
    return (0, 0), as_pair("padding", padding, minimum=0)


def transposed_output_shape(
    input_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_padding: Any = 0,
) -> tuple[int, int, int, int]:
    """(N, OH, OW, K) of conv2d_transpose, from (N, H, W, C) and (R, S, K // groups, C)."""
    if len(input_shape) != 4:
        raise ValueError(f"x must have shape (N, H, W, C), got {input_shape}")
    if len(kernel_shape) != 4 or kernel_shape[3] != input_shape[3]:
        raise ValueError(
            f"w must have shape (R, S, K // groups, C={input_shape[3]}), got {kernel_shape}"
        )
    size = transposed_size(
        input_shape[1:3], kernel_shape[:2], strides, padding, dilation, output_padding
    )
    return input_shape[0], *size, kernel_shape[2] * groups


def _pad(x: np.ndarray, g: ConvGeometry) -> np.ndarray:
    return np.pad(x, ((0, 0), *g.padding, (0, 0)))


def _tap(padded: np.ndarray, r: int, s: int, g: ConvGeometry) -> np.ndarray:
    """The elements that tap (r, s) meets, as a view (N, OH, OW, C) of the padded input."""
    (u, v), (d, e) = g.strides, g.dilation
    return padded[:, r * d :: u, s * e :: v][:, : g.out_height, : g.out_width]


def _groups(g: ConvGeometry) -> list[tuple[slice, slice]]:
    """For each group: its channels and its filters."""
    c, k = g.channels // g.groups, g.filters // g.groups
    return [(slice(i * c, (i + 1) * c), slice(i * k, (i + 1) * k)) for i in range(g.groups)]


def _check_grad(grad: np.ndarray, g: ConvGeometry) -> None:
    if grad.shape != g.output_shape:
        raise ValueError(
            f"grad must have the shape of conv2d's output, {g.output_shape}, got {grad.shape}"
        )
