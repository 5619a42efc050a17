"""device="cuda" without a GPU: CuPy and the kernels have stand-ins, and results are the CPU's to the last bit.

The real kernels, in Numba's simulator, are in tests/kernels/cuda/check_fit.py.
"""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

import tinydl as tl
from tests.training.stand_in_cupy import COUNTS, CURRENT, LIBRARY, DeviceArray, bare, wrapped
from tinydl.configs import as_config
from tinydl_kernels import cpu, cuda
from tinydl_kernels._table import MODULE_OF

WAITING = {
    "squared_norm": 1,
    "all_finite": 1,
    "das_norms": 1,
    "das_moments": 1,
    "embedding_grad": 2,
}
RESULTS_ON_THE_HOST = ("das_norms", "das_moments")


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
