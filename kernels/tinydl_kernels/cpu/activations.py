"""Activations, their gradients and softmax for NumPy arrays; definitions in `reference.activations`.

An activation is a function of one number and its gradient one of two or three; `_Elementwise` makes
the loops around them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import prange

from ..reference.activations import ACTIVATIONS
from . import activation_functions, elementary
from ._passes import Pass, blocks, check_floats, check_out, check_shape, overlaps, part
from .rows import row_dot, row_max, row_sum, rows_per_block


class _Elementwise:
    """out[i] = function(inputs[i], alpha), and the same with the first input as the output.

    The second has a loop of its own: where an input and the output are two names of one memory, the
    compiler must assume that they overlap in any way, and does not vectorize.
    """

    def __init__(self, unary: Callable | None = None, binary: Callable | None = None) -> None:
        make = _unary_loops(unary) if unary else _binary_loops(binary)
        self._apart, self._in_place = Pass(make[0]), Pass(make[1])

    def __call__(
        self, name: str, first: np.ndarray, rest: tuple, out: np.ndarray | None, alpha: float
    ) -> np.ndarray:
        alpha = float(alpha)
        if out is None:
            flat = np.empty(first.size, first.dtype)
            self._apart(flat.size, first.ravel(), *[array.ravel() for array in rest], flat, alpha)
            return flat.reshape(first.shape)
        check_out(name, out, first.shape, first.dtype)
        if not out.flags.c_contiguous or overlaps(out, *rest):
            out[...] = self(name, first, rest, None, alpha)
        elif out is first:
            self._in_place(out.size, out.ravel(), *[array.ravel() for array in rest], alpha)
        elif overlaps(out, first):
            out[...] = self(name, first, rest, None, alpha)
        else:
            others = [array.ravel() for array in rest]
            self._apart(out.size, first.ravel(), *others, out.ravel(), alpha)
        return out


def _unary_loops(function: Callable) -> tuple[Callable, Callable]:
    def unary(x, out, alpha):
        alpha = x.dtype.type(alpha)
        for block in prange(blocks(x.size)):
            here, there = part(x, block), part(out, block)
            for k in range(here.size):
                there[k] = function(here[k], alpha)

    def unary_in_place(x, alpha):
        alpha = x.dtype.type(alpha)
        for block in prange(blocks(x.size)):
            here = part(x, block)
            for k in range(here.size):
                here[k] = function(here[k], alpha)

    return unary, unary_in_place


def _binary_loops(function: Callable) -> tuple[Callable, Callable]:
    def binary(grad, known, out, alpha):
        alpha = grad.dtype.type(alpha)
        for block in prange(blocks(grad.size)):
            here, other, there = part(grad, block), part(known, block), part(out, block)
            for k in range(here.size):
                there[k] = function(here[k], other[k], alpha)

    def binary_in_place(grad, known, alpha):
        alpha = grad.dtype.type(alpha)
        for block in prange(blocks(grad.size)):
            here, other = part(grad, block), part(known, block)
            for k in range(here.size):
                here[k] = function(here[k], other[k], alpha)

    return binary, binary_in_place


def _loops(name: str) -> _Elementwise:
    return _Elementwise(unary=getattr(activation_functions, name))


_FORWARD = {name: _loops(name) for name in ACTIVATIONS}
_BACKWARD = {
    name: _Elementwise(binary=getattr(activation_functions, f"{name}_grad")) for name in ACTIVATIONS
}
_READS_X = frozenset({"gelu", "gelu_tanh", "silu"})
_EXP, _LOG, _ERF = _loops("exp"), _loops("log"), _loops("erf")


def exp(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """e^x, within 1.05 units in the last place of the true value."""
    check_floats("exp", x=x)
    return _EXP("exp", x, (), out, 1.0)


def log(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Natural logarithm, within 1 ulp."""
    check_floats("log", x=x)
    return _LOG("log", x, (), out, 1.0)


