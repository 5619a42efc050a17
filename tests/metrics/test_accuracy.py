"""Accuracies against scikit-learn, sums over batches, every way of writing classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from tinydl.configs import as_config
from tinydl.metrics import (
    METRICS,
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    MeanLoss,
    SparseCategoricalAccuracy,
    TopKAccuracy,
    get,
)


def measured(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return metric.result()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**32), st.booleans())
def test_accuracy_is_that_of_scikit_learn(samples, classes, seed, weighted):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(samples, classes))
    labels = rng.integers(0, classes, samples)
    weight = rng.random(samples) + 0.1 if weighted else None
    expected = pytest.approx(accuracy_score(labels, z.argmax(axis=1), sample_weight=weight))
    one_hot = np.eye(classes)[labels]
    assert measured(Accuracy(), (z, labels, weight)) == expected
    assert measured(Accuracy(), (z, labels[:, None], weight)) == expected
    assert measured(Accuracy(), (z, one_hot, weight)) == expected
    assert measured(SparseCategoricalAccuracy(), (z, labels, weight)) == expected
    assert measured(CategoricalAccuracy(), (z, one_hot, weight)) == expected
    assert measured(TopKAccuracy(1), (z, labels, weight)) == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(3, 8), st.integers(1, 8), st.integers(0, 2**32))
def test_top_k_is_that_of_scikit_learn(samples, classes, k, seed):
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(size=(samples, classes)), rng.integers(0, classes, samples)
    expected = 1.0
    if k < classes:
        expected = top_k_accuracy_score(labels, z, k=k, labels=range(classes))
    assert measured(TopKAccuracy(k), (z, labels)) == pytest.approx(expected)
    assert measured(TopKAccuracy(k), (z, np.eye(classes)[labels])) == pytest.approx(expected)


def test_top_k_ranks_ties_by_class_number():
    """Equal scores for all classes: right for the first k classes only, not for everything."""
    scores = np.zeros((1, 10))
    for k in (1, 3, 10):
        right = [measured(TopKAccuracy(k), (scores, np.array([label]))) for label in range(10)]
        assert right == [1] * k + [0] * (10 - k)


def test_one_output_is_a_yes_above_the_threshold():
    z, labels = np.array([-1.0, 0.2, 0.7, 3.0]), np.array([0, 0, 1, 1])
    assert measured(Accuracy(), (z, labels)) == 0.75
    assert measured(Accuracy(), (z[:, None], labels)) == 0.75
    assert measured(Accuracy(), (z[:, None], labels[:, None])) == 0.75
    assert measured(Accuracy(from_logits=False), (z, labels)) == 1.0
    assert measured(get("accuracy", from_logits=False), (z, labels)) == 1.0
    assert measured(get("accuracy"), (z, labels)) == 0.75


def test_every_label_counts_in_binary_accuracy():
    z = np.array([[1.0, -1, 1], [1, 1, 1]])
    labels = np.array([[1, 0, 0], [1, 1, 1]])
    assert measured(BinaryAccuracy(), (z, labels)) == pytest.approx(5 / 6)
    assert measured(BinaryAccuracy(), (z, labels, [3, 1])) == pytest.approx((3 * 2 / 3 + 1) / 4)
    assert measured(BinaryAccuracy(), (z[:, 0], labels[:, 0])) == 1.0


def test_sequences_with_mask_and_weights():
    z = np.eye(3)[np.array([[0, 1, 2], [0, 0, 0]])]  # (2, 3, 3)
    labels = np.array([[0, 1, 0], [0, 1, -1]])
    mask = np.array([[True, True, True], [True, True, False]])
    for metric in (Accuracy(), TopKAccuracy(1)):
        metric.update(z, labels, mask=mask)
        assert metric.result() == pytest.approx(3 / 5)
        metric.reset()
        metric.update(z, labels, [2, 1], mask)
        assert metric.result() == pytest.approx((4 + 1) / (6 + 2))


def test_nan_predicts_nothing():
    z = np.array([[np.nan, 0.0], [1.0, 0.0]])
    for metric in (Accuracy(), TopKAccuracy(1), TopKAccuracy(2)):
        assert measured(metric, (z, np.array([0, 0]))) == 0.5
    assert measured(Accuracy(), (np.array([np.nan, 1.0]), np.array([0, 1]))) == 0.5


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 2**32))
def test_states_add_up(sizes, seed):
    """Over batches of different sizes in one process, and over processes: sums, not averages."""
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=(n, 4)), rng.integers(0, 4, n)) for n in sizes]
    whole = tuple(np.concatenate(part) for part in zip(*batches, strict=True))
    for make in (Accuracy, lambda: TopKAccuracy(2), lambda: get("confusion_matrix")):
        expected = measured(make(), whole)
        np.testing.assert_allclose(measured(make(), *batches), expected)
        processes = [make() for _ in batches]
        for metric, batch in zip(processes, batches, strict=True):
            metric.update(*batch)
        reduced = sum(metric.state() for metric in processes)
        np.testing.assert_allclose(processes[0].result(reduced), expected)
        fresh = make()
        fresh.load_state(reduced)
        np.testing.assert_allclose(fresh.result(), expected)


def test_reset_and_nothing_seen():
    metric = Accuracy()
    assert metric.result() == 0
    metric.update(np.eye(2), np.array([0, 1]))
    metric.reset()
    assert metric.result() == 0
    assert metric.state().tolist() == [0, 0]


def test_state_is_a_copy():
    metric = Accuracy()
    before = metric.state()
    metric.update(np.eye(2), np.array([0, 1]))
    assert before.tolist() == [0, 0]


def test_mean_loss_weighs_batches_by_their_count():
    metric = MeanLoss()
    metric.add(total=30.0, count=10)
    metric.add(total=2.0, count=1)
    assert metric.result() == 32 / 11
    with pytest.raises(TypeError, match=r"add\(loss.total, loss.count\)"):
        metric.update(np.eye(2), [0, 1])


Z = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("metric", "predictions", "targets", "error", "message"),
    [
        ("accuracy", Z, [0, 1], ValueError, r"class numbers of shape \(3,\) .* got \(2,\)"),
        ("accuracy", Z, [0.0, 1.0, 2.0], TypeError, "class numbers must be integers, got float64"),
        ("accuracy", Z[:, 0], [0, 1, 2], ValueError, "must be 0 or 1, got 2 at 2"),
        ("accuracy", Z[:, 0], [0, 1], ValueError, r"predictions \(3,\) need as many targets"),
        ("binary_accuracy", Z, [0, 1, 1], ValueError, "as many targets"),
        ("sparse_categorical_accuracy", Z, np.eye(4)[:3], ValueError, "must be class numbers"),
        ("categorical_accuracy", Z, [0, 1, 2], ValueError, "must be one-hot"),
    ],
)
def test_bad_targets_are_named(metric, predictions, targets, error, message):
    with pytest.raises(error, match=message):
        get(metric).update(predictions, np.array(targets))


def test_bad_weights_and_arguments_are_named():
    with pytest.raises(ValueError, match=r"accuracy: sample_weight must have shape \(3,\)"):
        Accuracy().update(Z, np.zeros(3, int), [1, 2])
    with pytest.raises(ValueError, match="k must be a whole number >= 1, got 0"):
        TopKAccuracy(0)
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        get("acuracy")


@pytest.mark.parametrize("name", METRICS)
def test_names_and_configs_lead_back(name):
    metric = get(name)
    assert metric.name == name
    again = get(as_config(metric))
    assert type(again) is type(metric)
    assert again.config() == metric.config()
    assert get(metric) is metric
