"""Every kernel in Numba's simulator, against its definition: any shapes, layouts and options, on tiles so small
that a few threads suffice, with all memory poisoned before it is written."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.cuda.stand_ins import poison  # noqa: F401
from tests.kernels.test_matmul import laid_out, tolerance
from tinydl_kernels import reference
from tinydl_kernels.cuda import (
    convolution,
    device,
    instructions,
    ladder,
    linear,
    mma,
    operands,
    products,
    tiles,
)
from tinydl_kernels.cuda.tiles import Tile, WarpgroupTile

pytestmark = pytest.mark.usefixtures("poison")
assert device.SIMULATED

RUNGS = (*ladder.RUNGS, *ladder.TENSOR_CORES)
SMALL_RUNGS = {
    "naive": Tile(1, 1, (4, 4), (1, 1)),
    "coalesced": Tile(1, 1, (2, 8), (1, 1)),
    "shared_tile": Tile(1, 1, (4, 4), (1, 1), depth=4),
    "register_column": Tile(4, 1, (2, 8), (1, 1)),
    "register_tile": Tile(4, 4, (2, 2), (1, 1)),
    "vectorized": Tile(8, 4, (2, 2), (1, 1)),
    "double_buffered": Tile(8, 4, (2, 2), (1, 1)),
    "warp_tiles": Tile(4, 8, (1, 2), (2, 1)),
    "tf32": Tile(4, 4, (8, 4), (1, 1), depth=16),
    "bf16": Tile(4, 4, (8, 4), (1, 1), depth=16),
    "wgmma_tf32": WarpgroupTile(1, 16, stages=3),
    "wgmma_bf16": WarpgroupTile(1, 16, stages=3),
}
SMALL_TILES = (
    Tile(4, 4, (2, 2), (1, 2), depth=8, stages=2),
    Tile(8, 4, (1, 2), (2, 1), depth=4, stages=3),
    Tile(4, 8, (2, 1), (2, 2), depth=8, stages=4),
    Tile(4, 4, (1, 4), (1, 1), depth=16, stages=2),
)
TENSOR_TILE = Tile(2, 4, (8, 4), (1, 1), depth=16, stages=2)
EPSILON = {"tf32": 2**-11, "bf16": 2**-8}  # the largest error of a rounded factor
sizes = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 20])
TYPES = st.sampled_from(["float32", "float64"])


def few(examples):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


@pytest.fixture
def choose(monkeypatch):
    """choose(tile, parts) decides what products are computed with."""

    def decide(tile, parts=1):
        monkeypatch.setattr(
            products, "choose", lambda *a: (tile, parts if a[7] else 1)
        )  # a[7]: may be split

    return decide


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
@few(5)
@given(sizes, sizes, sizes, TYPES, st.integers(0, 2**32 - 1))
def test_rungs(rung, m, k, n, dtype, seed):
    dtype = "float32" if rung.reduced else dtype
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    result = rung(a, b, tile=SMALL_RUNGS[rung.name])
    assert result.dtype == dtype
    check_product(result, a, b, rung.reduced)


def check_product(result, a, b, precision=None):
    expected = a.astype(float) @ b.astype(float)
    if precision is None:
        np.testing.assert_allclose(result, expected, **tolerance(a.dtype.name, a.shape[1]))
    else:
        bound = 2 * EPSILON[precision] * (abs(a).astype(float) @ abs(b)) + 1e-6
        assert (abs(result - expected) <= bound).all()
        if a.shape[1] > 4:  # and the factors were rounded
            assert not np.allclose(result, expected, rtol=1e-6, atol=1e-7)


@few(20)
@given(
    sizes,
    st.sampled_from([1, 3, 8, 17, 40]),
    sizes,
    st.sampled_from(["rows", "wide rows", "columns", "strided", "reversed"]),
    st.sampled_from(["rows", "columns", "wide rows", "reversed"]),
    st.sampled_from(["rows", "wide rows", "columns", "strided"]),
    st.sampled_from([(1.0, 0.0), (1.0, 1.0), (-2.0, 0.25)]),
    st.sampled_from([None, "relu", "leaky_relu", "sigmoid", "tanh"]),
    st.tuples(st.booleans(), st.booleans()),
    TYPES,
    st.sampled_from(SMALL_TILES),
    st.sampled_from([1, 1, 3]),
)
def test_matmul(
    choose, m, k, n, layout_a, layout_b, layout_c, scales, activation, has, dtype, tile, parts
):
    choose(tile, parts)
    rng = np.random.default_rng(m * 1000 + n)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def wide(x):
        return None if x is None else x.astype(float)

    a, b, out = laid_out(draw(m, k), layout_a), laid_out(draw(k, n), layout_b), draw(m, n)
    out = laid_out(out if scales[1] else out * np.nan, layout_c)  # beta = 0 ignores even a NaN
    bias, sums = draw(n) if has[0] else None, draw(n) if has[1] else None
    expected_sums = wide(sums)
    options = {"alpha": scales[0], "beta": scales[1], "activation": activation}
    expected = reference.matmul(
        wide(a), wide(b), wide(out), bias=wide(bias), bias_grad=expected_sums, **options
    )
    around = None if out.base is None else np.isnan(out.base).sum() - np.isnan(out).sum()
    assert linear.matmul(a, b, out, bias=bias, bias_grad=sums, **options) is out
    np.testing.assert_allclose(out, expected, **tolerance(dtype, 2 * k))
    if sums is not None:
        np.testing.assert_allclose(sums, expected_sums, **tolerance(dtype, k))
    assert around is None or np.isnan(out.base).sum() == around, "written beside the array"


@pytest.mark.parametrize("parts, together", [(2, 1), (9, 2), (64, 16), (130, 32), (512, 32)])
def test_parts_are_added_up_in_a_fixed_order(parts, together):
    """Threads take turns at the parts, and what they found is added up in pairs: to the last bit."""
    rng = np.random.default_rng(parts)
    stack, m, n = 2, 3, 13
    sums = rng.standard_normal((stack, parts, m, n)).astype(np.float32)
    out, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((stack, m, n), (n,)))
    found = [np.zeros((stack, m, n), np.float32) for _ in range(together)]
    assert tiles.adders_of(parts) == together
    for part in range(parts):
        found[part % together] += sums[:, part]
    while len(found) > 1:
        half = len(found) // 2
        found = [found[i] + found[half + i] for i in range(half)]
    expected = np.float32(2) * found[0] + np.float32(0.5) * out + bias
    ending = products.Ending(True, 2.0, 0.5)
    place = products.Result(products.line(n), step=m * n)
    launches = products.adding(place, "f", m, n, parts, ending, stack)
    products.start(launches, *map(device.memory, (sums, out, bias)))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@few(4)
@given(sizes, sizes, sizes, st.booleans(), st.booleans())
def test_tensor_cores(choose, precision, m, k, n, a_transposed, b_transposed):
    choose(TENSOR_TILE)
    rng = np.random.default_rng(m + 100 * n)
    a, b = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((k, n)).astype("f4")
    a, b = (np.asfortranarray(x) if t else x for x, t in ((a, a_transposed), (b, b_transposed)))
    check_product(linear.matmul(a, b, precision=precision), a, b, precision)


def test_integers_of_32_bits():
    """Divisions by multiplying, and products that need 64 bits."""
    rng = np.random.default_rng(1)
    for d in (1, 2, 3, 7, 64, 2**16 + 1, 2**31 - 1):
        _, factor, shift = operands._divisor(d)
        for i in (0, 1, d - 1, d, 2**31 - 1, *rng.integers(0, 2**31, 50).tolist()):
            if 0 <= i < 2**31:
                assert instructions.quotient(i, factor, shift) == i // d
    assert instructions.multiply_add(-(2**31) + 1, 2**31 - 1, 5) == -((2**31 - 1) ** 2) + 5


def test_rounding_for_tensor_cores():
    """To nearest, by half of what the tensor cores cut off; what is no number stays none."""
    x = np.random.default_rng(0).standard_normal(1000).astype("f4")
    rounded = np.array([mma.to_tf32(value) for value in x]).view(np.uint32) & 0xFFFFE000
    error = abs(rounded.view("f4") - x)
    assert (error <= 2.0**-11 * 2.0 ** np.floor(np.log2(abs(x)))).all()
    for bits in (0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000):
        assert np.isnan(mma.to_tf32(np.uint32(bits).view(np.float32)))
    for infinity in (np.float32(np.inf), np.float32(-np.inf)):
        assert mma.to_tf32(infinity) == infinity  # to the last bit, should all be read
    packed = int(mma.pack_bf16(np.float32(1 + 2**-7), np.float32(1 + 2**-8)).view(np.uint32))
    assert packed == 0x3F80 << 16 | 0x3F81  # a tie goes to the even one
    assert int(mma.pack_bf16(np.float32(np.nan), np.float32(-2)).view(np.uint32)) == 0xC0007FFF


def test_what_is_not_finite_goes_through(choose):
    choose(SMALL_TILES[0])
    for special in (np.nan, np.inf, -np.inf):
        a, b = np.ones((5, 6), np.float32), np.ones((6, 9), np.float32)
        a[2, 3] = special
        expected = np.full((5, 9), 6.0)
        expected[2] = special
        np.testing.assert_array_equal(linear.matmul(a, b), expected)
        expected[2] = 0 if special == -np.inf else special
        np.testing.assert_array_equal(linear.matmul(a, b, activation="relu"), expected)


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 3)), ((5, 3, 4), (5, 4, 6)), ((5, 3, 4), (4, 6)),
        ((3, 4), (5, 4, 6)), ((1, 3, 4), (5, 4, 6)), ((5, 3, 4), (4,)), ((0, 3, 4), (4, 2)),
        ((3, 0), (0, 4)), ((0, 4), (4, 3)),
    ],
)  # fmt: skip
def test_stacks_and_vectors(choose, shape_a, shape_b):
    choose(SMALL_TILES[0], 2)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(shape_a), rng.standard_normal(shape_b)
    result, expected = linear.matmul(a, b), np.matmul(a, b)
    assert np.shape(result) == np.shape(expected)
    np.testing.assert_allclose(result, expected, atol=1e-14)
    sums, expected_sums = np.ones(b.shape[-1]), np.ones(b.shape[-1])
    if b.ndim > 1:
        linear.matmul(a, b, bias_grad=sums)
        reference.matmul(a, b, bias_grad=expected_sums)
        np.testing.assert_allclose(sums, expected_sums, atol=1e-13)


def test_more_tiles_and_products_than_a_grid_is_high(choose, monkeypatch):
    monkeypatch.setattr(products, "MOST_BLOCKS", 3)
    monkeypatch.setattr(device, "MOST_BLOCKS", 3)  # a launch would be refused
    choose(SMALL_TILES[0])
    rng = np.random.default_rng(4)
    for shape_a, shape_b in (((219, 5), (5, 3)), ((7, 11, 5), (7, 5, 3))):
        a, b = rng.standard_normal(shape_a), rng.standard_normal(shape_b)
        np.testing.assert_allclose(linear.matmul(a, b), a @ b, atol=1e-13)


def test_out_may_overlap_the_inputs(choose):
    choose(SMALL_TILES[0])
    memory = np.random.default_rng(2).standard_normal((9, 20))
    for a, out in ((memory[:8, :8], memory[1:, 1:9]), (memory[:8, :8], memory[:8, :8].T)):
        b = np.random.default_rng(3).standard_normal((8, 8))
        expected = a @ b
        linear.matmul(a, b, out)
        np.testing.assert_allclose(out, expected, atol=1e-13)


@st.composite
def convolutions(draw, depthwise=False):
    """A convolution's x, w and options, small enough for the simulator."""
    groups = draw(st.integers(2, 5) if depthwise else st.sampled_from([1, 1, 1, 2, 3]))
    channels = groups if depthwise else groups * draw(st.sampled_from([1, 2, 4, 5]))
    filters = groups * draw(st.integers(1, 4))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    spans = [(r - 1) * d + 1 for r, d in zip(kernel, dilation, strict=True)]
    size = [draw(st.integers(span, span + 4)) for span in spans]
    padding = draw(st.sampled_from(["valid", "same", 1, ((0, 2), (1, 0))]))
    strides = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(TYPES)
    x = rng.standard_normal((draw(st.integers(1, 2)), *size, channels)).astype(dtype)
    w = rng.standard_normal((*kernel, channels // groups, filters)).astype(dtype)
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return x, w, options, rng


@few(10)
@given(convolutions(), st.sampled_from(SMALL_TILES[:3]), st.sampled_from([1, 2]), st.booleans())
def test_convolutions(choose, case, tile, parts, accumulate):
    choose(tile, parts)
    check_convolution(case, accumulate)


@few(6)
@given(convolutions(depthwise=True), st.booleans())
def test_depthwise_convolutions(choose, case, accumulate):
    choose(SMALL_TILES[3])  # for the gradient of the bias
    check_convolution(case, accumulate)


def check_convolution(case, accumulate):
    """Forward and both gradients, from one draw."""
    x, w, options, rng = case
    wide_x, wide_w = x.astype(float), w.astype(float)
    bias = rng.standard_normal(w.shape[3]).astype(x.dtype)
    close = tolerance(x.dtype.name, 2 * w[..., 0].size)
    y = reference.conv2d(wide_x, wide_w, bias=bias, activation="leaky_relu", **options)
    result = convolution.conv2d(x, w, bias=bias, activation="leaky_relu", **options)
    np.testing.assert_allclose(result, y, **close)

    grad = rng.standard_normal(y.shape).astype(x.dtype)
    dx = reference.conv2d_grad_input(grad.astype(float), wide_w, x.shape, **options)
    more = {}
    if accumulate:
        more = {"out": rng.standard_normal(x.shape).astype(x.dtype), "accumulate": True}
        dx += more["out"]
    result = convolution.conv2d_grad_input(grad, w, x.shape, **more, **options)
    np.testing.assert_allclose(result, dx, **close)

    dw, sums = rng.standard_normal(w.shape).astype(x.dtype), np.ones(w.shape[3], x.dtype)
    expected, expected_sums = dw.astype(float), sums.astype(float)
    more = {"accumulate": accumulate, **options}
    reference.conv2d_grad_weight(
        wide_x, grad.astype(float), w.shape, out=expected, bias_grad=expected_sums, **more
    )
    dw = dw if accumulate else dw * np.nan
    convolution.conv2d_grad_weight(x, grad, w.shape, out=dw, bias_grad=sums, **more)
    close = tolerance(x.dtype.name, 2 * grad[..., 0].size)
    np.testing.assert_allclose(dw, expected, **close)
    np.testing.assert_allclose(sums, expected_sums, **close)


@few(6)
@given(convolutions())
def test_convolutions_reversed_and_along_one_axis(choose, case):
    choose(SMALL_TILES[0])
    x, w, options, rng = case
    options = {**options, "padding": "same"}
    z = rng.standard_normal((*x.shape[:3], w.shape[3])).astype(x.dtype)
    bias = rng.standard_normal(x.shape[3]).astype(x.dtype)
    close = tolerance(x.dtype.name, 4 * w[0, 0].size * w.shape[0])
    expected = reference.conv2d_transpose(z, w, bias=bias, activation="tanh", **options)
    result = convolution.conv2d_transpose(z, w, bias=bias, activation="tanh", **options)
    np.testing.assert_allclose(result, expected, **close)
    options = {"strides": 2, "padding": "causal", "groups": options["groups"]}
    np.testing.assert_allclose(
        convolution.conv1d(x[:, 0], w[0], **options),
        reference.conv1d(x[:, 0], w[0], **options),
        **close,
    )


def test_images_as_views(choose):
    """Views are copied where a kernel could not read them, `out` is written where it lies."""
    choose(SMALL_TILES[0])
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 3, 6, 6)).transpose(0, 2, 3, 1)[::2]
    w = rng.standard_normal((3, 3, 3, 8))[..., ::2]
    out = np.full((2, 6, 6, 8), np.nan)[..., ::2]
    assert convolution.conv2d(x, w, padding="same", out=out) is out
    np.testing.assert_allclose(out, reference.conv2d(x, w, padding="same"), atol=1e-12)


