"""Training with device="cuda" in Numba's simulator, on the kernels themselves: close to what the CPU computes.

That everything else, too, does what the CPU does is in tests/training/test_devices.py, without a simulator.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter

import numpy as np
import pytest

import tinydl as tl
from tests.kernels.cuda.check_simulated import SMALL_TILES
from tests.training import stand_in_cupy
from tests.training.stand_in_cupy import LIBRARY, DeviceArray
from tinydl_kernels._table import MODULES
from tinydl_kernels.cuda import device, products, tiles
from tinydl_kernels.cuda.simulated import Memory

assert device.SIMULATED
LAUNCHED: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Arrays that only the device can read; blocks and tiles so small that a few threads suffice."""
    for name in set(MODULES) - {"half"}:
        importlib.import_module(f"tinydl_kernels.cuda.{name}")

    def check_array(where, name, x):
        assert isinstance(x, DeviceArray), f"{where}: {name} is {type(x)}"

    def address(x):
        return x.host.__array_interface__["data"][0]

    def launch(dispatcher, grid, threads, *arguments):
        LAUNCHED[dispatcher.fn.__name__] += 1
        real_launch(dispatcher, grid, threads, *arguments)

    real_launch = device.launch
    monkeypatch.setattr(device, "namespace", lambda: LIBRARY)
    monkeypatch.setattr(device, "check_array", check_array)
    monkeypatch.setattr(device, "memory", lambda x: Memory(x.host))
    monkeypatch.setattr(device, "address", address)
    monkeypatch.setattr(device, "launch", launch)
    monkeypatch.setattr(products, "choose", lambda *a: (SMALL_TILES[0], 1))
    for name, module in list(sys.modules.items()):  # the simulator looks it up as it runs
        if name.startswith("tinydl_kernels.cuda.") and hasattr(module, "THREADS"):
            monkeypatch.setattr(module, "THREADS", 16)
    LAUNCHED.clear()


L = tl.layers
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(6, 5)).astype(np.float32)
IMAGES = RNG.normal(size=(6, 4, 4, 2)).astype(np.float32)
WORDS = np.array([[1, 2, 3], [4, 1, 0], [2, 0, 0], [3, 3, 4], [1, 0, 0], [4, 2, 0]])
LABELS = np.array([0, 1, 2, 1, 0, 2])


def mlp():
    return [L.Dense(4, "relu"), L.Dropout(0.3), L.Dense(3)]


def cnn():
    return [
        L.Conv2D(2, 3, padding="same", use_bias=False), L.BatchNorm(), L.ReLU(), L.MaxPool2D(),
        L.Conv2D(3, 2, activation="relu"), L.GlobalAvgPool2D(), L.Dense(3),
    ]  # fmt: skip


def lstm():
    return [L.Embedding(5, 3, mask_zero=True), L.LSTM(2), L.Dense(3)]


CASES = {
    "mlp": (mlp, ROWS, tl.optimizers.DAS),
    "cnn": (cnn, IMAGES, lambda: tl.optimizers.SGD(0.05, momentum=0.9)),
    "lstm": (lstm, WORDS, lambda: tl.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("name", CASES)
def test_training(name):
    layers, x, optimizer = CASES[name]
    results = []
    for where in ("cuda", "cpu"):
        model = tl.Sequential(layers(), seed=4)
        model.compile(optimizer(), "sparse_categorical_crossentropy", ["accuracy"])
        history = model.fit(x, LABELS, epochs=1, batch_size=3, verbose=0, device=where)
        results.append(
            [
                history.history["loss"],
                history.history["accuracy"],
                model.evaluate(x, LABELS, device=where)["loss"],
                *model.get_weights(),
                *model.optimizer.slots.values(),
            ]
        )
    assert LAUNCHED
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def test_what_a_step_of_resnet8_starts(monkeypatch):
    """The README tells these numbers. Nothing is computed here: all results are 0."""
    launched: list[tuple[int, int]] = []

    def launch(dispatcher, grid, threads, *arguments):
        if 0 not in grid:
            LAUNCHED["kernels"] += 1

    monkeypatch.setattr(device, "launch", launch)
    monkeypatch.setattr(products, "choose", tiles.choose)
    monkeypatch.setattr(stand_in_cupy, "poisoned", np.zeros)
    model = tl.architectures.build("resnet8", (32, 32, 3), 10, seed=0)
    model.compile(tl.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    callback = tl.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: launched.append(
            (LAUNCHED["kernels"], stand_in_cupy.COUNTS["launches"])
        )
    )
    x, y = np.ones((4 * 128, 32, 32, 3), np.float32), np.zeros(4 * 128, int)
    model.fit(x, y, batch_size=128, verbose=0, callbacks=callback, device="cuda")
    assert np.diff(launched[1:3], axis=0).tolist() == [[92, 5]]
