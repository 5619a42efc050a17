"""Fused cross-entropies against their definitions; gradients by central differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl_kernels import cpu, reference

from .comparison import (
    DTYPES,
    SEEDS,
    assert_close,
    assert_gradient,
    assert_same_for_each_thread_count,
    double,
    few,
)

SHAPES = st.tuples(st.integers(0, 40), st.integers(1, 30))
SMOOTHING = st.sampled_from([0.0, 0.1])


def distributions(rng, shape):
    """Rows that sum to 1, with zeros among them."""
    t = rng.random(shape) * (rng.random(shape) < 0.6) + 1e-3 * (np.arange(shape[1]) == 0)
    return t / t.sum(1, keepdims=True)


@pytest.mark.parametrize("dtype", DTYPES)
@few(20)
@given(shape=SHAPES, smoothing=SMOOTHING, dense=st.booleans(), weighted=st.booleans(), seed=SEEDS)
def test_softmax_cross_entropy(dtype, shape, smoothing, dense, weighted, seed):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal(shape)).astype(dtype)
    labels = (
        distributions(rng, shape).astype(dtype) if dense else rng.integers(shape[1], size=shape[0])
    )
    weight = rng.random(shape[0]).astype(dtype) if weighted else None
    got = cpu.softmax_cross_entropy(logits, labels, weight, label_smoothing=smoothing)
    want = reference.softmax_cross_entropy(
        *double(logits, labels, weight), label_smoothing=smoothing
    )
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        assert_close(a, b, 16)
    total, wide_total = np.empty(()), np.empty(())
    cpu.softmax_cross_entropy(logits, labels, weight, label_smoothing=smoothing, total=total)
    assert total == got[0].sum(dtype=np.float64)
    reference.softmax_cross_entropy(
        *double(logits, labels, weight), label_smoothing=smoothing, total=wide_total
    )
    np.testing.assert_allclose(wide_total, want[0].sum(), rtol=1e-12)


@few(10)
@given(shape=SHAPES, smoothing=SMOOTHING, dense=st.booleans(), seed=SEEDS)
def test_gradient_of_softmax_cross_entropy(shape, smoothing, dense, seed):
    rng = np.random.default_rng(seed)
    # A distribution need not sum to 1 for the gradient to be right.
    labels = rng.random(shape) if dense else rng.integers(shape[1], size=shape[0])
    weight = rng.random(shape[0])

    def run(logits):
        return reference.softmax_cross_entropy(logits, labels, weight, label_smoothing=smoothing)

    logits = rng.standard_normal(shape)
    grad = run(logits)[1]
    assert_gradient(lambda z: run(z)[0], lambda c: c[:, None] * grad, logits, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits(dtype, smoothing):
    inf, nan = np.inf, np.nan
    logits = np.array(
        [
            [1e4, -1e4, 0],
            [1e4, -1e4, 0],
            [-inf, 1, 2],  # a class that is impossible, and not the label
            [-inf, 1, 2],  # ... and the label
            [nan, 0, 0],
            [0, nan, 0],
            [-inf, -inf, -inf],
        ],
        dtype,
    )
    labels = np.array([0, 1, 1, 0, 1, 0, 0])
    one_hot = np.eye(3, dtype=dtype)[labels]
    want = reference.softmax_cross_entropy(*double(logits), labels, label_smoothing=smoothing)
    for given_labels in (labels, one_hot):
        got = cpu.softmax_cross_entropy(logits, given_labels, label_smoothing=smoothing)
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)
    losses = want[0]
    if not smoothing:
        np.testing.assert_allclose(losses[:3], [0, 2e4, np.log1p(np.e)])
    assert losses[3] == inf and np.isnan(losses[4:]).all()


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_type(kind):
    logits = np.random.default_rng(0).standard_normal((5, 3))
    labels = np.array([0, 2, 1, 1, 0])
    for a, b in zip(
        cpu.softmax_cross_entropy(logits[::-1], labels.astype(kind)[::-1]),
        reference.softmax_cross_entropy(logits[::-1], labels[::-1]),
        strict=True,
    ):
        assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(shape=st.sampled_from([(7,), (33, 1), (4, 3, 5)]), weights=st.integers(0, 2), seed=SEEDS)
def test_binary_cross_entropy(dtype, shape, weights, seed):
    rng = np.random.default_rng(seed)
    logits = (5 * rng.standard_normal(shape)).astype(dtype)
    targets = np.clip(rng.uniform(-0.5, 1.5, shape), 0, 1).astype(dtype)
    weight = [None, rng.random(shape[0]).astype(dtype), rng.random(shape).astype(dtype)][weights]
    got = cpu.binary_cross_entropy(logits, targets, weight)
    want = reference.binary_cross_entropy(*double(logits, targets, weight))
    for a, b in zip(got, want, strict=True):
        assert_close(a, b)


@few(10)
@given(shape=st.sampled_from([(7,), (4, 3)]), seed=SEEDS)
def test_gradient_of_binary_cross_entropy(shape, seed):
    rng = np.random.default_rng(seed)
    logits, targets = rng.standard_normal(shape), rng.random(shape)
    grad = reference.binary_cross_entropy(logits, targets)[1]
    assert_gradient(
        lambda z: reference.binary_cross_entropy(z, targets)[0], lambda c: c * grad, logits, seed
    )


@pytest.mark.parametrize("kernels", [cpu, reference])
def test_extreme_binary_logits(kernels):
    inf, nan = np.inf, np.nan
    logits = np.float32([1e4, 1e4, -1e4, -1e4, inf, inf, -inf, nan, 0])
    targets = np.float32([1, 0, 1, 0, 1, 0, 0, 1, 0.5])
    losses, grad = kernels.binary_cross_entropy(logits, targets)
    np.testing.assert_allclose(losses, [0, 1e4, 1e4, 0, 0, inf, 0, nan, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(grad, [0, 1, -1, 0, 0, 1, 0, nan, 0], atol=1e-7)


def test_results_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((9001, 11)).astype(np.float32)
    labels = rng.integers(11, size=9001)

    def run():
        return [
            *cpu.softmax_cross_entropy(logits, labels, label_smoothing=0.1),
            *cpu.softmax_cross_entropy(logits, np.eye(11, dtype=np.float32)[labels]),
            *cpu.binary_cross_entropy(logits, np.abs(np.sin(logits))),
        ]

    assert_same_for_each_thread_count(run)


def test_bad_input_is_named():
    logits = np.zeros((4, 3), np.float32)
    labels = np.zeros(4, np.int64)
    for wrong in (3, -1):
        labels[2] = wrong
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
            cpu.softmax_cross_entropy(logits, labels)
    labels[2] = 0
    with pytest.raises(TypeError, match=r"labels of shape \(N,\) must be integers, not float32"):
        cpu.softmax_cross_entropy(logits, labels.astype(np.float32))
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\), not \(5,\)"):
        cpu.softmax_cross_entropy(logits, np.zeros(5, np.int64))
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(4,\), not \(3,\)"):
        cpu.softmax_cross_entropy(logits, labels, np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"logits must have shape \(N, K\)"):
        cpu.softmax_cross_entropy(logits[0], labels)
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        cpu.softmax_cross_entropy(logits, labels, label_smoothing=1.0)
    with pytest.raises(TypeError, match="logits must be float32 or float64, not float16"):
        cpu.softmax_cross_entropy(logits.astype(np.float16), labels)
    with pytest.raises(ValueError, match=r"targets must have shape \(4, 3\)"):
        cpu.binary_cross_entropy(logits, logits[0])
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        cpu.binary_cross_entropy(logits, logits, np.ones((3, 4)))
