"""Elementary functions, activations and softmax for device arrays; `reference.activations` defines them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..reference.activations import (
    ACTIVATIONS,
    GELU_CUBIC,
    GELU_TANH_FLAT,
    SQRT_2_OVER_PI,
    _check_activation,
)
from .arrays import check_floats, deliver, name_of, output, plain
from .device import cuda, device_function, kernel
from .instructions import pointer
from .passes import THREADS, as_rows, check_alike, each
from .rows import softmax_rows

__all__ = [
    "ACTIVATIONS",
    "activation",
    "activation_grad",
    "erf",
    "exp",
    "log",
    "log_softmax",
    "sigmoid",
    "softmax",
    "softmax_grad",
    "tanh",
]


LEAKY_SLOPE = 0.2  # where nobody gives another
OF_OUTPUT = ("linear", "relu", "leaky_relu", "sigmoid", "tanh")  # their slopes follow from y alone


# --- what the passes compute, element by element --------------------------------------------------


@functools.cache
def value_of(name: str, dtype: str) -> Callable:
    """f(x, alpha) for kernels. A literal such as 0.5 would be a float64, and all that it meets as well:
    constants are made in the arrays' type."""
    t = np.dtype(dtype).type
    zero, half, one = t(0), t(0.5), t(1)
    slope, cubic, root = t(SQRT_2_OVER_PI), t(GELU_CUBIC), t(math.sqrt(0.5))

    def relu(x, alpha):
        return zero if x <= zero else x  # a NaN stays a NaN

    def leaky_relu(x, alpha):
        return x if x > zero else alpha * x

    @device_function
    def logistic(x):
        e = math.exp(-abs(x))  # never overflows
        return (one if x >= zero else e) / (one + e)

    def sigmoid(x, alpha):
        return logistic(x)

    def silu(x, alpha):
        return x * logistic(x)

    def tanh(x, alpha):
        return math.tanh(x)

    def gelu(x, alpha):
        return half * x * (one + math.erf(x * root))

    def gelu_tanh(x, alpha):
        return half * x * (one + math.tanh(slope * (x + cubic * x * x * x)))

    def linear(x, alpha):
        return x

    def exp(x, alpha):
        return math.exp(x)

    def log(x, alpha):
        return math.log(x)

    def erf(x, alpha):
        return math.erf(x)

    functions = (relu, leaky_relu, sigmoid, silu, tanh, gelu, gelu_tanh, linear, exp, log, erf)
    return device_function({f.__name__: f for f in functions}[name])


@functools.cache
def slope_of(name: str, dtype: str) -> Callable:
    """dL/dx = slope(g, x, y, alpha) for kernels, with g = dL/dy."""
    t = np.dtype(dtype).type
    zero, half, one, flat = t(0), t(0.5), t(1), t(GELU_TANH_FLAT)
    slope, cubic, root = t(SQRT_2_OVER_PI), t(GELU_CUBIC), t(math.sqrt(0.5))
    cubic_3, density = t(3 * GELU_CUBIC), t(1 / math.sqrt(2 * math.pi))

    def relu(g, x, y, alpha):
        return zero if y <= zero else g  # a NaN output lets the gradient pass

    def leaky_relu(g, x, y, alpha):
        return g if y > zero else alpha * g

    def sigmoid(g, x, y, alpha):
        return g * y * (one - y)

    def tanh(g, x, y, alpha):
        return g * (one - y * y)

    def gelu(g, x, y, alpha):
        return g * (half * (one + math.erf(x * root)) + x * density * math.exp(-half * x * x))

    def gelu_tanh(g, x, y, alpha):
        u = math.tanh(slope * (x + cubic * x * x * x))
        z = min(max(x, -flat), flat)  # where 1 - u^2 is 0, z^2 is finite
        inner = slope * (one + cubic_3 * z * z)
        return g * (half * (one + u) + half * z * (one - u * u) * inner)

    def silu(g, x, y, alpha):
        e = math.exp(-abs(x))
        s = (one if x >= zero else e) / (one + e)
        return g * (s + x * s * (one - s))

    def linear(g, x, y, alpha):
        return g

    functions = (relu, leaky_relu, sigmoid, tanh, gelu, gelu_tanh, silu, linear)
    return device_function({f.__name__: f for f in functions}[name])


def slope_of_output(where: str, name: str, dtype: str) -> Callable:
    """`slope_of`, where it follows from y alone; x may be anything.

    Raises:
        ValueError: it does not.
    """
    if name not in OF_OUTPUT:
        known = ", ".join(OF_OUTPUT)
        raise ValueError(
            f"{where}: the slope of {name!r} does not follow from y, that of {known} does"
        )
    return slope_of(name, dtype)


