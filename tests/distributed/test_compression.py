"""Compressed sums: what they must equal, what they may lose, and that all ranks end with the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinydl as tl
from tests.distributed.models import (
    BATCH,
    compiled,
    digest,
    mlp,
    train,
    whole_and_resumed,
)
from tinydl.distributed.compression import BFloat16, Float16
from tinydl.distributed.power_sgd import PowerSGD, orthonormalize
from tinydl.distributed.reduction import AllReduce
from tinydl.distributed.top_k import TopK
from tinydl.distributed.world import World
from tinydl.parameters import Parameter, ParameterStore


def a_store(dtype, shapes=((40, 30), (30,), (30, 50), (7,))):
    return ParameterStore(
        Parameter(f"p{k}", np.zeros(shape, dtype)) for k, shape in enumerate(shapes)
    )


def gradients_of(rank, store, scale=1.0):
    """Numbers of all sizes, the same on whichever rank they are asked for; between parameters 0."""
    rng, flat = np.random.default_rng(rank), np.zeros(store.grads.size)
    for s in store.segments:
        size = s.stop - s.start
        flat[s.start : s.stop] = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 3, size)
    return scale * flat


def sums(reduction, dtype, scale, steps=1):
    """(what the optimizer would see in each step, the true sums)."""
    many = tl.distributed.world()
    store = a_store(dtype)
    reduction.attach(many.side, store)
    seen = []
    for step in range(steps):
        everyone = [gradients_of(100 * step + r, store, scale) for r in range(many.size)]
        store.grads[:] = everyone[many.rank]
        for bucket in reduction.buckets(2048, 256):
            reduction.total(bucket)
        seen.append((store.grads.copy(), np.sum(np.array(everyone, dtype), axis=0, dtype=float)))
    return seen


def sizes_of(dtype, ranks, scale):
    return sum(np.abs(gradients_of(r, a_store(dtype), scale)) for r in range(ranks))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_bfloat16_has_a_relative_error_of_its_own_rounding(job, dtype, scale):
    results = job.run(sums, BFloat16(), dtype, scale)
    got, want = results[0][0]
    # Each number is rounded once, and their sum once more.
    bound = 2.0**-7 * 1.01 * sizes_of(dtype, job.ranks, scale)
    if job.ranks > 1:
        assert np.all(np.abs(got - want) <= bound)
        assert np.abs(got - want).max() > 0  # something was rounded indeed
    assert not (
        got.astype(np.float32).view(np.uint32) & 0xFFFF
    ).any()  # the sums, too, were sent in 16 bits
    for other in results:
        np.testing.assert_array_equal(other[0][0], got)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_float16_has_more_digits_in_a_smaller_range(job, scale):
    results = job.run(sums, Float16(), "float32", scale)
    got, want = results[0][0]
    sizes = sizes_of("float32", job.ranks, scale)
    # 2^-11 of each number, or 2^-25 of the smallest power of two that is scaled to 2^15 and more.
    largest = sizes.max()
    bound = 2.0**-10 * 1.01 * sizes + job.ranks**2 * 2.0**-37 * largest
    assert np.all(np.abs(got - want) <= bound)
    for other in results:
        np.testing.assert_array_equal(other[0][0], got)


@pytest.mark.parametrize("kind", [BFloat16, Float16, TopK, PowerSGD])
def test_what_is_not_finite_reaches_the_optimizer(job, kind):
    for finite in job.run(a_nan, kind()):
        assert not finite


def a_nan(reduction):
    """Rank 0's gradient holds one NaN."""
    many = tl.distributed.world()
    store = a_store("float32")
    reduction.attach(many.side, store)
    store.grads[:] = gradients_of(many.rank, store)
    if many.rank == 0:
        store.grads[1234] = np.nan
    for bucket in reduction.buckets(2048, 256):
        reduction.total(bucket)
    return bool(np.isfinite(store.grads).all())


def feedback(reduction, steps):
    """Σ over steps of what the optimizer saw, and of the truth; what is still remembered; on this rank."""
    seen = sums(reduction, "float64", 1.0, steps)
    return sum(a for a, _ in seen), sum(b for _, b in seen), reduction.error, seen[-1][0]


