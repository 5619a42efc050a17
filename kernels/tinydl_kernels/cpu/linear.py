"""`matmul` for NumPy arrays: checks, memory and threads around the kernels of `matmul_blocked` and
`matmul_skinny`.

A small layer's product takes a microsecond or two, no longer than a few Python statements. So two
matrices with everything in order are checked and multiplied by one compiled function; only when
that reports something unusual does Python look closer.
"""

from __future__ import annotations

import threading

import numpy as np

from . import matmul_problem as problem
from ._jit import jit
from .matmul_blocked import BLOCKED_KERNELS, block_sizes, workspace_size
from .matmul_problem import START
from .matmul_skinny import INNER_KERNELS, NARROW_KERNELS, OUTER_KERNELS
from .matmul_threads import PARALLEL_WORK, run, run_one
from .matmul_tile import MR, VECTORS
from .simd import call_native, is_writeable, record, recorded
from .target import vector_bytes

# Slopes below zero of the activations that the kernels of products and of convolutions apply themselves;
# the others are a pass of their own over the finished result.
SLOPES = {None: 1.0, "relu": 0.0, "leaky_relu": 0.2}
PASSES = ("sigmoid", "tanh")

_KERNELS = {
    problem.BLOCKED: BLOCKED_KERNELS,
    problem.OUTER: OUTER_KERNELS,
    problem.NARROW: NARROW_KERNELS,
    problem.INNER: INNER_KERNELS,
}


class _Plan:
    """What one Python thread needs for the products of one element type."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.tile = (MR, VECTORS * vector_bytes() // dtype.itemsize)
        self.none = np.empty(0, dtype)
        self.fields = np.zeros(problem.FIELDS, np.int64)
        self.fields[[problem.KC, problem.NC]] = block_sizes(dtype.itemsize)
        self.fields.view(np.float64)[problem.LIMIT] = PARALLEL_WORK
        self.fields[problem.ENTRY] = START[dtype].address
        # The fields' own address: compiled code takes an integer sooner than an array.
        self.address = self.fields.ctypes.data
        self.workspaces_for(1)

    def compile(self, field: int) -> None:
        """Get the kernel whose address `start` missed in one of its fields."""
        self.fields[field] = _KERNELS[field][self.dtype].address

    def workspaces_for(self, threads: int) -> np.ndarray:
        """Room for packed blocks: one row for each thread, kept from call to call."""
        if not hasattr(self, "workspaces") or len(self.workspaces) < threads:
            size = workspace_size(self.dtype.itemsize)
            self.workspaces = _aligned(threads, size, self.dtype)
            self.fields[problem.WORKSPACE] = self.workspaces.ctypes.data
        return self.workspaces


class _Plans(threading.local):
    """Each Python thread has plans, and with them workspaces, of its own."""

    def __init__(self) -> None:
        self.of: dict[np.dtype, _Plan] = {}

    def make(self, dtype: np.dtype) -> _Plan:
        if dtype not in (np.float32, np.float64):  # a foreign byte order is another type, too
            raise TypeError(f"matmul: a is {dtype}, but only float32 and float64 are supported")
        self.of[dtype] = _Plan(dtype)
        return self.of[dtype]


_plans = _Plans()


def _aligned(rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialized array whose rows start at 64-byte boundaries, as cache lines do."""
    line = 64 // dtype.itemsize
    columns = -(-columns // line) * line
    buffer = np.empty(rows * columns + line, dtype)
    start = -buffer.ctypes.data % 64 // dtype.itemsize
    return buffer[start : start + rows * columns].reshape(rows, columns)


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    bias_grad: np.ndarray | None = None,
) -> np.ndarray:
    """out = activation(alpha * a @ b + beta * out + bias); see `reference.matmul`.

    Transposed and strided arrays are read where they lie; `out` may overlap the inputs.

    Raises:
        TypeError: for anything but float32 and float64, or for arrays of different types.
        ValueError: for shapes that do not fit, an unknown activation or an `out` that is read-only.
    """
    plan = _plans.of.get(a.dtype) or _plans.make(a.dtype)
    dtype = plan.dtype
    if b.dtype is not dtype:
        _check_dtype("b", b, dtype)
    slope = 1.0 if activation is None else slope_of("matmul", activation)
    if out is None:
        beta = 0.0
    # Adding 0.0 makes a float of an integer: every combination of types would be compiled anew.
    alpha, beta = alpha + 0.0, beta + 0.0
    if a.ndim != 2 or b.ndim != 2:
        _check_vectors(bias, bias_grad, dtype)
        out = _matmul_nd(plan, a, b, out, bias, bias_grad, alpha, beta, slope)
    else:
        if out is None:
            out = np.empty((len(a), b.shape[1]), dtype)
        elif out.dtype is not dtype or out.ndim != 2:
            _check("out", out, 2, dtype)
        if bias is None and bias_grad is None:
            status = _multiply(plan.address, a, b, out, alpha, beta, slope)
        else:
            _check_vectors(bias, bias_grad, dtype)
            status = _with_vectors(plan, a, b, out, bias, bias_grad, alpha, beta, slope)
        if status != problem.DONE:
            _continue(status, plan, a, b, out, bias, bias_grad, alpha, beta, slope)
    if activation in PASSES:
        from .activations import activation as apply

        apply(activation, out, out)
    return out


