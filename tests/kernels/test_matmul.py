"""matmul equals its definition: for any shape, any memory layout, any extra, any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl_kernels import matmul, reference
from tinydl_kernels.cpu import matmul_threads

TYPES = ("float32", "float64")
# Numbers that lie on either side of a tile, of a vector, and of the limits between the kernels.
sizes = st.sampled_from([1, 2, 3, 5, 7, 8, 10, 13, 14, 15, 16, 17, 31, 33, 40, 65, 100])
layouts = st.sampled_from(["rows", "columns", "wide rows", "tall columns", "strided", "reversed"])


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """A copy of the matrix x, stored in some way in the middle of memory full of NaN."""
    m, n = x.shape
    if layout in ("columns", "tall columns"):
        return laid_out(x.T, {"columns": "rows", "tall columns": "wide rows"}[layout]).T
    if layout == "rows":
        view = np.full((m + 2, n), np.nan, x.dtype)[1 : m + 1]
    elif layout == "wide rows":
        view = np.full((m, n + 5), np.nan, x.dtype)[:, 3 : n + 3]
    elif layout == "strided":
        view = np.full((2 * m, 3 * n), np.nan, x.dtype)[::2, 1::3]
    else:
        view = np.full((m, n), np.nan, x.dtype)[::-1, ::-1]
    view[...] = x
    return view


def tolerance(dtype: str, inner: int) -> dict[str, float]:
    """Rounding errors grow at most linearly with the length of the sums."""
    unit = 4 * np.finfo(dtype).eps
    return {"rtol": unit, "atol": unit * (inner + 4) * 4}


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, layouts, layouts, st.sampled_from(TYPES), st.integers(0, 2**32 - 1))
def test_equals_its_definition(m, k, n, layout_a, layout_b, dtype, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    result = matmul(laid_out(a, layout_a), laid_out(b, layout_b))
    assert result.dtype == dtype
    expected = reference.matmul(a.astype(float), b.astype(float))
    np.testing.assert_allclose(result, expected, **tolerance(dtype, k))


@settings(max_examples=40, deadline=None)
@given(
    sizes,
    st.sampled_from([1, 9, 64, 400]),
    sizes,
    st.sampled_from(["rows", "wide rows", "columns", "reversed"]),
    st.sampled_from([(1.0, 0.0), (1.0, 1.0), (0.5, 0.0), (-2.0, 0.25)]),
    st.sampled_from([None, "relu", "leaky_relu", "sigmoid", "tanh"]),
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from(TYPES),
)
def test_extras_equal_their_definition(m, k, n, layout, scales, activation, flags, dtype):
    """alpha, beta, bias, activation and bias_grad, with all four transposes, into memory laid out in
    several ways, around which nothing else is touched."""
    has_bias, has_bias_grad, a_transposed, b_transposed = flags
    rng = np.random.default_rng(m * 1000 + n)

    def draw(*shape, transposed=False):
        x = rng.standard_normal(shape).astype(dtype)
        return np.asfortranarray(x) if transposed else x

    a, b = draw(m, k, transposed=a_transposed), draw(k, n, transposed=b_transposed)
    out = laid_out(draw(m, n), layout)
    around = out.base.copy() if out.base is not None else None
    bias = draw(n) if has_bias else None
    sums = draw(n) if has_bias_grad else None

    def wide(x):
        return None if x is None else x.astype(float)

    options = {"alpha": scales[0], "beta": scales[1], "activation": activation}
    expected_sums = wide(sums)
    expected = reference.matmul(
        wide(a), wide(b), wide(out), bias=wide(bias), bias_grad=expected_sums, **options
    )
    result = matmul(a, b, out, bias=bias, bias_grad=sums, **options)
    assert result is out
    np.testing.assert_allclose(out, expected, **tolerance(dtype, 2 * k))
    if has_bias_grad:
        np.testing.assert_allclose(sums, expected_sums, **tolerance(dtype, k))
    out[...] = np.nan
    if around is not None and layout == "wide rows":
        assert np.array_equal(np.isnan(out.base), np.full(around.shape, True))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_activations_at_infinity(activation):
    a = np.array([[-np.inf], [np.inf], [np.nan], [-1.0]], np.float32)
    result = matmul(a, np.ones((1, 3), np.float32), activation=activation)
    below = {"relu": (0.0, 0.0), "leaky_relu": (-np.inf, -0.2)}[activation]
    expected = np.array([below[0], np.inf, np.nan, below[1]], np.float32)
    np.testing.assert_array_equal(result, np.tile(expected[:, np.newaxis], 3))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("m", "n"), [(40, 70), (3, 40), (40, 1), (60, 9)])
def test_what_is_not_finite_goes_through(m, n, special, dtype):
    """One special number reaches the row (or column) of C that depends on it, and nothing else."""
    a, b = np.ones((m, 50), dtype), np.ones((50, n), dtype)
    a[m // 2, 20] = special
    result = matmul(a, b)
    expected = np.full((m, n), 50.0)
    expected[m // 2] = special
    np.testing.assert_array_equal(result, expected)
    zeros = np.zeros((n, 50), dtype).T  # 0 * inf = nan
    np.testing.assert_array_equal(matmul(a, zeros)[m // 2], np.full(n, np.nan))


def test_beta_zero_ignores_what_was_there():
    out = np.full((20, 33), np.nan, np.float32)
    matmul(np.ones((20, 4), np.float32), np.ones((4, 33), np.float32), out, beta=0.0)
    assert (out == 4).all()


@pytest.mark.parametrize(
    "shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (1, 0, 1), (20, 0, 40)]
)
def test_sizes_of_zero(shape):
    m, k, n = shape
    a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    bias, sums = np.full(n, -3, np.float32), np.ones(n, np.float32)
    np.testing.assert_array_equal(matmul(a, b), np.zeros((m, n)))
    result = matmul(a, b, bias=bias, activation="leaky_relu", bias_grad=sums)
    np.testing.assert_allclose(result, np.full((m, n), -0.6 if k == 0 else np.nan), rtol=1e-6)
    np.testing.assert_array_equal(sums, np.full(n, 1 + k))


def test_sizes_that_no_memory_has():
    """Views that repeat one number may be as long as integers go; their products of sizes are not."""
    long = np.broadcast_to(np.ones(1), (2**56, 5))
    assert matmul(long, np.ones((5, 0))).shape == (2**56, 0)
    assert matmul(np.ones((0, 2**56)), np.broadcast_to(np.ones(1), (2**56, 3))).shape == (0, 3)
    with pytest.raises((ValueError, MemoryError)):
        matmul(long, np.ones((5, 2**8)))


shapes_of_stacks = [
    ((4,), (4,)),
    ((3, 4), (4,)),
    ((4,), (4, 3)),
    ((5, 3, 4), (5, 4, 6)),
    ((5, 3, 4), (4, 6)),
    ((3, 4), (5, 4, 6)),
    ((1, 3, 4), (5, 4, 6)),
    ((5, 3, 4), (1, 4, 6)),
    ((5, 3, 4), (4,)),
    ((4,), (5, 4, 6)),
    ((0, 3, 4), (4, 2)),
    ((2, 0, 4), (2, 4, 3)),
    ((1, 3, 4), (1, 4, 6)),
]


@pytest.mark.parametrize(("shape_a", "shape_b"), shapes_of_stacks)
def test_vectors_and_stacks_have_numpys_shapes(shape_a, shape_b):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(shape_a), rng.standard_normal(shape_b)
    expected = np.matmul(a, b)
    result = matmul(a, b)
    assert np.shape(result) == np.shape(expected)
    np.testing.assert_allclose(result, expected, atol=1e-14)
    out = np.ones(np.shape(expected))
    assert matmul(a, b, out, alpha=3.0, beta=2.0) is out
    np.testing.assert_allclose(out, 3 * expected + 2, atol=1e-13)


def test_stacks_of_views_with_extras():
    """Attention's heads are views of one array; a stack takes the extras, too."""
    rng = np.random.default_rng(1)
    heads = rng.standard_normal((6, 17, 4, 8)).transpose(0, 2, 1, 3)[:, 1]  # (6, 17, 8), strided
    bias, sums, expected_sums = rng.standard_normal(17), np.ones(17), np.ones(17)
    keys = heads.transpose(0, 2, 1)
    expected = reference.matmul(heads, keys, bias=bias, activation="relu", bias_grad=expected_sums)
    result = matmul(heads, keys, bias=bias, activation="relu", bias_grad=sums)
    np.testing.assert_allclose(result, expected, atol=1e-13)
    np.testing.assert_allclose(sums, expected_sums, atol=1e-12)


