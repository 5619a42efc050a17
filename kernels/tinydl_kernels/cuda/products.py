"""Starting the kernel of `gemm`: which one, with what grid, and whether the sum is cut into parts.

A tall product, such as the gradient of a weight, has a small C and a long sum: too few tiles for all
multiprocessors. Then several blocks share the sum of one tile. Each writes its part to a workspace, and
a second, small kernel adds the parts up, always in the same order: the result is the same to the last
bit whenever it is computed on the same device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from . import device, warpgroups
from .device import ALIGNED, MOST_BLOCKS, VECTOR_BYTES, cuda, kernel
from .gemm import Gemm, finisher, gemm
from .instructions import pointer
from .launching import Launch
from .operands import FOLDED, FOLDED_STEPS, INNER, LARGEST_INDEX, LINE, OUTER, Layout, line
from .passes import add_up
from .tiles import Tile, WarpgroupTile, adders_of, choose

SLOPES = {None: 1.0, "relu": 0.0, "leaky_relu": 0.2}
COMPILED_IN = ("sigmoid", "tanh")
ADDERS = 256  # threads in a block of the kernel that adds up parts
NO_BOUNDS = (0, 0, 0, 0)


# --- what is multiplied ---------------------------------------------------------------------------


class Operand(NamedTuple):
    """How a factor lies in its array; see `gemm` for what its kernel makes of it."""

    layout: Layout  # wide: if the array, too, begins at a multiple of 16 bytes
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    bounds: tuple[int, int, int, int] = NO_BOUNDS
    start: int = 0
    step: int = 0  # from one product of a stack to the next


class Result(NamedTuple):
    """Where a product goes in its array."""

    rows: tuple[int, ...]
    column: int = 1
    kind: str = LINE  # of the axis of rows
    start: int = 0
    step: int = 0


@dataclass(frozen=True, eq=False)
class Product:
    """All of C = A B but the arrays: what stays the same from one training step to the next.

    Two are never equal. Who needs one again has to keep it, and what was planned for it is found quickly.
    """

    a: Operand
    b: Operand
    c: Result
    sizes: tuple[int, int, int]  # M, N, K
    stack: int = 1  # how many there are
    bias_step: int = 0  # from one of the stack to the next

    def __post_init__(self) -> None:
        if max(self.sizes) > LARGEST_INDEX:
            raise ValueError(f"sizes beyond 2^31 - 1 are not supported: M, N, K = {self.sizes}")


class Epilogue(NamedTuple):
    """What is done to the sums: activation(alpha * sum + beta * c + bias)."""

    alpha: float = 1.0
    beta: float = 0.0
    bias: Any = None
    activation: str | None = None


class Ending(NamedTuple):
    """What kernels have to know of an epilogue beforehand."""

    has_bias: bool = False
    alpha: float = 1.0
    beta: float = 0.0
    activation: str | None = None

    @property
    def compiled_in(self) -> str | None:
        return self.activation if self.activation in COMPILED_IN else None

    def scalars(self, dtype: str) -> tuple:
        """alpha, beta, and what a result below zero is multiplied by."""
        factors = self.alpha, self.beta, SLOPES.get(self.activation, 1.0)
        return tuple(map(np.dtype(dtype).type, factors))


PLAIN, ADDED = Epilogue(), Epilogue(beta=1.0)


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


def matrix(itemsize: int, outer: int, inner: int, step: int = 0, start: int = 0) -> Operand:
    """An operand that is a matrix, or a stack of them: element (o, i) of the first lies at element
    start + o * outer + i * inner of its array."""
    vector = VECTOR_BYTES // itemsize
    contiguous = INNER if inner == 1 and outer != 1 else OUTER
    wide = outer == 1 and not (inner % vector or step % vector or start % vector)
    return Operand(Layout(contiguous, wide), line(outer), line(inner), start=start, step=step)


def is_wide(c: Result, columns: int, itemsize: int) -> bool:
    """Whether rows of C, whose array begins at a multiple of 16 bytes, can be written four elements at a time."""
    vector = VECTOR_BYTES // itemsize
    rows = c.rows if c.kind == LINE else c.rows[FOLDED_STEPS]
    steps = *rows, c.step, c.start
    return c.column == 1 and columns % 4 == 0 and not any(s % vector for s in steps)


# --- multiplying ----------------------------------------------------------------------------------


def multiply(
    product: Product,
    a: Any,
    b: Any,
    c: Any,
    epilogue: Epilogue = PLAIN,
    precision: str | None = None,
    tile: Tile | WarpgroupTile | None = None,
    parts: int | None = None,
) -> None:
    """C = activation(alpha A B + beta C + bias).

    Args:
        a, b, c: the arrays.
        tile, parts: chosen by `tiles.choose` if not given. A tile of warpgroups is for a precision, and a C
            whose rows are a line.
    """
    a_place, b_place, c_place = device.memory(a), device.memory(b), device.memory(c)
    bias_place = c_place
    if epilogue.bias is not None:  # of which a plan only has to know that it is there
        alpha, beta, bias, activation = epilogue
        bias_place, epilogue = device.memory(bias), Epilogue(alpha, beta, True, activation)
    aligned = not a_place % VECTOR_BYTES, not b_place % VECTOR_BYTES, not c_place % VECTOR_BYTES
    gpu = device.current()
    plan = planned(product, c.dtype.char, aligned, epilogue, precision, tile, parts, gpu, choose)
    if plan.workspace is None:
        target = c_place
    else:
        sums = device.namespace().empty(plan.workspace, c.dtype)
        target = device.memory(sums)
    if plan.packed is None:
        start(plan.launches, a_place, b_place, target, bias_place)
    else:
        plan.packed(a, b, target, bias_place)
    if plan.adding:
        start(plan.adding, target, c_place, bias_place)


def start(launches: list[Launch], *addresses: Any) -> None:
    for known in launches:
        device.launch_again(known, *addresses)


class Plan(NamedTuple):
    """How a product is computed."""

    launches: list[Launch]
    packed: Callable[..., None] | None = None  # by warpgroups, in place of launches
    workspace: tuple[int, int, int] | None = None  # if its sum is cut into parts, their shape
    adding: list[Launch] = []  # noqa: RUF012  (never changed)


@functools.lru_cache(maxsize=4096)  # training asks for the same few products over and over
def planned(
    product: Product,
    dtype: str,
    aligned: tuple[bool, bool, bool],
    epilogue: Epilogue,
    precision: str | None,
    tile: Tile | WarpgroupTile | None,
    parts: int | None,
    gpu: int,
    choose: Callable,
) -> Plan:
    """
    Args:
        aligned: whether A, B and C begin at multiples of 16 bytes.
        epilogue: with True for a bias.
        gpu: the current device's number, of which this plan is: another may have fewer multiprocessors.
        choose: `tiles.choose`.
    """
    (m, n, k), stack, c = product.sizes, product.stack, product.c
    ending = Ending(bool(epilogue.bias), epilogue.alpha, epilogue.beta, epilogue.activation)
    if not (m and n and stack):
        return Plan([])
    images, by_line = FOLDED in (*product.a.layout, *product.b.layout), c.kind == LINE
    packs = precision is not None and by_line and device.capability() == warpgroups.COMPUTE
    chosen = choose(
        np.dtype(dtype).name, m, n, k, stack, precision, images, by_line,
        device.multiprocessors(), packs, device.name(),
    )  # fmt: skip
    tile, parts = tile or chosen[0], parts or chosen[1]
    workspace, added = None, []
    if parts > 1:
        workspace = stack * parts, m, n
        added = adding(c, dtype, m, n, parts, ending, stack, product.bias_step)
        c, aligned, ending = Result(line(n), step=parts * m * n), (*aligned[:2], True), Ending()
    if isinstance(tile, WarpgroupTile):
        wide = aligned[2] and is_wide(c, n, np.dtype(dtype).itemsize)
        spec = warpgroups.Packed(tile, precision, wide, ending.compiled_in)
        packed = functools.partial(warpgroups.launch, product, c, parts, spec, ending)
        return Plan([], packed, workspace, added)
    launches = multiplying(product, c, aligned, dtype, precision, tile, parts, ending)
    return Plan(launches, None, workspace, added)


def multiplying(
    product: Product,
    c: Result,
    aligned: tuple[bool, bool, bool],
    dtype: str,
    precision: str | None,
    tile: Tile,
    parts: int,
    ending: Ending,
) -> list[Launch]:
    """The kernel of `gemm`, with the addresses of A, B, C and bias to come."""
    (m, n, k), a, b, bias_step = product.sizes, product.a, product.b, product.bias_step
    itemsize = np.dtype(dtype).itemsize
    function = gemm(
        Gemm(
            np.dtype(dtype).name,
            tile,
            _fitting(a.layout, aligned[0], tile.height, tile, itemsize),
            _fitting(b.layout, aligned[1], tile.width, tile, itemsize),
            c.kind,
            aligned[2] and is_wide(c, n, itemsize),
            ending.compiled_in,
            precision,
        )
    )
    k_part = -(-k // (parts * tile.depth)) * tile.depth
    tile_rows, tile_columns = -(-m // tile.height), -(-n // tile.width)
    # Tiles of rows that are neighbors in the grid: 8, or more if the grid would become too high.
    group = min(3, (tile_rows - 1).bit_length())
    group = max(group, (-(-tile_rows // MOST_BLOCKS) - 1).bit_length())
    groups = (tile_rows + (1 << group) - 1) >> group
    steps = a.step, b.step, c.step, bias_step, m * n
    found, most = [], MOST_BLOCKS // parts
    for first in range(0, product.stack, most):
        here = min(most, product.stack - first)
        after = (
            (a.start + first * a.step, a.outer, a.inner, a.bounds),
            (b.start + first * b.step, b.outer, b.inner, b.bounds),
            (c.start + first * c.step, c.rows, c.column),
            (
                int(ending.has_bias),
                first * bias_step,
                (m, n, k, k_part, parts),
                steps,
                group,
                *ending.scalars(dtype),
            ),
        )
        grid = (tile_columns << group, groups, here * parts)
        found.append(Launch(function, grid, tile.threads, after))
    return found


def _fitting(layout: Layout, aligned: bool, length: int, tile: Tile, itemsize: int) -> Layout:
    """A tile too small to give every thread 16 bytes is copied element by element."""
    enough = length * tile.depth >= VECTOR_BYTES // itemsize * tile.threads
    return layout._replace(wide=layout.wide and aligned and enough)


# --- adding up the parts --------------------------------------------------------------------------


def adding(
    c: Result,
    dtype: str,
    m: int,
    n: int,
    parts: int,
    ending: Ending,
    stack: int = 1,
    bias_step: int = 0,
) -> list[Launch]:
    """C = activation(alpha * sum + beta * C + bias), from sums: (stack, parts, M, N). The addresses of sums, C and
    bias are to come."""
    function, together = adder(np.dtype(dtype).name, ending.compiled_in), adders_of(parts)
    blocks, found = -(-m * n // (ADDERS // together)), []
    for first in range(0, stack, MOST_BLOCKS):
        here = min(MOST_BLOCKS, stack - first)
        after = (
            (first * parts * m * n,),
            (c.start + first * c.step, c.rows[0], c.column),
            (
                int(ending.has_bias),
                first * bias_step,
                (m, n, parts, together),
                (c.step, bias_step),
                *ending.scalars(dtype),
            ),
        )
        found.append(Launch(function, (blocks, 1, here), ADDERS, after))
    return found


@functools.cache
def adder(dtype: str, activation: str | None) -> Any:
    """The kernel that adds up parts. Neighboring threads add up neighboring elements of C. If there are many parts,
    one after another would take long, in which most threads of a GPU have nothing to do: then several threads
    take turns at the parts of an element, and what they found is added up in pairs.
    """
    finish = finisher(activation, np.dtype(dtype).type)
    element_type, zero = np.dtype(dtype), np.dtype(dtype).type(0)

    @kernel(ADDERS)
    def add(
        sums, sums_start, c, c_start, c_row, c_column, bias, has_bias, bias_start,
        sizes, steps, alpha, beta, slope,
    ):  # fmt: skip
        shared = cuda.shared.array((1, ADDERS), element_type, ALIGNED)
        m, n, parts, together = sizes
        thread, neighbors = cuda.threadIdx.x, ADDERS // together
        turn = thread // neighbors
        element = cuda.blockIdx.x * neighbors + thread - turn * neighbors
        product = cuda.blockIdx.z
        sums_memory, c_memory = pointer(sums, alpha), pointer(c, alpha)
        total = zero
        if element < m * n:
            start = sums_start + product * parts * m * n + element
            for part in range(turn, parts, together):
                total += sums_memory[start + part * m * n]
        shared[0, thread] = total
        add_up(shared, thread, neighbors, cuda.syncthreads)
        if turn > 0 or element >= m * n:
            return
        row = element // n
        column = element - row * n
        place = c_start + product * steps[0] + row * c_row + column * c_column
        value = alpha * shared[0, thread]
        if beta != 0:
            value += beta * c_memory[place]
        if has_bias != 0:
            value += pointer(bias, alpha)[bias_start + product * steps[1] + column]
        c_memory[place] = finish(value, slope)

    return add
