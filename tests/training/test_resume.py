"""A training stopped anywhere and resumed ends with the same weights, bit for bit, as one never stopped."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import tinydl as tl
from tinydl.training.checkpoints import SavedTraining

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(44, 6, 6, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, 44)
STEPS = 5  # an epoch: 4 batches of 9 and the rest


class Crash(Exception):
    pass


def crash_after(step):
    done = 0

    def count(batch, logs):
        nonlocal done
        done += 1
        if done == step:
            raise Crash

    return tl.callbacks.LambdaCallback(on_train_batch_end=count)


def press_ctrl_c_after(step):
    def press(batch, logs):
        if callback.model.optimizer.iterations == step:
            os.kill(os.getpid(), signal.SIGINT)

    callback = tl.callbacks.LambdaCallback(on_train_batch_end=press)
    return callback


def build(optimizer):
    layers = tl.layers
    model = tl.Sequential(
        [
            layers.Conv2D(3, 3, activation="relu", kernel_regularizer="l2"),
            layers.BatchNorm(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(8, activation="tanh"),
            layers.Dropout(0.3),
            layers.Dense(3),
        ],
        seed=1,
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy", tl.metrics.F1()])
    return model


def scheduled():
    return tl.optimizers.Adam(tl.schedules.OneCycle(0.02, 3 * STEPS), global_clipnorm=1.0)


def data():
    augment = [tl.data.RandomFlip()]
    return tl.data.DataLoader(IMAGES, LABELS, batch_size=9, seed=4, augment=augment, prefetch=2)


def train(folder, optimizer, extra=()):
    model = build(optimizer)
    log = tl.callbacks.JSONLogger(folder / "log.jsonl")
    checkpoint = tl.callbacks.Checkpoint(folder / "checkpoints", every_steps=1)
    history = model.fit(
        data(),
        epochs=3,
        validation_data=(IMAGES, LABELS),
        callbacks=[log, checkpoint, *extra],
        verbose=0,
        resume=True,
    )
    return model, history


def assert_same_run(folder, model, history, unbroken_folder, unbroken, unbroken_history):
    for a, b in zip(model.get_weights(), unbroken.get_weights(), strict=True):
        assert np.array_equal(a, b)
    for name, slot in unbroken.optimizer.slots.items():
        assert np.array_equal(model.optimizer.slots[name], slot)
    assert history.history == unbroken_history.history
    assert history.epoch == unbroken_history.epoch
    assert (folder / "log.jsonl").read_text() == (unbroken_folder / "log.jsonl").read_text()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, *train(folder, scheduled())


@pytest.mark.parametrize("stop", range(1, 3 * STEPS + 1))
def test_a_crash_after_any_step(tmp_path, unbroken, stop):
    with pytest.raises(Crash):
        train(tmp_path, scheduled(), extra=[crash_after(stop)])
    assert_same_run(tmp_path, *train(tmp_path, scheduled()), *unbroken)


@pytest.mark.parametrize("stop", [1, STEPS - 1, STEPS, STEPS + 2, 3 * STEPS])
def test_ctrl_c_after_a_step(tmp_path, unbroken, stop):
    _, history = train(tmp_path, scheduled(), extra=[press_ctrl_c_after(stop)])
    assert history.interrupted
    assert_same_run(tmp_path, *train(tmp_path, scheduled()), *unbroken)


def test_ctrl_c_during_validation_resumes_at_the_epochs_end(tmp_path, unbroken):
    """The steps are done and not repeated; validation and the epoch's end are still to come."""

    def press(logs=None):
        os.kill(os.getpid(), signal.SIGINT)

    _, history = train(
        tmp_path, scheduled(), extra=[tl.callbacks.LambdaCallback(on_test_begin=press)]
    )
    assert history.interrupted and history.epoch == []
    (path,) = sorted((tmp_path / "checkpoints").iterdir())[-1:]
    loop = SavedTraining(path).state["loop"]
    assert (loop["epoch"], loop["step"]) == (0, STEPS)
    assert_same_run(tmp_path, *train(tmp_path, scheduled()), *unbroken)


def test_a_run_stopped_again_and_again(tmp_path, unbroken):
    for stop in (2, 3, 1, 4):
        with pytest.raises(Crash):
            train(tmp_path, scheduled(), extra=[crash_after(stop)])
    assert_same_run(tmp_path, *train(tmp_path, scheduled()), *unbroken)