@pytest.mark.parametrize("reduction", [TopK(0.05), PowerSGD(2)], ids=["top_k", "power_sgd"])
def test_with_error_feedback_nothing_is_lost(job, reduction):
    """Σ_steps seen + Σ_ranks remembered = Σ_steps true gradient."""
    results = job.run(feedback, reduction, 7)
    remembered = sum(error for _, _, error, _ in results)
    for seen, truth, _, last in results:
        np.testing.assert_allclose(seen + remembered, truth, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(last, results[0][3])
    assert np.abs(remembered).max() > 0  # something was left out indeed


@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_top_k_sends_the_largest(job, ratio):
    """In a first step: from every rank the largest of each bucket."""
    reduction = TopK(ratio)
    results = job.run(sums, reduction, "float64", 1.0)
    store = a_store("float64")
    reduction.attach(World(), store)
    want = np.zeros(store.grads.size)
    for rank in range(job.ranks):
        g = gradients_of(rank, store)
        for bucket in reduction.buckets(2048, 256):
            part = g[bucket]
            count = int(np.ceil(ratio * part.size))
            largest = np.argsort(np.abs(part))[part.size - count :]
            want[bucket][largest] += part[largest]
    for seen in results:
        np.testing.assert_allclose(seen[0][0], want, rtol=1e-12)


def low_rank_gradients(steps):
    """All ranks' gradients have columns from one space of dimension 3: rank 4 has room for it."""
    many = tl.distributed.world()
    store = a_store("float64", ((40, 30), (30,)))
    reduction = PowerSGD(4)
    reduction.attach(many.side, store)
    matrix, vector = store
    space = np.random.default_rng(0).standard_normal((40, 3))
    for _ in range(steps):
        everyone = [np.random.default_rng(r).standard_normal((3, 30)) for r in range(many.size)]
        matrix.grad[:] = space @ everyone[many.rank]
        vector.grad[:] = many.rank + 1
        for bucket in reduction.buckets(1 << 20, 1 << 20):
            reduction.total(bucket)
    return matrix.grad.copy(), vector.grad.copy(), space @ sum(everyone), reduction.error


def test_power_sgd_is_exact_for_gradients_of_low_rank(job):
    for matrix, vector, want, error in job.run(low_rank_gradients, 3):
        np.testing.assert_allclose(matrix, want, atol=1e-9)
        np.testing.assert_array_equal(vector, job.ranks * (job.ranks + 1) / 2)
        np.testing.assert_allclose(error, 0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), rank=st.integers(1, 6), true_rank=st.integers(0, 6))
def test_orthonormalize(n, rank, true_rank):
    """pᵀ p is a projection (1 for columns kept, 0 for those of which nothing was left), onto p's old space."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((n, true_rank)) @ rng.standard_normal((true_rank, rank))
    p = start.copy()
    orthonormalize(p)
    kept = np.round(np.diag(p.T @ p))
    np.testing.assert_allclose(p.T @ p, np.diag(kept), atol=1e-8)
    assert kept.sum() == min(n, rank, true_rank)
    np.testing.assert_allclose(p @ (p.T @ start), start, atol=1e-8 * max(1, np.abs(start).max()))


def trainings(compression):
    rank = tl.distributed.world().rank
    strategy = tl.distributed.DataParallel(
        compression=compression,
        bucket_bytes=512,
        first_bucket_bytes=64,
        check_every=1,
        overlap="thread",
    )
    model, history = train("mlp", strategy, seed=rank, epochs=20)
    _, expected = train("mlp", None, epochs=20)
    return digest(model), history["loss"][-1], expected["loss"][-1], expected["loss"][0]


@pytest.mark.parametrize(
    "compression",
    ["bfloat16", "float16", {"class": "TopK", "config": {"ratio": 0.3}}, "power_sgd"],
    ids=str,
)
def test_training_with_compression_gets_as_far(job, compression):
    """The loss falls as without, but for a tenth of the way; the ranks stay equal (checked at every step, too)."""
    results = job.run(trainings, compression)
    assert len({got for got, *_ in results}) == 1
    _, loss, plain, first = results[0]
    assert abs(loss - plain) <= 0.1 * (first - plain)


def frozen_layers_are_left_alone(compression):
    strategy = tl.distributed.DataParallel(compression=compression)
    model, x, y = mlp()
    model.build_model((6,))
    model.sublayers[1].trainable = False
    before = model.sublayers[1].own_parameters[0].value.copy()
    compiled(model).fit(x, y, batch_size=BATCH, verbose=0, strategy=strategy)
    return np.array_equal(before, model.sublayers[1].own_parameters[0].value)


@pytest.mark.parametrize("compression", ["bfloat16", "power_sgd", "top_k"])
def test_frozen_layers(job, compression):
    assert all(job.run(frozen_layers_are_left_alone, compression))


def resumed(compression, folder):
    def strategy():
        return tl.distributed.DataParallel(compression=compression)

    return np.array_equal(*whole_and_resumed(folder, strategy, every_steps=4))


@pytest.mark.parametrize("compression", [None, "bfloat16", "top_k", "power_sgd"])
def test_a_resumed_run_gives_the_same_weights(job, compression, tmp_path):
    assert job.run(resumed, compression, str(tmp_path)) == [True] * job.ranks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), r"ratio must be in \(0, 1\], got 0"),
        (lambda: PowerSGD(0), "rank must be a whole number >= 1, got 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_plain_sums_of_a_world_of_one_are_what_they_were():
    store = a_store("float64")
    reduction = AllReduce()
    reduction.attach(World(), store)
    store.grads[:] = want = gradients_of(0, store)
    for bucket in reduction.buckets(2048, 256):
        reduction.total(bucket)
    np.testing.assert_array_equal(store.grads, want)
