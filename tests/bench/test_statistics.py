"""Ratios and intervals: what is known exactly, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.bench.statistics import geometric_mean, median, speed_ratio

times = st.lists(st.floats(1e-6, 1e2), min_size=5, max_size=20)


def test_constant_ratio_has_no_width():
    ratio = speed_ratio([1.0, 2.0, 4.0], [3.0, 6.0, 12.0])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_a_slow_minute_that_hits_both_cancels():
    """Every round has its own speed, and neither contender's times overlap from round to round."""
    slowness = 2.0 ** np.arange(10)
    noise = np.random.default_rng(0).uniform(0.99, 1.01, (2, 10))
    ratio = speed_ratio(1.0 * slowness * noise[0], 1.5 * slowness * noise[1])
    assert 1.45 < ratio.low <= ratio.value <= ratio.high < 1.55


def test_one_disturbed_round_changes_little():
    ours, peer = [1.0] * 11, [2.0] * 11
    ours[4] = 50.0
    assert speed_ratio(ours, peer).value == pytest.approx(2)


def test_interval_holds_the_truth_about_as_often_as_it_says():
    rng, truth, held = np.random.default_rng(1), 1.25, 0
    for _ in range(100):
        ours, peer = rng.lognormal(0, 0.1, (2, 25))
        interval = speed_ratio(ours, truth * peer)
        held += interval.low <= truth <= interval.high
    assert 85 <= held <= 100


@settings(max_examples=25, deadline=None)
@given(times, st.randoms(use_true_random=False))
def test_swapping_the_two_inverts_the_ratio(ours, random):
    peer = random.sample(ours, len(ours))
    there, back = speed_ratio(ours, peer), speed_ratio(peer, ours)
    assert there.low <= there.value <= there.high
    np.testing.assert_allclose(
        [there.value, there.low, there.high],
        [1 / back.value, 1 / back.high, 1 / back.low],
        rtol=1e-6,
    )


def test_geometric_mean_of_cases():
    pairs = [([1.0] * 5, [2.0] * 5), ([1.0] * 9, [8.0] * 9)]
    assert geometric_mean(pairs).value == pytest.approx(4)
    inverted = [(peer, ours) for ours, peer in pairs]
    assert geometric_mean(inverted).value == pytest.approx(1 / 4)


def test_more_rounds_narrow_the_interval():
    rng = np.random.default_rng(2)

    def width(rounds):
        interval = speed_ratio(*rng.lognormal(0, 0.2, (2, rounds)))
        return interval.high / interval.low

    assert width(400) < width(10)


@pytest.mark.parametrize(
    ("ours", "peer", "words"),
    [
        ([1.0], [1.0, 2.0], "equally long"),
        ([], [], "equally long"),
        ([1.0, 0.0], [1.0, 1.0], "positive"),
        ([1.0, float("nan")], [1.0, 1.0], "positive"),
    ],
)
def test_times_that_cannot_be_compared_are_refused(ours, peer, words):
    with pytest.raises(ValueError, match=words):
        speed_ratio(ours, peer)


def test_no_case_has_no_mean():
    with pytest.raises(ValueError, match="at least one case"):
        geometric_mean([])


def test_median():
    assert median([5.0, 1.0, 2.0]) == 2.0
