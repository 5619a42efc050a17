"""Losses against torch.nn.functional: values and gradients, in float32 and float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from tinydl.losses import (  # noqa: E402
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
)

TOLERANCE = {"float32": dict(rtol=2e-6, atol=1e-7), "float64": dict(rtol=1e-12, atol=1e-14)}
DTYPES = st.sampled_from(["float32", "float64"])


def check(loss, theirs, predictions, targets, sample_weight=None, mask=None):
    """``theirs``: predictions as a tensor -> scalar."""
    tolerance = TOLERANCE[predictions.dtype.name]
    tensor = torch.tensor(predictions, requires_grad=True)
    expected = theirs(tensor)
    expected.backward()
    value = loss.forward(predictions, targets, sample_weight, mask)
    assert_allclose(value, expected.item(), **tolerance)
    assert_allclose(loss.backward(), tensor.grad.numpy(), **tolerance)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(2, 12),
    st.sampled_from([0.0, 0.1]),
    DTYPES,
    st.integers(0, 2**32),
)
def test_softmax_cross_entropy(samples, classes, smoothing, dtype, seed):
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(samples, classes)) * 5).astype(dtype)
    labels = rng.integers(0, classes, samples)
    soft = rng.dirichlet(np.ones(classes), samples).astype(dtype)
    for loss, targets in (
        (SparseCategoricalCrossentropy(label_smoothing=smoothing), labels),
        (CategoricalCrossentropy(label_smoothing=smoothing), soft),
    ):
        their_targets = torch.tensor(targets)
        check(
            loss,
            lambda p, t=their_targets: F.cross_entropy(p, t, label_smoothing=smoothing),
            z,
            targets,
        )


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6), DTYPES, st.integers(0, 2**32))
def test_sequences_with_padding(samples, steps, classes, dtype, seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(samples, steps, classes)).astype(dtype)
    labels = rng.integers(0, classes, (samples, steps))
    mask = rng.random((samples, steps)) < 0.7
    mask[0, 0] = True
    labels[~mask] = -100  # what cross_entropy leaves out by default
    check(
        SparseCategoricalCrossentropy(),
        lambda p: F.cross_entropy(p.reshape(-1, classes), torch.tensor(labels.ravel())),
        z,
        labels,
        mask=mask,
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), DTYPES, st.integers(0, 2**32))
def test_sample_weights(samples, classes, dtype, seed):
    """Weighted losses over the count of samples, not over the sum of weights."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(samples, classes)).astype(dtype)
    labels, weight = rng.integers(0, classes, samples), rng.random(samples).astype(dtype)

    def theirs(p):
        each = F.cross_entropy(p, torch.tensor(labels), reduction="none")
        return (each * torch.tensor(weight)).sum() / samples

    check(SparseCategoricalCrossentropy(), theirs, z, labels, sample_weight=weight)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), DTYPES, st.integers(0, 2**32))
def test_binary_cross_entropy(samples, labels, dtype, seed):
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(samples, labels)) * 5).astype(dtype)
    targets = rng.random((samples, labels)).astype(dtype)
    tensor = torch.tensor(targets)
    check(
        BinaryCrossentropy(),
        lambda p: F.binary_cross_entropy_with_logits(p, tensor),
        z,
        targets,
    )
    p = rng.uniform(0.02, 0.98, (samples, labels)).astype(dtype)
    check(
        BinaryCrossentropy(from_logits=False),
        lambda p: F.binary_cross_entropy(p, tensor),
        p,
        targets,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_logits(dtype):
    z = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [5e3, 1e4, -1e4]], dtype)
    labels = np.array([1, 0, 2])
    check(
        SparseCategoricalCrossentropy(),
        lambda p: F.cross_entropy(p, torch.tensor(labels)),
        z,
        labels,
    )
    targets = np.eye(3, dtype=dtype)
    check(
        BinaryCrossentropy(),
        lambda p: F.binary_cross_entropy_with_logits(p, torch.tensor(targets)),
        z,
        targets,
    )


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["mse", "mae", "huber"]), st.integers(1, 9), st.integers(1, 5), DTYPES,
    st.integers(0, 2**32),
)  # fmt: skip
def test_regression(name, samples, columns, dtype, seed):
    loss, theirs = {
        "mse": (MeanSquaredError(), F.mse_loss),
        "mae": (MeanAbsoluteError(), F.l1_loss),
        "huber": (Huber(0.7), lambda p, t: F.huber_loss(p, t, delta=0.7)),
    }[name]
    rng = np.random.default_rng(seed)
    p, t = (rng.normal(size=(samples, columns)).astype(dtype) for _ in range(2))
    check(loss, lambda tensor: theirs(tensor, torch.tensor(t)), p, t)
