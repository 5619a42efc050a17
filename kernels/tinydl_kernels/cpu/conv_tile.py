"""The register tile of all convolutions: a matrix product whose operand is never built.

A convolution is a matrix product in disguise. For the forward pass the rows are output positions
and the columns filters, and the sum runs over the taps and channels of the window:

    y[p, k] = sum over q = (r, s, c) of A[p, q] w[q, k],     A[p, q] = x[place p + offset q]

A, known as im2col, repeats every input element R S times, so building it costs memory and time. But
look at its elements: the address is a SUM of something that depends on the row alone and something
that depends on the column alone. Two short tables of offsets describe A completely, and the register
tile of `matmul_tile` needs one change: its row i starts at `a + rows[i]`, and step q of the sum
reads `steps[q]` elements further.

The gradient with respect to the weights is the product with A transposed, so it is the same kernel
with the two tables exchanged; the gradient with respect to the input is a convolution with other
tables. Strides, dilation and channel groups are nothing but numbers in the tables.

Source of the idea: Dukhan, "The Indirect Convolution Algorithm" (arXiv:1907.02129), which keeps a
table of pointers, one for each row and tap. Because our inputs are padded on the fly (`conv_gather`),
sums of two offsets suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ._jit import jit
from .conv_ahead import fetch_ahead
from .matmul_tile import VECTORS
from .simd import I64, Emitter, intrinsic, lanes
from .target import vector_registers

# How a finished tile meets the output: stored, or added to it.
STORE, ADD = 0, 1

# Heights of the tiles by the width in vectors: tall ones for the bulk, lower ones for the rest.
# The sums fill the register file up to the two or three registers that operands need.
if vector_registers() == 32:
    WIDE_HEIGHTS = (12, 8, 4) if VECTORS == 2 else (8, 4, 2)
    NARROW_HEIGHTS = (28, 14, 6)
else:
    WIDE_HEIGHTS, NARROW_HEIGHTS = (6, 4, 2), (12, 6, 3)
TALLEST = NARROW_HEIGHTS[0]
GROUP = 4  # see `group` in `make_tile`; divides the tallest height


def make_tile(rows: int, vectors: int, *, group: int = 1) -> Any:
    """An intrinsic for a tile of `rows` x `vectors`:

    tile(count, a, tables, row_at, step_at, b, b_step, c, place_at, m, n, mode, bias, slope)

        sum[i, j] = sum over q < count of a[tables[row_at + i] + tables[step_at + q]] b[q, j]
        c[tables[place_at + i] + j] = f(sum[i, j] + bias[j]),   i < m <= rows, j < n

    `tables` holds 64-bit offsets; those of all `rows` rows are read and must lead to readable
    memory, so rows from m on repeat an offset. b[q, j] lies at b + q * b_step + j, and whole vectors
    of it are read. With mode ADD the former c is added, and there is no bias and no f. f(z) is z for
    z >= 0 and slope * z below; `bias` may be null.

    A tile one vector wide has so many rows that the general registers cannot hold their addresses,
    and fetching them from memory again takes as long as the numbers. With `group` = g, rows must
    come in runs of g that are all equally far apart; then rows / g addresses and g steps make them.
    """

    def tile(
        e: Emitter,
        count: ir.Value,
        a: ir.Value,
        tables: ir.Value,
        row_at: ir.Value,
        step_at: ir.Value,
        b: ir.Value,
        b_step: ir.Value,
        c: ir.Value,
        place_at: ir.Value,
        m: ir.Value,
        n: ir.Value,
        mode: ir.Value,
        bias: ir.Value,
        slope: ir.Value,
    ) -> None:
        def entry(position: ir.Value, i: int) -> ir.Value:
            return e.builder.load(e.at(e.at(tables, position), i))

        def step_of(q: ir.Value | int) -> ir.Value:
            # Each round carries the next round's step, so that it is there when the loads begin.
            # LLVM undoes that, and then wants all loads before all sums, which do not fit into the
            # registers together. It lets atomic loads alone; they cost nothing.
            return e.builder.load_atomic(e.at(e.at(tables, step_at), q), "monotonic", 8)

        starts = [e.at(a, entry(row_at, i)) for i in range(0, rows, group)]
        apart = e.builder.sub(entry(row_at, 1), entry(row_at, 0)) if group > 1 else I64(0)
        shifts = [e.builder.mul(apart, I64(i)) for i in range(group)]

        def update(q: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            b, step, *sums = carried
            b_vectors = [e.load(e.at(b, j * e.lanes)) for j in range(vectors)]
            following = []
            steps = [e.builder.add(step, shift) for shift in shifts] if group > 1 else [step]
            for i in range(rows):
                source = e.at(starts[i // group], steps[i % group])
                value = e.splat(e.load_scalar(source))
                for j in range(vectors):
                    following.append(e.fma(value, b_vectors[j], sums[i * vectors + j]))
            return [e.at(b, b_step), step_of(e.builder.add(q, I64(1))), *following]

        first = [b, step_of(0), *[e.zero] * (rows * vectors)]
        _, _, *sums = e.loop(count, first, update, unroll=False)
        targets = [e.at(c, entry(place_at, i)) for i in range(rows)]
        grouped = [sums[i * vectors : (i + 1) * vectors] for i in range(rows)]
        _finish(e, grouped, targets, m, n, mode, bias, slope)

    return intrinsic(tile)


def _finish(
    e: Emitter,
    sums: list[list[ir.Value]],
    targets: list[ir.Value],
    m: ir.Value,
    n: ir.Value,
    mode: ir.Value,
    bias: ir.Value,
    slope: ir.Value,
) -> None:
    """Writes the tile: whole tiles without questions, those at an edge under masks."""
    builder = e.builder
    rows, vectors = len(sums), len(sums[0])
    inside = [e.mask(builder.sub(n, I64(j * e.lanes))) for j in range(vectors)]
    # A masked load yields 0 where it does not read: what an absent bias adds. Processors are slow to
    # suppress the fault of a masked load at a bad address, so c stands in for an absent bias.
    has_bias = builder.icmp_unsigned("!=", builder.ptrtoint(bias, I64), I64(0))
    bias = builder.select(has_bias, bias, targets[0])
    biases = [
        e.masked_load(e.at(bias, j * e.lanes), builder.and_(inside[j], e.splat(has_bias)))
        for j in range(vectors)
    ]
    is_relu = e.splat(builder.fcmp_ordered("==", slope, e.element(0.0)))
    slopes = e.splat(slope)

    def activate(value: ir.Value) -> ir.Value:
        # 0 * -inf would be NaN, so relu chooses a zero instead of multiplying by one.
        lower = e.select(is_relu, e.zero, e.mul(slopes, value))
        is_negative = builder.fcmp_ordered("<", value, e.zero)  # False for NaN: it passes
        return e.select(is_negative, lower, value)

    def whole(add: bool, bend: bool) -> None:
        for target, values in zip(targets, sums, strict=True):
            for j, value in enumerate(values):
                place = e.at(target, j * e.lanes)
                value = e.add(value, e.load(place) if add else biases[j])
                e.store(activate(value) if bend else value, place)

    done = builder.append_basic_block("done")

    def branch(condition: ir.Value, then: Callable[[], None]) -> None:
        inside, outside = builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(condition, inside, outside)
        builder.position_at_end(inside)
        then()
        builder.branch(done)
        builder.position_at_end(outside)

    is_whole = builder.and_(
        builder.icmp_signed("==", m, I64(rows)),
        builder.icmp_signed("==", n, I64(vectors * e.lanes)),
    )
    is_linear = builder.fcmp_ordered("==", slope, e.element(1.0))
    adds = builder.icmp_signed("==", mode, I64(ADD))
    branch(builder.and_(is_whole, adds), lambda: whole(True, False))
    branch(builder.and_(is_whole, is_linear), lambda: whole(False, False))
    branch(is_whole, lambda: whole(False, True))
    adding = e.splat(adds)
    for i, (target, values) in enumerate(zip(targets, sums, strict=True)):
        exists = builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", I64(i), m), exists, done)
        builder.position_at_end(exists)
        for j, value in enumerate(values):
            place = e.at(target, j * e.lanes)
            former = e.masked_load(place, builder.and_(inside[j], adding))
            value = activate(e.add(e.add(value, former), biases[j]))
            e.masked_store(value, place, inside[j])
    builder.branch(done)
    builder.position_at_end(done)


_WIDE = tuple(make_tile(rows, VECTORS) for rows in WIDE_HEIGHTS)
_NARROW = tuple(make_tile(rows, 1) for rows in NARROW_HEIGHTS)
_NARROW_GROUPED = make_tile(NARROW_HEIGHTS[0], 1, group=GROUP)


def _make_sweep(tiles: tuple, heights: tuple[int, int, int]) -> Callable:
    """A function that covers m rows with tiles, the rest with the lowest one that holds it."""
    tall, middle, low = tiles
    most, fewer, least = heights

    def sweep(
        q, a, tables, row_at, step_at, b, b_step, c, place_at, ahead_at, m, n, mode, bias, slope
    ):
        for i in range(0, m, most):
            rows, at, to = min(most, m - i), row_at + i, place_at + i
            fetch_ahead(tables, ahead_at, a)
            if rows > fewer:
                tall(q, a, tables, at, step_at, b, b_step, c, to, rows, n, mode, bias, slope)
            elif rows > least:
                middle(q, a, tables, at, step_at, b, b_step, c, to, rows, n, mode, bias, slope)
            else:
                low(q, a, tables, at, step_at, b, b_step, c, to, rows, n, mode, bias, slope)

    return jit(cache=False)(sweep)


_sweep_wide = _make_sweep(_WIDE, WIDE_HEIGHTS)
_sweep_narrow = _make_sweep(_NARROW, NARROW_HEIGHTS)


@jit(cache=False)
def sweep_dense(
    q,
    a,
    tables,
    row_at,
    step_at,
    b,
    b_step,
    c,
    place_at,
    ahead_at,
    m,
    n,
    grouped,
    mode,
    bias,
    slope,
):
    """Covers m rows with tiles (see `make_tile` for the arguments), the rest with the lowest one that
    holds it. `grouped` says that the rows come in equally spaced runs of GROUP. At `ahead_at` in the
    tables are two streams that the tiles fetch (see `conv_ahead`)."""
    if n > lanes(b):
        _sweep_wide(
            q, a, tables, row_at, step_at, b, b_step, c, place_at, ahead_at, m, n, mode, bias, slope
        )
        return
    done = 0
    if grouped:
        tall = NARROW_HEIGHTS[0]
        done = m // tall * tall
        for i in range(0, done, tall):
            fetch_ahead(tables, ahead_at, a)
            _NARROW_GROUPED(
                q, a, tables, row_at + i, step_at, b, b_step, c, place_at + i, tall, n,
                mode, bias, slope,
            )  # fmt: skip
    _sweep_narrow(
        q, a, tables, row_at + done, step_at, b, b_step, c, place_at + done, ahead_at, m - done, n,
        mode, bias, slope,
    )  # fmt: skip