def _with_vectors(plan, a, b, out, bias, bias_grad, alpha, beta, slope) -> int:
    vectors = [plan.none if vector is None else vector for vector in (bias, bias_grad)]
    return _multiply_with_vectors(plan.address, a, b, out, *vectors, alpha, beta, slope)


def _matmul_2d(plan, a, b, out, bias, bias_grad, *scalars) -> None:
    status = _with_vectors(plan, a, b, out, bias, bias_grad, *scalars)
    if status != problem.DONE:
        _continue(status, plan, a, b, out, bias, bias_grad, *scalars)


def _continue(status, plan, a, b, out, bias, bias_grad, alpha, beta, slope) -> None:
    """Do what `start` found to be beyond it."""
    if status == problem.LARGE:
        run_one(plan.fields, plan.address, plan.tile, plan.workspaces_for)
    elif status in _KERNELS:
        plan.compile(status)
        _matmul_2d(plan, a, b, out, bias, bias_grad, alpha, beta, slope)
    elif status == problem.WRONG_SHAPE:
        raise _shape_error(a.shape, b.shape, out.shape, bias, bias_grad)
    elif status == problem.READ_ONLY:
        _check_writeable("out", out)
    else:  # AWKWARD
        # Results go into fresh memory first, since what they would overwrite may still be read.
        fresh = out.copy()
        sums = None if bias_grad is None else bias_grad.copy()
        bias = None if bias is None else bias.copy()
        _matmul_2d(plan, _straight(a), _straight(b), fresh, bias, sums, alpha, beta, slope)
        out[...] = fresh
        if bias_grad is not None:
            bias_grad[...] = sums


def _matmul_nd(plan, a, b, out, bias, bias_grad, *scalars) -> np.ndarray:
    """Vectors become matrices with one row or column; stacks of matrices go item by item."""
    if not (1 <= a.ndim <= 3 and 1 <= b.ndim <= 3):
        raise ValueError(
            f"matmul: a has {a.ndim} dimensions and b {b.ndim}, but 1 (a vector), 2 (a matrix) "
            "and 3 (a stack of matrices) are supported"
        )
    a_2d = a[np.newaxis] if a.ndim == 1 else a
    b_2d = b[:, np.newaxis] if b.ndim == 1 else b
    stack = _stack_size(a_2d, b_2d)
    shape = (*stack, a_2d.shape[-2], b_2d.shape[-1])
    # NumPy's rule: the dimension that a vector lacks is missing in the result, too.
    visible = shape[:-2] + shape[-2:-1] * (a.ndim > 1) + shape[-1:] * (b.ndim > 1)
    if out is None:
        out = np.empty(visible, plan.dtype)
    _check("out", out, len(visible), plan.dtype)
    _check_writeable("out", out)
    if a_2d.shape[-1] != b_2d.shape[-2] or out.shape != visible:
        raise _shape_error(a.shape, b.shape, out.shape, bias, bias_grad)
    full = out if b.ndim > 1 else np.expand_dims(out, -1)
    full = full if a.ndim > 1 else np.expand_dims(full, -2)
    multiply = _matmul_stack if stack else _matmul_2d
    multiply(plan, a_2d, b_2d, full, bias, bias_grad, *scalars)
    return out


