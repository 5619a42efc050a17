"""GradientMonitor: exact measurements, and verdicts on networks whose gradients really vanish or explode."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

import tinydl as tl
from tinydl.training.callbacks.gradient_monitor import EXPLODING, VANISHING, rms

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 16)).astype(np.float32)
Y = RNG.integers(0, 4, 96)


def network(depth, activation, initializer):
    body = [tl.layers.Dense(32, activation, kernel_initializer=initializer) for _ in range(depth)]
    return tl.Sequential([tl.Input((16,)), *body, tl.layers.Dense(4)], seed=0)


def watch(model, optimizer="sgd", epochs=1, every=1, callbacks=(), **arguments):
    monitor = tl.callbacks.GradientMonitor(every=every, **arguments)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=epochs, batch_size=32, verbose=0, callbacks=[monitor, *callbacks])
    return monitor


def in_trouble(monitor, kind):
    return {f.parameter for f in monitor.findings if f.kind == kind}


def test_measurements_are_those_of_the_step():
    """SGD: Δw = -η g, so the ratio follows from gradient and weights."""
    model = network(1, "relu", "he_normal")
    before = {name: p.value.copy() for name, p in model.named_parameters()}
    monitor = watch(model, tl.optimizers.SGD(0.01), every=100)
    assert monitor.steps == [0]
    model.set_weights([before[name] for name, _ in model.named_parameters()])
    loader = tl.data.DataLoader(X, Y, batch_size=32, seed=0, prefetch=0)
    x, y = next(loader.batches(0))
    loss = tl.losses.SparseCategoricalCrossentropy()
    model.store.zero_grad()
    loss.forward(model.forward(x, training=True), y)
    model.backward(loss.backward())
    for name, p in model.named_parameters():
        assert monitor.gradients[name][0] == pytest.approx(rms(p.grad), rel=1e-5)
        if name.endswith("weight"):
            ratio = 0.01 * rms(p.grad) / rms(before[name])
            assert monitor.updates[name][0] == pytest.approx(ratio, rel=1e-3)


def test_a_healthy_network_raises_no_alarm(capsys):
    monitor = watch(network(3, "relu", "he_normal"), epochs=3)
    assert monitor.findings == [] and capsys.readouterr().out == ""
    assert len(monitor.steps) == 9


def test_sigmoid_layers_let_gradients_vanish(capsys):
    """The slope of a sigmoid is at most 1/4: the first of eight layers gets next to nothing."""
    monitor = watch(network(8, "sigmoid", "glorot_uniform"))
    vanishing = in_trouble(monitor, "vanishing")
    assert "dense.weight" in vanishing and "dense_8.weight" not in vanishing
    assert "exploding" not in {f.kind for f in monitor.findings}
    said = capsys.readouterr().out
    assert "gradients vanish" in said and "dense.weight" in said and "he_normal" in said
    value = next(f.value for f in monitor.findings if f.parameter == "dense.weight")
    assert 0 < value < VANISHING


def test_tanh_layers_with_small_weights_let_gradients_vanish():
    small = {"class": "RandomNormal", "config": {"stddev": 0.5 / math.sqrt(32)}}
    vanishing = in_trouble(watch(network(20, "tanh", small), verbose=0), "vanishing")
    assert {f"dense_{k}.weight" for k in range(1, 10)} | {"dense.weight"} <= vanishing


def test_relu_layers_with_large_weights_let_gradients_explode(capsys):
    large = {"class": "VarianceScaling", "config": {"scale": 18.0, "distribution": "normal"}}
    monitor = watch(network(12, "relu", large), tl.optimizers.Adam(0.001))
    assert len(in_trouble(monitor, "exploding")) == 13
    assert not in_trouble(monitor, "vanishing")
    assert min(f.value for f in monitor.findings if f.kind == "exploding") > EXPLODING
    said = capsys.readouterr().out
    assert "global_clipnorm" in said and "and 5 more" in said


def test_what_was_seen_is_said_when_training_breaks_off(capsys):
    large = {"class": "VarianceScaling", "config": {"scale": 18.0, "distribution": "normal"}}
    monitor = tl.callbacks.GradientMonitor(every=1)
    model = network(12, "relu", large)
    model.compile(tl.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    with pytest.raises(FloatingPointError):
        model.fit(X, Y, epochs=1, batch_size=32, verbose=0, callbacks=[monitor])
    assert "gradients explode" in capsys.readouterr().out


def test_rates_that_are_too_small_and_too_large():
    still = watch(network(2, "relu", "he_normal"), tl.optimizers.SGD(1e-9), verbose=0)
    assert len(in_trouble(still, "stalled")) == 3
    wild = watch(network(2, "relu", "he_normal"), tl.optimizers.Adam(0.5), verbose=0)
    assert len(in_trouble(wild, "overshooting")) == 3


def test_trouble_is_printed_once_and_kept_each_epoch(capsys):
    monitor = watch(network(8, "sigmoid", "glorot_uniform"), epochs=3)
    assert {f.epoch for f in monitor.findings if f.parameter == "dense.weight"} == {0, 1, 2}
    assert capsys.readouterr().out.count("gradients vanish:") == 1


def test_loggers_behind_it_write_what_it_measures(tmp_path):
    log = tl.callbacks.CSVLogger(tmp_path / "log.csv")
    monitor = watch(network(1, "relu", "he_normal"), epochs=2, every=2, callbacks=[log])
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["gradient/dense.weight"]) for row in rows] == [
        monitor.gradients["dense.weight"][monitor.steps.index(k)] for k in (2, 4)
    ]
    assert {"update/dense.weight", "gradient/dense_1.bias"} <= set(rows[0])


def test_tensorboard_behind_it_draws_what_it_measures(tmp_path):
    pytest.importorskip("tensorboardX")
    log = tl.callbacks.TensorBoard(tmp_path, update_freq=1)
    watch(network(1, "relu", "he_normal"), every=2, callbacks=[log])
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"batch_gradient/dense.weight" in written and b"epoch_update/dense.weight" in written


def test_the_progress_line_is_not_flooded(capsys):
    model = network(8, "sigmoid", "glorot_uniform")
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, batch_size=32, verbose=2, callbacks=tl.callbacks.GradientMonitor())
    said = capsys.readouterr().out
    assert "loss" in said and "gradient/" not in said


def test_frozen_parameters_are_left_aside():
    model = network(2, "relu", "he_normal")
    next(iter(model.store)).trainable = False
    monitor = watch(model, tl.optimizers.Adam(0.01))
    assert "dense.weight" not in monitor.gradients and "dense_1.weight" in monitor.gradients
    assert monitor.findings == []


def test_a_resumed_run_goes_on_measuring(tmp_path):
    def fit(epochs, **arguments):
        monitor = tl.callbacks.GradientMonitor(every=2, verbose=0)
        model = network(8, "sigmoid", "glorot_uniform")
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(
            *(X, Y),
            epochs=epochs,
            batch_size=32,
            verbose=0,
            callbacks=[monitor, tl.callbacks.Checkpoint(arguments["folder"])],
            resume=True,
        )
        return monitor

    fit(1, folder=tmp_path / "a")
    resumed, whole = fit(3, folder=tmp_path / "a"), fit(3, folder=tmp_path / "b")
    assert resumed.steps == whole.steps == [0, 2, 4, 6, 8]
    assert resumed.gradients == whole.gradients
    assert resumed.findings == whole.findings


@pytest.mark.parametrize("every", [0, -1, 2.5, "often"])
def test_every_must_be_a_positive_whole_number(every):
    with pytest.raises(ValueError, match="every must be a positive whole number"):
        tl.callbacks.GradientMonitor(every=every)


def test_parts_of_gradients_are_refused():
    """shard_optimizer leaves each process with a part of the sums, and the optimizer with a store of its own."""
    monitor = watch(network(1, "relu", "he_normal"))
    monitor.model.optimizer.store = object()
    with pytest.raises(ValueError, match="needs whole gradients"):
        monitor.on_epoch_begin(0)
