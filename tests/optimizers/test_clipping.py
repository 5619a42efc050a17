"""Clipping by value, by parameter, by global norm; gradients that are not finite."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tinydl.optimizers import SGD, Adam
from tinydl.optimizers.clipping import global_norm
from tinydl.parameters import Parameter, ParameterStore


def built(optimizer, gradients, dtype="float64"):
    """The optimizer on one parameter of zeros per gradient, with these gradients."""
    store = ParameterStore(
        [
            Parameter(f"layer{k}.weight", np.zeros(np.shape(g), dtype))
            for k, g in enumerate(gradients)
        ]
    )
    for parameter, g in zip(store, gradients, strict=True):
        parameter.grad[...] = g
    optimizer.build(store)
    return store


GRADIENTS = [[3.0, 4.0], [0.3, -0.4], [[12.0]]]  # norms 5, 0.5, 12: together √169.25


def moved(**clipping):
    """What SGD with rate 1 subtracts: the clipped gradients; and the norm that it reports."""
    optimizer = SGD(1.0, **clipping)
    store = built(optimizer, GRADIENTS)
    info = optimizer.step(0.0)
    return [-p.value for p in store], info.grad_norm


def test_by_value():
    (a, b, c), norm = moved(clipvalue=3.5)
    assert (a.tolist(), b.tolist(), c.tolist()) == ([3.0, 3.5], [0.3, -0.4], [[3.5]])
    assert norm == pytest.approx(math.sqrt(169.25))  # from before clipping


def test_by_norm_of_each_parameter():
    (a, b, c), norm = moved(clipnorm=1.0)
    assert_allclose(a, [0.6, 0.8])
    assert_array_equal(b, [0.3, -0.4])
    assert_allclose(c, [[1.0]])
    assert norm == pytest.approx(math.sqrt(169.25))


def test_by_global_norm():
    scale = 2 / math.sqrt(169.25)
    parts, norm = moved(global_clipnorm=2.0)
    for part, g in zip(parts, GRADIENTS, strict=True):
        assert_allclose(part, np.array(g) * scale)
    assert norm == pytest.approx(math.sqrt(169.25))
    just_below, _ = moved(global_clipnorm=12.9)
    assert global_norm([p.ravel() for p in just_below]) == pytest.approx(12.9)
    untouched, _ = moved(global_clipnorm=13.1)
    for part, g in zip(untouched, GRADIENTS, strict=True):
        assert_array_equal(part, g)


def test_frozen_parameters_count_in_no_norm():
    optimizer = SGD(1.0, global_clipnorm=1.0)
    store = built(optimizer, GRADIENTS)
    list(store)[2].trainable = False
    info = optimizer.step(0.0)
    assert info.grad_norm == pytest.approx(math.sqrt(25.25))
    assert_array_equal(list(store)[2].grad, [[12.0]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 4), st.integers(0, 2**32))
def test_norm_of_float32_is_computed_in_float64(size, parts, seed):
    g = (np.random.default_rng(seed).normal(size=size) * 1e3).astype("float32")
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in g))
    pieces = np.array_split(g, parts)
    assert global_norm(pieces) == pytest.approx(exact, rel=1e-12)
    assert global_norm(pieces) == global_norm([p.copy() for p in pieces])  # the same bits


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_norm_of_squares_beyond_float64(size):
    assert global_norm([np.full(4, size)]) == pytest.approx(2 * size if size > 1 else 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clipping", [{}, {"global_clipnorm": 1.0}, {"clipvalue": 1.0}])
def test_a_gradient_that_is_not_finite_is_refused_by_name(bad, clipping):
    optimizer = Adam(0.1, **clipping)
    store = built(optimizer, [np.ones((2, 2)), np.ones((3, 2)), np.ones(4)], "float32")
    list(store)[1].grad[2, 1] = bad
    next(iter(store)).grad[0, 0] = bad  # later in backward: not the one to blame
    with pytest.raises(
        FloatingPointError, match=r"'layer1.weight' is -?(nan|inf) at index \(2, 1\)"
    ):
        optimizer.step(0.0)
    assert_array_equal(store.values, 0)
    assert optimizer.iterations == 0
    assert not any(slot.any() for slot in optimizer.slots.values())


@pytest.mark.parametrize("name", ["clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("limit", [0, -1.0, np.nan, np.inf, "1"])
def test_bad_limits_are_refused(name, limit):
    with pytest.raises(ValueError, match=f"SGD: {name} must be"):
        SGD(0.1, **{name: limit})


def test_only_one_kind_of_clipping():
    with pytest.raises(ValueError, match="one of clipvalue, clipnorm, global_clipnorm"):
        Adam(clipvalue=1.0, global_clipnorm=1.0)