def _matmul_stack(plan, a, b, out, bias, bias_grad, *scalars) -> None:
    """out[i] = a[i] @ b[i]; a matrix, or a stack of one, takes part in every product."""
    if b.ndim == 2 and _is_one_matrix(a) and _is_one_matrix(out):
        # One b for all: the rows of all items are the rows of one larger product.
        a, out = a.reshape(-1, a.shape[-1]), out.reshape(-1, out.shape[-1])
        _matmul_2d(plan, a, b, out, bias, bias_grad, *scalars)
        return
    n = out.shape[2]
    if any(vector is not None and len(vector) != n for vector in (bias, bias_grad)):
        raise _shape_error(a.shape, b.shape, out.shape, bias, bias_grad)
    if bias_grad is not None:
        bias_grad += b.sum(axis=tuple(range(b.ndim - 1)))
    if not out.size:
        return
    a, b = _straight(a), _straight(b)
    bias = plan.none if bias is None else np.ascontiguousarray(bias)
    is_clear = _straight(out) is out and out.strides[2] == out.itemsize
    if not is_clear or any(np.may_share_memory(out, other) for other in (a, b, bias)):
        fresh = out.copy()
        _matmul_stack(plan, a, b, fresh, bias if bias.size else None, None, *scalars)
        out[...] = fresh
    else:
        problems = np.tile(plan.fields, (len(out), 1))
        for at, x in ((problem.A, a), (problem.B, b), (problem.C, out)):
            step = x.strides[0] if x.ndim == 3 and len(x) > 1 else 0
            problems[:, at] = x.ctypes.data + step * np.arange(len(out))
            problems[:, at + 1 : at + 5] = x.shape[-2:] + x.strides[-2:]
        problems[:, problem.BIAS : problem.BIAS + 3] = (bias.ctypes.data, bias.size, bias.itemsize)
        problems[:, problem.BIAS_GRAD : problem.BIAS_GRAD + 3] = 0
        numbers = problems.view(np.float64)
        numbers[:, problem.ALPHA : problem.SLOPE + 1] = scalars
        # Every item is like the first, for which `start` chooses a kernel without calling it.
        numbers[0, problem.LIMIT] = -1
        while (status := _start(problems)) != problem.LARGE:
            plan.compile(status)
            problems[:, status] = plan.fields[status]
        problems[:, problem.CHOSEN :] = problems[0, problem.CHOSEN :]
        run(problems, plan.tile, plan.workspaces_for)


def warmup(dtype: str) -> None:
    """Compile what a dense layer's forward and backward pass need, for all shapes."""
    x, w, grad = (np.zeros(shape, dtype) for shape in ((64, 32), (32, 48), (64, 48)))
    vector = np.zeros(48, dtype)
    matmul(x, w, bias=vector)
    matmul(x.T, grad, w, beta=1.0, bias_grad=vector)
    matmul(x.T, grad, w, beta=1.0)
    matmul(grad, w.T)
    plan = _plans.of[np.dtype(dtype)]
    for field in _KERNELS:
        plan.compile(field)


# --- checks that Python makes ---------------------------------------------------------------------


