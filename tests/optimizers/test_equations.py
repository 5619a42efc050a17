"""The fused pass of each optimizer equals its equations, step for step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tinydl.optimizers import OPTIMIZERS, SGD, Adam, AdamW, NAdam, RMSProp
from tinydl.optimizers.schedules import CosineDecay
from tinydl.parameters import Parameter, ParameterStore

SET_RATE = [name for name in OPTIMIZERS if name != "das"]  # DAS finds its rate from the loss

VARIANTS = {
    "sgd": lambda **kw: SGD(0.1, **kw),
    "momentum": lambda **kw: SGD(0.1, momentum=0.9, **kw),
    "nesterov": lambda **kw: SGD(0.1, momentum=0.7, nesterov=True, **kw),
    "rmsprop": lambda **kw: RMSProp(0.01, rho=0.8, **kw),
    "rmsprop, momentum": lambda **kw: RMSProp(0.01, momentum=0.9, **kw),
    "rmsprop, centered": lambda **kw: RMSProp(0.01, centered=True, **kw),
    "rmsprop, both": lambda **kw: RMSProp(0.01, rho=0.7, momentum=0.5, centered=True, **kw),
    "adam": lambda **kw: Adam(0.01, **kw),
    "adam, schedule": lambda **kw: Adam(CosineDecay(0.1, 4), 0.8, 0.9, epsilon=1e-3, **kw),
    "adamw": lambda **kw: AdamW(0.01, **kw),
    "nadam": lambda **kw: NAdam(0.01, **kw),
}


def make_store(rng, shapes, dtype, trainable=None, decay=None):
    parameters = []
    for k, shape in enumerate(shapes):
        parameter = Parameter(
            f"p{k}", rng.normal(size=shape).astype(dtype), decay=decay is None or decay[k]
        )
        parameter.trainable = trainable is None or trainable[k]
        parameters.append(parameter)
    return ParameterStore(parameters)


@st.composite
def stores(draw):
    count = draw(st.integers(1, 5))
    shapes = [
        tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))) for _ in range(count)
    ]
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    dtype = draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return make_store(rng, shapes, dtype, draw(flags), draw(flags)), rng


def draw_gradients(store, rng):
    for s in store.segments:
        # A few orders of magnitude, and exact zeros, as ReLU networks have them.
        g = rng.normal(size=s.parameter.shape) * 10.0 ** rng.integers(-3, 2, s.parameter.shape)
        s.parameter.grad[...] = np.where(rng.random(s.parameter.shape) < 0.1, 0, g)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=12, deadline=None)
@given(stores(), st.sampled_from([0.0, 0.3]))
def test_fused_pass_equals_equations(variant, drawn, weight_decay):
    store, rng = drawn
    optimizer = VARIANTS[variant](weight_decay=weight_decay)
    optimizer.build(store)
    values = store.values.copy()
    slots = {name: slot.copy() for name, slot in optimizer.slots.items()}
    exact = store.dtype == np.float64
    for _ in range(6):
        draw_gradients(store, rng)
        gradients = store.grads.copy()
        rate = optimizer.learning_rate
        info = optimizer.step(0.0)
        assert info.learning_rate == rate
        for s in store.segments:  # parameter by parameter, whichever way the fused pass was cut
            if not s.parameter.trainable:
                continue
            part = slice(s.start, s.stop)
            w = values[part]
            if s.parameter.decay:
                w = w - rate * weight_decay * w
            own = {name: slot[part] for name, slot in slots.items()}
            values[part], new = optimizer.equations(w, gradients[part], own, rate)
            for name, slot in new.items():
                slots[name][part] = slot
        # Frozen parameters and the gaps between parameters are in this comparison too.
        tolerance = dict(rtol=1e-12, atol=1e-14) if exact else dict(rtol=2e-5, atol=2e-6)
        assert_allclose(store.values, values, **tolerance)
        for name, slot in slots.items():
            assert_allclose(optimizer.slots[name], slot, **tolerance)
        assert_array_equal(store.grads, gradients)


@pytest.mark.parametrize("name", SET_RATE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_frozen_parameters_keep_their_bits(name, dtype):
    rng = np.random.default_rng(0)
    store = make_store(rng, [(7, 3), (5,), (4, 4)], dtype, trainable=[True, False, True])
    optimizer = OPTIMIZERS[name](0.1, weight_decay=0.5)
    optimizer.build(store)
    first, frozen, last = list(store)
    before = [p.value.copy() for p in store]
    for _ in range(3):
        draw_gradients(store, rng)
        frozen.grad[...] = np.nan  # nor may a frozen parameter's gradient do harm
        assert np.isfinite(optimizer.step(0.0).grad_norm)
    assert_array_equal(frozen.value, before[1])
    assert not np.array_equal(first.value, before[0])
    assert not np.array_equal(last.value, before[2])
    segment = next(s for s in store.segments if s.parameter is frozen)
    for slot in optimizer.slots.values():
        assert_array_equal(slot[segment.start : segment.stop], 0)

    frozen.trainable = True  # thawed between two steps
    draw_gradients(store, rng)
    optimizer.step(0.0)
    assert not np.array_equal(frozen.value, before[1])


@pytest.mark.parametrize("name", SET_RATE)
def test_decay_where_a_parameter_wants_it_and_apart_from_the_gradient(name):
    """With a gradient of zero only decay moves a weight: w (1 - η λ)^t, whatever the optimizer."""
    rng = np.random.default_rng(1)
    store = make_store(rng, [(3, 4), (4,), (2, 2)], "float64", decay=[True, False, True])
    before = [p.value.copy() for p in store]
    optimizer = OPTIMIZERS[name](0.1, weight_decay=0.02)
    optimizer.build(store)
    for _ in range(5):
        optimizer.step(0.0)
    weight, bias, last = list(store)
    assert_allclose(weight.value, before[0] * (1 - 0.1 * 0.02) ** 5, rtol=1e-14)
    assert_allclose(last.value, before[2] * (1 - 0.1 * 0.02) ** 5, rtol=1e-14)
    assert_array_equal(bias.value, before[1])


def cut(optimizer, store):
    optimizer.build(store)
    return [(part.start, part.stop, decay) for part, decay in optimizer.ranges()]


def test_a_model_is_one_stretch_until_decay_or_freezing_cuts_it():
    rng = np.random.default_rng(2)
    shapes, decay = [(4, 4), (4,), (4, 2), (2,)], [True, False, True, False]
    store = make_store(rng, shapes, "float32", decay=decay)
    # In the buffer: p3 at 0:2, p2 at 16:24, p1 at 32:36, p0 at 48:64.
    assert cut(Adam(), store) == [(0, 64, 0.0)]
    assert cut(AdamW(weight_decay=0.1), store) == [
        (0, 2, 0.0),
        (16, 24, 0.1),
        (32, 36, 0.0),
        (48, 64, 0.1),
    ]
    store.segments[1].parameter.trainable = False
    assert cut(Adam(), store) == [(0, 2, 0.0), (32, 64, 0.0)]
    for parameter in store:
        parameter.trainable = False
    assert cut(Adam(), store) == []


def test_nothing_trainable_is_a_step_that_does_nothing():
    store = make_store(np.random.default_rng(3), [(2, 2)], "float32", trainable=[False])
    optimizer = Adam()
    optimizer.build(store)
    before = store.values.copy()
    assert optimizer.step(1.0).grad_norm == 0
    assert_array_equal(store.values, before)
    assert optimizer.iterations == 1


def test_a_model_without_parameters():
    optimizer = Adam()
    optimizer.build(ParameterStore([]))
    assert optimizer.step(1.0).grad_norm == 0