def erf(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Error function, within 2 ulp."""
    check_floats("erf", x=x)
    return _ERF("erf", x, (), out, 1.0)


def tanh(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Hyperbolic tangent, within 2 ulp."""
    check_floats("tanh", x=x)
    return _FORWARD["tanh"]("tanh", x, (), out, 1.0)


def sigmoid(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """1 / (1 + e^-x), within 2 ulp."""
    check_floats("sigmoid", x=x)
    return _FORWARD["sigmoid"]("sigmoid", x, (), out, 1.0)


def activation(
    name: str,
    x: np.ndarray,
    out: np.ndarray | None = None,
    *,
    alpha: float = 0.2,
    plus: np.ndarray | None = None,
) -> np.ndarray:
    """y = name(x), or name(x + plus); `out` may be x itself. See `reference.activation`."""
    check_floats("activation", x=x)
    loops = _find(_FORWARD, name, alpha)
    if plus is not None:
        check_floats("activation", x=x, plus=plus)
        check_shape("activation", "plus", plus, x.shape)
        if out is not None:
            check_out("activation", out, x.shape, x.dtype)
        x = out = np.add(x, plus, out=out)
    return loops("activation", x, (), out, alpha)


def activation_grad(
    name: str,
    grad: np.ndarray,
    x: np.ndarray | None,
    y: np.ndarray | None,
    out: np.ndarray | None = None,
    *,
    alpha: float = 0.2,
) -> np.ndarray:
    """dL/dx from grad = dL/dy and x or y; `out` may be grad itself. See `reference.activation_grad`."""
    loops = _find(_BACKWARD, name, alpha)
    if name == "linear":
        known = grad
    else:
        argument, known = ("x", x) if name in _READS_X else ("y", y)
        if known is None:
            raise ValueError(f"activation_grad: {name} needs {argument}, which is None")
        check_floats("activation_grad", grad=grad, **{argument: known})
        check_shape("activation_grad", argument, known, grad.shape)
    return loops("activation_grad", grad, (known,), out, alpha)


def _find(table: dict[str, _Elementwise], name: str, alpha: float) -> _Elementwise:
    if name not in table:
        raise ValueError(f"activation {name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha!r}")
    return table[name]


# --- softmax ----------------------------------------------------------------------------------------
# Rows are often short (10 classes), too short for vectors. So a block of rows is worked on in steps:
# the maxima and sums row by row, the exponentials, where the time goes, over the block as one piece.


def _softmax_rows(x, out, flat_out):
    rows, columns = x.shape
    step = rows_per_block(columns)
    for block in prange((rows + step - 1) // step):
        first, last = block * step, min((block + 1) * step, rows)
        for row in range(first, last):
            largest = row_max(x, row)
            for k in range(columns):
                out[row, k] = x[row, k] - largest
        piece = flat_out[first * columns : last * columns]
        for i in range(piece.size):
            piece[i] = elementary.exp(piece[i])
        for row in range(first, last):
            scale = out.dtype.type(1 / row_sum(out, row))
            for k in range(columns):
                out[row, k] *= scale


def _log_softmax_rows(x, out, flat_out):
    rows, columns = x.shape
    step = rows_per_block(columns)
    for block in prange((rows + step - 1) // step):
        first, last = block * step, min((block + 1) * step, rows)
        for row in range(first, last):
            largest = row_max(x, row)
            for k in range(columns):
                out[row, k] = x[row, k] - largest
        piece = flat_out[first * columns : last * columns]
        powers = np.empty(piece.size, x.dtype)
        for i in range(piece.size):
            powers[i] = elementary.exp(piece[i])
        powers_by_row = powers.reshape(last - first, columns)
        for row in range(first, last):
            log_total = elementary.log(out.dtype.type(row_sum(powers_by_row, row - first)))
            for k in range(columns):
                out[row, k] -= log_total


def _softmax_grad_rows(grad, y, out, flat_out):
    rows, columns = y.shape
    step = rows_per_block(columns)
    for block in prange((rows + step - 1) // step):
        for row in range(block * step, min((block + 1) * step, rows)):
            inner = out.dtype.type(row_dot(grad, y, row))
            for k in range(columns):
                out[row, k] = y[row, k] * (grad[row, k] - inner)


_SOFTMAX, _LOG_SOFTMAX = Pass(_softmax_rows), Pass(_log_softmax_rows)
_SOFTMAX_GRAD = Pass(_softmax_grad_rows)


def softmax(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """e^x / sum e^x over the last axis. See `reference.softmax`."""
    return _by_rows("softmax", _SOFTMAX, {"x": x}, out)


def log_softmax(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """x - log sum e^x over the last axis. See `reference.log_softmax`."""
    return _by_rows("log_softmax", _LOG_SOFTMAX, {"x": x}, out)


def softmax_grad(grad: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y * (grad - sum grad y) over the last axis. See `reference.softmax_grad`."""
    return _by_rows("softmax_grad", _SOFTMAX_GRAD, {"grad": grad, "y": y}, out)


def _by_rows(
    name: str, loop: Pass, inputs: dict[str, np.ndarray], out: np.ndarray | None
) -> np.ndarray:
    check_floats(name, **inputs)
    (argument, first), *others = inputs.items()
    for other, array in others:
        check_shape(name, other, array, first.shape)
    if first.ndim == 0 or first.shape[-1] == 0:
        raise ValueError(f"{name}: {argument} needs a last axis that is not empty")
    if out is not None:
        check_out(name, out, first.shape, first.dtype)
        if not out.flags.c_contiguous or overlaps(out, *inputs.values()):
            out[...] = _by_rows(name, loop, inputs, None)
            return out
    else:
        out = np.empty(first.shape, first.dtype)
    matrices = [array.ravel().reshape(-1, first.shape[-1]) for array in (*inputs.values(), out)]
    loop(first.size, *matrices, out.ravel())
    return out
