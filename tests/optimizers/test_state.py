"""Names, configs, saved state, the learning rate, and what is refused."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tinydl.configs import as_config
from tinydl.optimizers import OPTIMIZERS, SGD, Adam, AdamW, NAdam, RMSProp, StepInfo, get
from tinydl.optimizers.schedules import CosineDecay, OneCycle, Schedule, StepDecay, Warmup
from tinydl.parameters import Parameter, ParameterStore


def fresh_store(dtype="float32"):
    rng = np.random.default_rng(0)
    return ParameterStore(
        [
            Parameter("weight", rng.normal(size=(5, 3)).astype(dtype)),
            Parameter("bias", rng.normal(size=3).astype(dtype), decay=False),
        ]
    )


def take_steps(optimizer, store, first, last):
    for t in range(first, last):
        rng = np.random.default_rng(t)
        for p in store:
            p.grad[...] = rng.normal(size=p.shape)
        optimizer.step(1.0)


EVERY = [
    *[{"class": name, "config": {"weight_decay": 0.1}} for name in OPTIMIZERS],
    {"class": "SGD", "config": {"momentum": 0.9, "nesterov": True}},
    {"class": "RMSProp", "config": {"momentum": 0.5, "centered": True}},
    {"class": "NAdam", "config": {"learning_rate": as_config(Warmup(3, CosineDecay(0.1, 10)))}},
    {"class": "Adam", "config": {"learning_rate": as_config(OneCycle(0.1, 12)), "clipnorm": 1.0}},
]


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c["class"])
def test_going_on_from_a_saved_state_gives_the_same_bits(config):
    whole, store = get(config), fresh_store()
    whole.build(store)
    take_steps(whole, store, 0, 12)

    first, part = get(config), fresh_store()
    first.build(part)
    take_steps(first, part, 0, 5)
    saved = first.state_dict()
    values = part.values.copy()
    take_steps(first, part, 5, 7)  # the saved state is a copy: this must not change it

    plain = {k: v for k, v in saved.items() if k != "slots"}
    saved = {**json.loads(json.dumps(plain)), "slots": saved["slots"]}
    second, rest = get(config), fresh_store()
    rest.values[...] = values
    second.build(rest)
    second.load_state_dict(saved)
    assert second.iterations == 5
    take_steps(second, rest, 5, 12)
    assert_array_equal(rest.values, store.values)
    for name, slot in whole.slots.items():
        assert_array_equal(second.slots[name], slot)
    assert second.scalars == whole.scalars


def test_a_rate_that_was_changed_is_part_of_the_state():
    optimizer = Adam(0.1)
    optimizer.build(fresh_store())
    optimizer.learning_rate = 0.02
    again = Adam(0.1)
    again.build(fresh_store())
    again.load_state_dict(optimizer.state_dict())
    assert again.learning_rate == 0.02


def test_a_schedule_of_ones_own_goes_on():
    class Alternating(Schedule):
        def __init__(self, high):
            self.high = high

        def __call__(self, step):
            return self.high if step % 2 else 0.0

    optimizer = SGD(Alternating(0.5))
    optimizer.build(fresh_store())
    optimizer.step(0.0)
    again = SGD(Alternating(0.5))
    again.build(fresh_store())
    again.load_state_dict(optimizer.state_dict())
    assert again.learning_rate == 0.5
    other = SGD(0.1)
    other.build(fresh_store())
    with pytest.raises(ValueError, match="unknown schedule 'Alternating'"):
        other.load_state_dict(optimizer.state_dict())


def test_state_that_does_not_fit_changes_nothing():
    optimizer = Adam()
    optimizer.build(fresh_store())
    state = optimizer.state_dict()
    other = NAdam()
    other.build(fresh_store())
    with pytest.raises(ValueError, match="state of Adam, the optimizer is NAdam"):
        other.load_state_dict(state)
    double = Adam()
    double.build(fresh_store("float64"))
    with pytest.raises(ValueError, match=r"slot 'm' is float64 .* holds float32"):
        double.load_state_dict({**state, "iterations": 9})
    assert double.iterations == 0
    with pytest.raises(ValueError, match=r"has the slots \['m', 'v'\], the state holds \['m'\]"):
        optimizer.load_state_dict({**state, "slots": {"m": state["slots"]["m"]}})


@pytest.mark.parametrize("config", EVERY, ids=lambda c: c["class"])
def test_configs_lead_back(config):
    optimizer = get(config)
    again = get(json.loads(json.dumps(as_config(optimizer))))
    assert type(again) is type(optimizer)
    assert again.config() == optimizer.config()
    for key, value in config["config"].items():
        assert again.config()[key] == value


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_names_give_the_defaults(name):
    optimizer = get(name)
    assert type(optimizer) is OPTIMIZERS[name]
    assert get(optimizer) is optimizer
    assert get(name.upper()).config() == optimizer.config()


def test_momentum_and_nesterov_are_sgd_with_momentum():
    assert get("momentum").momentum == get("nesterov").momentum == 0.9
    assert (get("momentum").nesterov, get("nesterov").nesterov) == (False, True)
    assert get("sgd").slot_names == ()


def test_one_place_decides_the_rate():
    optimizer = SGD(StepDecay(1.0, every=2, factor=0.5))
    store = fresh_store()
    optimizer.build(store)
    assert optimizer.learning_rate == 1.0
    assert [optimizer.step(0.0).learning_rate for _ in range(5)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert optimizer.learning_rate == 0.25
    optimizer.learning_rate = 0.7
    assert optimizer.step(0.0).learning_rate == 0.7
    assert optimizer.config()["learning_rate"] == 0.7
    with pytest.raises(
        ValueError, match="learning_rate must be a finite number >= 0 or a schedule"
    ):
        optimizer.learning_rate = np.nan
    assert optimizer.learning_rate == 0.7


def test_a_rate_of_zero_moves_nothing():
    for name in set(OPTIMIZERS) - {"das"}:  # its rate comes from the loss
        optimizer, store = get({"class": name, "config": {"learning_rate": 0.0}}), fresh_store()
        before = store.values.copy()
        optimizer.build(store)
        take_steps(optimizer, store, 0, 2)
        assert_array_equal(store.values, before)


def test_step_reports_what_it_did():
    optimizer, store = AdamW(0.01), fresh_store()
    optimizer.build(store)
    store.grads.fill(0)
    next(iter(store)).grad[0, 0] = -3.0
    assert optimizer.step(0.5) == StepInfo(learning_rate=0.01, grad_norm=3.0)


def test_slots_are_laid_out_as_the_parameters_are():
    optimizer, store = Adam(), fresh_store("float64")
    optimizer.build(store)
    assert list(optimizer.slots) == ["m", "v"]
    for slot in optimizer.slots.values():
        assert (slot.shape, slot.dtype) == (store.values.shape, store.dtype)
        assert slot.ctypes.data % 64 == 0


def test_building_again_begins_anew():
    optimizer, store = NAdam(), fresh_store()
    optimizer.build(store)
    take_steps(optimizer, store, 0, 3)
    optimizer.build(store)
    assert (optimizer.iterations, optimizer.scalars) == (0, {"mu_product": 1.0})
    assert not any(slot.any() for slot in optimizer.slots.values())


def test_a_step_before_build_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"Adam has no parameters yet: call build\(store\)"):
        Adam().step(0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "learning_rate must be a finite number >= 0 or a schedule, got -0.1"),
        (
            lambda: SGD("fast"),
            "learning_rate must be a finite number >= 0 or a schedule, got 'fast'",
        ),
        (lambda: SGD(None), "learning_rate must be a finite number >= 0"),
        (lambda: SGD(momentum=1.0), r"SGD: momentum must be a finite number in \[0, 1\), got 1.0"),
        (lambda: SGD(nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: SGD(weight_decay=-1), "weight_decay must be a finite number >= 0, got -1"),
        (lambda: RMSProp(rho=1.5), r"RMSProp: rho must be a finite number in \[0, 1\), got 1.5"),
        (lambda: Adam(beta_1=1), "Adam: beta_1 must be"),
        (lambda: Adam(beta_2=np.nan), "Adam: beta_2 must be"),
        (lambda: Adam(epsilon=0), "Adam: epsilon must be a finite number > 0, got 0"),
        (lambda: AdamW(weight_decay=True), "AdamW: weight_decay must be a finite number"),
        (lambda: get("adamx"), "unknown optimizer 'adamx'"),
        (lambda: get({"class": "Adam", "config": {"beta": 1}}), "optimizer Adam: .*'beta'"),
    ],
)
def test_bad_hyperparameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_epsilon_that_float32_cannot_hold_is_refused():
    """Where gradients are 0, 0 / (√0 + ε) would be 0 / 0."""
    optimizer = Adam(epsilon=1e-60)
    optimizer.build(fresh_store("float64"))
    with pytest.raises(ValueError, match="epsilon=1e-60 is 0 in float32"):
        optimizer.build(fresh_store("float32"))
