"""Starting the convolution kernels: packed weights, addresses, workspaces, threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import numpy as np
from numba import get_num_threads, prange

from ._jit import NativeKernel, jit
from .matmul_packing import pack_b
from .matmul_tile import VECTORS
from .simd import advance, call_native, pointer
from .target import vector_bytes

# Below this many multiply-adds, waking other threads takes longer than they save.
PARALLEL_WORK = 1 << 21

# Packed weights of this size are made at a time: with the window they fit into the caches.
PANEL_BYTES = 2 << 20


_VECTOR_BYTES = vector_bytes()


class _Memory(threading.local):
    """Scratch memory, kept from call to call; each Python thread has its own."""

    def __init__(self) -> None:
        self.workspaces = np.empty((1, 0), np.float64)
        self.panels = np.empty(0, np.uint8)

    def rows(self, count: int, size: int) -> np.ndarray:
        """`count` workspaces of at least `size` bytes."""
        if (
            len(self.workspaces) < count
            or self.workspaces.itemsize * self.workspaces.shape[1] < size
        ):
            # A row is no multiple of a page, lest two threads' rows fall into the same sets.
            width = -(-size // 4096) * 512 + 8
            self.workspaces = _aligned(count * width * 8).view(np.float64).reshape(count, width)
        return self.workspaces[:count]

    def weights(self, size: int, dtype: np.dtype) -> np.ndarray:
        if self.panels.nbytes < size * dtype.itemsize:
            self.panels = _aligned(size * dtype.itemsize)
        return self.panels[: size * dtype.itemsize].view(dtype)


def _aligned(size: int) -> np.ndarray:
    """So many bytes, beginning with a cache line: a vector that lies in two lines takes two loads."""
    buffer = np.empty(size + 63, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size]


memory = _Memory()


def vector_lanes(dtype: np.dtype) -> int:
    return _VECTOR_BYTES // dtype.itemsize


def columns_at_a_time(taps: int, itemsize: int) -> int:
    """How many columns of a weight matrix of `taps` rows are packed at a time."""
    width = VECTORS * _VECTOR_BYTES // itemsize
    return max(1, PANEL_BYTES // (max(1, taps) * itemsize * width)) * width


def pack_weights(
    w: np.ndarray, offsets: np.ndarray, inner: Sequence[int], columns: Sequence[int]
) -> np.ndarray:
    """The matrix b[(t, c), k] = w[offsets[t] + c * inner[1] + k * columns[1]] in panels, for
    c < inner[0] and k < columns[0]."""
    lanes = vector_lanes(w.dtype)
    width = VECTORS * lanes
    taps = len(offsets) * inner[0]
    panels = memory.weights(-(-columns[0] // width) * width * taps + (lanes + 1) * width, w.dtype)
    _pack(w.ctypes.data, offsets, *inner, *columns, width, panels)
    return panels


@jit
def _pack(w, offsets, inner, inner_step, columns, column_step, width, panels):
    for k in range(0, columns, width):
        for t in range(len(offsets)):
            source = advance(pointer(panels, w), offsets[t] + k * column_step)
            target = advance(panels, (k * len(offsets) + t * width) * inner)
            pack_b(source, inner_step, column_step, inner, min(width, columns - k), target)


def run(
    kernel: NativeKernel,
    fields: np.ndarray,
    shares: Sequence[tuple[int, int]],
    share_at: int,
    workspace_bytes: int,
) -> None:
    """Run the kernel in one thread for each of the `shares`: (first, last), which it gets as the
    fields from `share_at` on. All else in `fields` is the same for every thread."""
    if len(shares) == 1:
        fields[share_at], fields[share_at + 1] = shares[0]
        _start_serial(kernel.address, fields, memory.rows(1, workspace_bytes))
    else:
        table = np.empty((len(shares), fields.size), np.int64)
        table[:] = fields
        table[:, share_at : share_at + 2] = shares
        _start_parallel(kernel.address, table, memory.rows(len(shares), workspace_bytes))


def threads_for(work: int) -> int:
    return get_num_threads() if work > PARALLEL_WORK else 1


def equal_shares(count: int, parts: int, unit: int = 1) -> list[tuple[int, int]]:
    """Cut range(count) into at most `parts` runs whose lengths are multiples of `unit`."""
    if parts == 1:
        return [(0, count)]
    units = -(-count // unit)
    parts = max(1, min(parts, units))
    cuts = [min(count, units * i // parts * unit) for i in range(parts + 1)]
    return list(itertools.pairwise(cuts))


@jit
def _start_serial(kernel, fields, workspaces):
    call_native(kernel, fields.ctypes.data, workspaces.ctypes.data)


@jit(parallel=True)
def _start_parallel(kernel, fields, workspaces):
    for i in prange(len(fields)):
        call_native(kernel, fields[i].ctypes.data, workspaces[i].ctypes.data)
