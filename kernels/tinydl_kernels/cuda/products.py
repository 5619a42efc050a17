"""Starting the kernel of `gemm`: which one, with what grid, and whether the sum is cut into parts.

A tall product, such as the gradient of a weight, has a small C and a long sum: too few tiles for all
multiprocessors. Then several blocks share the sum of one tile. Each writes its part to a workspace, and
a second, small kernel adds the parts up, always in the same order: the result is the same to the last
bit whenever it is computed on the same device.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from . import device, warpgroups
from .device import MOST_BLOCKS, cuda, kernel
from .gemm import Gemm, finisher, gemm
from .instructions import pointer
from .operands import FOLDED, INNER, LARGEST_INDEX, LINE, OUTER, Layout, line
from .tiles import Tile, WarpgroupTile, choose

SLOPES = {None: 1.0, "relu": 0.0, "leaky_relu": 0.2}
COMPILED_IN = ("sigmoid", "tanh")
ADDERS = 256  # threads in a block of the kernel that adds up parts
NO_BOUNDS = (0, 0, 0, 0)


class Operand(NamedTuple):
    """A factor of a product; see `gemm` for what its kernel makes of it."""

    array: Any
    layout: Layout
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    bounds: tuple[int, int, int, int] = NO_BOUNDS
    start: int = 0
    step: int = 0  # from one product of a stack to the next


class Result(NamedTuple):
    """Where a product goes."""

    array: Any
    rows: tuple[int, ...]
    column: int = 1
    kind: str = LINE  # of the axis of rows
    start: int = 0
    step: int = 0


class Epilogue(NamedTuple):
    """What is done to the sums: activation(alpha * sum + beta * c + bias)."""

    alpha: float = 1.0
    beta: float = 0.0
    bias: Any = None
    bias_step: int = 0
    activation: str | None = None


PLAIN = Epilogue()


def slope_of(where: str, activation: str | None) -> float:
    """
    Raises:
        ValueError: an unknown activation.
    """
    if activation in COMPILED_IN:
        return 1.0
    if activation not in SLOPES:
        known = ", ".join(map(repr, (*SLOPES, *COMPILED_IN)))
        raise ValueError(f"{where}: activation {activation!r} is not one of {known}")
    return SLOPES[activation]


def matrix(x: Any, outer: int, inner: int, step: int = 0, start: int = 0) -> Operand:
    """An operand that is a matrix, or a stack of them: element (o, i) of the first lies at element
    start + o * outer + i * inner of x."""
    vector = device.VECTOR_BYTES // x.dtype.itemsize
    contiguous = INNER if inner == 1 and outer != 1 else OUTER
    wide = outer == 1 and not (inner % vector or step % vector or start % vector)
    wide = wide and device.address(x) % device.VECTOR_BYTES == 0
    return Operand(x, Layout(contiguous, wide), line(outer), line(inner), start=start, step=step)


def is_wide(c: Result, columns: int) -> bool:
    """Whether rows of C can be written four elements at a time."""
    vector = device.VECTOR_BYTES // c.array.dtype.itemsize
    steps = (*c.rows, c.step, c.start) if c.kind == LINE else (1,)
    aligned = device.address(c.array) % device.VECTOR_BYTES == 0
    return c.column == 1 and columns % 4 == 0 and aligned and not any(s % vector for s in steps)


def multiply(
    a: Operand,
    b: Operand,
    c: Result,
    sizes: tuple[int, int, int],
    products: int = 1,
    epilogue: Epilogue = PLAIN,
    precision: str | None = None,
    tile: Tile | WarpgroupTile | None = None,
    parts: int | None = None,
) -> None:
    """C = activation(alpha A B + beta C + bias), for `products` of them.

    Args:
        sizes: (M, N, K).
        tile, parts: chosen by `tiles.choose` if not given. A tile of warpgroups is for a precision, and a C
            whose rows are a line.
    """
    m, n, k = sizes
    if not (m and n and products):
        return
    if max(sizes) > LARGEST_INDEX:
        raise ValueError(f"sizes beyond 2^31 - 1 are not supported: M, N, K = {sizes}")
    dtype = c.array.dtype
    images = FOLDED in (*a.layout, *b.layout)
    may_split, there = c.kind == LINE, device.multiprocessors()
    hopper = precision is not None and may_split and device.capability() == warpgroups.COMPUTE
    chosen = choose(dtype.name, m, n, k, products, precision, images, may_split, there, hopper)
    tile, parts = tile or chosen[0], parts or chosen[1]
    if parts == 1:
        _launch(a, b, c, sizes, products, epilogue, precision, tile, 1)
        return
    sums = device.namespace().empty((products * parts, m, n), dtype)
    workspace = Result(sums, line(n), step=parts * m * n)
    _launch(a, b, workspace, sizes, products, Epilogue(), precision, tile, parts)
    add_parts(sums, c, m, n, products, parts, epilogue)


def _launch(a, b, c, sizes, products, epilogue, precision, tile, parts) -> None:
    m, n, k = sizes
    dtype = c.array.dtype
    activation = epilogue.activation if epilogue.activation in COMPILED_IN else None
    wide = is_wide(c, n)
    bias = c.array if epilogue.bias is None else epilogue.bias
    scalars = [dtype.type(x) for x in (epilogue.alpha, epilogue.beta)]
    scalars.append(dtype.type(SLOPES.get(epilogue.activation, 1.0)))
    if isinstance(tile, WarpgroupTile):
        packed = warpgroups.Packed(tile, precision, wide, activation)
        warpgroups.launch(a, b, c, sizes, products, parts, packed, scalars, epilogue)
        return
    function = gemm(
        Gemm(
            dtype.name,
            tile,
            _fitting(a.layout, tile.height, tile, dtype.itemsize),
            _fitting(b.layout, tile.width, tile, dtype.itemsize),
            c.kind,
            wide,
            activation,
            precision,
        )
    )
    k_part = -(-k // (parts * tile.depth)) * tile.depth
    tile_rows, tile_columns = -(-m // tile.height), -(-n // tile.width)
    group = min(3, (tile_rows - 1).bit_length())
    groups = (tile_rows + (1 << group) - 1) >> group
    if groups > MOST_BLOCKS:
        raise ValueError(f"a product of {m} rows is larger than the grid of blocks can be")
    most = MOST_BLOCKS // parts
    for first in range(0, products, most):
        here = min(most, products - first)
        device.launch(
            function,
            (tile_columns << group, groups, here * parts),
            tile.threads,
            *_operand(a, first),
            *_operand(b, first),
            device.memory(c.array), c.start + first * c.step, c.rows, c.column,
            device.memory(bias), 0 if epilogue.bias is None else 1,
            first * epilogue.bias_step,
            (m, n, k, k_part, parts),
            (a.step, b.step, c.step, epilogue.bias_step, m * n),
            group,
            *scalars,
        )  # fmt: skip


def _fitting(layout: Layout, length: int, tile: Tile, itemsize: int) -> Layout:
    """A tile too small to give every thread 16 bytes is copied element by element."""
    vector = device.VECTOR_BYTES // itemsize
    return layout._replace(wide=layout.wide and length * tile.depth >= vector * tile.threads)


def _operand(x: Operand, first: int) -> tuple:
    return device.memory(x.array), x.start + first * x.step, x.outer, x.inner, x.bounds


# --- adding up the parts --------------------------------------------------------------------------


def add_parts(
    sums: Any, c: Result, m: int, n: int, products: int, parts: int, epilogue: Epilogue
) -> None:
    """C = activation(alpha * sum + beta * C + bias), from sums: (products, parts, M, N)."""
    dtype = c.array.dtype
    activation = epilogue.activation if epilogue.activation in COMPILED_IN else None
    bias = c.array if epilogue.bias is None else epilogue.bias
    for first in range(0, products, MOST_BLOCKS):
        here = min(MOST_BLOCKS, products - first)
        device.launch(
            adder(dtype.name, activation),
            (-(-m * n // ADDERS), 1, here),
            ADDERS,
            device.memory(sums), first * parts * m * n,
            device.memory(c.array), c.start + first * c.step, c.rows[0], c.column,
            device.memory(bias), 0 if epilogue.bias is None else 1,
            first * epilogue.bias_step,
            (m, n, parts), (c.step, epilogue.bias_step),
            dtype.type(epilogue.alpha), dtype.type(epilogue.beta),
            dtype.type(SLOPES.get(epilogue.activation, 1.0)),
        )  # fmt: skip


@functools.cache
def adder(dtype: str, activation: str | None) -> Any:
    """The kernel that adds up parts: one thread for each element of C, neighbors side by side."""
    finish = finisher(activation, np.dtype(dtype).type)
    zero = np.dtype(dtype).type(0)

    @kernel(ADDERS)
    def add(
        sums, sums_start, c, c_start, c_row, c_column, bias, has_bias, bias_start,
        sizes, steps, alpha, beta, slope,
    ):  # fmt: skip
        element = cuda.blockIdx.x * ADDERS + cuda.threadIdx.x
        m, n, parts = sizes
        if element >= m * n:
            return
        product = cuda.blockIdx.z
        row = element // n
        column = element - row * n
        sums_memory, c_memory = pointer(sums, alpha), pointer(c, alpha)
        total = zero
        start = sums_start + product * parts * m * n + element
        for part in range(parts):
            total += sums_memory[start + part * m * n]
        place = c_start + product * steps[0] + row * c_row + column * c_column
        value = alpha * total
        if beta != 0:
            value += beta * c_memory[place]
        if has_bias != 0:
            value += pointer(bias, alpha)[bias_start + product * steps[1] + column]
        c_memory[place] = finish(value, slope)

    return add
