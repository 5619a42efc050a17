"""The networks of the measurements, written once: as layers of tinydl, and of PyTorch for comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = 10
RATE = 1e-3  # so small that no loss runs away over thousands of steps on one batch

# Network -> (shape of a sample, layers). Behind each layer but the last one comes a ReLU.
# ("conv", filters, kernel size, padding), ("pool", size), ("dense", units).
NETWORKS: dict[str, tuple[tuple[int, ...], list[tuple]]] = {
    "lenet": (
        (28, 28, 1),
        [
            ("conv", 6, 5, 2),
            ("pool", 2),
            ("conv", 16, 5, 0),
            ("pool", 2),
            ("dense", 120),
            ("dense", 84),
            ("dense", CLASSES),
        ],
    ),
    "cnn": (
        (28, 28, 1),
        [
            ("conv", 32, 3, 1),
            ("conv", 32, 3, 1),
            ("pool", 2),
            ("conv", 64, 3, 1),
            ("pool", 2),
            ("dense", 128),
            ("dense", CLASSES),
        ],
    ),
    "cnn-wide": (
        (28, 28, 1),
        [
            ("conv", 32, 3, 1),
            ("conv", 32, 3, 1),
            ("pool", 2),
            ("conv", 64, 3, 1),
            ("pool", 2),
            ("dense", 320),
            ("dense", CLASSES),
        ],
    ),
    "mlp-5m": ((784,), [("dense", 1600), ("dense", 1600), ("dense", 800), ("dense", CLASSES)]),
    "mlp-small": ((64,), [("dense", 512), ("dense", 256), ("dense", CLASSES)]),
}


def batch_of(network: str, batch: int, seed: int) -> tuple[NDArray, NDArray]:
    """Random samples with random labels: the arithmetic does not care."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *NETWORKS[network][0])).astype(np.float32)
    return x, rng.integers(CLASSES, size=batch)


def parameters(network: str) -> int:
    """How many the network has."""
    return sum(p.size for p in tinydl_model(network).parameters())


def tinydl_model(network: str, optimizer: str = "adam") -> Any:
    """Built and compiled."""
    import tinydl as tl

    shape, description = NETWORKS[network]
    layers: list[Any] = []
    flat = len(shape) == 1
    for k, (kind, *rest) in enumerate(description):
        activation = "relu" if k < len(description) - 1 else None
        if kind == "dense":
            if not flat:
                layers.append(tl.layers.Flatten())
                flat = True
            layers.append(tl.layers.Dense(rest[0], activation, kernel_initializer="he_normal"))
        elif kind == "conv":
            filters, size, padding = rest
            name = "same" if padding else "valid"
            layers.append(tl.layers.Conv2D(filters, size, padding=name, activation=activation))
        else:
            layers.append(tl.layers.MaxPool2D(rest[0]))
    model = tl.Sequential(layers, name=network)
    model.build_model(shape)
    rules = {"adam": tl.optimizers.Adam, "sgd": tl.optimizers.SGD}
    model.compile(rules[optimizer](RATE), "sparse_categorical_crossentropy")
    return model


def torch_model(network: str) -> Any:
    """The same in PyTorch, channels first as its users have it."""
    from torch import nn

    shape, description = NETWORKS[network]
    layers: list[Any] = []
    flat = len(shape) == 1
    features = shape[-1]
    side = shape[0]
    for kind, *rest in description:
        if kind == "dense":
            if not flat:
                layers.append(nn.Flatten())
                features, flat = features * side * side, True
            layers += [nn.Linear(features, rest[0]), nn.ReLU(inplace=True)]
            features = rest[0]
        elif kind == "conv":
            filters, size, padding = rest
            layers += [nn.Conv2d(features, filters, size, padding=padding), nn.ReLU(inplace=True)]
            features, side = filters, side + 2 * padding - size + 1
        else:
            layers.append(nn.MaxPool2d(rest[0]))
            side //= rest[0]
    return nn.Sequential(*layers[:-1])
