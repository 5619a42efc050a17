"""matmul touches no byte outside its arrays and its workspace, whatever the shapes, the layouts, the
places in memory and the sizes of the caches, on which the size of the workspace depends."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from guarded import guarded, guarded_copy, run

SIZES = (1, 3, 4, 9, 10, 14, 15, 16, 17, 32, 33, 47)
WIDE = (127, 128, 129, 160, 259)  # enough columns that several panels of B are packed at a time


@pytest.mark.skipif(sys.platform == "win32", reason="memory is protected by mprotect")
def test_nothing_outside_is_touched():
    run(__file__)


@pytest.mark.skipif(sys.platform == "win32", reason="memory is protected by mprotect")
def test_the_guard_bites():
    """The test above can fail: one element too far ends the process."""
    code = "from guarded import guarded; import ctypes; x = guarded((5,), 'f4', at_end={})\n"
    code += "ctypes.memmove(x.ctypes.data + {}, x.ctypes.data, 1)"
    import subprocess

    for at_end, offset in ((True, 20), (False, -1)):
        command = [sys.executable, "-c", code.format(at_end, offset)]
        assert subprocess.run(command, cwd=Path(__file__).parent).returncode < 0


def check(rng, m, k, n, orders, dtype, at_end, with_extras):
    from tinydl_kernels import matmul

    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    out = guarded_copy(np.zeros((m, n), dtype), "wide rows", at_end=at_end)
    options, expected = {}, a @ b
    if with_extras:
        options = {name: guarded((n,), dtype, at_end=at_end) for name in ("bias", "bias_grad")}
        options["bias"][...], options["bias_grad"][...] = 1, 0
        options |= {"beta": 1.0, "activation": "relu"}
        expected = np.maximum(expected + 1, 0)
    operands = [
        guarded_copy(x, order, at_end=at_end) for x, order in zip((a, b), orders, strict=True)
    ]
    print(m, k, n, orders, dtype, at_end, with_extras, flush=True)  # the last line before a crash
    matmul(*operands, out, **options)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-2)


def use_caches_of(l1: int, l2: int) -> None:
    """From now on the blocks are those for such caches, and the workspace ends at a guard."""
    from tinydl_kernels.cpu import linear, matmul_blocked

    matmul_blocked.cache_bytes = lambda: (l1, l2)
    linear._aligned = lambda rows, columns, dtype: guarded((rows, columns), dtype)
    linear._plans = linear._Plans()


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    orders = list(itertools.product(("rows", "columns", "wide rows"), repeat=2))
    for i in range(600):
        if i % 200 == 0:
            use_caches_of(
                *((48 << 10, 1 << 20), (16 << 10, 64 << 10), (32 << 10, 2 << 20))[i // 200]
            )
        m, n = rng.choice(SIZES), rng.choice(SIZES + WIDE)
        k = rng.choice([1, 2, 7, 16, 31, 64, 100, 530, 4096])
        dtype = ("float32", "float64")[i % 2]
        check(rng, m, k, n, orders[i % 9], dtype, bool(rng.integers(2)), bool(rng.integers(2)))
