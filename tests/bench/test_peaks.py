"""The kernels behind the peaks do the work that is counted."""

import numpy as np
import pytest

from tinydl.bench import peaks
from tinydl_kernels.cpu.target import vector_bytes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_chains_are_multiply_adds(dtype):
    """z <- z x0 + x1, ``rounds`` times in each of CHAINS chains, on every lane; one rounding each."""
    x, rounds = np.array([0.75, 0.5], dtype), 9
    z = np.array([1.0 + i / 64 for i in range(peaks.CHAINS)])
    for _ in range(rounds):
        z = z * 0.75 + 0.5
    lanes = vector_bytes() // x.itemsize
    assert peaks.chains(x, rounds, 1) == pytest.approx(lanes * z.sum(), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_triad_reaches_every_element_and_none_beyond(dtype):
    vectors = 2 * peaks.UNROLLED
    count = vectors * vector_bytes() // np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    arrays = peaks.aligned_ones((1, 3, count + 16), dtype)
    arrays[...] = rng.standard_normal(arrays.shape)
    before = arrays.copy()
    peaks.triad(arrays[:, :, :count], arrays.dtype.type(0.5), vectors, 2)
    a, b, c = before[0]
    a[:count] = (b + np.dtype(dtype).type(0.5) * c)[:count]
    np.testing.assert_allclose(arrays[0], [a, b, c], rtol=1e-6)


def test_arrays_begin_at_a_cache_line():
    for shape in ((1, 3, 5), (2, 3, 17)):
        array = peaks.aligned_ones(shape, "float32")
        assert array.ctypes.data % 64 == 0 and array.shape == shape and (array == 1).all()


def test_cache_levels_grow():
    sizes = list(peaks.cache_levels().values())
    assert sizes == sorted(sizes) and sizes[0] >= 4 << 10


def test_best_is_the_fastest_run(monkeypatch):
    now, takes = [0.0], iter([9.0, 5.0, 3.0, 7.0, *[8.0] * 20])

    def run():
        now[0] += next(takes)

    monkeypatch.setattr(peaks.time, "perf_counter", lambda: now[0])
    assert peaks.best(run, 0.0) == 3.0
