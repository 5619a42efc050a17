"""Convolutions touch no byte outside their arrays, whatever their geometry and places in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from guarded import guarded, run


@pytest.mark.skipif(sys.platform == "win32", reason="memory is protected by mprotect")
def test_nothing_outside_is_touched():
    run(__file__)


def filled(rng, shape, dtype, at_end):
    array = guarded(shape, dtype, at_end=at_end)
    array[...] = rng.standard_normal(shape)
    return array


def check(rng, case, dtype, at_end):
    from tinydl_kernels import cpu, reference

    batch, size, channels, filters, taps, strides, padding, groups = case
    arguments = {"strides": strides, "padding": padding, "dilation": 1, "groups": groups}
    print(case, dtype, at_end, flush=True)  # the last line before a crash
    x = filled(rng, (batch, size, size + 1, channels), dtype, at_end)
    w = filled(rng, (taps, taps, channels // groups, filters), dtype, at_end)
    bias = filled(rng, (filters,), dtype, at_end)
    y = guarded(reference.conv2d(x, w, **arguments).shape, dtype, at_end=at_end)
    cpu.conv2d(x, w, bias=bias, activation="relu", out=y, **arguments)
    want = reference.conv2d(x, w, bias=bias, activation="relu", **arguments)
    np.testing.assert_allclose(y, want, rtol=1e-3, atol=1e-3)
    dx = guarded(x.shape, dtype, at_end=at_end)
    cpu.conv2d_grad_input(y, w, x.shape, out=dx, **arguments)
    want = reference.conv2d_grad_input(y, w, x.shape, **arguments)
    np.testing.assert_allclose(dx, want, rtol=1e-3, atol=1e-2)
    dw, db = guarded(w.shape, dtype, at_end=at_end), filled(rng, (filters,), dtype, at_end)
    cpu.conv2d_grad_weight(x, y, w.shape, out=dw, bias_grad=db, **arguments)
    want = reference.conv2d_grad_weight(x, y, w.shape, **arguments)
    np.testing.assert_allclose(dw, want, rtol=1e-3, atol=1e-2)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    for i in range(240):
        taps = int(rng.choice([1, 2, 3, 5]))
        groups = int(rng.choice([1, 1, 2]))
        channels = groups * int(rng.choice([1, 3, 4, 8, 15, 16, 17, 32]))
        if i % 5 == 0:
            groups = channels
        filters = groups * int(rng.choice([1, 2, 6, 15, 16, 17, 33] if groups < 8 else [1, 2]))
        case = (
            int(rng.integers(1, 4)),
            taps + int(rng.integers(0, 12)),
            channels,
            filters,
            taps,
            int(rng.choice([1, 1, 2, 3])),
            str(rng.choice(["valid", "same"])),
            groups,
        )
        check(rng, case, ("float32", "float64")[i % 2], bool(i // 2 % 2))