@functools.cache
def value_kernel(name: str, dtype: str) -> Any:
    value = value_of(name, dtype)

    @kernel(THREADS)
    def activation_pass(elements, x, y, alpha):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < elements:
            pointer(y, alpha)[i] = value(pointer(x, alpha)[i], alpha)

    return activation_pass


@functools.cache
def value_of_sum_kernel(name: str, dtype: str) -> Any:
    value = value_of(name, dtype)

    @kernel(THREADS)
    def activation_of_sum(elements, x, plus, y, alpha):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < elements:
            total = pointer(x, alpha)[i] + pointer(plus, alpha)[i]
            pointer(y, alpha)[i] = value(total, alpha)

    return activation_of_sum


@functools.cache
def slope_kernel(name: str, dtype: str) -> Any:
    slope = slope_of(name, dtype)

    @kernel(THREADS)
    def activation_grad_pass(elements, g, x, y, dx, alpha):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < elements:
            g_i, x_i, y_i = pointer(g, alpha)[i], pointer(x, alpha)[i], pointer(y, alpha)[i]
            pointer(dx, alpha)[i] = slope(g_i, x_i, y_i, alpha)

    return activation_grad_pass


# --- the public functions -------------------------------------------------------------------------


def activation(
    name: str, x: Any, out: Any = None, *, alpha: float = LEAKY_SLOPE, plus: Any = None
) -> Any:
    """See `reference.activation`."""
    _check_activation(name, alpha)
    if plus is None:
        return _values(name, "activation", x, out, alpha)
    check_floats("activation", x=x, plus=plus)
    check_alike("activation", x=x, plus=plus)
    x, plus = plain(x), plain(plus)
    # Each thread reads its elements before it writes: x and plus themselves may be written to.
    y = out if out is x or out is plus else output("activation", out, x.shape, x.dtype, x, plus)
    function = value_of_sum_kernel(name, name_of(x.dtype))
    each(function, x.size, (x, plus, y), x.dtype.type(alpha))
    return deliver(y, out)


def _values(name: str, where: str, x: Any, out: Any, alpha: float = 1.0) -> Any:
    check_floats(where, x=x)
    x = plain(x)
    # Each thread reads its element before it writes it: x itself may be written to.
    y = x if out is x else output(where, out, x.shape, x.dtype, x)
    each(value_kernel(name, name_of(x.dtype)), x.size, (x, y), x.dtype.type(alpha))
    return deliver(y, out)


def activation_grad(
    name: str, grad: Any, x: Any, y: Any, out: Any = None, *, alpha: float = LEAKY_SLOPE
) -> Any:
    """See `reference.activation_grad`."""
    _check_activation(name, alpha)
    grad = plain(grad)
    # What the slope does not need may be missing; the kernel then reads something else in its place.
    x, y = (grad if array is None else plain(array) for array in (x, y))
    check_floats("activation_grad", grad=grad, x=x, y=y)
    check_alike("activation_grad", grad=grad, x=x, y=y)
    dx = output("activation_grad", out, grad.shape, grad.dtype, grad, x, y)
    function = slope_kernel(name, name_of(grad.dtype))
    each(function, grad.size, (grad, x, y, dx), grad.dtype.type(alpha))
    return deliver(dx, out)


def exp(x: Any, out: Any = None) -> Any:
    """See `reference.exp`."""
    return _values("exp", "exp", x, out)


def log(x: Any, out: Any = None) -> Any:
    """See `reference.log`."""
    return _values("log", "log", x, out)


def tanh(x: Any, out: Any = None) -> Any:
    """See `reference.tanh`."""
    return _values("tanh", "tanh", x, out)


def sigmoid(x: Any, out: Any = None) -> Any:
    """See `reference.sigmoid`."""
    return _values("sigmoid", "sigmoid", x, out)


def erf(x: Any, out: Any = None) -> Any:
    """See `reference.erf`; computed in the arrays' type."""
    return _values("erf", "erf", x, out)


def softmax(x: Any, out: Any = None) -> Any:
    """See `reference.softmax`."""
    return _softmax("softmax", "value", x, x, out)


def log_softmax(x: Any, out: Any = None) -> Any:
    """See `reference.log_softmax`."""
    return _softmax("log_softmax", "log", x, x, out)


def softmax_grad(grad: Any, y: Any, out: Any = None) -> Any:
    """See `reference.softmax_grad`."""
    return _softmax("softmax_grad", "grad", grad, y, out)


def _softmax(where: str, kind: str, x: Any, y: Any, out: Any) -> Any:
    check_floats(where, x=x, y=y)
    check_alike(where, x=x, y=y)
    result = output(where, out, x.shape, x.dtype, x, y)
    rows = result.reshape(-1, x.shape[-1]) if x.size else as_rows(result)
    softmax_rows(kind, as_rows(x), as_rows(y), rows)
    return deliver(result, out)
