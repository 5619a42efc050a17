"""Callbacks: when they are called, what they decide, what they write."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from rich.console import Console

import tinydl as tl
from tinydl.training.callbacks import EarlyStopping, LearningRateScheduler, ReduceLROnPlateau
from tinydl.training.callbacks.base import HOOKS, CallbackList
from tinydl.training.callbacks.progress import duration

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def classifier(optimizer="sgd"):
    model = tl.Sequential([tl.layers.Dense(2)])
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    return model


def fit(callbacks, epochs=1, model=None, **arguments):
    model = model or classifier()
    history = model.fit(
        X, Y, epochs=epochs, batch_size=12, callbacks=callbacks, verbose=0, **arguments
    )
    return model, history


class Scripted(tl.callbacks.Callback):
    """Replaces a value in the logs of each epoch, for the callbacks after it."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


def test_order_of_hooks():
    calls = []

    def note(name):
        return lambda *arguments: calls.append(
            (name, *(a for a in arguments if isinstance(a, int)))
        )

    everything = tl.callbacks.LambdaCallback(**{hook: note(hook) for hook in HOOKS})
    everything.close = note("close")
    fit([everything], epochs=2, validation_data=(X, Y))
    epochs = [
        [
            ("on_epoch_begin", e),
            ("on_train_batch_begin", 0),
            ("on_train_batch_end", 0),
            ("on_train_batch_begin", 1),
            ("on_train_batch_end", 1),
            ("on_test_begin",),
            ("on_test_end",),
            ("on_epoch_end", e),
        ]
        for e in (0, 1)
    ]
    assert calls == [("on_train_begin",), *epochs[0], *epochs[1], ("on_train_end",), ("close",)]


def test_close_is_called_after_an_error_too():
    closed = []
    callback = tl.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs=None: 1 / 0)
    callback.close = lambda: closed.append(True)
    with pytest.raises(ZeroDivisionError):
        fit([callback])
    assert closed == [True]


def test_logs_of_steps_are_means_over_the_epoch_so_far():
    seen = []
    watch = tl.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs))
    _, history = fit([watch], epochs=2)
    assert [logs["batch_size"] for logs in seen] == [12] * 4
    assert seen[1]["loss"] == history.history["loss"][0]
    assert seen[3]["accuracy"] == history.history["accuracy"][1]
    assert seen[0]["learning_rate"] == 0.01


def test_callbacks_know_the_training():
    callback = tl.callbacks.Callback()
    model, _ = fit([callback], epochs=2, validation_split=0.5)
    assert callback.model is model
    shares = callback.params.pop("clock").shares()
    assert sum(shares.values()) == pytest.approx(1) and shares["communication"] == 0
    assert callback.params == {
        "epochs": 2,
        "steps": 1,
        "verbose": 0,
        "logs": ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"],
    }


def test_states_go_back_to_the_callbacks_they_came_from():
    """By class, and among several of one class in their order; a new one starts afresh."""

    class Count(tl.callbacks.Callback):
        value = 0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    class Other(Count):
        pass

    def listed(*callbacks):
        return CallbackList(callbacks, classifier(), {})

    before = [Count(), Other(), Count()]
    for number, callback in enumerate(before, 1):
        callback.value = number
    after = [Other(), Count(), Count(), Count()]
    listed(*after).load_state_dict(listed(*before).state_dict())
    assert [callback.value for callback in after] == [2, 1, 3, 0]


def test_lambda_callback_refuses_unknown_hooks():
    with pytest.raises(TypeError, match="on_epoch_stop"):
        tl.callbacks.LambdaCallback(on_epoch_stop=print)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EarlyStopping(3.5), "EarlyStopping: monitor must be a name in the logs .*, got 3.5"),
        (lambda: ReduceLROnPlateau(3.5), "ReduceLROnPlateau: monitor must be a name .*, got 3.5"),
        (lambda: EarlyStopping(mode="least"), "mode must be auto, min or max, got 'least'"),
        (lambda: EarlyStopping(min_delta="a"), "min_delta must be a finite number >= 0, got 'a'"),
        (lambda: EarlyStopping(patience="a"), "patience must be a whole number >= 0, got 'a'"),
        (lambda: EarlyStopping(patience=-1), "patience must be a whole number >= 0, got -1"),
        (lambda: EarlyStopping(baseline="a"), "baseline must be a finite number, got 'a'"),
        (lambda: EarlyStopping(start_from_epoch=0.5), "start_from_epoch must be a whole number"),
        (lambda: ReduceLROnPlateau(factor="a"), r"factor must be a finite number in \(0, 1\), got 'a'"),
        (lambda: ReduceLROnPlateau(factor=1), r"factor must be a finite number in \(0, 1\), got 1"),
        (lambda: ReduceLROnPlateau(patience=1.5), "patience must be a whole number >= 0, got 1.5"),
        (lambda: ReduceLROnPlateau(cooldown="a"), "cooldown must be a whole number >= 0, got 'a'"),
        (lambda: ReduceLROnPlateau(min_lr="a"), "min_lr must be a finite number >= 0, got 'a'"),
        (lambda: LearningRateScheduler(3.5), "schedule must be a function of .*, got 3.5"),
    ],
)  # fmt: skip
def test_callbacks_name_an_argument_that_is_wrong(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


# ---- EarlyStopping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "arguments", "epochs_run"),
    [
        ([5, 4, 4, 3, 3, 3, 3], {"patience": 2}, 6),
        ([5, 4, 4, 3], {"patience": 0}, 3),
        ([5, 4, 4, 3], {"patience": 1}, 3),
        ([5, 4.95, 4.9, 4.85], {"patience": 2, "min_delta": 0.5}, 3),
        ([1, 2, 3, 3, 3, 9], {"patience": 2, "mode": "max"}, 5),
        ([5, 6, 7, 8], {"patience": 1, "start_from_epoch": 2}, 4),
        ([5, 4, 3, 2], {"patience": 2, "baseline": 1.0}, 2),
        ([5, math.nan, math.nan, 1], {"patience": 2}, 3),
    ],
)
def test_early_stopping(values, arguments, epochs_run):
    stopping = tl.callbacks.EarlyStopping(monitor="loss", **arguments)
    _, history = fit([Scripted("loss", values), stopping], epochs=len(values))
    assert len(history.epoch) == epochs_run


