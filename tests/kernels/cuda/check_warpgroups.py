"""Products by warpgroups in Numba's simulator, on tiles of 64 x 16 and 64 x 32: against NumPy, and whether the
simulator would notice what a GPU might not show, or show only sometimes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.cuda.stand_ins import poison  # noqa: F401
from tests.kernels.test_matmul import laid_out
from tinydl_kernels import reference
from tinydl_kernels.cuda import (
    device,
    ladder,
    linear,
    packing,
    products,
    simulated,
    tiles,
    warpgroups,
    wgmma,
)
from tinydl_kernels.cuda.tiles import WarpgroupTile

pytestmark = pytest.mark.usefixtures("poison")
assert device.SIMULATED

SMALL_TILES = WarpgroupTile(1, 16, stages=3), WarpgroupTile(1, 32, stages=4)
PRECISIONS = st.sampled_from(["tf32", "bf16"])


def few(examples):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Threads of the simulator take long to start: 64 pack what 256 do on a GPU."""
    monkeypatch.setattr(packing, "THREADS", 64)
    packing.packer.cache_clear()
    yield
    packing.packer.cache_clear()


@pytest.fixture
def choose(monkeypatch):
    """choose(tile, parts) decides what products are computed with."""
    return lambda tile, parts=1: monkeypatch.setattr(products, "choose", lambda *a: (tile, parts))


def rounded(x, precision):
    """x to 10 or 7 bits of fraction: to nearest; ties away from zero in TF32, to even in bf16."""
    fraction, exponent = np.frexp(x.astype(float))
    scaled = np.ldexp(fraction, 11 if precision == "tf32" else 8)
    nearest = (
        np.trunc(scaled + np.copysign(0.5, scaled)) if precision == "tf32" else np.rint(scaled)
    )
    return np.ldexp(nearest, exponent - (11 if precision == "tf32" else 8))


