"""`matmul` for device arrays: checks and layouts around `products`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import device
from .arrays import FLOATS, overlap, packed
from .multiply import PRECISIONS
from .operands import LARGEST_INDEX
from .products import ADDED, Epilogue, Product, Result, line, matrix, multiply, slope_of


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
    visible = _result_shape(a.shape, b.shape)
    n = b.shape[-1] if b.ndim > 1 else 1
    beta = 0.0 if out is None else float(beta)
    result = device.namespace().empty(visible, a.dtype) if out is None else out
    if result.shape != visible or _wrong(bias, n) or _wrong(bias_grad, n):
        raise _shape_error(a, b, result, bias, bias_grad)
    c = result
    if out is not None and overlap(out, a, b, bias):
        c = out.copy()  # what would be overwritten is still to be read
    bias = packed(bias)
    product, transposed = _product(
        a.dtype.itemsize, a.shape, a.strides, b.shape, b.strides, c.strides, bias is None
    )
    epilogue = Epilogue(float(alpha), beta, bias, activation)
    multiply(product, *((b, a) if transposed else (a, b)), c, epilogue, precision)
    if bias_grad is not None:
        add_column_sums(b, bias_grad)
    if c is not result:
        out[...] = c
    return result


@functools.lru_cache(maxsize=4096)  # training asks for the same few shapes over and over
def _product(
    itemsize: int,
    a_shape: tuple[int, ...],
    a_strides: tuple[int, ...],
    b_shape: tuple[int, ...],
    b_strides: tuple[int, ...],
    c_strides: tuple[int, ...],
    may_transpose: bool,
) -> tuple[Product, bool]:
    """c[i] = a[i] @ b[i], and whether it is computed as the transpose of b[i].T @ a[i].T."""
    row, column = len(a_shape) == 1, len(b_shape) == 1
    c_shape = _result_shape(a_shape, b_shape)
    a, a_steps = _as_stack(itemsize, a_shape, a_strides, is_row=row)
    b, b_steps = _as_stack(itemsize, b_shape, b_strides, is_column=column)
    c, c_steps = _as_stack(itemsize, c_shape, c_strides, is_row=row, is_column=column)
    (a_step, a_row, a_column), (b_step, b_row, b_column) = a_steps, b_steps
    (stack, m, n), (c_step, c_row, c_column), k = c, c_steps, a[2]
    if b[0] == 1 and a[0] == stack and a_step == m * a_row and c_step == m * c_row:
        stack, m = 1, stack * m  # one b for all: the rows of all items are those of one product
    transposed = may_transpose and c_row == 1 and c_column != 1
    if transposed:
        # C lies by columns: as its transpose, B^T A^T, it lies by rows.
        a_operand = matrix(itemsize, b_column, b_row, b_step)
        b_operand = matrix(itemsize, a_row, a_column, a_step)
        m, n, c_row, c_column = n, m, c_column, c_row
    else:
        a_operand = matrix(itemsize, a_row, a_column, a_step)
        b_operand = matrix(itemsize, b_column, b_row, b_step)
    result = Result(line(c_row), c_column, step=c_step)
    return Product(a_operand, b_operand, result, (m, n, k), stack), transposed


def add_column_sums(b: Any, sums: Any) -> None:
    """sums[j] += sum of b[..., j]: the product of a row of ones with b, and that row is one number that
    is read again and again, with steps of 0."""
    straight = packed(sums)
    one = _one(b.dtype.char, device.place())
    for product in _column_sums(b.dtype.itemsize, b.shape, b.strides):
        multiply(product, one, b, straight, ADDED)
    if straight is not sums:
        sums[...] = straight


@functools.lru_cache(maxsize=1024)
def _column_sums(itemsize: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> list[Product]:
    """One for each matrix of a stack; a vector is a column."""
    sizes, (step, row, column) = _as_stack(itemsize, shape, strides, is_column=len(shape) == 1)
    stack, k, n = sizes
    if not (k and n):
        return []
    ones, sums = matrix(itemsize, 0, 0), Result(line(0))
    return [
        Product(ones, matrix(itemsize, column, row, start=i * step), sums, (1, n, k))
        for i in range(stack)
    ]


@functools.lru_cache(maxsize=64)
def _one(dtype: str, place: tuple) -> Any:
    return device.namespace().ones(1, dtype)


# --- checks ---------------------------------------------------------------------------------------


def _check(a, b, out, bias, bias_grad, precision) -> None:
    dtype = a.dtype
    if dtype.char not in FLOATS:
        raise TypeError(f"matmul: a is {dtype}, but only float32 and float64 are supported")
    for name, x, is_vector in (
        ("a", a, False), ("b", b, False), ("out", out, False), ("bias", bias, True), ("bias_grad", bias_grad, True)
    ):  # fmt: skip
        if x is None:
            continue
        device.check_array("matmul", name, x)
        if x.dtype != dtype:
            raise TypeError(f"matmul: {name} is {x.dtype}, but a is {dtype}; both must be alike")
        if is_vector and x.ndim != 1:
            raise ValueError(f"matmul: {name} has {x.ndim} dimensions, not 1")
    if not (1 <= a.ndim <= 3 and 1 <= b.ndim <= 3):
        raise ValueError(
            f"matmul: a has {a.ndim} dimensions and b {b.ndim}, but 1 (a vector), 2 (a matrix) "
            "and 3 (a stack of matrices) are supported"
        )
    check_precision("matmul", precision, dtype)
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


@functools.lru_cache(maxsize=4096)
def _result_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """
    Raises:
        ValueError: matrices that cannot be multiplied.
    """
    stacks = {shape[0] for shape in (a, b) if len(shape) == 3} - {1}
    if len(stacks) > 1:
        raise ValueError(f"matmul: stacks of {a[0]} and {b[0]} matrices do not match")
    if a[-1] != b[-2:][0]:
        raise ValueError(f"matmul: a is {a}, b is {b}; expected (..., M, K) @ (..., K, N)")
    stack = (max(stacks, default=1),) if 3 in (len(a), len(b)) else ()
    return (*stack, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def _as_stack(
    itemsize: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    is_row: bool = False,
    is_column: bool = False,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(stack, rows, columns) of vectors, matrices and stacks, and the distances between neighbors along each in
    elements; 0 where there is only one."""
    if is_column:
        shape, strides = (*shape, 1), (*strides, 0)
    if is_row:
        shape, strides = (*shape[:-1], 1, shape[-1]), (*strides[:-1], 0, strides[-1])
    if len(shape) == 2:
        shape, strides = (1, *shape), (0, *strides)
    pairs = zip(shape, strides, strict=True)
    steps = tuple(stride // itemsize if size > 1 else 0 for size, stride in pairs)
    if any(abs(step) > LARGEST_INDEX for step in steps[1:]):
        raise ValueError(f"matmul: strides beyond 2^31 - 1 elements are not supported: {strides}")
    return shape, steps


def _shape_error(a, b, out, bias, bias_grad) -> ValueError:
    text = f"matmul: a is {a.shape}, b is {b.shape}, out is {out.shape}"
    for name, vector in (("bias", bias), ("bias_grad", bias_grad)):
        text += "" if vector is None else f", {name} is {vector.shape}"
    return ValueError(f"{text}; expected (..., M, K) @ (..., K, N) -> (..., M, N) and vectors (N,)")
