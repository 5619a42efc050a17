"""Convolutions for NumPy arrays; `reference.convolution` holds the definitions and the manual.

Here arguments are checked, memory is allocated, and the way is chosen: small or wide products by 1 x 1
kernels are left to `matmul`, kernels with as many groups as channels are depthwise, all else is dense.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ..reference.convolution import as_images, conv1d_padding, transposed_output_shape
from ..windows import ConvGeometry, conv2d_output_shape, conv_geometry, resolve_padding
from . import conv_depthwise, conv_passes
from ._passes import check_floats, check_shape, deliver, memory_for
from .linear import PASSES, matmul, slope_of

__all__ = [
    "conv1d",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv2d_output_shape",
    "conv2d_transpose",
    "resolve_padding",
]

# A convolution by a 1 x 1 kernel is a matrix product. `matmul` has less to prepare, so it is faster up to
# so many multiply-adds; and it cuts the sum over channels into blocks, which pays for so many of them.
# In between, packing the images like `matmul` does would cost more than it saves.
SMALL_PRODUCT = 1 << 22
MANY_CHANNELS = 512


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
    """See `reference.conv2d`."""
    check_floats("conv2d", x=x, w=w)
    g = conv_geometry(x.shape, w.shape, strides, padding, dilation, groups)
    slope = slope_of("conv2d", activation)
    bias = _ready_bias("conv2d", bias, g.filters, x.dtype)
    y = memory_for("conv2d", out, g.output_shape, x.dtype, x, w, bias)
    if 0 in x.shape or 0 in y.shape:
        y[...] = 0 if bias is None else bias
        _apply(activation, y)
    elif _is_matmul(g):
        rows, flat = _plain(x).reshape(-1, g.channels), y.reshape(-1, g.filters)
        matmul(rows, w[0, 0], flat, bias=bias, activation=activation)
    else:
        _passes_of(g).forward(g, _plain(x), _plain(w), bias, slope, y)
        _apply(activation if activation in PASSES else None, y)
    return deliver(y, out)


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
    """See `reference.conv2d_grad_input`."""
    name = "conv2d_grad_input"
    check_floats(name, grad=grad, w=w)
    g = conv_geometry(input_shape, w.shape, strides, padding, dilation, groups)
    check_shape(name, "grad", grad, g.output_shape)
    dx = memory_for(name, out, g.input_shape, grad.dtype, grad, w)
    if accumulate:
        if out is None:
            raise ValueError(f"{name}: accumulate=True needs an out to add to")
        dx = np.empty(g.input_shape, grad.dtype)
    _grad_input(g, grad, w, None, None, 1.0, dx)
    return np.add(out, dx, out=out) if accumulate else deliver(dx, out)


def _grad_input(
    g: ConvGeometry,
    grad: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    activation: str | None,
    slope: float,
    dx: np.ndarray,
) -> None:
    """dx = activation(the gradient + bias), which has this slope below zero (`slope_of`)."""
    if 0 in grad.shape or 0 in dx.shape:
        dx[...] = 0 if bias is None else bias
        _apply(activation, dx)
    elif _is_matmul(g):
        rows, flat = _plain(grad).reshape(-1, g.filters), dx.reshape(-1, g.channels)
        matmul(rows, w[0, 0].T, flat, bias=bias, activation=activation)
    else:
        _passes_of(g).grad_input(g, _plain(grad), _plain(w), bias, slope, dx)
        _apply(activation if activation in PASSES else None, dx)


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
    """See `reference.conv2d_grad_weight`."""
    name = "conv2d_grad_weight"
    check_floats(name, x=x, grad=grad)
    g = conv_geometry(x.shape, kernel_shape, strides, padding, dilation, groups)
    check_shape(name, "grad", grad, g.output_shape)
    dw = memory_for(name, out, g.kernel_shape, x.dtype, x, grad, bias_grad)
    if accumulate and out is None:
        raise ValueError(f"{name}: accumulate=True needs an out to add to")
    if accumulate and dw is not out:
        dw[...] = out
    if bias_grad is not None:
        _check_vector(name, "bias_grad", bias_grad, g.filters, x.dtype)
        if not bias_grad.flags.writeable:
            raise ValueError(f"{name}: bias_grad is read-only, but it would be added to")
    if 0 in x.shape or 0 in grad.shape:
        if not accumulate:
            dw[...] = 0
        if bias_grad is not None:
            bias_grad += grad.sum(axis=(0, 1, 2))
    elif _is_matmul(g):
        rows, flat = _plain(x).reshape(-1, g.channels), _plain(grad).reshape(-1, g.filters)
        matmul(rows.T, flat, dw[0, 0], beta=float(accumulate), bias_grad=bias_grad)
    else:
        _passes_of(g).grad_weight(g, _plain(x), _plain(grad), dw, accumulate, bias_grad)
    return deliver(dw, out)


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
    """See `reference.conv2d_transpose`."""
    name = "conv2d_transpose"
    check_floats(name, x=x, w=w)
    shape = transposed_output_shape(
        x.shape, w.shape, strides, padding, dilation, groups, output_padding
    )
    g = conv_geometry(shape, w.shape, strides, padding, dilation, groups)
    slope = slope_of(name, activation)
    bias = _ready_bias(name, bias, g.channels, x.dtype)
    y = memory_for(name, out, shape, x.dtype, x, w, bias)
    _grad_input(g, x, w, bias, activation, slope, y)
    return deliver(y, out)


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
    """See `reference.conv1d`."""
    images, kernel = as_images(x, w)
    y = conv2d(
        images,
        kernel,
        strides=(1, strides),
        padding=conv1d_padding(x, w, strides, padding, dilation),
        dilation=(1, dilation),
        groups=groups,
        bias=bias,
        activation=activation,
        out=None if out is None else out[:, None],
    )
    return y[:, 0] if out is None else out


def _passes_of(g: ConvGeometry) -> ModuleType:
    return conv_depthwise if conv_depthwise.is_depthwise(g) else conv_passes


def _is_matmul(g: ConvGeometry) -> bool:
    if g.kernel != (1, 1) or g.strides != (1, 1) or g.groups > 1 or g.padding != ((0, 0), (0, 0)):
        return False
    work = g.batch * g.height * g.width * g.channels * g.filters
    return work < SMALL_PRODUCT or max(g.channels, g.filters) >= MANY_CHANNELS


def _plain(x: np.ndarray) -> np.ndarray:
    """x, or a copy of it if the kernels could not read it as it lies."""
    return x if x.flags.c_contiguous and x.flags.aligned else np.array(x, order="C")


def _apply(activation: str | None, y: np.ndarray) -> None:
    if activation is not None:
        from .activations import activation as apply

        apply(activation, y, y)


def _check_vector(name: str, argument: str, x: np.ndarray, size: int, dtype: np.dtype) -> None:
    if not isinstance(x, np.ndarray) or x.dtype != dtype:
        kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"{name}: {argument} must be an array of {dtype}, not {kind}")
    check_shape(name, argument, x, (size,))


def _ready_bias(
    name: str, bias: np.ndarray | None, size: int, dtype: np.dtype
) -> np.ndarray | None:
    """The bias, checked, as the kernels can read it."""
    if bias is None:
        return None
    _check_vector(name, "bias", bias, size, dtype)
    return _plain(bias)
