"""Checks, labels, cleaning and stratified splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.data import (
    DataError,
    check_samples,
    class_histogram,
    clean,
    encode_labels,
    one_hot,
    stratified_indices,
    stratified_split,
)
from tinydl.data import validation as validation_module


def test_the_first_bad_sample_is_named_also_in_a_later_piece(monkeypatch):
    monkeypatch.setattr(validation_module, "CHUNK_BYTES", 64)
    x = np.zeros((50, 2, 2), np.float32)
    x[37, 1, 0], x[41, 0, 0] = -np.inf, np.nan
    with pytest.raises(DataError, match=r"x holds -inf in sample 37 at position \(1, 0\)"):
        check_samples(x)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, 1], "label 3 of sample 1 is out of range: 3 classes have labels 0 to 2"),
        ([0, 1, -1], "label -1 of sample 2"),
        ([0.0, 1.0, 2.0], "labels must be integers, got dtype float64"),
        ([[0, 1], [1, 2], [2, 9]], "label 9 of sample 2"),
    ],
)
def test_labels_out_of_range(labels, message):
    check_samples(np.zeros((3, 1)), np.array([0, 1, 2]), num_classes=3)
    with pytest.raises(DataError, match=message):
        check_samples(np.zeros((3, 1)), np.array(labels), num_classes=3)


def test_a_list_is_no_array():
    with pytest.raises(DataError, match="x must be a NumPy array, got list"):
        check_samples([[1.0]])


@given(labels=st.lists(st.integers(0, 4), max_size=10))
@settings(max_examples=25, deadline=None)
def test_one_hot_and_back(labels):
    labels = np.array(labels, np.int64)
    dense = one_hot(labels, 5)
    assert dense.shape == (len(labels), 5) and dense.dtype == np.float32
    assert (dense.sum(axis=-1) == 1).all()
    np.testing.assert_array_equal(dense.argmax(axis=-1), labels)


def test_one_hot_refuses_labels_that_would_be_lost():
    assert one_hot(np.array([[0, 1], [1, 1]]), 2, np.float64).shape == (2, 2, 2)
    for labels in ([5], [-1]):
        with pytest.raises(DataError, match="out of range"):
            one_hot(np.array(labels), 5)


def test_encode_labels_and_histogram():
    labels, names = encode_labels(["cat", "ant", "cat", "bee"])
    assert names == ("ant", "bee", "cat") and labels.tolist() == [2, 0, 2, 1]
    assert class_histogram(labels, (*names, "dog")) == {"ant": 1, "bee": 1, "cat": 2, "dog": 0}
    assert class_histogram(np.array([2, 2])) == {"0": 0, "1": 0, "2": 2}
    with pytest.raises(DataError, match="label 2 has no name"):
        class_histogram(labels, names[:2])
    with pytest.raises(DataError, match="all text or all numbers"):
        encode_labels(["cat", None])
    with pytest.raises(DataError, match="nan in sample 1"):
        encode_labels(np.array([1.0, np.nan]))


def test_cleaning_drops_what_is_not_finite_and_reports():
    x = np.array([[1.0, 2], [np.nan, 0], [3, 4], [5, np.inf], [1, 2], [1, 2]])
    y = np.array([0, 1, 0, 1, 0, 1])
    kept, labels, report = clean(x, y)
    assert kept.tolist() == [[1, 2], [3, 4], [1, 2], [1, 2]] and labels.tolist() == [0, 0, 0, 1]
    assert (report.samples, report.kept, report.nonfinite) == (6, 4, 2)
    assert (report.duplicates, report.contradictions) == (1, 1)
    kept, labels, report = clean(x, y, duplicates="drop")
    assert kept.tolist() == [[1, 2], [3, 4], [1, 2]] and labels.tolist() == [0, 0, 1]
    assert "3 of 6 samples kept" in str(report)


def test_cleaning_fills():
    x = np.array([[1.0, 2], [np.nan, 4], [3, -np.inf]], np.float32)
    filled, _, report = clean(x, nonfinite="mean")
    assert filled.dtype == np.float32 and report.kept == 3 and report.nonfinite == 2
    np.testing.assert_array_equal(filled, [[1, 2], [2, 4], [3, 3]])
    np.testing.assert_array_equal(clean(x, nonfinite=0)[0], [[1, 2], [0, 4], [3, 0]])
    assert np.isnan(x[1, 0])
    with pytest.raises(DataError, match=r"feature \(1,\) of x has no finite value"):
        clean(np.array([[1.0, np.nan], [2, np.nan]]), nonfinite="mean")


def test_cleaning_always_drops_a_bad_target_and_refuses_to_leave_nothing():
    x, y = np.ones((3, 2)), np.array([0.5, np.nan, 1.0])
    assert clean(x, y, nonfinite=0)[1].tolist() == [0.5, 1.0]
    with pytest.raises(DataError, match="none of 2 samples is left"):
        clean(np.full((2, 2), np.nan))
    for arguments in ({"nonfinite": "fill"}, {"duplicates": "no"}):
        with pytest.raises(ValueError, match="must be"):
            clean(x, **arguments)


@given(
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=5),
    fraction=st.floats(0.1, 0.9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_a_stratified_split_loses_nothing_and_keeps_the_shares(counts, fraction, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    split_off = int(np.ceil(fraction * len(labels) - 1e-9))
    if min(split_off, len(labels) - split_off) < len(counts):
        with pytest.raises(DataError, match="too few for"):
            stratified_indices(labels, fraction, seed)
        return
    kept, taken = stratified_indices(labels, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.r_[kept, taken]), np.arange(len(labels)))
    assert len(taken) == split_off
    for label, count in enumerate(counts):
        assert abs((labels[taken] == label).sum() - split_off / len(labels) * count) <= 1
    again = stratified_indices(labels, fraction, seed)
    np.testing.assert_array_equal(again[1], taken)


def test_split_pairs_samples_with_their_labels():
    y = np.arange(40) % 4
    x_train, x_test, y_train, y_test = stratified_split(np.arange(40)[:, None], y, 0.25, seed=3)
    np.testing.assert_array_equal(x_train[:, 0] % 4, y_train)
    np.testing.assert_array_equal(x_test[:, 0] % 4, y_test)
    assert len(y_test) == 10
    lists = stratified_split(list(range(40)), y.tolist(), 0.25, seed=3)
    np.testing.assert_array_equal(lists[0], x_train[:, 0])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0, 2, 2], ("ant", "bee", "cat"), r"class 1 \('bee'\) has no sample"),
        ([0, 0, 0, 1], (), "class 1 has only one sample"),
        ([0.5, 1.5], (), "needs one integer label a sample"),
        ([], (), "empty data set|needs one integer"),
    ],
)
def test_splits_that_cannot_be_made(labels, names, message):
    with pytest.raises(DataError, match=message):
        stratified_indices(np.array(labels), 0.5, class_names=names)


def test_bad_fraction_and_lengths():
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_indices(np.array([0, 0]), 1.0)
    with pytest.raises(ValueError, match="between 0 and 1, got 'half'"):
        stratified_indices(np.array([0, 0]), "half")
    with pytest.raises(DataError, match="x has 3 samples, y has 2"):
        stratified_split(np.zeros(3), np.array([0, 0]))