@few(8)
@given(
    st.sampled_from([1, 7, 31, 32, 33, 40]),
    st.sampled_from([1, 31, 32, 33, 64, 70, 130]),
    st.sampled_from(["rows", "columns", "strided", "reversed"]),
    st.sampled_from([8, 16, 64]),
    PRECISIONS,
)
def test_packing(rows, k, layout, multiple, precision):
    """Each number is where core matrices have it, and around them all is zero."""
    rng = np.random.default_rng(rows + k)
    x = laid_out(rng.standard_normal((2, rows, k)).astype("f4")[0], layout)
    steps = [stride // 4 for stride in x.strides]
    packed = packing.pack(x, products.matrix(4, *steps), rows, k, 1, multiple, precision)

    in_stage, in_chunk = (32, 4) if precision == "tf32" else (64, 8)
    stages, groups = -(-k // in_stage), -(-rows // multiple) * multiple // 8
    whole = np.zeros((8 * groups, stages * in_stage))
    whole[:rows, :k] = rounded(x, precision)
    chunks = whole.reshape(groups, 8, stages, 8, in_chunk)
    expected = chunks.transpose(2, 0, 3, 1, 4).ravel()
    if precision == "tf32":
        found = (packed.view(np.uint32) & 0xFFFFE000).view(np.float32)
    else:
        found = (packed.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(found.ravel(), expected)


@few(12)
@given(
    st.sampled_from([1, 9, 64, 70]),
    st.sampled_from([1, 31, 33, 100, 140]),
    st.sampled_from([1, 4, 14, 16, 17]),
    st.sampled_from(["rows", "wide rows", "columns", "strided", "reversed"]),
    st.sampled_from(["rows", "columns", "reversed"]),
    st.sampled_from(["rows", "wide rows", "columns", "strided"]),
    st.sampled_from([(1.0, 0.0), (1.0, 1.0), (-2.0, 0.25)]),
    st.sampled_from([None, "relu", "leaky_relu", "sigmoid", "tanh"]),
    st.booleans(),
    PRECISIONS,
    st.sampled_from(SMALL_TILES),
    st.sampled_from([1, 1, 3]),
)
def test_matmul(
    choose,
    m,
    k,
    n,
    layout_a,
    layout_b,
    layout_c,
    scales,
    activation,
    has_bias,
    precision,
    tile,
    parts,
):
    choose(tile, parts)
    rng = np.random.default_rng(m * 1000 + n)
    a, b, out, bias = (rng.standard_normal(s).astype("f4") for s in ((m, k), (k, n), (m, n), n))
    a, b, bias = laid_out(a, layout_a), laid_out(b, layout_b), bias if has_bias else None
    out = laid_out(out if scales[1] else out * np.nan, layout_c)  # beta = 0 ignores even a NaN
    options = {"alpha": scales[0], "beta": scales[1], "activation": activation}
    expected = reference.matmul(
        rounded(a, precision), rounded(b, precision), out.astype(float),
        bias=bias if bias is None else bias.astype(float), **options,
    )  # fmt: skip
    around = None if out.base is None else np.isnan(out.base).sum() - np.isnan(out).sum()
    assert linear.matmul(a, b, out, bias=bias, precision=precision, **options) is out
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    assert around is None or np.isnan(out.base).sum() == around, "written beside the array"


@pytest.mark.parametrize("shared", [False, True])
def test_stacks(choose, shared):
    """A factor that all products of a stack share is packed once."""
    choose(SMALL_TILES[0])
    rng = np.random.default_rng(0)
    a, b = (
        rng.standard_normal((3, 5, 40)).astype("f4"),
        rng.standard_normal((3, 40, 6)).astype("f4"),
    )
    a = a[:1] if shared else a
    expected = rounded(a, "tf32") @ rounded(b, "tf32")
    np.testing.assert_allclose(linear.matmul(a, b, precision="tf32"), expected, atol=1e-5)


def test_what_is_not_finite_goes_through(choose):
    choose(SMALL_TILES[0])
    for precision in ("tf32", "bf16"):
        a, b = np.ones((5, 6), np.float32), np.ones((6, 9), np.float32)
        a[[1, 2, 4], 3] = np.nan, np.inf, -np.inf
        expected = np.full((5, 9), 6.0)
        expected[[1, 2, 4]] = np.array([[np.nan], [np.inf], [-np.inf]])
        np.testing.assert_array_equal(linear.matmul(a, b, precision=precision), expected)


def product_of_many_stages():
    """The largest relative error of a product whose stages all are used several times."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((20, 220)).astype("f4"), rng.standard_normal((220, 12)).astype("f4")
    result = ladder.TENSOR_CORES[2](a, b, tile=SMALL_TILES[0])
    return np.linalg.norm(result - a.astype(float) @ b) / np.linalg.norm(a.astype(float) @ b)


def nothing(*arguments):
    return None


MISTAKES = {
    "copies are not waited for": (warpgroups, "wait", nothing),
    "another phase is waited for": (
        warpgroups, "wait", lambda b, i, parity, right=warpgroups.wait: right(b, i, 1 - parity)),
    "barriers are not fenced": (warpgroups, "fence_begun", nothing),
    "more is expected than is copied": (
        warpgroups, "expect", lambda b, i, size, right=warpgroups.expect: right(b, i, size + 16)),
    "sums are not fenced": (warpgroups, "fence_sums", nothing),
    "a stage is overwritten too early": (
        wgmma, "wait_for", lambda younger, right=wgmma.wait_for: right(younger + 1)),
    "products are not committed": (wgmma, "commit", nothing),
    "sums are read too early": (
        wgmma, "instructions", lambda *a, right=wgmma.instructions: right(*a)._replace(finish=nothing)),
    "leading and stride are swapped": (
        warpgroups, "descriptor", lambda s, p, leading, stride: wgmma.descriptor(s, p, stride, leading)),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_noticed(monkeypatch, mistake):
    monkeypatch.setattr(warpgroups, "multiplier", warpgroups.multiplier.__wrapped__)
    monkeypatch.setattr(simulated, "PATIENCE", 2)
    monkeypatch.setattr(*MISTAKES[mistake])
    try:
        error = product_of_many_stages()
    except (AssertionError, IndexError, RuntimeError) as noticed:
        print(noticed)
    else:
        assert not error < 0.1, "the simulator did not notice"


def test_a_missing_barrier_is_noticed(monkeypatch):
    """A warpgroup's place in shared memory is free when all have read it, not when one has."""
    from numba.cuda.simulator import kernel

    wait = kernel.BlockThread.syncthreads

    def only_once(thread):
        if not hasattr(thread, "has_waited"):
            thread.has_waited = True
            wait(thread)

    monkeypatch.setattr(kernel.BlockThread, "syncthreads", only_once)
    monkeypatch.setattr(simulated, "PATIENCE", 2)
    with pytest.raises((AssertionError, RuntimeError)):
        product_of_many_stages()


def test_without_mistakes():
    assert product_of_many_stages() < 1e-3


def test_which_products_are_packed():
    """Large ones of matrices, on a GPU that has warpgroups' instructions; a stack of small ones is not."""

    def packs(m, n, k, stack=1, precision="tf32", images=False, warpgroups=True):
        tile, parts = tiles.choose(
            "float32", m, n, k, stack, precision, images, True, 132, warpgroups
        )
        assert parts == 1 or k >= 8 * parts * tile.depth
        return isinstance(tile, WarpgroupTile)

    assert packs(4096, 4096, 4096) and packs(8192, 8192, 8192, precision="bf16")
    assert packs(512, 512, 65536), "many parts"
    assert not packs(4096, 4096, 4096, precision=None)
    assert not packs(4096, 4096, 4096, images=True)
    assert not packs(4096, 4096, 4096, warpgroups=False)
    assert not packs(256, 256, 256)
    assert not packs(1, 4096, 4096) and not packs(4096, 4096, 0)
    assert not packs(2**22, 4096, 4096), "more rows than the grid of blocks can have"
    most = tiles.MOST_PACKED
    assert packs(most, 4096, 4096) and packs(4096, most, 4096) and packs(4096, 4096, most)
    for tile in tiles.WARPGROUP_TILES.values():
        for side in tile.height, tile.width:
            padded = -(-most // side) * side
            assert -(-padded // packing.ROWS) <= device.MOST_BLOCKS, "padding needs blocks, too"
    assert not packs(64, 64, 64, 10**4)


def test_another_gpu_is_named(monkeypatch):
    monkeypatch.setattr(device, "capability", lambda: (8, 0))
    with pytest.raises(
        RuntimeError, match=r"wgmma_tf32 needs .* \(9, 0\), and this one has \(8, 0\)"
    ):
        product_of_many_stages()


def test_the_check_for_gpus(monkeypatch):
    """benchmarks/gpu_right.py takes right results for right, and notices that nothing was computed."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import gpu_right

    monkeypatch.setitem(tiles.WARPGROUP_TILES, "w128x256", SMALL_TILES[1])
    cases = [c for c in gpu_right.packed_products_to_check([(9, 70, 7)]) if c["tile"] == "w128x256"]
    rng = np.random.default_rng(7)
    for case in (cases[0], cases[3]):
        limit = gpu_right.LIMITS[case["precision"]]
        assert limit / 1e5 < gpu_right.check_packed_product(np, rng, case) <= limit, case
    monkeypatch.setattr(warpgroups, "launch", lambda *a: None)
    products.planned.cache_clear()
    assert gpu_right.check_packed_product(np, rng, cases[0]) == np.inf
    products.planned.cache_clear()


def test_the_checks_for_races(monkeypatch):
    """benchmarks/gpu_races.py takes what is right for right, and notices what changes from one time to the next."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import gpu_races

    class Stream(contextlib.nullcontext):
        def __init__(self, non_blocking=False):
            super().__init__()

        def synchronize(self):
            pass

    Stream.null = Stream()
    runtime = SimpleNamespace(memGetInfo=lambda: (2**40, 2**40))
    xp = SimpleNamespace(**{name: getattr(np, name) for name in ("asarray", "zeros", "ones", "stack", "tile")},
                         cuda=SimpleNamespace(Stream=Stream, runtime=runtime))  # fmt: skip
    monkeypatch.setattr(gpu_races, "PRODUCTS", {"small": (3, 4, 2)})
    monkeypatch.setattr(gpu_races, "BATCH", (9, 2))
    monkeypatch.setattr(gpu_races, "REPEATS", 2)
    monkeypatch.setattr(gpu_races, "REPEATED_ROWS", 3)
    monkeypatch.setitem(tiles.WARPGROUP_TILES, "w128x128", SMALL_TILES[0])
    rng, huge = np.random.default_rng(0), {"shape": (6, 20, 7), "precision": "bf16"}
    assert gpu_races.check_same(xp, rng, {"streams": 1}) == 0.0
    assert 1e-5 < gpu_races.check_huge(xp, rng, huge) < 1e-2

    monkeypatch.setattr(gpu_races, "operations", lambda *a: {"random": lambda: [rng.random(3)]})
    assert gpu_races.check_same(xp, rng, {"streams": 2}) == np.inf
    monkeypatch.setattr(linear, "multiply", lambda product, a, b, c, *rest: c.fill(0))
    assert gpu_races.check_huge(xp, rng, huge) > 0.9


def test_packing_can_be_left_out_of_a_measurement(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import gpu_speeds

    rung, (a, b) = ladder.TENSOR_CORES[3], np.random.default_rng(0).standard_normal((2, 9, 9))
    monkeypatch.setattr(rung, "tile", SMALL_TILES[0])
    call = gpu_speeds.packed_before(rung, a.astype("f4"), b.astype("f4"))
    first = call()
    with monkeypatch.context() as patch:
        patch.setattr(packing, "packer", None)
        np.testing.assert_array_equal(call(), first)
    np.testing.assert_allclose(first, a @ b, atol=0.1)