def test_early_stopping_restores_the_best_weights():
    weights = []
    keep = tl.callbacks.LambdaCallback()
    keep.on_epoch_end = lambda epoch, logs: weights.append(keep.model.get_weights())
    stopping = tl.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
    model, _ = fit([Scripted("loss", [3, 1, 2, 2, 2]), keep, stopping], epochs=5)
    assert len(weights) == 4
    assert np.array_equal(model.get_weights()[0], weights[1][0])
    assert not np.array_equal(weights[1][0], weights[3][0])
    assert stopping.stopped_epoch == 3


def test_accuracy_is_better_when_it_is_higher():
    for name, mode in (("val_accuracy", "max"), ("f1", "max"), ("val_loss", "min")):
        assert tl.callbacks.EarlyStopping(name).mode == mode


@pytest.mark.parametrize(
    "callback",
    [
        tl.callbacks.EarlyStopping("val_loss"),
        tl.callbacks.ReduceLROnPlateau("val_loss"),
        tl.callbacks.ModelCheckpoint("best", "val_loss", save_best_only=True),
    ],
)
def test_watching_what_is_not_measured_is_an_error_before_training(callback):
    with pytest.raises(
        ValueError, match=r"'val_loss'.*validation data; it measures loss, accuracy"
    ):
        fit([callback])


# ---- learning rates ---------------------------------------------------------------------------------------


def test_learning_rate_scheduler():
    schedule = tl.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else 0.8)
    _, history = fit([schedule], epochs=3)
    assert history.history["learning_rate"] == [0.8, 0.4, 0.2]


@pytest.mark.parametrize(
    ("values", "arguments", "rates"),
    [
        ([5, 5, 5, 5, 5], {"patience": 2}, [1, 1, 1, 0.1, 0.1]),
        ([5, 4, 4, 3, 3], {"patience": 2}, [1, 1, 1, 1, 1]),
        ([5] * 6, {"patience": 1, "cooldown": 2}, [1, 1, 0.1, 0.1, 0.1, 0.01]),
        ([5] * 5, {"patience": 1, "factor": 0.5, "min_lr": 0.3}, [1, 1, 0.5, 0.3, 0.3]),
        ([1, 1, 1, 1], {"patience": 1, "mode": "max", "factor": 0.5}, [1, 1, 0.5, 0.25]),
    ],
)
def test_reduce_on_plateau(values, arguments, rates):
    plateau = tl.callbacks.ReduceLROnPlateau("loss", **arguments)
    model = classifier(tl.optimizers.SGD(1.0))
    _, history = fit([Scripted("loss", values), plateau], epochs=len(values), model=model)
    np.testing.assert_allclose(history.history["learning_rate"], rates)


def test_a_schedule_and_a_callback_that_sets_the_rate_do_not_go_together():
    model = classifier(tl.optimizers.SGD(tl.schedules.CosineDecay(0.1, 100)))
    for callback in (
        tl.callbacks.LearningRateScheduler(lambda epoch, rate: rate),
        tl.callbacks.ReduceLROnPlateau("loss"),
    ):
        with pytest.raises(ValueError, match="follows CosineDecay"):
            fit([callback], model=model)


def test_schedules_show_in_the_history():
    schedule = tl.schedules.ExponentialDecay(1.0, 1, 0.5)
    _, history = fit([], epochs=2, model=classifier(tl.optimizers.SGD(schedule)))
    assert history.history["learning_rate"] == [0.5, 0.125]  # of the second and the fourth step


