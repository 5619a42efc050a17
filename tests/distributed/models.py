"""Models and data for the tests of several ranks, and what a training leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import tinydl as tl
from tinydl.distributed import replicas
from tinydl.distributed.world import World

L = tl.layers
SAMPLES = 23  # with a batch of 10 the last one has 3 samples: fewer than four ranks
BATCH = 10


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SAMPLES, *shape))


def classes(number: int = 4, *shape: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, number, (SAMPLES, *shape))


def mlp(seed: int = 0, dtype: str = "float64", **layer: Any):
    """A penalty on weights, and parameters of odd sizes."""
    model = tl.Sequential(
        [L.Dense(13, "tanh", kernel_regularizer="l2", **layer), L.Dense(7, "relu"), L.Dense(4)],
        seed=seed,
        dtype=dtype,
    )
    return model, rows(6), classes()


def cnn(seed: int = 0):
    layers = [
        L.Conv2D(4, 3, activation="relu"),
        L.MaxPool2D(2),
        L.Residual([L.Conv2D(4, 3, padding="same"), L.LayerNorm()]),
        L.Flatten(),
        L.Dense(4),
    ]
    return tl.Sequential(layers, seed=seed, dtype="float64"), rows(7, 7, 2), classes()


def synchronized(seed: int = 0, kind: Any = tl.distributed.SyncBatchNorm):
    layers = [
        L.Conv2D(3, 3),
        kind(momentum=0.7),
        L.ReLU(),
        L.Flatten(),
        L.Dense(5),
        kind(momentum=0.7, center=False),
        L.Dense(4),
    ]
    return tl.Sequential(layers, seed=seed, dtype="float64"), rows(6, 6, 2) + 3, classes()


def whole_batch_norm(seed: int = 0):
    """What ``synchronized`` is equal to, in one process."""
    return synchronized(seed, L.BatchNorm)


def recurrent(seed: int = 0):
    """Sequences with masked steps, a different number on each rank: the mean is over steps."""
    layers = [L.Masking(), L.LSTM(5, return_sequences=True), L.Dense(4)]
    x, y = rows(6, 3), classes(4, 6)
    kept = np.random.default_rng(5).integers(1, 7, SAMPLES)
    x[np.arange(6) >= kept[:, None]] = 0
    return tl.Sequential(layers, seed=seed, dtype="float64"), x, y


def shared(seed: int = 0):
    """One layer called twice, two outputs with losses of their own."""
    a, b = tl.Input((6,)), tl.Input((6,))
    twice = L.Dense(5, "tanh")
    joined = L.Add()([twice(a), twice(b)])
    model = tl.Model(
        inputs=[a, b],
        outputs=[L.Dense(4)(joined), L.Dense(1)(twice(a))],
        seed=seed,
        dtype="float64",
    )
    return model, [rows(6), rows(6, seed=1)], [classes(), rows(1, seed=2)]


def frozen(seed: int = 0):
    """Only the first and the last layer are trained."""
    model, x, y = mlp(seed)
    model.build_model((6,))
    model.sublayers[1].trainable = False
    return model, x, y


def nothing_to_train(seed: int = 0):
    """No parameters: a pipeline that is tried out before its first layer is written."""
    return tl.Sequential([L.Flatten()], seed=seed, dtype="float64"), rows(4), classes()


MODELS = {
    f.__name__: f for f in (mlp, cnn, synchronized, recurrent, shared, frozen, nothing_to_train)
}
ALONE = {"synchronized": whole_batch_norm}  # the same in one process


def compiled(model: Any, optimizer: Any = None):
    several = isinstance(getattr(model, "outputs", None), list) and len(model.outputs) > 1
    loss = (
        ["sparse_categorical_crossentropy", "mse"] if several else "sparse_categorical_crossentropy"
    )
    metrics = [["accuracy"], ["mae"]] if several else ["accuracy"]
    model.compile(
        optimizer or tl.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01), loss, metrics
    )
    return model


def train(name: str, strategy: Any, *, seed: int = 0, optimizer: Any = None, **arguments: Any):
    """Three epochs: (model, history). Every rank may begin with other weights."""
    make = ALONE.get(name, MODELS[name]) if strategy is None else MODELS[name]
    model, x, y = make(seed)
    compiled(model, optimizer)
    options = {"epochs": 3, "batch_size": BATCH, "verbose": 0, "seed": 3, **arguments}
    history = model.fit(x, y, validation_data=(x, y), strategy=strategy, **options)
    return model, history.history


def weights(model: Any) -> np.ndarray:
    """All parameters and states in one array."""
    return np.concatenate([np.zeros(0), *(array.ravel() for array in model.get_weights())])


def digest(model: Any) -> str:
    return hashlib.sha256(weights(model).tobytes()).hexdigest()


def whole_and_resumed(
    folder: str, make_strategy: Callable[[], Any], **saving: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Weights after a run that nothing stopped, and after one that an error stopped and that was resumed.

    Their checkpoints lie in ``folder``, under "whole" and "parts".
    """

    class Crash(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 7:
                raise KeyError("crash")

    def fit(name: str, callbacks: tuple = (), resume: bool = False) -> np.ndarray:
        model, x, y = mlp(seed=tl.distributed.world().rank)
        compiled(model, tl.optimizers.Adam(0.01)).fit(
            x,
            y,
            epochs=4,
            batch_size=BATCH,
            verbose=0,
            callbacks=[*callbacks, tl.callbacks.Checkpoint(f"{folder}/{name}", **saving)],
            resume=resume,
            strategy=make_strategy(),
        )
        return weights(model)

    whole = fit("whole")
    with pytest.raises(KeyError):
        fit("parts", (Crash(),))
    return whole, fit("parts", resume=True)


@contextmanager
def alone() -> Iterator[None]:
    """Strategies that are made in here are for a world of one."""
    world = replicas.world
    replicas.world = World
    try:
        yield
    finally:
        replicas.world = world
