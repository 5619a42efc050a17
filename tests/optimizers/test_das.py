"""DAS: the fast version follows its equations; what is not finite, zero or extreme is defined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import tinydl as tl
from tinydl.optimizers import DAS
from tinydl.optimizers.das import PARTS
from tinydl.optimizers.das_equations import State, das_step
from tinydl.parameters import Parameter, ParameterStore


def quadratic(seed=0, dtype="float64", shapes=((4, 3), (3,), (3, 2))):
    """f(w) = Σ (w - w*)² / 2 with its gradient, on parameters that start at random."""
    rng = np.random.default_rng(seed)
    parameters = [
        Parameter(f"p{k}", rng.normal(size=s).astype(dtype)) for k, s in enumerate(shapes)
    ]
    goals = [rng.normal(size=s) for s in shapes]
    store = ParameterStore(parameters)

    def loss():
        total = 0.0
        for p, goal in zip(parameters, goals, strict=True):
            p.grad[...] = p.value - goal
            total += 0.5 * float(np.sum((p.value - goal) ** 2))
        return total

    return store, parameters, loss


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    learning_rate=st.sampled_from([1e-12, 1e-3, 0.1, 10.0, 1e12]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    shapes=st.lists(
        st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
    ),
)
def test_the_fast_version_follows_the_equations(seed, learning_rate, weight_decay, shapes):
    store, parameters, loss = quadratic(seed, shapes=tuple(shapes))
    das = DAS(learning_rate, weight_decay=weight_decay)
    das.build(store)
    weights, state = [p.value.copy() for p in parameters], State()
    rng = np.random.default_rng(seed)
    for _ in range(40):
        f = loss()
        for p in parameters:  # gradients of several sizes, now and then an outlier
            p.grad *= rng.choice([1.0, 0.3, 300.0], p=[0.8, 0.15, 0.05])
        weights = das_step(weights, [p.grad.copy() for p in parameters], f, state, das)
        das.step(f)
        for p, w in zip(parameters, weights, strict=True):
            assert_allclose(p.value, w, rtol=1e-9, atol=1e-12)
    assert_allclose([das.scalars[k] for k in ("eta", "c", "q")], [state.eta, state.c, state.q])
    das.to_evaluation_weights()
    for k, p in enumerate(parameters):
        assert_allclose(p.value, state.x[k], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("learning_rate", [1e-12, 1e-3, 0.1, 10.0, 1e12])
def test_any_rate_trains(learning_rate):
    store, _, loss = quadratic()
    das = DAS(learning_rate)
    das.build(store)
    first = loss()
    for _ in range(300):
        das.step(loss())
    das.to_evaluation_weights()
    assert loss() < 0.05 * first


def test_the_average_weighs_late_steps_more():
    store, _, loss = quadratic()
    das = DAS(r=2.0)
    das.build(store)
    seen = []
    for _ in range(20):
        das.step(loss())
        seen.append(store.values.copy())
    # k_t (1 - k_{t+1}) ... (1 - k_T) is proportional to (t + r - 1) ... (t + 1) t, of degree r
    weights = np.array([t * (t + 1) for t in range(1, 21)], float)
    assert_allclose(das.average(), np.average(seen, axis=0, weights=weights), rtol=1e-12)


def test_weights_change_over_and_back():
    store, _, loss = quadratic()
    das = DAS()
    das.build(store)
    das.to_evaluation_weights()  # nothing was trained yet
    for _ in range(10):
        das.step(loss())
    w, x = store.values.copy(), das.average().copy()
    for _ in range(2):  # twice does no harm
        das.to_evaluation_weights()
        assert np.array_equal(store.values, x) and np.array_equal(das.average(), w)
    for _ in range(2):
        das.to_training_weights()
        assert np.array_equal(store.values, w) and np.array_equal(das.average(), x)
    with das.evaluating():
        assert np.array_equal(store.values, x)
    assert np.array_equal(store.values, w)


def test_weights_that_somebody_set_are_trained_on():
    store, parameters, loss = quadratic()
    das = DAS()
    das.build(store)
    for _ in range(10):
        das.step(loss())
    das.to_evaluation_weights()
    parameters[0].value[...] = 3.0
    given = store.values.copy()
    das.to_training_weights()
    assert np.array_equal(store.values, given) and np.array_equal(das.average(), given)
    das.to_evaluation_weights()
    das.step(loss())  # outside of fit: from the weights at hand
    assert not das.scalars["shown"]
    assert np.abs(store.values - given).max() < 1


def test_the_bound_follows_the_agreement_of_slopes():
    """On f = w² / 2 with momentum off, A = 1 - η / η*: the bound falls while steps go too far, and rises again."""
    parameter = Parameter("w", np.array([[1.0]]))
    das = DAS(beta_1=0.0, H=5.0, s_max=100.0, learning_rate=100.0, without=("size",))
    das.build(ParameterStore([parameter]))
    shares, before = [], math.nan
    for _ in range(40):
        parameter.grad[...] = parameter.value
        w = float(parameter.value[0, 0])
        das.step(100 + 0.5 * w * w)
        shares.append(das.scalars["c"])
        if das.report["agreement"]:
            assert_allclose(das.report["agreement"], np.clip(w / before, -1, 1))
        before = w
    assert shares[0] == 1 and min(shares) < 0.5
    assert np.diff(shares).max() > 0


def test_a_loss_at_its_lower_bound_stops_and_a_deeper_one_too():
    store, _, loss = quadratic()
    das = DAS(lower_bound=2.0)
    das.build(store)
    das.step(loss())
    before = store.values.copy()
    loss()
    das.step(2.0)
    assert np.array_equal(store.values, before)
    das.step(1.0)
    assert np.array_equal(store.values, before)
    assert das.report["bound"] == "none" and das.report["polyak_rate"] == 0


def test_a_thawed_layer_is_trained_too():
    store, parameters, loss = quadratic()
    das = DAS()
    das.build(store)
    parameters[1].trainable = False
    for _ in range(5):
        das.step(loss())
    das.to_evaluation_weights()
    parameters[1].trainable = True
    before = parameters[1].value.copy()
    das.to_training_weights()
    assert np.array_equal(parameters[1].value, before)
    for _ in range(5):
        das.step(loss())
    assert not np.array_equal(parameters[1].value, before)
    assert set(das.report["layer_norms"]) == {"p0", "p1", "p2"}


def test_each_part_can_be_switched_off_and_changes_something():
    def trained(**arguments):
        store, parameters, loss = quadratic()
        das = DAS(1e-3, **arguments)  # small enough for the Polyak rate to lift it
        das.build(store)
        for k in range(100):
            f = loss()
            if k == 2:
                store.grads *= -1  # the slopes do not agree
            if k == 5:
                parameters[0].grad *= 1e6  # an outlier
            das.step(f)
        das.to_evaluation_weights()
        return store.values.copy()

    whole = trained()
    for part in PARTS:
        same = np.array_equal(trained(without=(part,)), whole)
        # Nothing was not finite, and the weights had a good size.
        assert same == (part in ("guard", "size")), part


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="unknown part 'polak'"):
        DAS(without=("polak",))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_takes_back_three_quarters(bad):
    store, _, loss = quadratic()
    das = DAS()
    das.build(store)
    before = store.values.copy()
    for _ in range(3):
        before = store.values.copy()
        das.step(loss())
    after, average = store.values.copy(), das.average().copy()
    moments, c = das.slots["m"].copy(), das.scalars["c"]
    das.step(bad)
    assert_allclose(store.values, before + (after - before) / 4, rtol=1e-12)
    assert_allclose(das.average(), average + das.share * (store.values - after), rtol=1e-12)
    assert np.array_equal(das.slots["m"], moments)
    assert das.scalars["c"] == c / 2
    assert das.report["bound"] == "guard"
    das.step(loss())
    assert np.isfinite(store.values).all()


def test_a_gradient_that_is_not_finite_is_not_learned_from():
    store, parameters, loss = quadratic()
    das = DAS()
    das.build(store)
    das.step(loss())
    f = loss()
    parameters[1].grad[0] = np.nan
    das.step(f)
    assert np.isfinite(store.values).all() and np.isfinite(das.slots["v"]).all()


def test_it_gives_up_in_the_first_step_and_after_ten_in_a_row():
    store, _, loss = quadratic()
    das = DAS()
    das.build(store)
    with pytest.raises(FloatingPointError, match="first step"):
        das.step(math.nan)
    das.step(loss())
    for _ in range(10):
        das.step(math.nan)
    with pytest.raises(FloatingPointError, match="11 times in a row"):
        das.step(math.nan)


def test_zero_loss_zero_gradient_and_frozen_layers_move_nothing():
    store, parameters, loss = quadratic()
    das = DAS()
    das.build(store)
    das.step(loss())
    parameters[0].trainable = False
    frozen = parameters[0].value.copy()
    das.step(loss())
    assert np.array_equal(parameters[0].value, frozen)

    store.zero_grad()
    fresh = DAS()
    fresh.build(store)
    before = store.values.copy()
    for f in (1.0, 0.0, 0.0):
        fresh.step(f)
    assert np.array_equal(store.values, before)


def test_a_negative_loss_asks_for_a_lower_bound():
    store, _, loss = quadratic()
    das = DAS()
    das.build(store)
    loss()
    with pytest.raises(ValueError, match=r"lower_bound=0.0"):
        das.step(-0.5)
    shifted = DAS(lower_bound=-1.0)
    shifted.build(store)
    for _ in range(200):
        shifted.step(loss() - 1.0)
    assert loss() < 0.5


def test_state_goes_through_a_checkpoint():
    store, _, loss = quadratic()
    das = DAS()
    das.build(store)
    for _ in range(30):
        das.step(loss())
    values, state = store.values.copy(), das.state_dict()
    for _ in range(10):
        das.step(loss())
    end = store.values.copy()

    store.values[...] = values
    again = DAS(0.5)
    again.build(store)
    again.load_state_dict(state)
    for _ in range(10):
        again.step(loss())
    assert np.array_equal(store.values, end)


def test_a_parameter_of_one_element_and_many_pieces():
    store, _, loss = quadratic(shapes=((1,), (1, 1), (300, 70)), dtype="float32")
    das = DAS()
    das.build(store)
    first = loss()
    for _ in range(100):
        das.step(loss())
    assert loss() < 0.5 * first


def test_float32_and_tiny_gradients_stay_finite():
    store, parameters, loss = quadratic(dtype="float32")
    das = DAS()
    das.build(store)
    for k in range(30):
        f = loss()
        for p in parameters:
            p.grad *= np.float32(10.0 ** (-38 if k % 2 else 30))
        das.step(f)
    assert np.isfinite(store.values).all()


def test_fit_survives_a_batch_of_nan():
    data = tl.data.load("digits")
    x = tl.data.Standardize.fit(data.x_train)(data.x_train)[:640].copy()
    y = data.y_train[:640]
    model = tl.Sequential(
        [
            tl.layers.Flatten(),
            tl.layers.Dense(32, "relu"),
            tl.layers.BatchNorm(),
            tl.layers.Dense(10),
        ]
    )
    model.compile("das", "sparse_categorical_crossentropy", ["accuracy"])
    batches = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 640, 64)]
    batches.insert(5, (np.full_like(x[:64], np.nan), y[:64]))
    history = model.fit(batches, epochs=5, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert history.history["accuracy"][-1] > 0.8


def small_problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 6)).astype("f4")
    y = (x @ rng.normal(size=(6, 3))).argmax(axis=1)
    layers = [tl.Input((6,)), tl.layers.Dense(16, "tanh"), tl.layers.Dropout(0.1)]
    model = tl.Sequential([*layers, tl.layers.BatchNorm(), tl.layers.Dense(3)], seed=1)
    model.compile("das", "sparse_categorical_crossentropy", ["accuracy"])
    return model, x, y


def test_fit_leaves_the_average_and_goes_on_from_the_weights():
    model, x, y = small_problem()
    model.fit(x, y, epochs=4, verbose=0, seed=3)
    assert model.optimizer.scalars["shown"]
    assert not np.array_equal(model.store.values, model.optimizer.average())
    once = model.get_weights()

    again, x, y = small_problem()
    seen = []
    for _ in range(2):
        before = again.epochs_trained
        again.fit(x, y, initial_epoch=before, epochs=before + 2, verbose=0, seed=3)
        seen.append(again.get_weights())
        assert again.optimizer.scalars["shown"]
    assert not np.array_equal(seen[0][0], seen[1][0])
    assert again.optimizer.iterations == model.optimizer.iterations
    assert all(np.isfinite(w).all() for w in [*once, *seen[1]])


def test_validation_and_checkpoints_have_the_average(tmp_path):
    model, x, y = small_problem()
    history = model.fit(
        x,
        y,
        epochs=3,
        validation_data=(x, y),
        callbacks=tl.callbacks.Checkpoint(tmp_path),
        verbose=0,
    )
    measured = model.evaluate(x, y)
    assert_allclose(history.history["val_loss"][-1], measured["loss"], rtol=1e-6)
    saved = tl.load(max(tmp_path.glob("*.safetensors")))
    for w, kept in zip(model.get_weights(), saved.get_weights(), strict=True):
        assert np.array_equal(w, kept)


def test_a_resumed_training_is_the_same_to_the_last_bit(tmp_path):
    whole, x, y = small_problem()
    whole.fit(x, y, epochs=4, callbacks=tl.callbacks.Checkpoint(tmp_path / "a"), verbose=0)
    first, x, y = small_problem()
    first.fit(x, y, epochs=2, callbacks=tl.callbacks.Checkpoint(tmp_path / "b"), verbose=0)
    second, x, y = small_problem()
    checkpoint = tl.callbacks.Checkpoint(tmp_path / "b")
    second.fit(x, y, epochs=4, callbacks=checkpoint, resume=True, verbose=0)
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert whole.optimizer.scalars == second.optimizer.scalars


def test_tolerance_falls_with_the_passes_over_the_data():
    """Equation 6 on the fourth pass: A + τ / 4; and `fit` counts the passes."""

    def bounds(epoch, tau):
        store, _, loss = quadratic()
        das = DAS(tau=tau)
        das.build(store)
        das.epoch = epoch
        seen = []
        for k in range(12):
            f = loss()
            store.grads *= -1 if k % 3 == 2 else 1
            das.step(f)
            seen.append(das.scalars["c"])
        return seen

    assert bounds(4, 0.2) == bounds(1, 0.05) != bounds(1, 0.2)

    epochs = []

    class Look(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            epochs.append(self.model.optimizer.epoch)

    model = tl.Sequential([tl.layers.Dense(2)], seed=0)
    model.compile("das", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    model.fit(x, np.arange(8) % 2, epochs=3, batch_size=4, verbose=0, callbacks=[Look()])
    assert epochs == [1, 1, 2, 2, 3, 3]


def test_one_part_may_be_given_as_a_word():
    assert DAS(without="average").without == ("average",)


def test_a_step_before_build_says_what_is_missing():
    with pytest.raises(RuntimeError, match="call build"):
        DAS().step(1.0)
