"""fit, evaluate and predict: what they compute, held against loops written out by hand."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import tinydl as tl
from tinydl.layers.base import Layer


def problem(samples=96, features=6, classes=3, seed=0):
    """Samples whose class is told by a linear function of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, features)).astype(np.float32)
    y = (x @ rng.normal(size=(features, classes))).argmax(axis=1)
    return x, y


def classifier(seed=0, dtype="float32", **compile_arguments):
    model = tl.Sequential(
        [tl.layers.Dense(16, activation="tanh"), tl.layers.Dense(3)], seed=seed, dtype=dtype
    )
    arguments = {
        "optimizer": "adam",
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        **compile_arguments,
    }
    model.compile(**arguments)
    return model


def same_weights(a, b):
    return all(np.array_equal(u, v) for u, v in zip(a.get_weights(), b.get_weights(), strict=True))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_a_linearly_separable_problem_is_learned():
    x, y = problem(samples=200)
    model = classifier(optimizer=tl.optimizers.Adam(0.02))
    history = model.fit(x, y, epochs=25, verbose=0)
    assert history.history["loss"][-1] < 0.2 * history.history["loss"][0]
    assert (model.predict(x).argmax(axis=1) == y).mean() > 0.97


def test_steps_equal_gradient_descent_written_out():
    x, y = problem(samples=20)
    model = tl.Sequential(
        [tl.layers.Dense(3, kernel_regularizer=tl.regularizers.L2(0.1))], dtype="float64"
    )
    model.compile(tl.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    model.build_model((6,))
    w, b = model.get_weights()
    losses = []
    loader = tl.data.DataLoader(x, y, batch_size=8, seed=3, dtype="float64")
    for epoch in range(2):
        total = 0.0
        for xb, yb in loader.batches(epoch):
            p = softmax(xb @ w + b)
            one_hot = np.eye(3)[yb]
            total += -np.log(p[np.arange(len(yb)), yb]).sum() + len(yb) * 0.1 * (w**2).sum()
            g = (p - one_hot) / len(yb)
            w, b = w - 0.5 * (xb.T @ g + 2 * 0.1 * w), b - 0.5 * g.sum(axis=0)
        losses.append(total / 20)

    history = model.fit(x, y, epochs=2, batch_size=8, seed=3, verbose=0)

    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-10)
    np.testing.assert_allclose(model.get_weights()[1], b, rtol=1e-10)
    np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-10)


def test_history_names_and_lengths():
    x, y = problem()
    history = classifier().fit(x, y, epochs=3, validation_split=0.25, verbose=0)
    assert history.epoch == [0, 1, 2]
    assert list(history.history) == [
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
    ]
    assert {len(values) for values in history.history.values()} == {3}
    assert not history.interrupted


def test_validation_split_holds_out_the_last_samples():
    x, y = problem(samples=50)
    split, given = classifier(), classifier()
    a = split.fit(x, y, epochs=2, batch_size=10, validation_split=0.2, verbose=0)
    b = given.fit(
        x[:40], y[:40], epochs=2, batch_size=10, validation_data=(x[40:], y[40:]), verbose=0
    )
    assert same_weights(split, given)
    assert a.history == b.history
    assert a.history["val_loss"][-1] == split.evaluate(x[40:], y[40:])["loss"]


def test_evaluate_gives_means_over_samples_whatever_the_batches():
    x, y = problem(samples=50)
    model = classifier(dtype="float64")
    whole = model.evaluate(x, y, batch_size=50)
    p = softmax(model.predict(x))
    assert whole["loss"] == pytest.approx(-np.log(p[np.arange(50), y]).mean(), rel=1e-12)
    assert whole["accuracy"] == (p.argmax(axis=1) == y).mean()
    for batch_size in (1, 7, 32):
        parts = model.evaluate(x, y, batch_size=batch_size)
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-12)
        assert parts["accuracy"] == pytest.approx(whole["accuracy"], rel=1e-12)


