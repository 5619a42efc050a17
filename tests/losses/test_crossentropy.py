"""Cross-entropies: values from their definition, gradients from central differences, bad input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tinydl.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    get,
)


def numeric_gradient(f, x, h=1e-5):
    """Central differences of the scalar f at x, with one Richardson step."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        at = x[i]
        differences = []
        for step in (h, h / 2):
            x[i] = at + step
            up = f(x)
            x[i] = at - step
            differences.append((up - f(x)) / (2 * step))
        x[i] = at
        gradient[i] = (4 * differences[1] - differences[0]) / 3
    return gradient


@st.composite
def batches(draw):
    """(rng, samples' shape, K, sample_weight, mask): weights and masks of every form, or None."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    samples = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
    classes = draw(st.integers(1, 5))
    form = draw(st.sampled_from(["none", "per sample", "full"]))
    weight = {"none": None, "per sample": rng.random(samples[0]), "full": rng.random(samples)}[form]
    mask = rng.random(samples) < 0.6 if draw(st.booleans()) else None
    return rng, samples, classes, weight, mask


def check_gradient(loss, predictions, targets, weight, mask):
    loss.forward(predictions, targets, weight, mask)
    analytic = loss.backward()
    numeric = numeric_gradient(lambda p: loss.forward(p, targets, weight, mask), predictions.copy())
    assert analytic.shape == predictions.shape
    assert_allclose(analytic, numeric, rtol=1e-6, atol=1e-8 * max(np.abs(numeric).max(), 1e-3))


@settings(max_examples=25, deadline=None)
@given(batches(), st.sampled_from([0.0, 0.1]), st.booleans())
def test_class_losses_have_the_gradient_of_their_value(batch, smoothing, from_logits):
    rng, samples, classes, weight, mask = batch
    predictions = rng.normal(size=(*samples, classes)) * 3
    if not from_logits:
        predictions = rng.uniform(0.05, 0.95, predictions.shape)
    labels = rng.integers(0, classes, samples)
    soft = rng.dirichlet(np.ones(classes), samples)
    sparse = SparseCategoricalCrossentropy(from_logits, smoothing)
    dense = CategoricalCrossentropy(from_logits, smoothing)
    check_gradient(sparse, predictions, labels, weight, mask)
    check_gradient(dense, predictions, soft, weight, mask)
    one_hot = np.eye(classes)[labels]
    assert_allclose(
        sparse.forward(predictions, labels, weight, mask),
        dense.forward(predictions, one_hot, weight, mask),
        rtol=1e-12,
    )
    assert_allclose(sparse.backward(), dense.backward(), rtol=1e-12, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(batches(), st.sampled_from([0.0, 0.2]), st.booleans())
def test_binary_loss_has_the_gradient_of_its_value(batch, smoothing, from_logits):
    rng, samples, labels, weight, mask = batch
    predictions = rng.normal(size=(*samples, labels)) * 3
    if not from_logits:
        predictions = rng.uniform(0.05, 0.95, predictions.shape)
    targets = rng.integers(0, 2, predictions.shape)
    check_gradient(BinaryCrossentropy(from_logits, smoothing), predictions, targets, weight, mask)


def test_values_from_the_definition():
    logits = np.array([[1.0, 2.0, -0.5], [0.0, 0.0, 3.0]])
    labels, weight, s = [1, 0], [1.0, 2.5], 0.1
    expected = 0.0
    for row, label, w in zip(logits, labels, weight, strict=True):
        log_sum = math.log(math.fsum(math.exp(z) for z in row))
        for k, z in enumerate(row):
            expected -= w * ((1 - s) * (k == label) + s / 3) * (z - log_sum)
    loss = SparseCategoricalCrossentropy(label_smoothing=s)
    assert loss.forward(logits, labels, weight) == pytest.approx(expected / 2, rel=1e-14)
    assert (loss.total, loss.count) == (pytest.approx(expected, rel=1e-14), 2)

    z, t = [0.3, -2.0], [1, 0]
    binary = BinaryCrossentropy().forward(np.array([z]), [t])
    p = [1 / (1 + math.exp(-x)) for x in z]
    assert binary == pytest.approx(-(math.log(p[0]) + math.log(1 - p[1])) / 2, rel=1e-14)


def test_probabilities_and_logits_agree():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6, 4))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    labels = rng.integers(0, 4, 6)
    by_logits = SparseCategoricalCrossentropy().forward(z, labels)
    assert SparseCategoricalCrossentropy(from_logits=False).forward(p, labels) == pytest.approx(
        by_logits, rel=1e-12
    )
    targets = labels > 1
    by_logits = BinaryCrossentropy().forward(z[:, 0], targets)
    sigmoid = 1 / (1 + np.exp(-z[:, 0]))
    assert BinaryCrossentropy(from_logits=False).forward(sigmoid, targets) == pytest.approx(
        by_logits, rel=1e-12
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_logits_neither_overflow_nor_cancel(dtype):
    logits = np.array([[1e4, -1e4], [1e4, -1e4], [0, 0]], dtype)
    loss = SparseCategoricalCrossentropy()
    assert loss.forward(logits, [0, 1, 0]) == pytest.approx((0 + 2e4 + math.log(2)) / 3, rel=1e-7)
    assert_allclose(loss.backward() * 3, [[0, 0], [1, -1], [-0.5, 0.5]], atol=1e-7)

    loss = BinaryCrossentropy()
    assert loss.forward(logits[:2], [[1, 0], [0, 1]]) == pytest.approx(5e3, rel=1e-7)
    assert_allclose(loss.backward() * 4, [[0, 0], [1, -1]], atol=1e-7)
    assert loss.backward().dtype == dtype


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "binary_crossentropy"])
def test_certain_and_wrong_probabilities_stay_finite(loss):
    p = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    loss = get({"class": loss, "config": {"from_logits": False}})
    targets = [1, 1] if loss.label.startswith("Sparse") else [[0, 1], [0, 1]]
    # Clipped there, hence flat: a gradient of 1 / 1e-7 would be that of no value.
    assert loss.forward(p, targets) == pytest.approx(-math.log(1e-7) / 2, rel=0.01)
    assert_array_equal(loss.backward(), 0)


def test_nan_in_the_predictions_goes_through():
    predictions = np.array([[0.0, np.nan], [0.0, 1.0]])
    for loss, targets in (
        (SparseCategoricalCrossentropy(), [0, 1]),
        (BinaryCrossentropy(), [[0, 1], [1, 0]]),
    ):
        assert math.isnan(loss.forward(predictions, targets))
        assert np.isnan(loss.backward()).any()


def test_weights_change_the_total_and_not_the_count():
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(3, 4)), np.array([0, 3, 1])
    loss = SparseCategoricalCrossentropy()
    each = [loss.forward(z[i : i + 1], labels[i : i + 1]) for i in range(3)]
    assert loss.forward(z, labels, [2.0, 0.0, 1.0]) == pytest.approx((2 * each[0] + each[2]) / 3)
    assert loss.count == 3
    assert_array_equal(loss.backward()[1], 0)


def test_what_the_mask_drops_may_hold_anything():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(2, 3, 4))
    labels = np.array([[1, 2, -1], [0, 99, -1]])
    mask = np.array([[True, True, False], [True, False, False]])
    loss = SparseCategoricalCrossentropy()
    kept = loss.forward(z[mask], labels[mask])
    gradient = loss.backward()
    assert loss.forward(z, labels, mask=mask) == pytest.approx(kept, rel=1e-14)
    assert loss.count == 3
    assert_allclose(loss.backward()[mask], gradient, rtol=1e-14)
    assert_array_equal(loss.backward()[~mask], 0)

    soft = np.full((2, 3, 4), np.nan)
    soft[mask] = 0.25
    assert math.isfinite(CategoricalCrossentropy().forward(z, soft, mask=mask))


def test_nothing_kept_is_no_loss():
    loss = SparseCategoricalCrossentropy()
    assert loss.forward(np.ones((1, 2, 3)), [[0, 0]], mask=np.zeros((1, 2), bool)) == 0
    assert loss.count == 0
    assert_array_equal(loss.backward(), 0)


def test_sums_of_parts_are_the_sum_of_the_whole():
    """What several processes do: add up total and count, then use the common count."""
    rng = np.random.default_rng(3)
    z, labels, weight = rng.normal(size=(7, 3)), rng.integers(0, 3, 7), rng.random(7)
    whole = SparseCategoricalCrossentropy()
    whole.forward(z, labels, weight)
    parts, gradients = [], []
    for part in (slice(0, 2), slice(2, 7)):
        loss = SparseCategoricalCrossentropy()
        loss.forward(z[part], labels[part], weight[part])
        parts.append(loss)
        gradients.append(loss.backward(count=7))
    assert sum(p.total for p in parts) == pytest.approx(whole.total, rel=1e-14)
    assert sum(p.count for p in parts) == whole.count
    assert_allclose(np.concatenate(gradients), whole.backward(), rtol=1e-14)


def test_many_float32_losses_are_summed_in_float64():
    row = np.array([[0.1, 0.7, -0.3]], np.float32)
    loss = SparseCategoricalCrossentropy()
    one = loss.forward(row, [2])
    assert loss.forward(np.repeat(row, 100_003, axis=0), np.full(100_003, 2)) == pytest.approx(
        one, rel=1e-12
    )


Z = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("loss", "predictions", "targets", "error", "message"),
    [
        ("sparse", Z, [0, 4, 9], ValueError, r"label outside \[0, 4\): 4 at index 1"),
        ("sparse", Z, [0, 1, -1], ValueError, r"label outside \[0, 4\): -1 at index 2"),
        ("sparse", Z, [0, 1], ValueError, r"\(3, 4\) need labels of shape \(3,\), got \(2,\)"),
        ("sparse", Z, np.eye(4)[:3], ValueError, "one-hot targets go with 'categorical"),
        ("sparse", Z, [0.0, 1.0, 2.0], TypeError, "labels must be integers, got float64"),
        ("sparse", Z.astype(int), [0, 1, 2], TypeError, "float32 or float64, got int64"),
        ("sparse", np.zeros(3), [0, 1, 2], ValueError, r"must be \(N, K\)"),
        ("dense", Z, [0, 1, 2], ValueError, "class numbers go with 'sparse_categorical"),
        ("dense", Z, np.full((3, 4), np.inf), ValueError, r"not finite: inf at index \(0, 0\)"),
        ("dense", Z, -np.eye(4)[:3], ValueError, r"not a probability: -1.0 at index \(0, 0\)"),
        ("dense", Z, np.full((3, 4), "a"), TypeError, "targets must be numbers"),
        ("binary", Z, np.full((3, 4), 2), ValueError, r"outside \[0, 1\]: 2.0 at index \(0, 0\)"),
        ("binary", Z, np.ones(3), ValueError, r"shape \(3, 4\), got \(3,\)"),
        ("binary", Z[0], np.array([0, 1, np.nan, 1]), ValueError, "not finite: nan at index 2"),
    ],
)
def test_bad_input_is_named(loss, predictions, targets, error, message):
    classes = {
        "sparse": SparseCategoricalCrossentropy,
        "dense": CategoricalCrossentropy,
        "binary": BinaryCrossentropy,
    }
    with pytest.raises(error, match=message):
        classes[loss]().forward(predictions, targets)


def test_bad_weights_and_masks_are_named():
    loss, labels = SparseCategoricalCrossentropy(), [0, 1, 2]
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(3,\).*got \(2,\)"):
        loss.forward(Z, labels, [1, 2])
    with pytest.raises(ValueError, match="sample_weight is not finite: nan at index 1"):
        loss.forward(Z, labels, [1, np.nan, 2])
    with pytest.raises(TypeError, match="a mask must be bool"):
        loss.forward(Z, labels, mask=np.ones(3))
    with pytest.raises(ValueError, match=r"mask must have shape \(3,\)"):
        loss.forward(Z, labels, mask=np.ones((3, 4), bool))


def test_logits_where_probabilities_belong_are_refused():
    for loss in (SparseCategoricalCrossentropy, BinaryCrossentropy):
        targets = [0] if loss is SparseCategoricalCrossentropy else [[0, 1]]
        with pytest.raises(
            ValueError, match=r"probabilities in \[0, 1\].*got: 3.5 at index \(0, 1\)"
        ):
            loss(from_logits=False).forward(np.array([[0.5, 3.5]]), targets)


def test_takes_logits_unless_told_otherwise():
    for name in (
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        "binary_crossentropy",
    ):
        assert get(name).takes_logits
        assert not get({"class": name, "config": {"from_logits": False}}).takes_logits
    assert not get("mse").takes_logits


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_bad_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\)"):
        SparseCategoricalCrossentropy(label_smoothing=smoothing)
