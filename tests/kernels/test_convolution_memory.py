"""The convolutions touch no byte outside their arrays, whatever their shapes and places in memory."""

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


def check(rng, dtype, at_end):
    from tinydl_kernels import cpu, reference
    from tinydl_kernels.cpu import conv_depthwise, convolution

    def place(shape, values=None):
        array = guarded(tuple(shape), dtype, at_end=at_end)
        array[...] = rng.standard_normal(shape) if values is None else values
        return array

    # Let small arrays go the ways of large ones.
    convolution.SMALL_PRODUCT = conv_depthwise.NEAR_BYTES = 0
    groups = int(rng.choice([1, 1, 1, 2]))
    channels, filters = (
        groups * rng.choice([1, 3, 8, 16, 20], 1)[0],
        groups * rng.choice([1, 6, 15, 16, 17, 32, 33], 1)[0],
    )
    if rng.random() < 0.4:
        groups = channels = filters = int(rng.choice([5, 16, 17, 33]))
    window = rng.integers(1, 5, 2)
    if groups == channels > 1:  # each window of a depthwise convolution is compiled for itself
        window = [(3, 3), (1, 2), (4, 3)][rng.integers(3)]
    kernel_shape = (*window, channels // groups, filters)
    shape = (rng.integers(1, 4), *rng.integers(4, 15, 2), channels)
    shape, kernel_shape = tuple(map(int, shape)), tuple(map(int, kernel_shape))
    options = {
        "strides": int(rng.integers(1, 4)),
        "padding": ["valid", "same", 2, ((1, 0), (0, 3))][rng.integers(4)],
        "groups": groups,
    }
    print(shape, kernel_shape, options, dtype, at_end, flush=True)  # the last line before a crash
    x, w, bias = place(shape), place(kernel_shape), place((filters,))
    want = reference.conv2d(x, w, bias=bias, **options)
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    y = cpu.conv2d(x, w, bias=bias, out=place(want.shape), **options)
    np.testing.assert_allclose(y, want, **tolerance)
    grad = place(want.shape)
    dx = cpu.conv2d_grad_input(grad, w, shape, out=place(shape), **options)
    np.testing.assert_allclose(
        dx, reference.conv2d_grad_input(grad, w, shape, **options), **tolerance
    )
    sums = place((filters,), 0)
    dw = cpu.conv2d_grad_weight(
        x, grad, kernel_shape, out=place(kernel_shape), bias_grad=sums, **options
    )
    np.testing.assert_allclose(
        dw, reference.conv2d_grad_weight(x, grad, kernel_shape, **options), **tolerance
    )
    np.testing.assert_allclose(sums, grad.sum(axis=(0, 1, 2)), **tolerance)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    for i in range(300):
        check(rng, ("float32", "float64")[i % 2], bool(i // 2 % 2))
