"""The passes of DAS equal their definitions, for layers that lie anywhere and in any number of pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tinydl_kernels import cpu, reference


@st.composite
def layers(draw):
    """(arrays, pieces, number of layers): layers with gaps between them, some cut into pieces."""
    sizes = draw(st.lists(st.integers(1, 300), min_size=1, max_size=5))
    cut = draw(st.sampled_from([7, 64, 1000]))
    pieces, end = [], 0
    for layer, size in enumerate(sizes):
        start = end + draw(st.integers(0, 5))
        end = start + size
        pieces += [(layer, k, min(k + cut, end)) for k in range(start, end, cut)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    arrays = {name: rng.normal(size=end + 3).astype(dtype) for name in ("w", "x", "g", "m")}
    arrays["v"] = (rng.random(end + 3) ** 4).astype(dtype)
    return arrays, np.array(pieces, np.int64), len(sizes)


def tolerance(arrays):
    return 2e-5 if arrays["w"].dtype == np.float32 else 1e-12


@settings(max_examples=30, deadline=None)
@given(layers(), st.integers(1, 50))
def test_moments(drawn, step):
    arrays, pieces, count = drawn
    scales = np.linspace(0.5, 2.0, count)
    results = []
    for module in (reference, cpu):
        w, g, m, v = (arrays[name].copy() for name in "wgmv")
        sums = module.das_moments(w, g, m, v, pieces, scales, 0.9, 0.99, 1e-8, step)
        results.append((sums, m, v))
        assert_array_equal(w, arrays["w"])
    for defined, got in zip(*results, strict=True):
        bound = np.abs(defined).max() + 1e-30
        assert_allclose(got / bound, defined / bound, atol=tolerance(arrays))


@settings(max_examples=30, deadline=None)
@given(layers(), st.integers(1, 50))
def test_apply_and_norms(drawn, step):
    arrays, pieces, count = drawn
    rates, decays = np.linspace(0.01, 0.1, count), np.linspace(0, 0.1, count)
    results = []
    for module in (reference, cpu):
        w, x, m, v = (arrays[name].copy() for name in "wxmv")
        module.das_apply(w, x, m, v, pieces, rates, decays, 0.3, 0.9, 0.99, 1e-3, step)
        results.append((w, x, module.das_norms(arrays["g"], pieces, count)))
    for defined, got in zip(*results, strict=True):
        assert_allclose(got, defined, rtol=tolerance(arrays), atol=tolerance(arrays))
    outside = np.ones(len(arrays["w"]), bool)
    for _, start, stop in pieces:
        outside[start:stop] = False
    for name, after in zip("wx", results[1], strict=False):
        assert_array_equal(after[outside], arrays[name][outside])


def test_threads_change_no_bit():
    from tinydl_kernels.cpu import das

    rng = np.random.default_rng(0)
    size, rows = 70_000, range(0, 70_000, 8192)
    pieces = np.array([(0, k, min(k + 8192, size)) for k in rows], np.int64)
    grad = rng.normal(size=size).astype("f4")
    sums = np.zeros((2, len(pieces), 1))
    das._NORMS.serial(grad, pieces, sums[0])
    das._NORMS.threaded(grad, pieces, sums[1])
    assert_array_equal(sums[0], sums[1])


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (np.zeros((1, 2), np.int64), "rows of three int64"),
        (np.zeros((1, 3)), "rows of three int64"),
        (np.array([[0, 0, 9]]), r"lie in \[0, 8\]"),
        (np.array([[0, -1, 4]]), r"lie in \[0, 8\]"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(pieces, message):
    with pytest.raises(ValueError, match=f"das_norms: pieces must.*{message}"):
        cpu.das_norms(np.zeros(8), pieces, 1)


def test_layers_without_a_number_are_refused():
    pieces = np.array([[0, 0, 4], [1, 4, 8]])
    with pytest.raises(ValueError, match=r"das_norms: pieces name layers outside 0 \.\.\. 0"):
        cpu.das_norms(np.zeros(8), pieces, 1)


@settings(max_examples=20, deadline=None)
@given(layers())
def test_sizes(drawn):
    arrays, pieces, count = drawn
    defined, got = (m.das_sizes(arrays["w"], arrays["g"], pieces, count) for m in (reference, cpu))
    assert_allclose(got, defined, rtol=tolerance(arrays), atol=tolerance(arrays))


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize("kappa", [10.0, np.inf])
@pytest.mark.parametrize("relative", [True, False])
def test_numbers_of_layers(step, kappa, relative):
    """Layers as usual, an outlier, one that had no gradient so far, one that has none, an infinitesimal one."""
    squares, sizes = np.array([4.0, 9e4, 16.0, 0.0, 1e-300]), np.array([4.0, 9.0, 1.0, 2.0, 3.0])
    state = np.array(
        [[0.5, 2.0, 0.0, 1.0, 0.0], [1.0, 3.0, 0.0, 2.0, 0.0], [0.1, 1.0, 0.5, 0.3, 0.2]]
    )
    sums, floors = np.random.default_rng(0).random((5, 4)), np.full(5, 0.1)
    results = []
    for module in (reference, cpu):
        own = state.copy()
        units = module.das_units(squares, sizes, own, kappa, 0.99, step)
        slopes = module.das_slopes(sums, sizes, floors, own, relative)
        results.append((units, own, slopes))
    for defined, got in zip(*results, strict=True):
        assert_allclose(got, defined, rtol=1e-12)
    units, after, _ = results[1]
    clipped = step > 1 and kappa == 10
    assert (units[1] * 100 < 99 / 3) == clipped
    assert units[3] == 1 / 2 and np.isfinite(np.float32(units)).all()
    assert relative == bool((after[2] != 1).all())