ONES = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "a is int64", lambda: linear.matmul(np.ones((2, 2), int), ONES)),
        (TypeError, "b is float64", lambda: linear.matmul(ONES, ONES.T.astype("f8"))),
        (ValueError, r"a is \(3, 4\), b is \(3, 4\)", lambda: linear.matmul(ONES, ONES)),
        (ValueError, r"bias is \(4,\)", lambda: linear.matmul(ONES, ONES.T, bias=ONES[0])),
        (ValueError, "'swish' is not one of", lambda: linear.matmul(ONES, ONES.T, activation="swish")),
        (ValueError, "got 'fp8'", lambda: linear.matmul(ONES, ONES.T, precision="fp8")),
        (ValueError, "float64", lambda: linear.matmul(np.eye(2), np.eye(2), precision="tf32")),
        (ValueError, "stacks of 2 and 3", lambda: linear.matmul(np.ones((2, 1, 1)), np.ones((3, 1, 1)))),
        (ValueError, r"beyond 2\^31 - 1 elements", lambda: operands.folded((1, 1), (2**31, 1, 1))),
        (ValueError, "do not fit", lambda: ladder.RUNGS[0](ONES, ONES)),
        (ValueError, "larger than 65535 along", lambda: ladder.RUNGS[0](
            np.ones((1 << 21, 1)), np.ones((1, 1)))),
        (ValueError, "grad must have shape", lambda: convolution.conv2d_grad_input(
            np.ones((1, 2, 2, 1)), np.ones((1, 1, 1, 1)), (1, 3, 3, 1))),
    ],
)  # fmt: skip
def test_bad_input_is_named(error, text, call):
    with pytest.raises(error, match=text):
        call()


