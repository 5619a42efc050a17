"""device="cuda" without a GPU: CuPy and the kernels have stand-ins, and results are the CPU's to the last bit.

The real kernels, in Numba's simulator, are in tests/kernels/cuda/check_fit.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

import tinydl as tl
from tests.training.stand_in_cupy import (
    COUNTS,
    CURRENT,
    LIBRARY,
    USED,
    DeviceArray,
    Stream,
    bare,
    wrapped,
)
from tinydl.cli.main import app
from tinydl.configs import as_config
from tinydl.devices import DeviceError
from tinydl.training.checkpoints import newest_checkpoint
from tinydl_kernels import cpu, cuda
from tinydl_kernels._table import MODULE_OF

WAITING = {
    "squared_norm": 1,
    "all_finite": 1,
    "das_norms": 1,
    "das_sizes": 1,
    "das_moments": 1,
}
RESULTS_ON_THE_HOST = ("das_norms", "das_sizes", "das_units", "das_moments", "das_slopes")


def stand_in(name):
    """The CPU's kernel, called as that for the device would be."""
    kernel = getattr(cpu, name)

    def call(*args, **kwargs):
        COUNTS["launches"] += 1
        COUNTS["waits"] += WAITING.get(name, 0)
        if name.startswith("das_"):  # what is said of layers lies on the host
            args = [x if isinstance(x, np.ndarray) and len(x) < 100 else bare(x) for x in args]
        result = kernel(*map(strip, args), **{key: strip(x) for key, x in kwargs.items()})
        return result if name in RESULTS_ON_THE_HOST else wrapped(result)

    def strip(x):
        return x if name.startswith("das_") and isinstance(x, np.ndarray) else bare(x)

    return call


@pytest.fixture
def gpu(monkeypatch):
    make_stand_ins(monkeypatch)


def make_stand_ins(monkeypatch):
    device = ModuleType("tinydl_kernels.cuda.device")
    device.namespace, device.require = lambda: LIBRARY, lambda: None
    monkeypatch.setitem(sys.modules, device.__name__, device)
    monkeypatch.setitem(vars(cuda), "device", device)
    for name in MODULE_OF:
        monkeypatch.setitem(vars(cuda), name, stand_in(name))
    COUNTS.clear()
    CURRENT.orders.clear()


def labels(shape, classes=3, seed=1):
    return np.random.default_rng(seed).integers(0, classes, shape)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


L = tl.layers
WORDS = labels((20, 5), 7)
WORDS[:, 3:] = 0


def mlp():
    return [L.Dense(8, "gelu"), L.Dropout(0.3), L.LayerNorm(), L.Dense(3)]


def cnn():
    return [
        L.Conv2D(4, 3, padding="same", use_bias=False), L.BatchNorm(scale=False), L.ReLU(), L.MaxPool2D(),
        L.Residual([L.Conv2D(4, 3, padding="same", activation="relu"), L.BatchNorm()], activation="relu"),
        L.DepthwiseConv2D(3), L.AvgPool2D(1), L.Concat([[L.Conv2D(2, 1)], []]), L.LeakyReLU(), L.GlobalAvgPool2D(),
        L.Dense(3, kernel_regularizer="l2"),
    ]  # fmt: skip


def words(recurrent):
    return [L.Embedding(7, 4, mask_zero=True), recurrent, L.Dense(3)]


def graph():
    """Two inputs, two outputs, a layer that is called twice, and everything that joins."""
    a, b = tl.Input((6,)), tl.Input((6,))
    twice = L.Dense(5, "tanh")
    u, v = twice(a), twice(b)
    joined = L.Concatenate()([u, v, L.Add()([u, v])])
    steps = L.Reshape((3, 5))(joined)
    masked = L.Masking()(steps)
    seen = L.MultiHeadAttention(2, 3, dropout=0.2, causal=True)(masked)
    both = L.GRU(4, return_sequences=True, return_state=True)(seen)
    return tl.Model(
        [a, b], [L.Dense(2)(L.Flatten()(L.Softmax()(both[0]))), L.Dense(1)(both[1])], seed=3
    )