def test_evaluate_with_sample_weights():
    x, y = problem(samples=10)
    model = classifier(dtype="float64")
    w = np.arange(10.0)
    p = softmax(model.predict(x))
    expected = (w * -np.log(p[np.arange(10), y])).sum() / 10
    assert model.evaluate(x, y, sample_weight=w)["loss"] == pytest.approx(expected, rel=1e-12)


def test_evaluate_and_predict_change_nothing():
    x, y = problem()
    model = classifier()
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    model.evaluate(x, y)
    model.predict(x)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_predict_gives_all_samples_in_order():
    x, _ = problem(samples=23)
    model = classifier(dtype="float64")
    whole = model.predict(x, batch_size=23)
    assert whole.shape == (23, 3)
    np.testing.assert_allclose(model.predict(x, batch_size=5), whole, rtol=1e-12)
    np.testing.assert_allclose(model.predict([x[:4], x[4:23]][1]), whole[4:], rtol=1e-12)
    np.testing.assert_allclose(model.predict(batch for batch in (x[:9], x[9:])), whole, rtol=1e-12)
    loader = tl.data.DataLoader(x, batch_size=4, shuffle=False, dtype="float64")
    np.testing.assert_allclose(model.predict(loader), whole, rtol=1e-12)


def test_predict_refuses_a_loader_that_shuffles():
    x, _ = problem()
    with pytest.raises(ValueError, match="shuffle=False"):
        classifier().predict(tl.data.DataLoader(x))


def test_arrays_loaders_lists_and_generators_train_alike():
    x, y = problem(samples=40)
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)]
    models = [classifier() for _ in range(5)]
    models[0].fit(x, y, batch_size=8, shuffle=False, epochs=2, verbose=0)
    models[1].fit(tl.data.DataLoader(x, y, batch_size=8, shuffle=False), epochs=2, verbose=0)
    models[2].fit(batches, epochs=2, verbose=0)
    models[3].fit((b for b in batches * 2), epochs=2, steps_per_epoch=5, verbose=0)
    models[4].fit(iter(batches), verbose=0)
    models[4].fit(iter(batches), verbose=0)
    assert all(same_weights(models[0], model) for model in models[1:])


def test_steps_per_epoch_cuts_epochs_of_an_endless_generator():
    x, y = problem(samples=8)

    def endless():
        while True:
            yield x, y

    seen = []
    watch = tl.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    model = classifier()
    model.fit(endless(), epochs=2, steps_per_epoch=3, callbacks=[watch], verbose=0)
    assert seen == [0, 1, 2, 0, 1, 2]


def test_class_weight_equals_the_same_sample_weights():
    x, y = problem(samples=60)
    weights = {0: 3.0, 2: 0.5}
    a, b, c = classifier(), classifier(), classifier(loss="categorical_crossentropy")
    a.fit(x, y, class_weight=weights, verbose=0)
    b.fit(x, y, sample_weight=np.array([3.0, 1.0, 0.5])[y], verbose=0)
    c.fit(x, np.eye(3, dtype=np.float32)[y], class_weight=weights, verbose=0)
    assert same_weights(a, b)
    for u, v in zip(a.get_weights(), c.get_weights(), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-7)
    d = classifier()
    d.fit(x, y, verbose=0)
    assert not same_weights(a, d)


def test_class_weight_multiplies_sample_weight():
    x, y = problem(samples=60)
    w = np.random.default_rng(1).uniform(0.5, 2, 60)
    a, b = classifier(), classifier()
    a.fit(x, y, class_weight={1: 2.0}, sample_weight=w, verbose=0)
    b.fit(x, y, sample_weight=(w.astype(np.float32) * np.array([1.0, 2.0, 1.0])[y]), verbose=0)
    for u, v in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-5)


def test_one_callback_needs_no_list_and_none_is_none():
    x, y = problem()
    seen = []
    callback = tl.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    classifier().fit(x, y, epochs=2, verbose=0, callbacks=callback)
    classifier().fit(x, y, verbose=0, callbacks=None)
    assert seen == [0, 1]


def test_evaluate_and_predict_say_what_they_did(capsys):
    x, y = problem()
    model = classifier()
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    assert capsys.readouterr().out == ""
    measured = model.evaluate(x, y, verbose=1)
    assert f"loss {measured['loss']:.4f}" in capsys.readouterr().out
    model.predict(x, verbose=1)
    assert "96 samples" in capsys.readouterr().out


