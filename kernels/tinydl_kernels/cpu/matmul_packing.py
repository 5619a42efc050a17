"""Packing: blocks of A and B are copied into the order in which the register tile reads them.

A panel of A holds MR rows, a panel of B NR columns, and both lie k after k:

    packed_a = A[0, 0], A[1, 0], ..., A[MR-1, 0],  A[0, 1], A[1, 1], ...
    packed_b = B[0, 0], B[0, 1], ..., B[0, NR-1],  B[1, 0], B[1, 1], ...

The copy costs M K or K N moves against M N K multiply-adds and buys much: the innermost loop reads
memory strictly forward, touches few pages, and needs one code for all four transposes, since it is
the packing that knows how a matrix is stored. Along rows it is a plain copy; against them, square
blocks of lanes x lanes numbers are transposed in registers; any other pair of strides goes number by
number.

Packers may write up to `lanes` rows of a panel beyond its end. Panels of A have slack there; panels
of B are written in ascending order, so that each overwrites what the one before left.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ._jit import jit
from .matmul_tile import MR, VECTORS
from .simd import I64, Emitter, advance, intrinsic, lanes, prefetch
from .target import vector_bytes


def transposed_block(e: Emitter, rows: list[ir.Value]) -> list[ir.Value]:
    """The columns of a square block of lanes x lanes numbers, given by its rows.

    In two steps, because shuffles within 128-bit sections of a register are cheaper than those
    across: first the small blocks that fit into a section, then whole sections change places.
    """
    section = 16 // e.itemsize  # 4 float32 or 2 float64
    sections = e.lanes // section
    columns: list[ir.Value] = [None] * e.lanes
    groups = [_within_sections(e, rows[g * section : (g + 1) * section]) for g in range(sections)]
    for c in range(section):
        for s, column in enumerate(_across_sections(e, [group[c] for group in groups])):
            columns[s * section + c] = column
    return columns


def _within_sections(e: Emitter, rows: list[ir.Value]) -> list[ir.Value]:
    """Each 128-bit section, a square block of 4 or 2 rows, is transposed by itself."""
    section = len(rows)

    def interleave(a: ir.Value, b: ir.Value, size: int, half: int) -> ir.Value:
        """Pieces of `size` lanes in turn from a and b, out of one half of every section."""
        order = []
        for start in range(0, e.lanes, section):
            for piece in range(section // 2 // size):
                first = start + half * section // 2 + piece * size
                order += [first + i for i in range(size)]
                order += [e.lanes + first + i for i in range(size)]
        return e.shuffle(a, b, order)

    if section == 2:
        return [interleave(rows[0], rows[1], 1, half) for half in (0, 1)]
    pairs = [[interleave(rows[i], rows[i + 1], 1, half) for half in (0, 1)] for i in (0, 2)]
    return [interleave(pairs[0][c // 2], pairs[1][c // 2], 2, c % 2) for c in range(4)]


def _across_sections(e: Emitter, rows: list[ir.Value]) -> list[ir.Value]:
    """Section s of row r becomes section r of row s."""
    if len(rows) == 1:
        return rows
    section = 16 // e.itemsize

    def sections_of(a: ir.Value, b: ir.Value, parity: int) -> ir.Value:
        """The even (parity 0) or odd (1) sections of a, then those of b."""
        order = []
        for base in (0, e.lanes):
            for start in range(parity * section, e.lanes, 2 * section):
                order += [base + start + i for i in range(section)]
        return e.shuffle(a, b, order)

    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    even = _across_sections(e, [sections_of(a, b, 0) for a, b in pairs])
    odd = _across_sections(e, [sections_of(a, b, 1) for a, b in pairs])
    return [column for pair in zip(even, odd, strict=True) for column in pair]


def _make_transposer(height: int | None = None, vectors: int | None = None) -> Any:
    """An intrinsic: transpose(source, row, m, count, target)

        target[p * stride + i] = source[i * row + p],  i < m <= height, p < count <= lanes

    For A: `height` = stride = MR. For B: one of `vectors` side by side, so that the height is a
    vector and the stride the width of the panel.
    """

    def transpose(
        e: Emitter, source: ir.Value, row: ir.Value, m: ir.Value, count: ir.Value, target: ir.Value
    ) -> None:
        rows_used = height or e.lanes
        stride = height or vectors * e.lanes
        mask = e.mask(count)
        last = e.builder.sub(m, I64(1))

        def read(i: int) -> ir.Value:
            if i >= rows_used:
                return e.zero
            # Rows from m on do not exist: the last one stands in, and its sums go nowhere.
            exists = e.builder.icmp_signed("<", I64(i), m)
            offset = e.builder.mul(e.builder.select(exists, I64(i), last), row)
            return e.masked_load(e.at(source, offset), mask)

        tops = range(0, rows_used, e.lanes)
        blocks = [transposed_block(e, [read(top + i) for i in range(e.lanes)]) for top in tops]
        for column in range(e.lanes):
            for top, block in zip(tops, blocks, strict=True):
                e.store(block[column], e.at(target, column * stride + top))

    return intrinsic(transpose)


def make_copier(width: int | None = None, vectors: int | None = None) -> Any:
    """An intrinsic: copy(source, n, target): n numbers, then zeros up to a width that is given in
    vectors, or in numbers (then rounded up to whole vectors)."""

    def copy(e: Emitter, source: ir.Value, n: ir.Value, target: ir.Value) -> None:
        starts = [j * e.lanes for j in range(vectors or -(-width // e.lanes))]
        parts = [
            e.masked_load(e.at(source, start), e.mask(e.builder.sub(n, I64(start))))
            for start in starts
        ]
        for start, part in zip(starts, parts, strict=True):
            e.store(part, e.at(target, start))

    return intrinsic(copy)


def _make_column_sums(vectors: int) -> Any:
    """An intrinsic: column_sums(k, panel, n, sums): sums[j] += sum_p panel[p, j], j < n."""

    def column_sums(e: Emitter, k: ir.Value, panel: ir.Value, n: ir.Value, sums: ir.Value) -> None:
        def add_row(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            row, *totals = carried
            following = [
                e.add(total, e.load(e.at(row, j * e.lanes))) for j, total in enumerate(totals)
            ]
            return [e.at(row, vectors * e.lanes), *following]

        _, *totals = e.loop(k, [panel, *[e.zero] * vectors], add_row)
        for j, total in enumerate(totals):
            target = e.at(sums, j * e.lanes)
            mask = e.mask(e.builder.sub(n, I64(j * e.lanes)))
            e.masked_store(e.add(e.masked_load(target, mask), total), target, mask)

    return intrinsic(column_sums)


def _make_panel_copier(vectors: int, panels: int = 1) -> Any:
    """An intrinsic: copy_panels(k, source, row, n, target): n numbers of each of k rows, which begin
    at source + p * row, into panels that lie one behind the other.

    With one panel, zeros fill a row up to the panel's width; with several, n is all their columns.
    The loop over k is in here because the masks and targets, made anew for each row, would take longer
    than the copying.
    """

    def copy_panels(
        e: Emitter, k: ir.Value, source: ir.Value, row: ir.Value, n: ir.Value, target: ir.Value
    ) -> None:
        width = vectors * e.lanes
        size = e.builder.mul(k, I64(width))
        targets = [e.at(target, e.builder.mul(size, I64(i))) for i in range(panels)]
        masks = [e.mask(e.builder.sub(n, I64(j * e.lanes))) for j in range(vectors)]
        ahead = e.builder.mul(row, I64(AHEAD))

        def copy_row(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            source, offset = carried
            later = e.at(source, ahead)
            for first in range(0, panels * width, LINE // e.itemsize):
                e.prefetch(e.at(later, first))
            for i, start in enumerate(targets):
                for j in range(vectors):
                    place = e.at(source, i * width + j * e.lanes)
                    part = e.masked_load(place, masks[j]) if panels == 1 else e.load(place)
                    e.store(part, e.at(e.at(start, offset), j * e.lanes))
            return [e.at(source, row), e.builder.add(offset, I64(width))]

        e.loop(k, [source, I64(0)], copy_row, unroll=False)

    return intrinsic(copy_panels)


AHEAD = 12  # rows to fetch before they are copied
LINE = 64  # bytes of a cache line
# Panels of B that are filled at a time: 512 bytes of each row.
ABREAST = 512 // (VECTORS * vector_bytes())
_rows_of_a = _make_transposer(height=MR)
_column_of_a = make_copier(width=MR)
_columns_of_b = _make_transposer(vectors=VECTORS)
_rows_to_panel = _make_panel_copier(VECTORS)
_rows_to_panels = _make_panel_copier(VECTORS, ABREAST)
_column_sums = _make_column_sums(VECTORS)


@jit(cache=False)
def pack_a(a, a_row, a_col, m, k, panels):
    """All panels of a block of m rows: panel i // MR, which begins at i // MR * panel_a_size(k),
    holds rows i ... i + MR - 1; those from m on are of no meaning."""
    size = panel_a_size(panels, k)
    if a_row == 1:
        # Several panels for each k: reading forward suits the memory better than writing does.
        whole = m // MR
        for p in range(k):
            source, target = advance(a, p * a_col), advance(panels, p * MR)
            prefetch(advance(source, AHEAD * a_col))
            for _ in range(whole):
                _column_of_a(source, MR, target)
                source, target = advance(source, MR), advance(target, size)
            if whole * MR < m:
                _column_of_a(source, m - whole * MR, target)
    elif a_col == 1:
        for i in range(0, m, MR):
            for p in range(0, k, lanes(a)):
                count = min(lanes(a), k - p)
                source = advance(a, i * a_row + p)
                _rows_of_a(source, a_row, m - i, count, advance(panels, i // MR * size + p * MR))
    else:
        for i in range(0, m, MR):
            for p in range(k):
                for r in range(MR):
                    value = a[(i + r) * a_row + p * a_col] if i + r < m else 0
                    panels[i // MR * size + p * MR + r] = value


@jit(cache=False)
def panel_a_size(a, k):
    """Elements from one panel of A to the next, with slack behind each."""
    return MR * (k + lanes(a))


@jit(cache=False)
def pack_b(b, b_row, b_col, k, n, panels):
    """All panels of a block: panel j // NR, of k rows, holds columns j ... j + NR - 1."""
    width = VECTORS * lanes(b)
    if b_col == 1:
        # Several panels at a time. Matrices whose rows lie a power of two apart have them all in the
        # same few places of the caches, where not many rows can be on their way from memory: the
        # more of each one is taken, the less that hurts.
        abreast = ABREAST * width
        j = 0
        while j + abreast <= n:
            _rows_to_panels(k, advance(b, j), b_row, abreast, advance(panels, j * k))
            j += abreast
        while j < n:
            _rows_to_panel(k, advance(b, j), b_row, n - j, advance(panels, j * k))
            j += width
    elif b_row == 1:
        for j in range(0, n, width):
            for first in range(j, min(n, j + width), lanes(b)):
                for p in range(0, k, lanes(b)):
                    source = advance(b, first * b_col + p)
                    target = advance(panels, j * k + p * width + first - j)
                    _columns_of_b(source, b_col, n - first, min(lanes(b), k - p), target)
    else:
        for j in range(n):
            panel = advance(panels, j // width * width * k + j % width)
            for p in range(k):
                panel[p * width] = b[p * b_row + j * b_col]


@jit(cache=False)
def add_column_sums(panels, k, n, sums):
    """sums[j] += the sum of column j of a packed block."""
    width = VECTORS * lanes(panels)
    for j in range(0, n, width):
        _column_sums(k, advance(panels, j * k), n - j, advance(sums, j))