def _check_dtype(name, x, dtype) -> None:
    if x.dtype != dtype:
        raise TypeError(f"matmul: {name} is {x.dtype}, but a is {dtype}; both must be alike")


def _check(name, x, dimensions, dtype) -> None:
    _check_dtype(name, x, dtype)
    if x.ndim != dimensions:
        raise ValueError(f"matmul: {name} has {x.ndim} dimensions, not {dimensions}")


def _check_writeable(name, x) -> None:
    if not x.flags.writeable:
        raise ValueError(f"matmul: {name} is read-only, but a result would be written into it")


def _check_vectors(bias, bias_grad, dtype) -> None:
    if bias is not None:
        _check("bias", bias, 1, dtype)
    if bias_grad is not None:
        _check("bias_grad", bias_grad, 1, dtype)
        _check_writeable("bias_grad", bias_grad)


def slope_of(name: str, activation: str | None) -> float:
    """That below zero which a kernel is to apply: 1 for an activation that is a pass of its own."""
    if activation in PASSES:
        return 1.0
    if activation not in SLOPES:
        known = ", ".join(map(repr, (*SLOPES, *PASSES)))
        raise ValueError(f"{name}: activation {activation!r} is not one of {known}")
    return SLOPES[activation]


def _stack_size(a: np.ndarray, b: np.ndarray) -> tuple[int, ...]:
    sizes = {len(x) for x in (a, b) if x.ndim == 3}
    if len(sizes - {1}) > 1:
        raise ValueError(f"matmul: stacks of {len(a)} and {len(b)} matrices do not match")
    return (max(sizes - {1}, default=1),) if sizes else ()


def _is_one_matrix(x: np.ndarray) -> bool:
    """Whether the rows of all items of a stack are equally far apart, as if it were one matrix."""
    return x.ndim == 3 and (len(x) <= 1 or x.strides[0] == x.shape[1] * x.strides[1])


def _straight(x: np.ndarray) -> np.ndarray:
    """x, or a copy of it if its elements lie at fractions of an element's size."""
    is_straight = x.flags.aligned and not any(stride % x.itemsize for stride in x.strides)
    return x if is_straight else x.copy()


def _shape_error(a, b, out, bias, bias_grad) -> ValueError:
    text = f"matmul: a is {a}, b is {b}, out is {out}"
    for name, vector in (("bias", bias), ("bias_grad", bias_grad)):
        text += "" if vector is None else f", {name} is {vector.shape}"
    return ValueError(f"{text}; expected (..., M, K) @ (..., K, N) -> (..., M, N) and vectors (N,)")


# --- what is compiled -----------------------------------------------------------------------------


# The first two are compiled for each combination of memory layouts, so they are kept short.


@jit
def _multiply(fields, a, b, out, alpha, beta, slope):
    """Describe the problem and call `start`, whose status is returned."""
    record(fields, problem.BIAS + 1, 0)
    record(fields, problem.BIAS_GRAD + 1, 0)
    return _start_product(fields, a, b, out, alpha, beta, slope)


@jit
def _multiply_with_vectors(fields, a, b, out, bias, bias_grad, alpha, beta, slope):
    record(fields, problem.BIAS, bias)
    record(fields, problem.BIAS_GRAD, bias_grad)
    return _start_product(fields, a, b, out, alpha, beta, slope)


@jit(cache=False)
def _start_product(fields, a, b, out, alpha, beta, slope):
    if not is_writeable(out):
        return problem.READ_ONLY
    record(fields, problem.A, a)
    record(fields, problem.B, b)
    record(fields, problem.C, out)
    record(fields, problem.ALPHA, alpha)
    record(fields, problem.BETA, beta)
    record(fields, problem.SLOPE, slope)
    return call_native(recorded(fields, problem.ENTRY), fields, recorded(fields, problem.WORKSPACE))


@jit
def _start(problems):
    kernel, workspace = problems[0, problem.ENTRY], problems[0, problem.WORKSPACE]
    return call_native(kernel, problems.ctypes.data, workspace)