def test_every_shape_has_a_tile():
    """And the sum is cut only where that leaves work for each part."""
    for kind, table in tiles.TILES.items():
        precision = "tf32" if kind == "tensor cores" else None
        dtype = "float32" if precision else kind
        for m, n, k in [
            (1, 1, 1),
            (1, 5000, 9),
            (7, 3, 10**6),
            (4096, 4096, 4096),
            (10**6, 64, 576),
        ]:
            tile, parts = tiles.choose(dtype, m, n, k, 1, precision)
            assert tile in table.values()
            assert 1 <= parts <= max(1, k // tile.depth)


def test_a_long_sum_is_shared_by_all_multiprocessors():
    """The gradient of a first layer's weight: one tile, and a sum over all positions of all images."""
    for precision in (None, "tf32"):
        _, parts = tiles.choose("float32", 27, 16, 131072, 1, precision, images=True)
        assert parts >= tiles.H200_MULTIPROCESSORS


def test_tuning(tmp_path, monkeypatch):
    """What was measured to be best is written to a table, each precision for itself, and taken from there on a GPU of
    the same name."""
    import runpy

    from tinydl_kernels.cuda import tune, tuned

    best = {None: ("4x128", 2), "tf32": ("w128x256", 2), "bf16": ("64x64", 1)}
    every = {**tiles.TILES["float32"], **tiles.TILES["tensor cores"], **tiles.WARPGROUP_TILES}
    asked = []
    monkeypatch.setattr(
        products,
        "multiply",
        lambda *a, tile, parts, precision: asked.append((precision, tile, parts)),
    )
    monkeypatch.setattr(tune, "_random", lambda shape, dtype: np.zeros(shape, dtype))

    def seconds_of(call):
        call()
        precision, tile, parts = asked[-1]
        name, wanted = best[precision]
        table = tiles.TILES["tensor cores" if precision else "float32"] | tiles.WARPGROUP_TILES
        return 1.0 if (table[name], wanted) == (tile, parts) else 2.0

    choices = tune.tune(seconds_of, sizes=(8, 2048), kinds=("float32", "tf32", "bf16"))
    for precision, choice in best.items():
        assert choices[precision or "float32", 0, 4, 4] == choice
    assert {tile for _, tile, _ in asked} == set(every.values()) | set(
        tiles.TILES["float32"].values()
    )
    tune.write(tmp_path / "table.py", choices, "a GPU", "2026-01-01")
    table = runpy.run_path(str(tmp_path / "table.py"))
    assert (table["DEVICE"], table["CHOICES"]) == ("a GPU", choices)

    def chosen(precision, gpu="a GPU", may_split=True):
        return tiles.choose(
            "float32", 9, 3000, 1500, 1, precision, False, may_split, 132, True, gpu
        )

    estimated = {precision: chosen(precision) for precision in best}
    monkeypatch.setattr(tuned, "CHOICES", table["CHOICES"])
    monkeypatch.setattr(tuned, "DEVICE", table["DEVICE"])
    tiles.choose.cache_clear()
    for precision, (name, parts) in best.items():
        tile = tiles.available("float32", 9, 3000, 1500, 1, precision, warpgroups=True)[name]
        assert chosen(precision) == (tile, parts)
        assert chosen(precision, may_split=False) == (tile, 1)
        assert chosen(precision, gpu="another") == estimated[precision] != (tile, parts)
    tiles.choose.cache_clear()


def test_what_is_too_large_to_be_tuned_goes_like_the_next_smaller(monkeypatch):
    from tinydl_kernels.cuda import tune

    measured = []
    monkeypatch.setattr(tune, "LARGEST", 2048**3)
    monkeypatch.setattr(tune, "_fastest", lambda how, kind, *sizes: measured.append(sizes) or sizes)
    choices = tune.tune(None, sizes=(512, 2048, 8192), kinds=("bf16",))
    assert choices["bf16", 4, 4, 4] == (2048, 2048, 2048)
    assert choices["bf16", 5, 5, 5] == choices["bf16", 4, 5, 5] == choices["bf16", 4, 4, 5]
    assert choices["bf16", 4, 4, 5] == (2048, 2048, 2048)
    assert choices["bf16", 3, 5, 4] == (512, 8192, 2048) and len(choices) == 27
    assert max(m * n * k for m, n, k in measured) <= 2048**3


def test_the_shipped_table_names_tiles_that_exist():
    from tinydl_kernels.cuda import tune, tuned

    for (kind, *classes), (name, parts) in tuned.CHOICES.items():
        dtype, precision = tune.KINDS[kind]
        assert name in tiles.available(dtype, 1, 1, 1, 1, precision, warpgroups=True)
        assert all(0 <= c <= 5 for c in classes) and parts & (parts - 1) == 0


def test_each_gpu_has_plans_of_its_own(monkeypatch):
    """One with fewer multiprocessors cuts a long sum into fewer parts, also after another has cut it."""
    m, n, k = sizes = 128, 128, 2**14
    operands = products.matrix(4, k, 1), products.matrix(4, 1, n)
    product = products.Product(*operands, products.Result(products.line(n)), sizes)
    a, b, c = (np.zeros(1, np.float32) for _ in range(3))
    shapes = []
    library = SimpleNamespace(empty=lambda shape, dtype: shapes.append(shape) or c)
    monkeypatch.setattr(device, "namespace", lambda: library)
    monkeypatch.setattr(products, "start", lambda *a: None)
    for gpu, there in ((0, 132), (1, 14), (0, 132)):
        monkeypatch.setattr(device, "current", lambda gpu=gpu: gpu)
        monkeypatch.setattr(device, "multiprocessors", lambda there=there: there)
        products.multiply(product, a, b, c)
    assert shapes == [(64, m, n), (16, m, n), (64, m, n)]


def test_classes_of_shapes():
    found = [
        tiles.shape_class(n)[0] for n in (1, 16, 17, 64, 65, 256, 257, 1024, 4096, 4097, 10**6)
    ]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 5]


