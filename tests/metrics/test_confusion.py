"""The confusion matrix and its scores against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from tinydl.metrics import F1, ConfusionMatrix, Precision, Recall

SCORES = [(Precision, precision_score), (Recall, recall_score), (F1, f1_score)]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**32), st.booleans())
def test_matrix_is_that_of_scikit_learn(samples, classes, seed, weighted):
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(size=(samples, classes)), rng.integers(0, classes, samples)
    weight = rng.random(samples) if weighted else None
    metric = ConfusionMatrix()
    metric.update(z, labels, weight)
    expected = confusion_matrix(
        labels, z.argmax(axis=1), labels=range(classes), sample_weight=weight
    )
    np.testing.assert_allclose(metric.result(), expected)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(2, 6),
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from(["macro", "micro"]),
)
def test_averages_are_those_of_scikit_learn(samples, classes, seed, weighted, average):
    """Few samples, so that some classes are never predicted and some never occur."""
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(size=(samples, classes)), rng.integers(0, classes, samples)
    weight = rng.random(samples) + 0.1 if weighted else None
    for ours, theirs in SCORES:
        metric = ours(average)
        metric.update(z, labels, weight)
        expected = theirs(
            labels, z.argmax(axis=1), average=average, sample_weight=weight, zero_division=0
        )
        assert metric.result() == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32))
def test_binary_scores_are_those_of_scikit_learn(samples, seed):
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(size=samples), rng.integers(0, 2, samples)
    for ours, theirs in SCORES:
        expected = pytest.approx(theirs(labels, z > 0, zero_division=0))
        for predictions in (z, z[:, None], np.stack([0 * z, z], axis=1)):
            metric = ours()
            metric.update(predictions, labels)
            assert metric.result() == expected


def test_by_hand():
    predicted = np.array([0, 0, 1, 1, 2, 1])
    metric = ConfusionMatrix(classes=3)
    metric.update(np.eye(3)[predicted], np.array([0, 1, 1, 1, 0, 2]))
    np.testing.assert_array_equal(metric.result(), [[1, 0, 1], [1, 2, 0], [0, 1, 0]])
    assert Precision().result(metric.state()) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert Recall().result(metric.state()) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert F1("micro").result(metric.state()) == pytest.approx(3 / 6)


def test_macro_averages_over_the_classes_that_occur():
    """Class 2 is predicted and never true: it counts, with 0. Class 3 is neither: it does not."""
    metric = F1(classes=4)
    metric.update(np.eye(4)[[0, 1, 2]], np.array([0, 1, 1]))
    assert metric.result() == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_what_the_mask_drops_is_not_counted():
    z = np.eye(2)[np.array([[0, 1], [1, 1]])]
    labels = np.array([[0, 1], [0, -7]])
    metric = ConfusionMatrix()
    metric.update(z, labels, mask=np.array([[True, True], [True, False]]))
    np.testing.assert_array_equal(metric.result(), [[1, 1], [0, 1]])


def test_nothing_seen():
    assert ConfusionMatrix().result().shape == (0, 0)
    assert ConfusionMatrix(classes=3).result().tolist() == np.zeros((3, 3)).tolist()
    assert Precision().result() == 0
    assert F1("macro", classes=3).result() == 0


def test_the_result_is_a_copy():
    metric = ConfusionMatrix(classes=2)
    metric.result()[...] = 7
    assert metric.state().sum() == 0


def test_bad_input_is_named():
    z = np.eye(3)
    with pytest.raises(
        ValueError, match=r"confusion_matrix: label outside \[0, 3\): 5 for sample 1"
    ):
        ConfusionMatrix().update(z, np.array([0, 5, 1]))
    with pytest.raises(
        ValueError, match=r"precision: prediction outside \[0, 3\): NaN for sample 0"
    ):
        Precision().update(np.where(z == 1, np.nan, z)[:1], np.array([0]))
    with pytest.raises(ValueError, match="classes=2, but the predictions have 3"):
        ConfusionMatrix(classes=2).update(z, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="average='binary' needs two classes, there are 3"):
        metric = F1("binary")
        metric.update(z, np.array([0, 1, 2]))
        metric.result()
    with pytest.raises(ValueError, match="average must be one of binary, macro, micro"):
        Recall("weighted")
    with pytest.raises(ValueError, match="classes must be a whole number >= 2"):
        ConfusionMatrix(classes=1)