IMAGES, ROWS, SEQUENCES = normal(20, 8, 8, 2), normal(20, 6), normal(20, 5, 3)
SPARSE = "sparse_categorical_crossentropy"
ONE_HOT = np.eye(3, dtype=np.float32)[labels(20)]
CASES = {
    "mlp": (mlp, ROWS, labels(20), SPARSE, "adam"),
    "cnn": (cnn, IMAGES, labels(20), SPARSE, tl.optimizers.SGD(0.05, momentum=0.9)),
    "bytes": (cnn, (IMAGES * 50).astype(np.uint8), ONE_HOT, "categorical_crossentropy", "rmsprop"),
    "lstm": (lambda: words(L.LSTM(4)), WORDS, labels(20), SPARSE, tl.optimizers.SGD(0.1)),
    "gru": (lambda: words(L.GRU(4)), WORDS, labels(20), SPARSE, "nadam"),
    "rnn": (lambda: words(L.SimpleRNN(4)), WORDS, labels(20), SPARSE, "adam"),
    "backwards": (
        lambda: [L.LSTM(3, return_sequences=True, go_backwards=True), L.SimpleRNN(2, "gelu")],
        SEQUENCES, normal(20, 2), "mse", tl.optimizers.Adam(weight_decay=0.1, global_clipnorm=0.5),
    ),
    "every step": (
        lambda: [L.Masking(), L.GRU(3, return_sequences=True), L.Dense(3)],
        SEQUENCES, labels((20, 5)), SPARSE, tl.optimizers.SGD(0.1, clipvalue=0.01),
    ),
    "attention": (
        lambda: [L.MultiHeadAttention(2, 2, causal=True, dropout=0.1), L.Flatten(), L.Dense(1)],
        SEQUENCES, labels(20, 2), "binary_crossentropy", tl.optimizers.Adam(clipnorm=0.1),
    ),
    "das": (cnn, IMAGES, labels(20), SPARSE, tl.optimizers.DAS()),
    "das without": (mlp, ROWS, labels(20), SPARSE, tl.optimizers.DAS(without=("average",), weight_decay=0.1)),
    "huber": (mlp, ROWS, normal(20, 3), "huber", "adam"),
    "mae": (mlp, ROWS, normal(20, 3), "mae", "adam"),
    "probabilities": (
        lambda: [L.Dense(3, "softmax")], ROWS, labels(20), tl.losses.SparseCategoricalCrossentropy(False), "adam",
    ),
}  # fmt: skip


def made(layers, loss, optimizer, **options):
    model = tl.Sequential(layers(), seed=5)
    metrics = ["accuracy"] if "entropy" in str(loss).lower() else []
    model.compile(
        optimizer if isinstance(optimizer, str) else as_config(optimizer), loss, metrics, **options
    )
    return model


