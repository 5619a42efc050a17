"""Convolutions for device arrays; `reference.convolution` holds the definitions and the manual.

Here arguments are checked, memory is allocated, and the way is chosen: 1 x 1 kernels are matrix
products, kernels with as many groups as channels are depthwise, everything else is a matrix product
whose operands are read from images. `precision` is as in `linear.matmul`.
"""

from __future__ import annotations

from typing import Any

from ..reference.convolution import as_images, conv1d_padding, transposed_output_shape
from ..windows import ConvGeometry, conv2d_output_shape, conv_geometry, resolve_padding
from . import conv_products, depthwise
from .arrays import check_floats, check_vector, deliver, output, packed, plain
from .linear import add_column_sums, check_precision, matmul
from .products import ADDED, PLAIN, Epilogue, slope_of

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
    x: Any,
    w: Any,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    bias: Any = None,
    activation: str | None = None,
    out: Any = None,
    precision: str | None = None,
) -> Any:
    """See `reference.conv2d`."""
    check_floats("conv2d", x=x, w=w)
    check_precision("conv2d", precision, x.dtype)
    g = conv_geometry(x.shape, w.shape, strides, padding, dilation, groups)
    epilogue = _epilogue("conv2d", bias, g.filters, x.dtype, activation)
    y = output("conv2d", out, g.output_shape, x.dtype, x, w, bias)
    x, w = plain(x), plain(w)
    if _is_matmul(g):
        rows, flat = x.reshape(-1, g.channels), y.reshape(-1, g.filters)
        matmul(rows, w[0, 0], flat, bias=bias, activation=activation, precision=precision)
    elif depthwise.is_depthwise(g) and x.size:
        depthwise.forward(g, x, w, y, epilogue)
    else:
        conv_products.forward(g, x, w, y, epilogue, precision)
    return deliver(y, out)


def conv2d_grad_input(
    grad: Any,
    w: Any,
    input_shape: tuple[int, int, int, int],
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    out: Any = None,
    accumulate: bool = False,
    precision: str | None = None,
) -> Any:
    """See `reference.conv2d_grad_input`."""
    name = "conv2d_grad_input"
    check_floats(name, grad=grad, w=w)
    check_precision(name, precision, grad.dtype)
    g = conv_geometry(input_shape, w.shape, strides, padding, dilation, groups)
    _check_grad(name, grad, g)
    dx = output(name, out, g.input_shape, grad.dtype, grad, w)
    if accumulate and out is None:
        raise ValueError(f"{name}: accumulate=True needs an out to add to")
    if accumulate and dx is not out:
        dx[...] = out
    _grad_input(g, plain(grad), plain(w), ADDED if accumulate else PLAIN, dx, precision)
    return deliver(dx, out)


def _grad_input(
    g: ConvGeometry, grad: Any, w: Any, epilogue: Epilogue, dx: Any, precision: Any
) -> None:
    """dx = activation(the gradient + bias), or the gradient + dx."""
    if _is_matmul(g):
        rows, flat = grad.reshape(-1, g.filters), dx.reshape(-1, g.channels)
        _, beta, bias, activation = epilogue
        options = {"bias": bias, "activation": activation, "precision": precision}
        matmul(rows, w[0, 0].T, flat, beta=beta, **options)
    elif depthwise.is_depthwise(g) and grad.size:
        before = dx.copy() if epilogue is ADDED else None
        depthwise.grad_input(g, grad, w, dx, epilogue)
        if before is not None:
            dx += before
    else:
        conv_products.grad_input(g, grad, w, dx, epilogue, precision)


def conv2d_grad_weight(
    x: Any,
    grad: Any,
    kernel_shape: tuple[int, int, int, int],
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    out: Any = None,
    accumulate: bool = False,
    bias_grad: Any = None,
    precision: str | None = None,
) -> Any:
    """See `reference.conv2d_grad_weight`."""
    name = "conv2d_grad_weight"
    check_floats(name, x=x, grad=grad)
    check_precision(name, precision, x.dtype)
    g = conv_geometry(x.shape, kernel_shape, strides, padding, dilation, groups)
    _check_grad(name, grad, g)
    dw = output(name, out, g.kernel_shape, x.dtype, x, grad, bias_grad)
    if accumulate and out is None:
        raise ValueError(f"{name}: accumulate=True needs an out to add to")
    if accumulate and dw is not out:
        dw[...] = out
    if bias_grad is not None:
        check_vector(name, "bias_grad", bias_grad, g.filters, x.dtype)
    x, grad, epilogue = plain(x), plain(grad), ADDED if accumulate else PLAIN
    if _is_matmul(g):
        rows, flat = x.reshape(-1, g.channels), grad.reshape(-1, g.filters)
        matmul(rows.T, flat, dw[0, 0], beta=epilogue.beta, precision=precision)
    elif depthwise.is_depthwise(g) and x.size:
        depthwise.grad_weight(g, x, grad, dw, epilogue.beta)
    else:
        conv_products.grad_weight(g, x, grad, dw, epilogue, precision)
    if bias_grad is not None:
        add_column_sums(grad.reshape(-1, g.filters), bias_grad)
    return deliver(dw, out)


def conv2d_transpose(
    x: Any,
    w: Any,
    *,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    output_padding: Any = 0,
    bias: Any = None,
    activation: str | None = None,
    out: Any = None,
    precision: str | None = None,
) -> Any:
    """See `reference.conv2d_transpose`."""
    name = "conv2d_transpose"
    check_floats(name, x=x, w=w)
    check_precision(name, precision, x.dtype)
    shape = transposed_output_shape(
        x.shape, w.shape, strides, padding, dilation, groups, output_padding
    )
    g = conv_geometry(shape, w.shape, strides, padding, dilation, groups)
    epilogue = _epilogue(name, bias, g.channels, x.dtype, activation)
    y = output(name, out, shape, x.dtype, x, w, bias)
    _grad_input(g, plain(x), plain(w), epilogue, y, precision)
    return deliver(y, out)


def conv1d(
    x: Any,
    w: Any,
    *,
    strides: int = 1,
    padding: Any = "valid",
    dilation: int = 1,
    groups: int = 1,
    bias: Any = None,
    activation: str | None = None,
    out: Any = None,
    precision: str | None = None,
) -> Any:
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
        precision=precision,
    )
    return y[:, 0] if out is None else out


def _is_matmul(g: ConvGeometry) -> bool:
    return (
        g.kernel == (1, 1)
        and g.strides == (1, 1)
        and g.groups == 1
        and g.padding == ((0, 0), (0, 0))
    )


def _epilogue(name: str, bias: Any, size: int, dtype: Any, activation: str | None) -> Epilogue:
    if bias is None and activation is None:
        return PLAIN
    slope_of(name, activation)
    if bias is not None:
        check_vector(name, "bias", bias, size, dtype)
    return Epilogue(bias=packed(bias), activation=activation)


def _check_grad(name: str, grad: Any, g: ConvGeometry) -> None:
    if grad.shape != g.output_shape:
        raise ValueError(f"{name}: grad must have shape {g.output_shape}, got {grad.shape}")
