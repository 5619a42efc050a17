"""Bad input: one clear error that names the culprit, before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest

import tinydl as tl
from tinydl.layers.base import Layer
from tinydl.training.diagnosis import NonFiniteLossError

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def classifier(**arguments):
    model = tl.Sequential([tl.layers.Dense(8, activation="relu"), tl.layers.Dense(3)])
    model.compile(**{"optimizer": "sgd", "loss": "sparse_categorical_crossentropy", **arguments})
    model.build_model((4,))
    return model


def with_value(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        (X[:, :3], Y, {}, r"built for inputs of shape \(N, 4\), got \(\d+, 3\)"),
        (X[..., None], Y, {}, r"built for inputs of shape \(N, 4\)"),
        (X, with_value(Y, 7, 3), {}, "3 at index 7"),
        (X, with_value(Y, 9, -1), {}, "-1 at index 9"),
        (X, Y.astype(float), {}, "labels must be integers"),
        (X, np.eye(3)[Y], {}, "categorical_crossentropy"),
        (with_value(X, (11, 2), np.nan), Y, {}, "nan in sample 11"),
        (with_value(X, (12, 0), np.inf), Y, {}, "inf in sample 12"),
        (X[:0], Y[:0], {}, "empty"),
        (X, Y[:-1], {}, "40 samples, y has 39"),
        (X, Y, {"sample_weight": np.ones(39)}, "sample_weight has 39"),
        (X, Y, {"sample_weight": -np.ones(40)}, "negative"),
        (X, Y, {"batch_size": 41}, "batch_size 41 is larger"),
        (X, Y, {"batch_size": 0}, "batch_size"),
        (X.astype(complex), Y, {}, "complex"),
        (X.astype(str), Y, {}, "dtype"),
        (X, None, {}, "targets"),
        (X, Y, {"epochs": 0}, "epochs must be"),
        (X, Y, {"epochs": True}, "epochs must be a whole number >= 1, got True"),
        (X, Y, {"verbose": "x"}, "verbose must be 0, 1 or 2, got 'x'"),
        (X, Y, {"verbose": 3}, "verbose must be 0, 1 or 2, got 3"),
        (X, Y, {"validation_split": 1.5}, r"validation_split must be a finite number in \(0, 1\), got 1.5"),
        (X, Y, {"validation_split": "a"}, r"validation_split must be a finite number in .*, got 'a'"),
        (X, Y, {"validation_split": 0.999}, "leaves 0 for training"),
        (X, Y, {"validation_split": 0.5, "validation_data": (X, Y)}, "not both"),
        (X, Y, {"validation_data": (X[:, :2], Y)}, "validation_data: .*shape"),
        (X, Y, {"validation_data": (X, Y + 5)}, "validation_data: .*outside"),
        (X, Y, {"validation_data": iter([(X, Y)]), "epochs": 2}, "can be read once only"),
        (X, Y, {"class_weight": {0: -1.0}}, "weight of class 0 must be a finite number >= 0, got -1"),
        (X, Y, {"class_weight": {0: "a"}}, "weight of class 0 must be a finite number >= 0, got 'a'"),
        (X, Y, {"class_weight": {True: 1.0}}, "numbers from 0 to 2, got True"),
        (X, Y, {"class_weight": {"cat": 1.0}}, "classes are numbers"),
        (X, Y, {"class_weight": {3: 1.0}}, "numbers from 0 to 2, got 3"),
        (X, Y, {"class_weight": "balanced"}, "must be a dict"),
        (X, Y, {"seed": -1}, "seed must be a whole number"),
        (X, Y, {"resume": True}, "Checkpoint"),
        (X, Y, {"steps_per_epoch": 0}, "steps_per_epoch must be a whole number >= 1, got 0"),
        (X, Y, {"steps_per_epoch": True}, "steps_per_epoch must be a whole number >= 1, got True"),
        (X, Y, {"callbacks": [print]}, "Callback"),
        ([X, X], Y, {}, "takes one array"),
        ([], None, {}, "empty"),
        (7, None, {}, "got int"),
        (None, None, {}, "x is None"),
        ({"a": X}, None, {}, "got dict"),
        ([(X, Y)], Y, {}, "x is a list with entries of different shapes"),
        ([[1.0, 2.0], [3.0]], Y[:2], {}, "^x is a list with entries of different shapes"),
        (X[:2], [[0], [1, 2]], {}, "^y is a list with entries of different shapes"),
        (X[:2], Y[:2], {"sample_weight": [[0.5], 1]}, "^sample_weight is a list with entries of"),
        (X, Y, {"validation_data": (X[:2], [[0], [1, 2]])}, "^validation_data: y is a list with"),
    ],
)  # fmt: skip
def test_fit_refuses(x, y, arguments, message):
    model = classifier()
    before = model.get_weights()
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(x, y, **{"verbose": 0, **arguments})
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_predict_names_a_list_that_is_no_array():
    with pytest.raises(ValueError, match=r"^x is a list with entries of different"):
        classifier().predict([[1.0, 2.0], [3.0]])


def test_targets_of_another_shape_than_the_outputs_are_refused():
    model = tl.Sequential([tl.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"\(40, 2\), got \(40,\)"):
        model.fit(X, X[:, 0], verbose=0)


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [("mse", 1), ("mse", 3), ("mae", 3), ("huber", 3), ("binary_crossentropy", 3)],
)
def test_class_weights_are_refused_where_samples_are_not_of_one_class(loss, outputs):
    model = tl.Sequential([tl.layers.Dense(outputs)])
    model.compile("sgd", loss)
    label = type(model.loss).__name__
    words = f"class_weight needs a loss for which every .* not {label} of {outputs} outputs: give"
    with pytest.raises(ValueError, match=words):
        model.fit(X, np.ones((40, outputs)), class_weight={0: 2.0}, verbose=0)


def test_class_weights_go_with_two_classes():
    """One unit: the second class counts three times, as with weights of the samples."""
    model, same = (tl.Sequential([tl.layers.Dense(1)], seed=0) for _ in range(2))
    for m in (model, same):
        m.compile("sgd", "binary_crossentropy")
    model.fit(X, Y, class_weight={1: 3.0}, verbose=0)
    same.fit(X, Y, sample_weight=np.where(Y == 1, 3.0, 1.0), verbose=0)
    for a, b in zip(model.get_weights(), same.get_weights(), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("call", ["evaluate", "predict"])
@pytest.mark.parametrize("size", ["a", 0, True])
def test_batch_size_of_evaluate_and_predict(call, size):
    data = (X, Y) if call == "evaluate" else (X,)
    with pytest.raises(ValueError, match=f"batch_size must be a whole number >= 1, got {size!r}"):
        getattr(classifier(), call)(*data, batch_size=size)


@pytest.mark.parametrize("call", ["evaluate", "predict"])
def test_verbose_of_evaluate_and_predict(call):
    data = (X, Y) if call == "evaluate" else (X,)
    with pytest.raises(ValueError, match="verbose must be 0, 1 or 2, got 'x'"):
        getattr(classifier(), call)(*data, verbose="x")


def test_fit_and_evaluate_need_compile():
    model = tl.Sequential([tl.layers.Dense(3)])
    for call in (model.fit, model.evaluate):
        with pytest.raises(RuntimeError, match="not compiled"):
            call(X, Y)
    model.compile("sgd")
    with pytest.raises(RuntimeError, match="loss"):
        model.fit(X, Y)


def test_an_iterator_that_is_read_to_its_end():
    with pytest.raises(ValueError, match="no batch in epoch 2"):
        classifier().fit(iter([(X, Y)]), epochs=2, verbose=0)


def test_arrays_too_large_to_search_are_judged_by_the_loss(monkeypatch):
    monkeypatch.setattr("tinydl.training.batches.CHECKED_BYTES", 100)
    with pytest.raises(
        NonFiniteLossError, match=r"step 5: the batch's input holds nan at \[1, 2\]"
    ):
        classifier().fit(with_value(X, (33, 2), np.nan), Y, batch_size=8, shuffle=False, verbose=0)


# ---- compile ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"loss": "sparse_crossentropy"}, "unknown loss"),
        ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
        ({"metrics": "accuracy"}, "must be a list"),
        ({"metrics": ["accuracy", "accuracy"]}, "two metrics are called 'accuracy'"),
        ({"loss": "mse", "loss_weights": [1.0]}, "list of losses"),
        ({"loss": ["mse", "mse"], "loss_weights": [1.0]}, "2 losses, loss_weights has 1"),
    ],
)
def test_compile_refuses(arguments, message):
    model = tl.Sequential([tl.layers.Dense(3)])
    with pytest.raises((ValueError, TypeError), match=message):
        model.compile(**{"loss": "mse", **arguments})
    assert model.optimizer is None


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        (lambda: [tl.layers.Dense(3, activation="softmax")], "sparse_categorical_crossentropy"),
        (lambda: [tl.layers.Dense(3, activation="softmax")], "categorical_crossentropy"),
        (lambda: [tl.layers.Dense(1, activation="sigmoid")], "binary_crossentropy"),
        (
            lambda: [tl.Sequential([tl.layers.Dense(3, activation="softmax")], name="inner")],
            "sparse_categorical_crossentropy",
        ),
    ],
)
def test_softmax_before_a_loss_of_logits_is_refused(layers, loss):
    model = tl.Sequential(layers())
    with pytest.raises(ValueError, match=r"takes logits.*from_logits=False"):
        model.compile("adam", loss)
    name = type(tl.losses.get(loss)).__name__
    model.compile("adam", getattr(tl.losses, name)(from_logits=False))


# ---- a loss that is no number -----------------------------------------------------------------------------


class Explode(Layer):
    """Multiplies by ``factor`` in its third forward pass in training; counts passes in a state."""

    is_random = True

    def __init__(self, factor, name=None):
        super().__init__(name)
        self.factor = factor

    def build(self, input_shape, rng):
        self.state["passes"] = np.zeros(1, self.dtype)

    def forward(self, x, training=False):
        if training:
            self.state["passes"] += 1
            self.rng.random()
        self.scale = self.factor if training and self.state["passes"][0] == 3 else 1.0
        with np.errstate(all="ignore"):
            return x * np.float32(self.scale)

    def backward(self, grad_output):
        return grad_output * np.float32(self.scale)


def exploding(factor):
    model = tl.Sequential(
        [
            tl.layers.Dense(4),
            tl.Sequential([Explode(factor, name="bang")], name="inner"),
            tl.layers.Dense(3),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("factor", [np.inf, np.nan])
def test_a_non_finite_loss_names_the_layer_and_keeps_the_weights(factor):
    model, sound = exploding(factor), exploding(1.0)
    with pytest.raises(
        NonFiniteLossError, match=r"epoch 1, step 3: .*layer 'inner\.bang'"
    ) as caught:
        model.fit(X, Y, batch_size=8, verbose=0)
    assert (caught.value.origin, caught.value.epoch, caught.value.step) == ("inner.bang", 0, 2)

    def stop(batch, logs):
        sound.stop_training = batch == 1

    sound.fit(
        X,
        Y,
        batch_size=8,
        verbose=0,
        callbacks=[tl.callbacks.LambdaCallback(on_train_batch_end=stop)],
    )
    for a, b in zip(model.get_weights(), sound.get_weights(), strict=True):
        assert np.array_equal(a, b)  # states (the count of passes) included
    assert model.generators()[0].bit_generator.state == sound.generators()[0].bit_generator.state
    assert model.optimizer.iterations == 2


def test_a_parameter_that_is_not_finite_is_named():
    model = classifier()
    model.sublayers[1].weight.value[2, 1] = np.nan
    with pytest.raises(
        NonFiniteLossError, match=r"parameter 'dense_1.weight' holds nan at \[2, 1\]"
    ):
        model.fit(X, Y, verbose=0)


def test_an_input_that_is_not_finite_in_a_batch_of_an_iterable_is_named():
    batches = [(X[:8], Y[:8]), (with_value(X[8:16], (3, 1), np.inf), Y[8:16])]
    model = tl.Sequential([tl.layers.Dense(8), tl.layers.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(
        NonFiniteLossError, match=r"step 2: the batch's input holds inf at \[3, 1\]"
    ):
        model.fit(batches, verbose=0)


def test_an_overflow_in_the_loss_is_told_from_one_in_a_layer():
    model = tl.Sequential([tl.layers.Dense(1)], dtype="float64")
    model.compile("sgd", "mse")
    batches = [(X, np.zeros((40, 1))), (X, np.full((40, 1), 1e200))]
    with (
        pytest.raises(NonFiniteLossError, match="arose in the loss") as caught,
        np.errstate(over="ignore"),
    ):
        model.fit(batches, verbose=0)
    assert caught.value.origin == "loss"
    assert model.optimizer.iterations == 1


def test_a_gradient_that_is_not_finite_leaves_the_states_as_they_were():
    class BadGradient(Explode):
        def forward(self, x, training=False):
            super().forward(x, training)
            return x

        def backward(self, grad_output):
            return grad_output * np.float32(np.inf)

    model = tl.Sequential([tl.layers.Dense(4), BadGradient(1.0), tl.layers.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(FloatingPointError, match="gradient of 'dense"), np.errstate(all="ignore"):
        model.fit(X, Y, verbose=0)
    assert model.get_weights()[-1][0] == 0  # no pass was counted


@pytest.mark.parametrize("strategy", ["dp", tl.distributed.DataParallel])
def test_a_strategy_that_is_none_is_named(strategy):
    model = tl.Sequential([tl.layers.Dense(2)], seed=0)
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="strategy must be a strategy such as"):
        model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=2, strategy=strategy)


def test_virtual_shards_are_not_accumulated_too():
    model = tl.Sequential([tl.layers.Dense(2)], seed=0)
    model.compile("sgd", "mse")
    strategy = tl.distributed.DataParallel(deterministic=True)
    with pytest.raises(ValueError, match="raise shards instead of accumulate_steps"):
        model.fit(
            np.ones((4, 3)), np.ones((4, 2)), batch_size=2, strategy=strategy, accumulate_steps=2
        )