def test_the_check_for_gpus(choose, monkeypatch):
    """benchmarks/gpu_right.py takes right results for right, and notices wrong ones."""
    import sys
    from pathlib import Path

    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3] / "benchmarks"), *sys.path])
    import gpu_right

    choose(TENSOR_TILE._replace(rows=4, columns=4))
    rng = np.random.default_rng(7)
    for case in list(gpu_right.products_to_check([(9, 20, 7)]))[4:8]:
        limit = gpu_right.LIMITS[case["precision"] or case["dtype"]]
        assert limit / 1e5 < gpu_right.check_product(np, rng, case) <= limit, case
    rung = ladder.RUNGS[1]
    monkeypatch.setattr(rung, "tile", SMALL_RUNGS[rung.name])
    case = {"rung": rung, "shape": (5, 6, 7), "dtype": "float64"}
    assert gpu_right.check_rung(np, rng, case) < gpu_right.LIMITS["float64"]

    product = {"shape": (9, 20, 7), "turned": (False, False), "dtype": "float64", "precision": None}
    monkeypatch.setattr(products, "start", lambda *a: None)
    assert gpu_right.check_product(np, rng, product) == np.inf  # nothing was written
    out, untouched = gpu_right.guarded(np, (2, 3), "float32")
    assert untouched()
    out.base[-1] = 0
    assert not untouched()


@pytest.mark.parametrize("module", ["linear", "convolution"])
def test_a_kernel_takes_what_its_definition_takes(module):
    """And a precision besides, where it multiplies."""
    import inspect

    from tinydl_kernels import cuda
    from tinydl_kernels._table import MODULES

    for name in MODULES[module]:
        definition, kernel = getattr(reference, name), getattr(cuda, name)
        if kernel is not definition:
            taken = list(inspect.signature(kernel).parameters.values())
            assert taken.pop().name == "precision"
            defined = inspect.signature(definition).parameters.values()
            assert [(p.name, p.kind, p.default) for p in taken] == [
                (p.name, p.kind, p.default) for p in defined
            ]