def test_the_seed_decides_everything():
    x, y = problem()
    a, b, c = (classifier() for _ in range(3))
    a.fit(x, y, seed=5, verbose=0)
    b.fit(x, y, seed=5, verbose=0)
    c.fit(x, y, seed=6, verbose=0)
    assert same_weights(a, b)
    assert not same_weights(a, c)
    assert same_weights(classifier_fitted(x, y, 1), classifier_fitted(x, y, 1))
    assert not same_weights(classifier_fitted(x, y, 1), classifier_fitted(x, y, 2))


def test_the_seed_decides_dropout():
    x, y = problem()

    def weights(model_seed, *fit_seeds):
        model = tl.Sequential(
            [tl.layers.Dropout(0.5), tl.layers.Dense(3, "linear")], seed=model_seed
        )
        model.build_model((6,))
        model.sublayers[1].weight.value[...] = 0
        model.compile("sgd", "sparse_categorical_crossentropy")
        for seed in fit_seeds:
            model.sublayers[1].weight.value[...] = 0
            model.sublayers[1].bias.value[...] = 0
            model.fit(x, y, shuffle=False, seed=seed, verbose=0)
        return model.get_weights()[0]

    assert np.array_equal(weights(0, 5), weights(1, 5))
    assert np.array_equal(weights(0, 5), weights(0, 5, 5))
    assert not np.array_equal(weights(0, 5), weights(0, 6))
    assert np.array_equal(weights(0, None), weights(0, None))
    assert not np.array_equal(weights(0, None), weights(1, None))
    assert not np.array_equal(weights(0, None), weights(0, None, None))


def test_after_training_backward_gives_the_inputs_gradient_again():
    x, y = problem()
    model = classifier()
    model.fit(x, y, verbose=0)
    model.forward(x[:2], training=True)
    assert model.backward(np.ones((2, 3), np.float32)).shape == (2, 6)


def classifier_fitted(x, y, seed):
    model = classifier(seed=seed)
    model.fit(x, y, verbose=0)
    return model


def test_calls_of_fit_one_after_another_equal_one_long_call():
    x, y = problem()
    once, counted_on, numbered = classifier(), classifier(), classifier()
    once.fit(x, y, epochs=4, verbose=0)
    for _ in range(4):
        counted_on.fit(x, y, verbose=0)
    numbered.fit(x, y, epochs=2, verbose=0)
    history = numbered.fit(x, y, epochs=4, initial_epoch=2, verbose=0)
    assert same_weights(once, counted_on)
    assert same_weights(once, numbered)
    assert history.epoch == [2, 3]


def test_frozen_layers_keep_their_weights():
    x, y = problem()
    model = classifier()
    model.build_model((6,))
    model.sublayers[0].trainable = False
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    after = model.get_weights()
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [
        True,
        True,
        False,
        False,
    ]


def test_integers_and_bytes_as_inputs():
    x = np.random.default_rng(0).integers(0, 256, (40, 6)).astype(np.uint8)
    y = (x[:, 0] > 127).astype(np.int64)
    a, b = classifier(), classifier()
    a.fit(x, y, verbose=0)
    b.fit(x.astype(np.float32), y, verbose=0)
    assert same_weights(a, b)


class MaskPadding(Layer):
    """Passes its input on; steps whose first feature is 0 are padding."""

    def forward(self, x, training=False):
        return x

    def backward(self, grad_output):
        return grad_output

    def compute_mask(self, x, mask):
        return x[..., 0] != 0


def test_the_models_mask_decides_what_loss_and_metrics_count():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 3)).astype(np.float64)
    x[:, 2:] = 0
    y = rng.integers(0, 3, (5, 4))
    y[:, 2:] = -1  # nobody may look at the labels of padding
    model = tl.Sequential([MaskPadding(), tl.layers.Dense(3)], dtype="float64")
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    result = model.evaluate(x, y)
    z = model.predict(x)[:, :2].reshape(-1, 3)
    kept = y[:, :2].ravel()
    expected = -np.log(softmax(z)[np.arange(10), kept]).mean()
    assert result["loss"] == pytest.approx(expected, rel=1e-12)
    assert result["accuracy"] == pytest.approx((z.argmax(axis=1) == kept).mean())
    assert np.isfinite(model.fit(x, y, batch_size=5, verbose=0).history["loss"][0])


