"""Random numbers by purpose: repeatable, independent, nothing global."""

import json

import numpy as np
import pytest

from tinydl.randomness import PURPOSES, get_state, set_state, stream


def test_the_same_seed_purpose_and_path_give_the_same_numbers():
    for purpose in PURPOSES:
        a, b = stream(3, purpose, 1, 2), stream(3, purpose, 1, 2)
        np.testing.assert_array_equal(a.random(8), b.random(8))


def test_seeds_purposes_and_paths_are_streams_of_their_own():
    drawn = [
        stream(seed, purpose, *path).random()
        for seed in (0, 1)
        for purpose in PURPOSES
        for path in ((), (0,), (1,), (0, 0), (0, 1))
    ]
    assert len(set(drawn)) == len(drawn)


def test_drawing_for_one_purpose_leaves_the_others_as_they_were():
    shuffling = stream(0, "shuffling").random(4)
    stream(0, "dropout").random(1000)
    np.testing.assert_array_equal(stream(0, "shuffling").random(4), shuffling)


def test_numpys_global_generator_is_neither_read_nor_moved():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a = stream(0, "augmentation").random(4)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(stream(0, "augmentation").random(4), a)


def test_no_seed_is_fresh_entropy():
    assert stream(None, "dropout").random() != stream(None, "dropout").random()


def test_a_state_leads_back_through_json():
    rng = stream(5, "dropout", 2)
    rng.random(10)
    state = json.loads(json.dumps(get_state(rng)))
    ahead = rng.random(6)
    other = stream(99, "shuffling")
    set_state(other, state)
    np.testing.assert_array_equal(other.random(6), ahead)


def test_unknown_purposes_are_refused():
    with pytest.raises(ValueError):
        stream(0, "lottery")
