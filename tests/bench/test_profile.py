"""Own time of nested calls, with a clock that the test winds."""

import pytest

from tinydl.bench.profile import Stopwatch, profile_step


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Thing:
    def __init__(self, clock, spends, inner=None):
        self.clock, self.spends, self.inner = clock, spends, inner

    def forward(self, x):
        self.clock.now += self.spends
        if self.inner is not None:
            self.inner.forward(x)
            self.inner.forward(x)
        return x + 1


def test_time_inside_counts_for_what_is_inside():
    clock = Clock()
    inner = Thing(clock, 3.0)
    outer = Thing(clock, 5.0, inner)
    watch = Stopwatch(clock)
    watch.watch(inner, "forward", "inner", "forward")
    watch.watch(outer, "forward", "outer", "forward")
    assert outer.forward(1) == 2
    assert watch.totals == {("inner", "forward"): 6.0, ("outer", "forward"): 5.0}


def test_an_error_leaves_the_watch_in_order():
    clock = Clock()
    watch = Stopwatch(clock)
    broken, whole = Thing(clock, 1.0, inner="no thing"), Thing(clock, 2.0)
    watch.watch(broken, "forward", "broken", "forward")
    watch.watch(whole, "forward", "whole", "forward")
    with pytest.raises(AttributeError):
        broken.forward(1)
    whole.forward(1)
    assert watch.totals == {("broken", "forward"): 1.0, ("whole", "forward"): 2.0}
    assert watch.inner == [3.0]


def test_every_layer_of_a_step_has_its_row():
    rows = {row.layer: row for row in profile_step("mlp b4 sgd", "float32")}
    layers = ["flatten", "dense", "dense_1", "dense_2"]
    assert list(rows)[:4] == layers  # forward order, then what is no layer
    assert {"(loss)", "(optimizer)", "(zero gradients)", "(rest)"} <= set(rows)
    assert all(rows[name].forward > 0 for name in layers)
    assert all(rows[name].backward > 0 for name in layers[1:])