def test_blas_has_one_thread_while_training():
    x, y = problem()
    threads = []

    def look(batch, logs):
        threads.extend(
            pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
        )

    classifier().fit(
        x, y, callbacks=[tl.callbacks.LambdaCallback(on_train_batch_end=look)], verbose=0
    )
    assert threads and set(threads) == {1}


# ---- Ctrl-C -----------------------------------------------------------------------------------------------


class Press(tl.callbacks.Callback):
    """Ctrl-C, ``times`` times, in step ``step`` of epoch 1: before it, or amid its update, after the gradients."""

    def __init__(self, step, times=1, amid_update=False):
        self.step, self.times, self.epoch, self.ended = step, times, -1, False
        self.amid_update = amid_update

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) != (1, self.step):
            return
        if not self.amid_update:
            self.press()
            return
        update = self.model.optimizer.update

        def interrupted_update(*arguments):
            self.press()
            update(*arguments)
            del self.model.optimizer.update

        self.model.optimizer.update = interrupted_update

    def press(self):
        for _ in range(self.times):
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_end(self, logs=None):
        self.ended = True


@pytest.mark.parametrize("amid_update", [False, True])
def test_ctrl_c_finishes_the_step_and_returns_the_history_so_far(amid_update):
    x, y = problem(samples=64)
    handler = signal.getsignal(signal.SIGINT)
    press = Press(step=2, amid_update=amid_update)
    model, reference = classifier(), classifier()
    history = model.fit(x, y, batch_size=8, epochs=5, callbacks=[press], verbose=0)
    assert history.interrupted
    assert history.epoch == [0]
    assert press.ended
    assert signal.getsignal(signal.SIGINT) is handler

    def stop(batch, logs):
        if reference.optimizer.iterations == 8 + 3:
            reference.stop_training = True

    reference.fit(
        x, y, batch_size=8, epochs=5, verbose=0,
        callbacks=[tl.callbacks.LambdaCallback(on_train_batch_end=stop)],
    )  # fmt: skip
    assert same_weights(model, reference)


def test_a_second_ctrl_c_ends_at_once():
    x, y = problem(samples=64)
    handler = signal.getsignal(signal.SIGINT)
    press = Press(step=2, times=2)
    model = classifier()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=8, epochs=5, callbacks=[press], verbose=0)
    assert not press.ended
    assert model.optimizer.iterations == 8 + 2
    assert signal.getsignal(signal.SIGINT) is handler


def test_statistics_are_those_of_the_weights_that_das_recommends():
    """After fit, BatchNorm's running mean is the mean over batches at the average of weights."""
    x = np.random.default_rng(0).normal(2, size=(40, 3)).astype(np.float32)
    y = np.arange(40) % 2
    layers = tl.layers

    def trained(**arguments):
        body = [layers.Dense(4), layers.BatchNorm(), layers.Dropout(0.5), layers.Dense(2)]
        model = tl.Sequential(body, seed=0)
        model.compile(tl.optimizers.DAS(**arguments), "sparse_categorical_crossentropy")
        history = model.fit(x, y, epochs=3, batch_size=8, verbose=0, shuffle=False)
        return model, history.history["loss"]

    model, losses = trained()
    dense, norm = model.sublayers[:2]
    seen = dense.forward(x).reshape(5, 8, 4)
    np.testing.assert_allclose(norm.state["running_mean"], seen.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(norm.state["running_var"], seen.var(1).mean(0), rtol=0.2)
    assert norm.momentum == 0.99
    kept, same_losses = trained(without=("average",))
    running = kept.sublayers[1].state["running_mean"]
    assert losses == same_losses  # training itself sees neither the average nor its statistics
    assert not np.allclose(running, kept.sublayers[0].forward(x).mean(0), rtol=1e-2)
