"""Arrays that end (or begin) exactly at a page which the operating system forbids to touch.

Compiled kernels check no bounds, so a read or write beyond an array usually goes unnoticed. Next to
such a page the process dies of it at once. Tests therefore run in a process of their own: see `run`.
"""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np

PAGE = mmap.PAGESIZE
_mappings: list[mmap.mmap] = []  # a mapping must not be released while an array lies in it


def guarded(shape, dtype, strides=None, *, at_end: bool = True) -> np.ndarray:
    """An array of NaN (strides in elements; default: by rows) in memory exactly as long as it needs,
    with a forbidden page after it (`at_end`) or before it."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    span = 1 + sum(int((size - 1) * stride) for size, stride in zip(shape, strides, strict=True))
    itemsize = np.dtype(dtype).itemsize
    pages = -(-span * itemsize // PAGE)
    mapping = mmap.mmap(-1, (pages + 2) * PAGE)
    _mappings.append(mapping)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for page in (0, pages + 1):
        address = ctypes.c_void_p(start + page * PAGE)
        if protect(address, ctypes.c_size_t(PAGE), 0) != 0:  # PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = (pages + 1) * PAGE - span * itemsize if at_end else PAGE
    flat = np.frombuffer(mapping, dtype, span, offset)
    flat[...] = np.nan
    steps = tuple(stride * itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=True)


def guarded_copy(x: np.ndarray, order: str = "rows", *, at_end: bool = True) -> np.ndarray:
    """A copy of a matrix: by "rows", by "columns", or by "wide rows" that are further apart."""
    m, n = x.shape
    strides = {"rows": (n, 1), "columns": (1, m), "wide rows": (n + 3, 1)}[order]
    copy = guarded(x.shape, x.dtype, strides, at_end=at_end)
    copy[...] = x
    return copy


def run(file: str) -> None:
    """Run a test file as a script; it dies by a signal if anything forbidden was touched."""
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, file], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, (
        f"ended with {result.returncode} (negative: by that signal)\n"
        f"{result.stdout[-1000:]}\n{result.stderr[-2000:]}"
    )