def check_equal(result, expected):
    """Equal arrays, in any nesting."""
    assert type(result) is type(expected)
    if isinstance(expected, dict):
        assert result.keys() == expected.keys()
        result, expected = list(result.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            check_equal(one, other)
    else:
        np.testing.assert_array_equal(result, expected)


def check_at_home(model):
    """Nothing of the model is on the device any more."""
    assert not model.on_device
    seen, pending = set(), [model]
    while pending:
        thing = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        assert not isinstance(thing, DeviceArray | tl.devices.Later)
        if isinstance(thing, dict):
            pending += thing.values()
        elif isinstance(thing, list | tuple):
            pending += thing
        elif type(thing).__module__.startswith(("tinydl", "tests")):
            pending += vars(thing).values() if hasattr(thing, "__dict__") else []
    assert model.store.owns_parameters()
    for s in model.store.segments:
        assert np.shares_memory(s.parameter.grad, model.store.grads)


@pytest.mark.parametrize("name", CASES)
def test_everything_is_as_on_the_cpu(gpu, name):
    layers, x, y, loss, optimizer = CASES[name]
    results = []
    for device in ("cuda", "cpu"):
        model = made(layers, loss, optimizer)
        history = model.fit(
            x, y, epochs=2, batch_size=8, validation_split=0.2, verbose=0, device=device
        )
        check_at_home(model)
        measured = model.evaluate(x, y, batch_size=7, device=device)
        predicted = model.predict(x, batch_size=7, device=device)
        check_at_home(model)
        results.append(
            [dict(history.history), model.get_weights(), measured, predicted, model.optimizer.slots]
        )
        check_equal(model.predict(x[:3]), predicted[:3])
    check_equal(*results)
    assert COUNTS["launches"] > 0


def test_a_graph_with_several_inputs_and_outputs(gpu):
    a, b, y, z = normal(20, 6), normal(20, 6, seed=1), labels(20, 2), normal(20, seed=2)
    results = []
    for device in ("cuda", "cpu"):
        model = graph()
        model.compile("adam", [SPARSE, "mse"], [["accuracy"], []], loss_weights=[1.0, 0.3])
        options = {"epochs": 2, "batch_size": 8, "sample_weight": np.arange(20.0), "verbose": 0}
        history = model.fit([a, b], [y, z], device=device, **options)
        check_at_home(model)
        measured = model.evaluate([a, b], [y, z], batch_size=7, device=device)
        predicted = model.predict([a, b], batch_size=7, device=device)
        results.append([dict(history.history), measured, predicted, model.get_weights()])
    check_equal(*results)


def trained(device, callbacks=(), layers=cnn, x=IMAGES, optimizer="adam", epochs=3, **options):
    """A model, and the history of its training."""
    model = made(layers, SPARSE, optimizer)
    history = model.fit(
        x, labels(20), epochs=epochs, batch_size=8, validation_split=0.2, verbose=0,
        callbacks=list(callbacks), device=device, **options,
    )  # fmt: skip
    return model, history.history


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_steps": 3},
        {"class_weight": {0: 2.0, 2: 0.5}},
        {"steps_per_epoch": 1},
        {"strategy": "data parallel"},
    ],
    ids=str,
)
def test_options_of_fit(gpu, options):
    results = []
    for device in ("cuda", "cpu"):
        if "strategy" in options:  # in one process there is nothing to share out
            options = {"strategy": tl.distributed.DataParallel()}
        model, history = trained(device, **options)
        results.append([dict(history), model.get_weights()])
    check_equal(*results)


def test_frozen_layers_and_batches_of_any_kind(gpu):
    y = labels(20)
    batches = [(IMAGES[i : i + 7], y[i : i + 7], np.ones(len(y[i : i + 7]))) for i in (0, 7, 14)]
    results = []
    for device in ("cuda", "cpu"):
        model = made(cnn, SPARSE, "adam")
        model.build_model(IMAGES.shape[1:])
        model.sublayers[1].trainable = model.sublayers[4].trainable = False
        model.fit(batches, epochs=2, verbose=0, device=device)
        check_at_home(model)
        results.append([model.get_weights(), model.predict(batches, device=device)])
        results[-1].append(model.predict(iter(batches), device=device))
    check_equal(*results)


