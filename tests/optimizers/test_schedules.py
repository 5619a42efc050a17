"""Schedules: their equations at known points, their shape everywhere, config round-trips."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl.configs import as_config
from tinydl.optimizers.schedules import (
    SCHEDULES,
    Constant,
    CosineDecay,
    ExponentialDecay,
    OneCycle,
    PiecewiseConstant,
    StepDecay,
    Warmup,
    get,
)

EXAMPLES = [
    Constant(0.1),
    StepDecay(1.0, every=3, factor=0.5),
    PiecewiseConstant([2, 5], [1.0, 0.5, 0.1]),
    ExponentialDecay(1.0, 4, 0.5, staircase=True),
    CosineDecay(1.0, 10, alpha=0.1),
    Warmup(3, then=CosineDecay(1.0, 10), start=0.01),
    OneCycle(1.0, 20, pct_start=0.25, div_factor=10, final_div_factor=100),
]


def test_step_decay():
    assert [StepDecay(1.0, 2, 0.5)(t) for t in range(5)] == [1, 1, 0.5, 0.5, 0.25]


def test_piecewise_constant_changes_when_a_boundary_is_reached():
    schedule = PiecewiseConstant([2, 5], [1.0, 0.5, 0.1])
    assert [schedule(t) for t in range(7)] == [1, 1, 0.5, 0.5, 0.5, 0.1, 0.1]
    assert PiecewiseConstant([], [0.3])(9) == 0.3


def test_exponential_decay():
    smooth, stairs = ExponentialDecay(1.0, 4, 0.5), ExponentialDecay(1.0, 4, 0.5, staircase=True)
    assert (smooth(0), smooth(4), smooth(8)) == (1.0, 0.5, 0.25)
    assert smooth(2) == pytest.approx(math.sqrt(0.5))
    assert [stairs(t) for t in (0, 3, 4, 7, 8)] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_cosine_decay():
    schedule = CosineDecay(2.0, 100, alpha=0.1)
    assert schedule(0) == 2.0
    assert schedule(50) == pytest.approx((2.0 + 0.2) / 2)
    assert schedule(25) == pytest.approx(0.2 + 1.8 * (1 + math.sqrt(0.5)) / 2)
    assert schedule(100) == schedule(1000) == pytest.approx(0.2)
    assert CosineDecay(2.0, 100)(100) == 0


def test_warmup_rises_to_where_the_next_schedule_begins():
    schedule = Warmup(4, then=StepDecay(1.0, every=2, factor=0.1))
    assert [schedule(t) for t in range(8)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.1, 0.1])
    assert Warmup(2, then=1.0, start=0.5)(0) == 0.75


def test_one_cycle():
    schedule = OneCycle(1.0, 101, pct_start=21 / 101, div_factor=10, final_div_factor=100)
    assert schedule(0) == pytest.approx(0.1)
    assert schedule(10) == pytest.approx((0.1 + 1) / 2)
    assert schedule(20) == pytest.approx(1.0)
    assert schedule(60) == pytest.approx((1 + 0.001) / 2)
    assert schedule(100) == schedule(500) == pytest.approx(0.001)
    rates = [schedule(t) for t in range(101)]
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 60))
def test_one_cycle_stays_between_its_ends(steps, pct_start, step):
    assert 1e-6 <= OneCycle(1.0, steps, pct_start)(step) <= 1.0 + 1e-12


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda s: type(s).__name__)
def test_configs_lead_back(schedule):
    assert type(schedule) in SCHEDULES.values()
    again = get(json.loads(json.dumps(as_config(schedule))))
    assert again == schedule
    assert [again(t) for t in range(30)] == [schedule(t) for t in range(30)]


def test_equal_schedules_hash_alike():
    assert Constant(0.1) == Constant(0.1) != Constant(0.2)
    assert hash(Warmup(2, 0.1)) == hash(Warmup(2, Constant(0.1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1), "Constant: value must be a finite number >= 0, got -1"),
        (lambda: CosineDecay(math.nan, 10), "initial_learning_rate must be a finite number"),
        (lambda: CosineDecay(1.0, 0), "decay_steps must be a positive integer, got 0"),
        (lambda: CosineDecay(1.0, 2.5), "decay_steps must be a positive integer, got 2.5"),
        (lambda: CosineDecay(1.0, "ten"), "decay_steps must be a positive integer, got 'ten'"),
        (lambda: CosineDecay(1.0, 5, alpha=2), r"alpha must lie in \[0, 1\], got 2"),
        (lambda: StepDecay(1.0, 2, -0.1), "StepDecay: factor must be a finite number >= 0"),
        (lambda: PiecewiseConstant([3], [1.0]), "1 boundaries need 2 values, got 1"),
        (lambda: PiecewiseConstant([3, 3], [1, 1, 1]), r"boundaries must increase, got \[3, 3\]"),
        (
            lambda: Warmup(3, then="cosine"),
            "learning_rate must be a finite number >= 0 or a schedule",
        ),
        (lambda: OneCycle(1.0, 10, div_factor=0.5), "div_factor must be a finite number >= 1"),
        (lambda: get({"class": "Cosine", "config": {}}), "unknown schedule 'Cosine'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