class Scripted(tl.callbacks.Callback):
    """A validation loss that stands still."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0][epoch]


def test_a_rate_set_for_each_epoch_is_not_set_twice(tmp_path):
    """Resuming calls on_epoch_begin again in the middle of an epoch; the rate must not be halved again."""

    def run(folder, extra=()):
        model = build("sgd")
        halve = tl.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
        checkpoint = tl.callbacks.Checkpoint(folder, every_steps=1)
        return model.fit(
            data(), epochs=3, callbacks=[halve, checkpoint, *extra], verbose=0, resume=True
        )

    expected = run(tmp_path / "a").history
    assert expected["learning_rate"] == [0.005, 0.0025, 0.00125]
    with pytest.raises(Crash):
        run(tmp_path / "b", [crash_after(STEPS + 3)])
    assert run(tmp_path / "b").history == expected


@pytest.mark.parametrize("stop", [3, STEPS + 1, 2 * STEPS + 1, 3 * STEPS + 2])
def test_callbacks_go_on_where_they_were(tmp_path, stop):
    """The plateau's patience and early stopping's count, with its best weights, survive the stop."""

    def run(folder, extra=()):
        model = build(tl.optimizers.NAdam(0.01))
        callbacks = [
            Scripted(),
            tl.callbacks.ReduceLROnPlateau(patience=2, factor=0.5),
            tl.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
            tl.callbacks.Checkpoint(folder, every_steps=2, keep=1),
            *extra,
        ]
        history = model.fit(
            data(),
            epochs=6,
            validation_data=(IMAGES, LABELS),
            callbacks=callbacks,
            verbose=0,
            resume=True,
        )
        return model, history

    unbroken, expected = run(tmp_path / "a")
    assert expected.epoch == [0, 1, 2, 3, 4]
    assert expected.history["learning_rate"] == [0.01, 0.01, 0.01, 0.01, 0.005]
    with pytest.raises(Crash):
        run(tmp_path / "b", [crash_after(stop)])
    model, history = run(tmp_path / "b")
    assert history.history == expected.history
    for a, b in zip(model.get_weights(), unbroken.get_weights(), strict=True):
        assert np.array_equal(a, b)
    again, same = run(tmp_path / "b")  # it was stopped early: resuming does not train on
    assert same.history == expected.history
    assert np.array_equal(again.get_weights()[0], model.get_weights()[0])


def test_arrays_with_a_model_without_seed(tmp_path):
    """Fresh entropy is drawn once, at the first start; the order after the stop is that of before."""

    def run(extra=()):
        model = tl.Sequential(
            [tl.layers.Flatten(), tl.layers.Dropout(0.5), tl.layers.Dense(3)], seed=None
        )
        model.compile("momentum", "sparse_categorical_crossentropy")
        checkpoint = tl.callbacks.Checkpoint(tmp_path, every_steps=1, keep=None)
        model.fit(
            IMAGES,
            LABELS,
            batch_size=9,
            epochs=2,
            callbacks=[checkpoint, *extra],
            verbose=0,
            resume=True,
        )
        return model

    finished = run()
    for path in sorted(tmp_path.iterdir())[3:]:
        path.unlink()
    assert all(
        np.array_equal(a, b)
        for a, b in zip(run().get_weights(), finished.get_weights(), strict=True)
    )


def test_an_iterator_given_afresh_is_read_on_from_the_right_place(tmp_path):
    batches = [(IMAGES[i : i + 4], LABELS[i : i + 4]) for i in range(0, 40, 4)]

    def run(folder, extra=()):
        model = build("adam")
        checkpoint = tl.callbacks.Checkpoint(folder, every_steps=1)
        model.fit(
            iter(batches),
            epochs=2,
            steps_per_epoch=5,
            callbacks=[checkpoint, *extra],
            verbose=0,
            resume=True,
        )
        return model.get_weights()

    expected = run(tmp_path / "a")
    with pytest.raises(Crash):
        run(tmp_path / "b", [crash_after(8)])
    for a, b in zip(run(tmp_path / "b"), expected, strict=True):
        assert np.array_equal(a, b)
