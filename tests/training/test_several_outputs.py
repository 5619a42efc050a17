"""Models of several inputs and outputs through compile, fit, evaluate, predict, save and resume."""

from __future__ import annotations

import numpy as np
import pytest

import tinydl as tl

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 4)).astype(np.float64)
B = RNG.normal(size=(30, 3)).astype(np.float64)
CLASSES = RNG.integers(0, 3, 30)
VALUES = RNG.normal(size=(30, 2))


def two_headed(compiled=True):
    a, b = tl.Input((4,), name="a"), tl.Input((3,), name="b")
    shared = tl.layers.Dense(8, activation="tanh")(tl.layers.Concatenate()([a, b]))
    shared = tl.layers.Dropout(0.2)(shared)
    outputs = [tl.layers.Dense(3, name="kind")(shared), tl.layers.Dense(2, name="size")(shared)]
    model = tl.Model(inputs=[a, b], outputs=outputs, dtype="float64", seed=2)
    if compiled:
        model.compile(
            "adam",
            loss=["sparse_categorical_crossentropy", "mse"],
            metrics=[["accuracy"], []],
            loss_weights=[1.0, 0.25],
        )
    return model


def test_loss_and_metrics_are_those_of_the_outputs():
    model = two_headed()
    measured = model.evaluate([A, B], [CLASSES, VALUES])
    logits, sizes = model.predict([A, B])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(30), CLASSES]).mean() + 0.25 * ((sizes - VALUES) ** 2).mean()
    assert measured["loss"] == pytest.approx(expected, rel=1e-12)
    assert measured["kind_accuracy"] == (logits.argmax(axis=1) == CLASSES).mean()


def test_the_gradient_is_that_of_the_weighted_sum():
    """One step of SGD against central differences of the loss that evaluate gives."""
    model = two_headed()
    model.compile(
        tl.optimizers.SGD(1.0),
        loss=["sparse_categorical_crossentropy", "mse"],
        loss_weights=[1.0, 0.25],
    )
    for layer in model.random_layers:
        layer.rate = 0.0
    weight = model.sublayers[1].weight.value
    numeric = np.zeros_like(weight)
    for index in [(0, 0), (3, 5), (6, 7)]:
        losses = []
        for sign in (1, -1):
            weight[index] += sign * 1e-5
            losses.append(model.evaluate([A, B], [CLASSES, VALUES])["loss"])
            weight[index] -= sign * 1e-5
        numeric[index] = (losses[0] - losses[1]) / 2e-5
    before = weight.copy()
    model.fit([A, B], [CLASSES, VALUES], batch_size=30, verbose=0)
    for index in [(0, 0), (3, 5), (6, 7)]:
        assert (before - weight)[index] == pytest.approx(numeric[index], rel=1e-6)


def test_fit_with_validation_split_and_resume(tmp_path):
    def run(folder, epochs):
        model = two_headed()
        history = model.fit(
            [A, B],
            [CLASSES, VALUES],
            epochs=epochs,
            batch_size=7,
            validation_split=0.2,
            callbacks=[tl.callbacks.Checkpoint(folder)],
            resume=True,
            verbose=0,
        )
        return model, history

    expected, history = run(tmp_path / "a", 4)
    assert list(history.history) == [
        "loss", "kind_accuracy", "val_loss", "val_kind_accuracy", "learning_rate",
    ]  # fmt: skip
    assert history.history["loss"][-1] < history.history["loss"][0]
    run(tmp_path / "b", 2)
    resumed, same = run(tmp_path / "b", 4)
    assert same.history == history.history
    for u, v in zip(resumed.get_weights(), expected.get_weights(), strict=True):
        assert np.array_equal(u, v)


def test_saved_and_loaded(tmp_path):
    model = two_headed()
    model.fit([A, B], [CLASSES, VALUES], verbose=0, batch_size=10)
    model.save(tmp_path / "m")
    loaded = tl.load(tmp_path / "m")
    for u, v in zip(loaded.predict([A, B]), model.predict([A, B]), strict=True):
        assert np.array_equal(u, v)
    measured = loaded.evaluate([A, B], [CLASSES, VALUES])
    assert measured == model.evaluate([A, B], [CLASSES, VALUES])
    assert list(measured) == ["loss", "kind_accuracy"]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (A, [CLASSES, VALUES], "takes a list of 2 arrays"),
        ([A, B, B], [CLASSES, VALUES], "2 inputs, got 3"),
        ([B, A], [CLASSES, VALUES], r"shape \(N, 4\), got \(\d+, 3\)"),
        ([A, B], CLASSES, "2 outputs: give y as a list"),
        ([A, B], [CLASSES], "2 outputs: give y as a list"),
        ([A, B], [CLASSES, CLASSES], "MeanSquaredError.*shape"),
        ([A, B[:-1]], [CLASSES, VALUES], r"x\[1\] has 29"),
    ],
)
def test_data_that_do_not_fit_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        two_headed().fit(x, y, verbose=0, batch_size=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": ["mse"] * 3}, "2 outputs, compile was given 3 losses"),
        ({"loss": ["mse"] * 2, "metrics": ["accuracy"]}, "list of 2 lists"),
    ],
)
def test_compile_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        two_headed(compiled=False).compile(**arguments)


def test_one_loss_for_two_outputs_and_class_weights_are_refused():
    model = two_headed(compiled=False)
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="a list of losses"):
        model.fit([A, B], [CLASSES, VALUES], batch_size=10, verbose=0)
    with pytest.raises(ValueError, match="class_weight needs one output"):
        two_headed().fit([A, B], [CLASSES, VALUES], class_weight={0: 1.0}, batch_size=10, verbose=0)


def test_softmax_before_logits_is_found_in_the_graph():
    a = tl.Input((4,))
    hidden = tl.layers.Dense(8)(a)
    probabilities = tl.layers.Softmax()(tl.layers.Dense(3)(hidden))
    model = tl.Model(inputs=a, outputs=probabilities)
    with pytest.raises(ValueError, match="ends in a softmax"):
        model.compile("adam", "sparse_categorical_crossentropy")
    both = tl.Model(inputs=a, outputs=[hidden, probabilities])
    with pytest.raises(ValueError, match="ends in a softmax"):
        both.compile("adam", ["mse", "sparse_categorical_crossentropy"])
    both.compile("adam", ["mse", tl.losses.SparseCategoricalCrossentropy(from_logits=False)])
