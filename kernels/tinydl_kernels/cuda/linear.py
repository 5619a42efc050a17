"""`matmul` for device arrays: checks and layouts around `products`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import device
from .arrays import overlap, packed
from .multiply import PRECISIONS
from .operands import LARGEST_INDEX
from .products import Epilogue, Result, line, matrix, multiply, slope_of


def matmul(
    a: Any,
    b: Any,
    out: Any = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    bias: Any = None,
    activation: str | None = None,
    bias_grad: Any = None,
    precision: str | None = None,
) -> Any:
    """out = activation(alpha * a @ b + beta * out + bias); see `reference.matmul`.

    Transposed and strided arrays are read where they lie; `out` may overlap the inputs.

    Args:
        precision: None computes in the arrays' type. "tf32" and "bf16" let tensor cores do float32
            products, with factors rounded to 10 or 7 bits of fraction and sums in float32.

    Raises:
        TypeError: for anything but float32 and float64, for arrays of different types, or for arrays
            that are not on the device.
        ValueError: for shapes that do not fit, an unknown activation or precision.
        RuntimeError: if there is no GPU.
    """
    _check(a, b, out, bias, bias_grad, precision)
    slope_of("matmul", activation)
    a_3d, b_3d = _as_stack(a, a.ndim == 1, False), _as_stack(b, False, b.ndim == 1)
    stack = _stack_size(a, b)
    m, k, n = a_3d.shape[1], a_3d.shape[2], b_3d.shape[2]
    visible = (stack,) * (max(a.ndim, b.ndim) == 3) + (m,) * (a.ndim > 1) + (n,) * (b.ndim > 1)
    xp = device.namespace()
    beta = 0.0 if out is None else float(beta)
    result = xp.empty(visible, a.dtype) if out is None else out
    if b_3d.shape[1] != k or result.shape != visible or _wrong(bias, n) or _wrong(bias_grad, n):
        raise _shape_error(a, b, result, bias, bias_grad)
    c = result
    if out is not None and any(overlap(out, x) for x in (a, b, bias) if x is not None):
        c = out.copy()  # what would be overwritten is still to be read
    epilogue = Epilogue(float(alpha), beta, packed(bias), 0, activation)
    _multiply_stacks(a_3d, b_3d, _as_stack(c, a.ndim == 1, b.ndim == 1), epilogue, precision)
    if bias_grad is not None:
        add_column_sums(b_3d, bias_grad)
    if c is not result:
        out[...] = c
    return result


def _multiply_stacks(a, b, c, epilogue, precision) -> None:
    """c[i] = a[i] @ b[i], for arrays of three dimensions, of which the first may be 1."""
    stack, m, n = c.shape
    (a_stack, a_row, a_column), (b_stack, b_row, b_column) = _steps(a), _steps(b)
    c_stack, c_row, c_column = _steps(c)
    if len(b) == 1 and len(a) == stack and a_stack == m * a_row and c_stack == m * c_row:
        stack, m = 1, stack * m  # one b for all: the rows of all items are those of one product
    if epilogue.bias is None and c_row == 1 and c_column != 1:
        # C lies by columns: as its transpose, B^T A^T, it lies by rows.
        a_operand = matrix(b, b_column, b_row, b_stack)
        b_operand = matrix(a, a_row, a_column, a_stack)
        m, n, c_row, c_column = n, m, c_column, c_row
    else:
        a_operand = matrix(a, a_row, a_column, a_stack)
        b_operand = matrix(b, b_column, b_row, b_stack)
    c_result = Result(c, line(c_row), c_column, step=c_stack)
    multiply(a_operand, b_operand, c_result, (m, n, a.shape[2]), stack, epilogue, precision)


def add_column_sums(b: Any, sums: Any) -> None:
    """sums[j] += sum of b[..., j]: the product of a row of ones with b, and that row is one number that
    is read again and again, with steps of 0."""
    stack, row, column = _steps(b)
    straight = packed(sums)
    for i in range(len(b)):
        if b.shape[1] and b.shape[2]:
            multiply(
                matrix(_one(b.dtype.name, device.current()), 0, 0),
                matrix(b, column, row, start=i * stack),
                Result(straight, line(0)),
                (1, b.shape[2], b.shape[1]),
                epilogue=Epilogue(beta=1.0),
            )
    if straight is not sums:
        sums[...] = straight


@functools.cache
def _one(dtype: str, current: int) -> Any:
    return device.namespace().ones(1, dtype)


# --- checks ---------------------------------------------------------------------------------------


def _check(a, b, out, bias, bias_grad, precision) -> None:
    arrays = {"a": a, "b": b, "out": out, "bias": bias, "bias_grad": bias_grad}
    dimensions = {"bias": 1, "bias_grad": 1}
    if a.dtype not in (np.float32, np.float64):
        raise TypeError(f"matmul: a is {a.dtype}, but only float32 and float64 are supported")
    for name, x in arrays.items():
        if x is None:
            continue
        device.check_array("matmul", name, x)
        if x.dtype != a.dtype:
            raise TypeError(f"matmul: {name} is {x.dtype}, but a is {a.dtype}; both must be alike")
        if name in dimensions and x.ndim != dimensions[name]:
            raise ValueError(f"matmul: {name} has {x.ndim} dimensions, not {dimensions[name]}")
    if not (1 <= a.ndim <= 3 and 1 <= b.ndim <= 3):
        raise ValueError(
            f"matmul: a has {a.ndim} dimensions and b {b.ndim}, but 1 (a vector), 2 (a matrix) "
            "and 3 (a stack of matrices) are supported"
        )
    check_precision("matmul", precision, a.dtype)
    device.require()


def check_precision(where: str, precision: str | None, dtype: Any) -> None:
    """
    Raises:
        ValueError: an unknown precision, or a reduced one for float64.
    """
    if precision is not None and (precision not in PRECISIONS or dtype != np.float32):
        raise ValueError(
            f"{where}: precision must be None, 'tf32' or 'bf16', the latter two for float32; got "
            f"{precision!r} for {dtype}"
        )


def _wrong(vector, n: int) -> bool:
    return vector is not None and vector.shape != (n,)


def _stack_size(a, b) -> int:
    sizes = {len(x) for x in (a, b) if x.ndim == 3}
    if len(sizes - {1}) > 1:
        raise ValueError(f"matmul: stacks of {len(a)} and {len(b)} matrices do not match")
    return max(sizes - {1}, default=1)


def _as_stack(x, lacks_rows: bool, lacks_columns: bool):
    """x with three dimensions."""
    if lacks_rows:
        x = x[..., np.newaxis, :] if not lacks_columns else x[..., np.newaxis, np.newaxis]
    elif lacks_columns:
        x = x[..., np.newaxis]
    return x if x.ndim == 3 else x[np.newaxis]


def _steps(x) -> tuple[int, ...]:
    """Distances between neighbors in elements; 0 where there is only one."""
    steps = [
        stride // x.dtype.itemsize if size > 1 else 0
        for size, stride in zip(x.shape, x.strides, strict=True)
    ]
    if any(abs(step) > LARGEST_INDEX for step in steps[1:]):
        raise ValueError(f"matmul: strides beyond 2^31 - 1 elements are not supported: {x.strides}")
    return tuple(steps)


def _shape_error(a, b, out, bias, bias_grad) -> ValueError:
    text = f"matmul: a is {a.shape}, b is {b.shape}, out is {out.shape}"
    for name, vector in (("bias", bias), ("bias_grad", bias_grad)):
        text += "" if vector is None else f", {name} is {vector.shape}"
    return ValueError(f"{text}; expected (..., M, K) @ (..., K, N) -> (..., M, N) and vectors (N,)")
