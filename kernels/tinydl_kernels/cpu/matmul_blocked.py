"""The loops around the register tile: one matrix product of any shape and any strides, one thread.

    for each block of NC columns of B
        for each block of KC rows of it              pack B's block: it stays in the L2 cache
            for each few panels of MR rows of A      pack them: each moves to the L1 cache in turn
                for each panel
                    for each NR columns of the block     register tile: MR x NR of C

Every number of the packed block of B is read from L2 once for each panel of A, and feeds 2 MR
floating-point operations there; A's panel is read from L1 all along. C is read and written once for
each KC, so KC is as large as L1 allows. This is the order of Goto & van de Geijn (see `matmul_tile`)
with the roles of A and B exchanged, since our matrices are stored by rows.
"""

from __future__ import annotations

from ._jit import native_for_floats
from .matmul_packing import add_column_sums, pack_a, pack_b, panel_a_size
from .matmul_problem import (
    ALPHA,
    BIAS,
    BIAS_GRAD,
    DONE,
    KC,
    LONGEST_SKINNY,
    NC,
    SCRATCH,
    C,
    as_float,
    extras,
    operands,
)
from .matmul_tile import HEIGHTS, MR, VECTORS, make_tile
from .simd import advance, itemsize, lanes, pointer
from .target import cache_bytes, vector_bytes

_FULL, _MIDDLE, _LOW = (make_tile(rows, VECTORS) for rows in HEIGHTS)
_FULL_NARROW, _MIDDLE_NARROW, _LOW_NARROW = (make_tile(rows, 1) for rows in HEIGHTS)
MIDDLE, LOW = HEIGHTS[1], HEIGHTS[2]
# Panels of A that are packed at a time. They lie in L2; one after the other moves to L1.
PANELS = 8


def multiply_blocked(fields, workspace):
    """C = f(alpha A B + beta C + bias); see `make_tile` for f. `workspace` has room for a block of
    B and a few panels of A (`workspace_size`); its type says what the elements are."""
    a, a_row, a_col, b, b_row, b_col, m, k, n = operands(fields, workspace)
    c, c_row = pointer(workspace, fields[C]), fields[C + 3] // itemsize(workspace)
    alpha = as_float(fields[ALPHA])

    width = VECTORS * lanes(workspace)
    # Blocks of equal height: 400 = 200 + 200 rather than 384 + 16.
    blocks = max(1, -(-k // fields[KC]))
    kc = max(8, (-(-k // blocks) + 7) // 8 * 8)
    nc = fields[NC]
    panels_a = workspace
    panels_b = advance(workspace, PANELS * panel_a_size(workspace, kc))

    for jc in range(0, n, nc):
        n_here = min(nc, n - jc)
        for pc in range(0, max(k, 1), kc):
            k_here = min(kc, k - pc)
            mode, beta, slope, has_bias = extras(fields, pc == 0, pc + kc >= k)
            pack_b(advance(b, pc * b_row + jc * b_col), b_row, b_col, k_here, n_here, panels_b)
            if fields[BIAS_GRAD + 1] != 0:
                sums = advance(pointer(workspace, fields[BIAS_GRAD]), jc)
                add_column_sums(panels_b, k_here, n_here, sums)

            for ic in range(0, m, PANELS * MR):
                m_here = min(PANELS * MR, m - ic)
                block_a = advance(a, ic * a_row + pc * a_col)
                pack_a(block_a, a_row, a_col, m_here, k_here, panels_a)
                for i in range(0, m_here, MR):
                    panel_a = advance(panels_a, i // MR * panel_a_size(workspace, k_here))
                    rows = min(MR, m_here - i)
                    for j in range(0, n_here, width):
                        columns = min(width, n_here - j)
                        panel_b = advance(panels_b, j * k_here)
                        bias = pointer(workspace, 0)
                        if has_bias:
                            bias = advance(pointer(workspace, fields[BIAS]), jc + j)
                        tile = (
                            k_here, panel_a, 1, MR, panel_b, width,
                            advance(c, (ic + i) * c_row + jc + j), c_row, rows, columns,
                        )  # fmt: skip
                        # The smallest tile for rows x columns; all but the first are for edges.
                        if columns > lanes(workspace):
                            if rows > MIDDLE:
                                _FULL(*tile, mode, alpha, beta, bias, slope)
                            elif rows > LOW:
                                _MIDDLE(*tile, mode, alpha, beta, bias, slope)
                            else:
                                _LOW(*tile, mode, alpha, beta, bias, slope)
                        elif rows > MIDDLE:
                            _FULL_NARROW(*tile, mode, alpha, beta, bias, slope)
                        elif rows > LOW:
                            _MIDDLE_NARROW(*tile, mode, alpha, beta, bias, slope)
                        else:
                            _LOW_NARROW(*tile, mode, alpha, beta, bias, slope)
    return DONE


BLOCKED_KERNELS = native_for_floats(multiply_blocked)


def block_sizes(itemsize: int) -> tuple[int, int]:
    """(KC, NC), in elements: a panel of A takes less than half of the L1 cache, where parts of B and
    C pass through as well, and a block of B three quarters of L2, and never more than 3 MiB."""
    l1, l2 = cache_bytes()
    kc = min(l1 * 9 // 20 // (MR * itemsize), 1536 // itemsize) // 8 * 8
    width = VECTORS * vector_bytes() // itemsize
    nc = min(l2 * 3 // 4, 3 << 20) // (kc * itemsize) // width * width
    return kc, max(nc, width)


def workspace_size(itemsize: int) -> int:
    """Elements that the kernels need at most: two packed blocks with their slack, or the scratch tile
    and the packed columns of `matmul_skinny`."""
    kc, nc = block_sizes(itemsize)
    lanes = vector_bytes() // itemsize
    width = VECTORS * lanes
    blocked = PANELS * MR * (kc + lanes) + nc * kc + width * lanes
    return max(blocked, SCRATCH + LONGEST_SKINNY * width)
