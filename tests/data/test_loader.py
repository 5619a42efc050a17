"""DataLoader: every sample once an epoch, the same for the same seed, resumable, and no thread left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.data import Cutout, DataError, DataLoader, RandomCrop, RandomFlip, Standardize
from tinydl.data.prefetch import prefetch


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "tinydl-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert prefetch_threads() == []


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)).filter(lambda s: s[1] <= s[0])


@given(sizes=sizes, shuffle=st.booleans(), drop_last=st.booleans(), epoch=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_sample_once_an_epoch_with_its_own_label(sizes, shuffle, drop_last, epoch):
    samples, batch_size = sizes
    x = np.arange(samples, dtype=np.float64)[:, None]
    y = np.arange(samples) * 10
    loader = DataLoader(x, y, y / 10.0, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
    batches = list(loader.batches(epoch))
    assert (
        len(batches)
        == len(loader)
        == (samples // batch_size if drop_last else -(-samples // batch_size))
    )
    seen = np.concatenate([xb[:, 0] for xb, _, _ in batches])
    for xb, yb, wb in batches:
        assert xb.dtype == wb.dtype == np.float32 and yb.dtype == np.int64
        np.testing.assert_array_equal(yb, 10 * xb[:, 0])
        np.testing.assert_array_equal(wb, xb[:, 0])
    assert len(set(seen)) == len(seen)
    if not drop_last:
        np.testing.assert_array_equal(np.sort(seen), x[:, 0])
    if not shuffle:
        np.testing.assert_array_equal(seen, x[: len(seen), 0])


def image_loader(**changes) -> DataLoader:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (23, 6, 5, 2)).astype(np.uint8)
    arguments = {
        "batch_size": 4,
        "seed": 7,
        "transform": Standardize.fit(x),
        "augment": [RandomCrop(2), RandomFlip(), Cutout(3)],
    }
    return DataLoader(x, np.arange(23), **(arguments | changes))


def assert_same_batches(some, others):
    some, others = list(some), list(others)
    assert len(some) == len(others)
    for batch, other in zip(some, others, strict=True):
        for array, expected in zip(batch, other, strict=True):
            np.testing.assert_array_equal(array, expected)


@given(epoch=st.integers(0, 3), start=st.integers(0, 6), prefetched=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_resumed_in_the_middle_of_an_epoch_equals_never_stopped(epoch, start, prefetched):
    whole = list(image_loader().batches(epoch))
    assert_same_batches(image_loader(prefetch=prefetched).batches(epoch, start), whole[start:])


def test_order_and_augmentation_depend_on_seed_and_epoch():
    def first(seed, epoch):
        return next(iter(image_loader(seed=seed).batches(epoch)))

    assert_same_batches([first(7, 0)], [first(7, 0)])
    for seed, epoch in ((8, 0), (7, 1)):
        assert not np.array_equal(first(7, 0)[1], first(seed, epoch)[1])
    unseeded = image_loader(seed=None)
    assert_same_batches(unseeded.batches(0), unseeded.batches(0))
    assert unseeded.seed != image_loader(seed=None).seed


def test_a_sample_is_augmented_alike_in_any_batch():
    def by_label(loader):
        return {int(k): x for xb, yb in loader.batches(2) for k, x in zip(yb, xb, strict=True)}

    one, other = by_label(image_loader()), by_label(image_loader(batch_size=7, shuffle=False))
    assert one.keys() == other.keys()
    for label in one:
        np.testing.assert_array_equal(one[label], other[label])


def test_indices_are_those_of_the_batches():
    loader = image_loader()
    for b, (_, labels) in enumerate(loader.batches(3)):
        np.testing.assert_array_equal(loader.indices(3, b), labels)


def test_batches_are_copies():
    x = np.zeros((4, 3), np.float32)
    for xb, _ in DataLoader(x, batch_size=2, shuffle=False).batches(0):
        xb += 1
    assert (x == 0).all()


def test_dtypes():
    def batch(x, y=None, **arguments):
        return next(DataLoader(x, y, batch_size=1, **arguments).batches(0))

    assert batch(np.zeros((2, 3), np.uint8))[0].dtype == np.float32
    assert batch(np.zeros((2, 3)), dtype="float64")[0].dtype == np.float64
    assert batch(np.zeros((2, 3), np.int32))[0].dtype == np.int32  # token indices
    assert batch(np.zeros(2), np.zeros(2))[1].dtype == np.float32
    assert batch(np.zeros(2), np.zeros(2, np.uint8))[1].dtype == np.uint8
    assert batch(np.zeros(2))[1] is None


def test_several_inputs_and_outputs():
    x, y = [np.arange(6.0), np.arange(6) + 100], [np.arange(6), np.arange(6.0) * 2]
    for (a, b), (c, d) in DataLoader(x, y, batch_size=4).batches(0):
        np.testing.assert_array_equal(a + 100, b)
        np.testing.assert_array_equal(c * 2, d)
    with pytest.raises(ValueError, match="take one array"):
        DataLoader(x, batch_size=2, augment=RandomFlip())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((0, 3))}, "data set is empty"),
        ({"x": np.zeros((4, 3)), "batch_size": 5}, r"batch_size 5 is larger .* \(4 samples\)"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(3)}, "x has 4 samples, y has 3"),
        ({"x": np.zeros((4, 3)), "sample_weight": np.ones(5)}, "sample_weight has 5"),
        ({"x": np.array([[0.0], [np.nan]])}, r"x holds nan in sample 1 at position \(0,\)"),
        ({"x": np.zeros(2), "y": np.array([0, np.inf])}, "y holds inf in sample 1"),
        ({"x": np.array(["a", "b"])}, "dtype <U1: expected integers or floats"),
        ({"x": np.array([[1], [1, 2]], object)}, "rows of different lengths"),
        ({"x": np.zeros(2), "sample_weight": np.array([1.0, -1.0])}, "sample 1 is negative"),
        ({"x": np.float64(3)}, "x is a single number"),
        ({"x": [np.zeros(3), np.zeros(2)]}, r"x\[0\] has 3 samples, x\[1\] has 2"),
    ],
)
def test_bad_data_is_refused_with_its_culprit(arguments, message):
    with pytest.raises(DataError, match=message):
        DataLoader(**({"batch_size": 1} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": 2.0}, "got 2.0"),
        ({"prefetch": -1}, "prefetch must be a whole number >= 0"),
        ({"transform": 3}, "transform must be a function"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DataLoader(np.zeros((4, 1)), **({"batch_size": 2} | arguments))
    with pytest.raises(ValueError, match="start=3 is beyond the end: an epoch has 2 batches"):
        DataLoader(np.zeros((4, 1)), batch_size=2).batches(0, 3)


def test_rows_of_different_lengths_are_named():
    with pytest.raises(DataError, match=r"y is no array \(rows of different lengths\?\)"):
        DataLoader(np.zeros((2, 1)), [[1, 2], [3]], batch_size=1)


def test_check_can_be_left_out():
    x = np.array([[0.0], [np.nan]])
    batches = DataLoader(x, batch_size=2, shuffle=False, check=False).batches(0)
    assert np.isnan(next(batches)[0][1, 0])


@pytest.mark.parametrize("prefetched", [0, 2])
def test_an_error_in_a_transform_reaches_the_consumer_in_its_place(prefetched):
    def fail_on_third(x):
        if x[0, 0] == 4:
            raise ZeroDivisionError("third batch")
        return x

    loader = DataLoader(
        np.arange(10.0)[:, None], batch_size=2, shuffle=False, transform=fail_on_third,
        prefetch=prefetched,
    )  # fmt: skip
    batches = loader.batches(0)
    assert [next(batches)[0][0, 0], next(batches)[0][0, 0]] == [0, 2]
    with pytest.raises(ZeroDivisionError, match="third batch"):
        next(batches)


def test_a_transform_that_loses_samples_is_refused():
    loader = DataLoader(np.zeros((4, 1)), batch_size=2, transform=lambda x: x[:1], prefetch=0)
    with pytest.raises(ValueError, match="must return an array of 2 samples, got shape"):
        next(loader.batches(0))


class Source:
    """Items without end, which counts how many were made."""

    def __init__(self) -> None:
        self.made = 0

    def __iter__(self):
        while True:
            self.made += 1
            yield self.made


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_early_ends_the_thread_and_bounds_what_was_prepared(depth, taken):
    source = Source()
    items = prefetch(source, depth)
    assert [next(items) for _ in range(taken)] == list(range(1, taken + 1))
    items.close()
    assert prefetch_threads() == []
    assert source.made <= (taken + depth + 2 if taken else 0)


def test_break_exception_and_interrupt_end_the_thread():
    def leave_by(error):
        for item in prefetch(Source(), 2):
            if item == 3:
                raise error

    for error in (RuntimeError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error):
            leave_by(error)
        assert prefetch_threads() == []
    for item in prefetch(Source(), 2):
        if item == 3:
            break
    assert prefetch_threads() == []


def test_ctrl_c_while_the_thread_starts_ends_it(monkeypatch):
    start = threading.Thread.start

    def interrupted_start(thread):
        start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted_start)
        with pytest.raises(KeyboardInterrupt):
            next(prefetch(Source(), 1))
    assert prefetch_threads() == []


INTERRUPTED = """
import signal, threading, time
from tinydl.data.prefetch import prefetch

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us with &

def slow():
    yield 0
    print("preparing", flush=True)
    time.sleep(0.5)
    yield 1

try:
    for item in prefetch(slow(), 2):
        pass
    print("never interrupted")
except KeyboardInterrupt:
    print("left:", [t.name for t in threading.enumerate()])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of this kind are POSIX")
def test_ctrl_c_while_waiting_for_a_batch_ends_the_thread():
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "preparing\n"
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert output == "left: ['MainThread']\n", errors
    assert child.returncode == 0


def test_the_thread_works_ahead_while_the_consumer_is_busy():
    source = Source()
    items = prefetch(source, 3)
    next(items)
    deadline = time.monotonic() + 30
    while source.made < 5 and time.monotonic() < deadline:  # 1 taken, 3 waiting, 1 on its way
        time.sleep(0.001)
    assert source.made == 5
    items.close()