@pytest.mark.parametrize("how", ["same", "shifted", "transposed", "interleaved", "stack"])
def test_out_may_overlap_the_inputs(how):
    rng = np.random.default_rng(2)
    memory = rng.standard_normal((41, 80))
    a, b = memory[:40, :40], rng.standard_normal((40, 40))
    out = {
        "same": a,
        "shifted": memory[1:, 1:41],
        "transposed": a.T,
        "interleaved": memory[:40, 40:],
        "stack": memory[:40].reshape(2, 20, 80)[:, :, :20].transpose(0, 2, 1),
    }[how]
    if how == "stack":
        a, b = memory[:40].reshape(2, 20, 80)[:, :, :20], b[:20, :20]
    expected = a @ b
    matmul(a, b, out)
    np.testing.assert_allclose(out, expected, atol=1e-13)


def test_misaligned_views():
    """A field of a packed record lies at any byte."""
    records = np.zeros((9, 5), np.dtype([("flag", "u1"), ("value", "f4")]))
    records["value"] = np.arange(45).reshape(9, 5)
    x, out = (
        records["value"],
        np.zeros((5, 5), np.dtype([("flag", "u1"), ("value", "f4")]))["value"],
    )
    assert not x.flags.aligned
    matmul(x.T, x, out)
    np.testing.assert_array_equal(out, x.T.copy() @ x.copy())


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "shape", [(300, 150, 100), (2000, 120, 10), (9, 260, 1000), (128, 128, 128)]
)
def test_any_number_of_threads(monkeypatch, threads, shape):
    """The parts into which large problems are cut fit together."""
    monkeypatch.setattr(matmul_threads, "get_num_threads", lambda: threads)
    rng = np.random.default_rng(3)
    m, k, n = shape
    x, b, bias = (rng.standard_normal(s).astype("f4") for s in ((k, m), (k, n), (n,)))
    sums = np.zeros(n, np.float32)
    for a in (x.T, x.T.copy()):
        result = matmul(a, b, bias=bias, activation="relu", bias_grad=sums)
        np.testing.assert_allclose(result, np.maximum(a @ b + bias, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sums, 2 * b.sum(axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("items", [2, 40])
def test_stacks_on_several_threads(monkeypatch, items):
    monkeypatch.setattr(matmul_threads, "get_num_threads", lambda: 3)
    rng = np.random.default_rng(4)
    a = rng.standard_normal((items, 130, 64))
    b = rng.standard_normal((items, 64, 150))
    np.testing.assert_allclose(matmul(a, b), a @ b, atol=1e-12)


def test_two_python_threads_at_once():
    """Workspaces are not shared."""
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(5)
    pairs = [(rng.standard_normal((50, 60)), rng.standard_normal((60, 70))) for _ in range(64)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda pair: matmul(*pair), pairs))
    for (a, b), result in zip(pairs, results, strict=True):
        np.testing.assert_allclose(result, a @ b, atol=1e-12)


WITHOUT_OPENMP = """
import os
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from tinydl_kernels import matmul
x = np.ones((160, 160), np.float32)
with ThreadPoolExecutor(4) as pool:
    results = list(pool.map(lambda _: matmul(x, x), range(200)))
assert all((result == 160).all() for result in results)
import numba
assert numba.threading_layer() == "workqueue"
"""


def test_two_python_threads_without_openmp():
    """Numba's own thread pool ends the process when it is entered twice."""
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", WITHOUT_OPENMP]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


ONES = np.ones((3, 4), np.float32)


def read_only():
    x = np.zeros((3, 3), np.float32)
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "a is int64", lambda: matmul(np.ones((2, 2), int), ONES)),
        (TypeError, "a is float16", lambda: matmul(ONES.astype("f2"), ONES.T)),
        (TypeError, "a is >f4", lambda: matmul(ONES.astype(">f4"), ONES.T)),
        (TypeError, "b is float64", lambda: matmul(ONES, ONES.T.astype("f8"))),
        (TypeError, "out is float64", lambda: matmul(ONES, ONES.T, np.zeros((3, 3)))),
        (TypeError, "bias is float64", lambda: matmul(ONES, ONES.T, bias=np.zeros(3))),
        (ValueError, r"a is \(3, 4\), b is \(3, 4\)", lambda: matmul(ONES, ONES)),
        (ValueError, r"out is \(4, 3\)", lambda: matmul(ONES, ONES.T, np.zeros((4, 3), "f4"))),
        (ValueError, r"bias is \(4,\)", lambda: matmul(ONES, ONES.T, bias=ONES[0])),
        (ValueError, "bias has 2 dim", lambda: matmul(ONES, ONES.T, bias=ONES[:1])),
        (
            ValueError,
            r"bias_grad is \(4,\)",
            lambda: matmul(ONES, ONES.T, bias_grad=np.ones(4, "f4")),
        ),
        (ValueError, "out is read-only", lambda: matmul(ONES, ONES.T, read_only())),
        (ValueError, "bias_grad is read", lambda: matmul(ONES, ONES.T, bias_grad=read_only()[0])),
        (ValueError, "'swish' is not one of", lambda: matmul(ONES, ONES.T, activation="swish")),
        (ValueError, "a has 4 dimensions", lambda: matmul(np.ones((1, 1, 1, 1)), np.ones((1, 1)))),
        (ValueError, "a has 0 dimensions", lambda: matmul(np.ones(()), np.ones((1, 1)))),
        (ValueError, "stacks of 2 and 3", lambda: matmul(np.ones((2, 1, 1)), np.ones((3, 1, 1)))),
        (ValueError, r"expected \(..., M, K\)", lambda: matmul(np.ones(3), np.ones(4))),
    ],
)
def test_bad_input_is_named(error, text, call):
    with pytest.raises(error, match=text):
        call()


def test_inputs_may_be_read_only():
    frozen = ONES.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(matmul(frozen, frozen.T), np.full((3, 3), 4))