class Watching(tl.callbacks.Callback):
    """Uses the model in the midst of training, as callbacks may."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        self.seen += [dict(logs), model.get_weights(), model.predict(IMAGES, batch_size=20)]
        self.seen += [model.evaluate(IMAGES, labels(20)), model.optimizer.state_dict()["slots"]]
        if epoch == 1:
            model.set_weights([w * np.float32(0.9) for w in model.get_weights()])


def test_callbacks_see_the_host(gpu, tmp_path):
    results = []
    for device in ("cuda", "cpu"):
        watching, monitor = Watching(), tl.callbacks.GradientMonitor(every=1, verbose=0)
        early = tl.callbacks.EarlyStopping("loss", patience=0, restore_best_weights=True)
        saving = tl.callbacks.ModelCheckpoint(tmp_path / device / "{epoch}.safetensors")
        (tmp_path / device).mkdir()
        callbacks = [watching, monitor, early, saving]
        model, history = trained(device, callbacks)
        check_at_home(model)
        saved = tl.load(tmp_path / device / "2.safetensors").get_weights()
        results.append([dict(history), watching.seen, saved, model.get_weights()])
        results[-1] += [monitor.gradients, monitor.updates]
    check_equal(*results)


def test_a_model_trained_there_is_saved_and_trained_on_here(gpu, tmp_path):
    results = []
    for device in ("cuda", "cpu"):
        model, _ = trained(device)
        model.save(tmp_path / device)
        check_equal(tl.load(tmp_path / device).get_weights(), model.get_weights())
        model.fit(IMAGES, labels(20), epochs=4, initial_epoch=3, batch_size=8, verbose=0)
        results.append(model.get_weights())
    check_equal(*results)


@pytest.mark.parametrize("first", ["cuda", "cpu"])
@pytest.mark.parametrize("then", ["cuda", "cpu"])
def test_checkpoints_of_one_device_go_on_on_the_other(gpu, tmp_path, first, then):
    expected, _ = trained("cpu")
    interrupt = tl.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            interrupt.model.epochs_trained and os.kill(os.getpid(), signal.SIGINT)
        )
    )
    model, _ = trained(first, [interrupt, tl.callbacks.Checkpoint(tmp_path)])
    check_at_home(model)
    assert newest_checkpoint(tmp_path).state["loop"]["step"] == 1
    model, _ = trained(then, [tl.callbacks.Checkpoint(tmp_path)], resume=True)
    check_at_home(model)
    check_equal(model.get_weights(), expected.get_weights())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_model_on_the_host(gpu, error):
    seen = []

    def fail(batch, logs):
        if len(seen) == 3:
            raise error("in the middle")
        seen.append(None)

    models = []
    for device in ("cuda", "cpu"):
        seen.clear()
        models.append(made(cnn, SPARSE, "adam"))
        with pytest.raises(error, match="in the middle"):
            models[-1].fit(
                IMAGES, labels(20), epochs=3, batch_size=8, verbose=0, device=device,
                callbacks=tl.callbacks.LambdaCallback(on_train_batch_end=fail),
            )  # fmt: skip
        check_at_home(models[-1])
    check_equal(*(model.get_weights() for model in models))
    check_equal(*(model.optimizer.state_dict() for model in models))


def test_a_device_that_breaks_leaves_what_was_there_before(gpu, monkeypatch):
    model, _ = trained("cuda")
    before = model.get_weights()

    def broken(self, *args, **kwargs):
        raise RuntimeError("illegal memory access")

    callback = tl.callbacks.LambdaCallback(
        on_train_batch_end=lambda *a: monkeypatch.setattr(DeviceArray, "get", broken)
    )
    with pytest.raises(RuntimeError, match="illegal memory access"):
        model.fit(IMAGES, labels(20), batch_size=8, verbose=0, callbacks=callback, device="cuda")
    check_at_home(model)
    check_equal(model.get_weights(), before)


def test_a_loss_that_is_no_number_names_its_origin(gpu):
    x = ROWS.copy()
    model = tl.Sequential([L.Dense(4, name="first"), L.BatchNorm(), L.Dense(3)], seed=0)
    model.compile(tl.optimizers.SGD(0.1), SPARSE)
    model.fit(x, labels(20), batch_size=20, verbose=0)
    model.sublayers[0].weight.value[0, 0] = 3e38
    before = model.get_weights()
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="in layer") as caught:
        model.fit(1e3 * x, labels(20), batch_size=20, verbose=0, device="cuda")
    assert caught.value.origin == "first"
    check_at_home(model)
    check_equal(model.get_weights(), before)


def test_das_takes_a_step_back_from_a_batch_of_nan(gpu):
    batches = [(ROWS[k : k + 5].copy(), labels(5, seed=k)) for k in range(6)]
    batches[3][0][2] = np.nan
    results = []
    for device in ("cuda", "cpu"):
        model = made(lambda: [L.Dense(5), L.BatchNorm(), L.ReLU(), L.Dense(3)], SPARSE, "das")
        with np.errstate(invalid="ignore"):
            history = model.fit(batches, epochs=2, verbose=0, device=device)
        assert np.isfinite(history.history["loss"]).all()
        results.append([dict(history.history), model.get_weights(), model.optimizer.state_dict()])
    check_equal(*results)


def test_gradients_that_are_no_numbers_are_named(gpu):
    class Wrong(L.Activation):
        def backward(self, grad_output):
            return grad_output * np.float32(np.nan)

    model = tl.Sequential([L.Dense(4, name="first"), Wrong("tanh"), L.Dense(3)], seed=0)
    model.compile("adam", SPARSE)
    with pytest.raises(
        FloatingPointError, match=r"gradient of 'first.bias' is nan at index \(0,\)"
    ):
        model.fit(ROWS, labels(20), batch_size=5, verbose=0, device="cuda")


def test_words_beyond_the_table_are_named(gpu):
    model = made(lambda: words(L.LSTM(4)), SPARSE, "adam")
    model.fit(WORDS, labels(20), batch_size=20, verbose=0, device="cuda")
    with pytest.raises(ValueError, match=r"whole numbers from 0 to 6, got 10 at \(0, 0\)"):
        model.fit(WORDS + 7, labels(20), batch_size=20, shuffle=False, verbose=0, device="cuda")
    check_at_home(model)


def test_evaluating_changes_nothing_and_leaves_other_models_alone(gpu):
    """Layers of two models live in the buffers of the later one."""
    first, _ = trained("cpu", layers=mlp, x=ROWS)
    later = tl.Sequential(first.sublayers, seed=9)
    later.build_model((6,))
    assert not first.store.owns_parameters()
    expected = first.predict(ROWS)
    check_equal(first.predict(ROWS, device="cuda"), expected)
    check_equal(first.evaluate(ROWS, labels(20), device="cuda"), first.evaluate(ROWS, labels(20)))
    check_at_home(later)
    check_equal(later.predict(ROWS, device="cuda"), later.predict(ROWS))  # it was never compiled
    check_at_home(later)
    check_equal(first.predict(ROWS, device="cpu"), first.predict(ROWS))


def test_what_a_step_waits_for(gpu):
    """The loss, what metrics look at, and the norm of the gradient; penalties on weights cost nothing more."""

    def waits(metrics, regularizer=None):
        model = tl.Sequential([L.Dense(4, "relu", kernel_regularizer=regularizer), L.Dense(3)])
        model.compile("adam", SPARSE, metrics)
        found = []
        model.fit(
            ROWS[:16], labels(16), batch_size=2, verbose=0, device="cuda",
            callbacks=tl.callbacks.LambdaCallback(on_train_batch_end=lambda *a: found.append(COUNTS["waits"])),
        )  # fmt: skip
        (steady,) = set(np.diff(found[1:-1]))
        return steady

    assert waits([]) == 3  # with one for a copy to the device that is long done
    assert waits(["accuracy"]) == 4
    assert waits(["accuracy"], "l2") == 5


# ---- where it cannot be had ----------------------------------------------------------------------------------


def test_what_the_host_alone_can_compute_is_refused_before_anything_is_done(gpu):
    class Odd(L.Layer):
        runs_on_cuda = False

    inner = tl.layers.Residual([L.Dense(3), Odd(name="odd")])
    model = tl.Sequential([inner, L.Dense(3)], seed=0)
    model.compile("adam", SPARSE)
    for use in (model.fit, model.evaluate):
        with pytest.raises(
            DeviceError, match=r"layer 'residual.odd' \(Odd\) can be computed on the CPU only"
        ):
            use(np.ones((4, 3)), labels(4), batch_size=4, device="cuda")
    assert not model.built


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_layer_of_ones_own_that_mixes_arrays_is_named(gpu, where):
    class Shift(L.Layer):
        shift = np.ones(6, np.float32)

        def forward(self, x, training=False):
            return x + self.shift if where == "forward" else x

        def backward(self, grad_output):
            return np.asarray(grad_output) if where == "backward" else grad_output

    model = tl.Sequential([L.Dense(6), Shift(name="own"), L.Dense(3)], seed=0)
    model.compile("adam", SPARSE)
    with pytest.raises(DeviceError, match=r"layer 'own' \(Shift\) brings arrays of the host's"):
        model.fit(ROWS, labels(20), batch_size=5, verbose=0, device="cuda")
    check_at_home(model)


def test_the_command_line(gpu, tmp_path):
    results = []
    for device in ("cuda", "cpu"):
        arguments = ["mlp", "--epochs", "1", "--device", device, "--runs", str(tmp_path / device)]
        result = CliRunner().invoke(app, ["train", *arguments])
        assert result.exit_code == 0, result.output
        (folder,) = (tmp_path / device).iterdir()
        config = json.loads((folder / "config.json").read_text())
        assert config["training"]["device"] == device
        weights = tl.load(folder / "model.safetensors").get_weights()
        results.append([weights, json.loads((folder / "result.json").read_text())])
    check_equal(*results)
    assert COUNTS["launches"] > 0


def test_without_a_gpu_one_sentence_says_what_is_missing():
    try:
        tl.devices.require("cuda")
    except DeviceError:
        pass
    else:
        pytest.skip("there is a GPU")
    model = made(mlp, SPARSE, "adam")
    for use in (model.fit, model.evaluate, model.predict):
        with pytest.raises(
            DeviceError, match=r"device='cuda': .*(is missing: pip install|no CUDA device)"
        ):
            use(ROWS, *[labels(20)] * (use != model.predict), device="cuda")
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got 'gpu'"):
        model.fit(ROWS, labels(20), device="gpu")


def test_each_thing_that_may_be_missing_is_named(gpu, monkeypatch):
    """As `tinydl_kernels.cuda.device` says it; without numba-cuda that module cannot even be imported."""
    device = sys.modules["tinydl_kernels.cuda.device"]
    for error in (ImportError("CuPy is missing"), RuntimeError("no CUDA device can be used here")):

        def fail(error=error):
            raise error

        monkeypatch.setattr(device, "require", fail)
        with pytest.raises(DeviceError, match=f"^device='cuda': {error}$"):
            tl.devices.require("cuda")


def test_a_gpu_that_cupy_cannot_use_is_an_error_in_one_sentence(gpu, monkeypatch):
    def fail(*args):
        raise OSError("libnvrtc.so\n is missing")

    monkeypatch.setattr(type(LIBRARY), "zeros", fail, raising=False)
    with pytest.raises(DeviceError, match=r"CuPy cannot use the GPU: libnvrtc\.so is missing"):
        tl.devices.require("cuda")


def test_cupy_has_what_was_asked_of_its_stand_in():
    """Of all tests above. CuPy can be imported without a GPU, where it is installed."""
    cupy = pytest.importorskip("cupy")
    assert USED
    for name in USED:
        assert hasattr(cupy, name) or hasattr(cupy.ndarray, name), name
    for name in vars(DeviceArray).keys() - {"host", "_does", *vars(object)}:
        assert name.startswith("__") or hasattr(cupy.ndarray, name), name
    for name in vars(Stream).keys() - {"orders"}:
        assert name.startswith("__") or hasattr(cupy.cuda.Stream, name), name
    assert cupy.cuda.alloc_pinned_memory
    assert cupy.cuda.Event.synchronize