# ---- files ------------------------------------------------------------------------------------------------


def test_csv_logger(tmp_path):
    path = tmp_path / "logs" / "run.csv"
    _, history = fit([tl.callbacks.CSVLogger(path)], epochs=2)
    rows = list(csv.DictReader(path.open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [float(row["loss"]) for row in rows] == history.history["loss"]
    fit([tl.callbacks.CSVLogger(path, separator=";")])
    assert path.read_text().startswith("epoch;loss;accuracy")
    fit([tl.callbacks.CSVLogger(path, separator=";", append=True)])
    assert len(path.read_text().splitlines()) == 3


def test_json_logger(tmp_path):
    path = tmp_path / "run.jsonl"
    _, history = fit([tl.callbacks.JSONLogger(path)], epochs=2, validation_data=(X, Y))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.pop("epoch") for row in rows] == [0, 1]
    assert rows == [{k: v[e] for k, v in history.history.items()} for e in (0, 1)]


def test_model_checkpoint_keeps_the_best(tmp_path):
    path = tmp_path / "best-{epoch:02d}-{loss:.1f}.safetensors"
    saver = tl.callbacks.ModelCheckpoint(path, "loss", save_best_only=True)
    fit([Scripted("loss", [3.0, 2.0, 2.5, 1.0]), saver], epochs=4)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        "best-01-3.0.safetensors",
        "best-02-2.0.safetensors",
        "best-04-1.0.safetensors",
    ]
    assert tl.load(tmp_path / names[0]).predict(X).shape == (24, 2)


def test_model_checkpoint_every_other_epoch(tmp_path):
    fit([tl.callbacks.ModelCheckpoint(tmp_path / "{epoch}", save_freq=2)], epochs=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4"]


def test_model_checkpoint_refuses_names_that_are_not_measured(tmp_path):
    with pytest.raises(ValueError, match="val_loss"):
        fit([tl.callbacks.ModelCheckpoint(tmp_path / "{val_loss}")])


def test_tensorboard_writes_curves_and_histograms(tmp_path):
    pytest.importorskip("tensorboardX")
    fit(
        [tl.callbacks.TensorBoard(tmp_path, update_freq=1, histogram_freq=1)],
        epochs=2,
        validation_data=(X, Y),
    )
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    for tag in (
        b"epoch_loss/train",
        b"epoch_loss/validation",
        b"batch_loss/train",
        b"dense.weight",
    ):
        assert tag in data
    assert data.count(b"epoch_accuracy/train") == 2
    assert data.count(b"batch_learning_rate/train") == 4


# ---- the progress bar -------------------------------------------------------------------------------------


def test_one_line_an_epoch_where_there_is_no_terminal(capsys):
    classifier().fit(X, Y, epochs=2, batch_size=12, validation_data=(X, Y))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"epoch {number}/2  loss ")
        for part in ("accuracy 0.", "val_loss ", "val_accuracy ", "lr 0.01", " samples/s"):
            assert part in line


def test_verbose_0_says_nothing(capsys):
    fit([])
    assert capsys.readouterr().out == ""


def moving_lines(width, monkeypatch):
    """What a terminal of this width is shown in two epochs, drawn at every step."""
    monkeypatch.setattr("tinydl.training.callbacks.progress.REFRESH_SECONDS", 0)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    images = np.zeros((24, 2, 2, 1), np.float32)
    model = tl.Sequential([tl.layers.Flatten(), tl.layers.Dense(2)])
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    bar = tl.callbacks.ProgressBar(console=console)
    model.fit(images, Y, epochs=2, batch_size=12, callbacks=[bar], verbose=0)
    assert bar.live is None
    control_codes = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
    return [control_codes.sub("", line) for line in re.split(r"[\r\n]+", out.getvalue())]


def test_a_line_that_moves_on_a_terminal(monkeypatch):
    lines = moving_lines(140, monkeypatch)
    (line,) = [line for line in lines if line.startswith("epoch 2/2 ━") and " 1/2 " in line]
    for part in ("━" * 24 + " 1/2  loss 0.", "accuracy 0.", "lr 0.01", " images/s", " s left"):
        assert part in line
    assert sum(line.startswith("epoch 2/2  loss") for line in lines) == 1
    # The first step may take seconds, in which the kernels are compiled: the line says so.
    assert [line[:21] for line in lines if "compiled" in line] == ["epoch 1/2  first step"]


def test_the_line_fits_into_a_narrow_terminal(monkeypatch):
    lines = moving_lines(60, monkeypatch)
    moving = [line for line in lines if line.startswith("epoch 1/2 1/2  loss")]
    assert moving and max(map(len, moving)) <= 60


def test_durations():
    assert [duration(s) for s in (0.04, 59.94, 61, 3600 * 2 + 63)] == [
        "0.0 s",
        "59.9 s",
        "1:01",
        "2:01:03",
    ]
