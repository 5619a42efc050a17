"""The scatter-add behind an embedding against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl_kernels import cpu, reference

from .comparison import (
    DTYPES,
    SEEDS,
    amid_canaries,
    assert_close,
    double,
    few,
    for_each_thread_count,
)

SHAPES = st.sampled_from([(0,), (1,), (50,), (3, 7), (2, 3, 4)])


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(shape=SHAPES, rows=st.integers(1, 9), width=st.integers(1, 70), seed=SEEDS)
def test_equals_its_definition(dtype, shape, rows, width, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(rows, size=shape)
    grad = rng.standard_normal((*shape, width)).astype(dtype)
    table = rng.standard_normal((rows, width)).astype(dtype)
    out, check = amid_canaries(table)
    assert cpu.embedding_grad(indices, grad, out) is out
    check()
    assert_close(out, reference.embedding_grad(indices, *double(grad, table)), 64)


def test_one_index_many_times_with_any_number_of_threads():
    rng = np.random.default_rng(0)
    indices = rng.integers(3, size=2000).astype(np.uint8)
    grad = rng.standard_normal((2000, 150)).astype(np.float32)

    def run():
        return cpu.embedding_grad(indices, grad, np.zeros((3, 150), np.float32))

    first, *others = for_each_thread_count(run)
    assert_close(first, reference.embedding_grad(indices, *double(grad), np.zeros((3, 150))), 200)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_strided_arrays_and_nan():
    grad = np.arange(24, dtype=np.float32).reshape(4, 6)
    grad[1, 2] = np.nan
    wide = np.zeros((10, 6), np.float32)
    cpu.embedding_grad(np.array([1, 9, 3, 9])[::-2], grad[::2, ::2], wide[:, ::2])
    want = reference.embedding_grad(np.array([9, 9]), grad[::2, ::2], np.zeros((10, 3)))
    np.testing.assert_array_equal(wide[:, ::2], want)
    assert not wide[:, 1::2].any()
    out = cpu.embedding_grad(np.array([0, 1, 1, 0]), grad, np.zeros((2, 6), np.float32))
    assert np.isnan(out[1, 2]) and np.isnan(out).sum() == 1


def test_bad_input_is_named():
    grad, out = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match=r"indices must lie in \[0, 4\)"):
            cpu.embedding_grad(np.array([0, wrong]), grad, out)
    with pytest.raises(TypeError, match="indices must be integers, not float64"):
        cpu.embedding_grad(np.zeros(2), grad, out)
    with pytest.raises(ValueError, match=r"grad must have shape \(3, 3\), not \(2, 3\)"):
        cpu.embedding_grad(np.zeros(3, int), grad, out)
    with pytest.raises(ValueError, match=r"out must have shape \(V, D\)"):
        cpu.embedding_grad(np.zeros(2, int), grad, out[0])
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        cpu.embedding_grad(np.zeros(2, int), grad, out)
