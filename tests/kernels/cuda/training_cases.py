"""Calls of the kernels that a training step needs beside products and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """`name(*arguments)`, each array among the arguments made by `array(shape)` or given as it is."""

    name: str
    arguments: tuple
    keywords: dict[str, Any]


def cases(rng: np.random.Generator, dtype: str) -> Iterator[Case]:
    """Calls with sizes that fill no block; arrays hold random numbers."""

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    def positive(*shape: int) -> np.ndarray:
        return rng.uniform(0.2, 2, shape).astype(dtype)

    def case(name: str, *arguments: Any, **keywords: Any) -> Case:
        return Case(name, arguments, keywords)

    yield from _activations(case, normal, positive)
    yield from _losses(case, rng, normal, positive)
    yield from _normalization(case, normal, positive)
    yield from _pooling(case, normal)
    yield from _optimizers(case, normal, positive)
    yield from _sequences(case, rng, normal)
    if dtype == "float32":
        yield from _half(case, rng, normal)


def _activations(case: Callable, normal: Callable, positive: Callable) -> Iterator[Case]:
    x, g = normal(7, 43), normal(7, 43)
    for name in ("linear", "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu"):
        yield case("activation", name, x, alpha=0.3)
        if name in ("relu", "gelu"):
            yield case("activation", name, x, alpha=0.3, plus=g)
        y = x if name in ("relu", "leaky_relu") else np.tanh(x)
        yield case("activation_grad", name, g, x, y, alpha=0.3)
    for name in ("exp", "tanh", "sigmoid", "erf"):
        yield case(name, x)
    yield case("log", positive(5, 3))
    for shape in ((9, 10), (2, 3, 45)):
        yield case("softmax", normal(*shape))
        yield case("log_softmax", 30 * normal(*shape))
        yield case("softmax_grad", normal(*shape), positive(*shape))


def _losses(case: Callable, rng: Any, normal: Callable, positive: Callable) -> Iterator[Case]:
    logits, labels = 5 * normal(11, 37), rng.integers(0, 37, 11)
    yield case("softmax_cross_entropy", logits, labels)
    yield case("softmax_cross_entropy", logits, labels.astype(np.int32), label_smoothing=0.1)
    yield case("softmax_cross_entropy", logits, labels, positive(11), label_smoothing=0.1)
    yield case("softmax_cross_entropy", logits, positive(11, 37), positive(11))
    total = np.full((), np.nan)
    yield case("softmax_cross_entropy", normal(27, 3), rng.integers(0, 3, 27), total=total)
    yield case("softmax_cross_entropy", normal(3, 40), positive(3, 40), positive(3), total=total)
    yield case("binary_cross_entropy", normal(11, 5), np.abs(np.tanh(normal(11, 5))))
    yield case("binary_cross_entropy", normal(11, 5), positive(11, 5) / 2, positive(11))
    yield case("binary_cross_entropy", normal(11, 5), positive(11, 5) / 2, positive(11, 5))


def _normalization(case: Callable, normal: Callable, positive: Callable) -> Iterator[Case]:
    for rows, columns in ((3, 5), (530, 3), (20, 35)):
        x, g = 100 + 3 * normal(rows, columns), normal(rows, columns)
        mean, std, gamma, beta = (
            100 + normal(columns),
            positive(columns),
            normal(columns),
            normal(columns),
        )
        yield case("column_moments", x)
        moments = normal(columns), positive(columns), normal(columns), positive(columns)
        yield case("running_moments", *moments, 0.9, 1e-3)
        yield case("batch_moments", x, *moments[:2], 0.9, 1e-3)
        yield case("batch_norm_apply", x, mean, std, gamma, beta)
        yield case("batch_norm_grad_sums", g, x, mean, std)
        yield case("batch_norm_grad_sums", g, x, mean, std, normal(columns), normal(columns))
        yield case("batch_norm_grad_sums", g, x, mean, std, beta_grad=normal(columns))
        sums = normal(columns), normal(columns)
        yield case("batch_norm_grad_input", g, x, gamma, mean, std, *sums, rows)
    y, running = np.tanh(normal(rows, columns)), moments[:2]
    for name in ("relu", "tanh"):
        yield case("batch_norm_apply", x, mean, std, gamma, beta, activation=name)
    for options in ({}, {"activation": "relu"}, {"activation": "tanh"}):
        yield case("batch_norm", x, gamma, beta, *running, 0.9, 1e-3, **options)
        yield case("batch_norm_grad", g, x, gamma, mean, std, *sums, **options, y=y)
    x, g, vectors = normal(2, 3, 5, 4), normal(2, 3, 5, 4), [positive(4) for _ in range(6)]
    yield case("batch_moments", x, *vectors[:2], 0.9, 1e-3)
    yield case("batch_norm_apply", x, *vectors[:4])
    yield case("batch_norm_grad_sums", g, x, *vectors[:4])
    yield case("batch_norm_grad_input", g, x, *vectors[:5], 30)
    x, g = 3 + normal(10, 41), normal(10, 41)
    yield case("layer_norm", x, normal(41), normal(41), 1e-3)
    yield case("layer_norm_grad", g, x, normal(41), 3 + normal(10), positive(10))


def _pooling(case: Callable, normal: Callable) -> Iterator[Case]:
    from tinydl_kernels.reference import max_pool2d
    from tinydl_kernels.windows import pool_geometry

    x = normal(2, 7, 6, 3)
    for size, options in (
        (2, {}),
        ((3, 2), {"strides": (1, 2)}),
        (3, {"strides": 2, "padding": "same"}),
        ((2, 3), {"strides": 3, "padding": 1}),
        ((7, 6), {}),
    ):
        yield case("max_pool2d", x, size, **options)
        yield case("avg_pool2d", x, size, **options)
        y, argmax = max_pool2d(x, size, **options)
        yield case("max_pool2d_grad", normal(*y.shape), argmax, x.shape, pool_size=size, **options)
        g = pool_geometry(x.shape, size, options.get("strides"), options.get("padding", "valid"))
        yield case("avg_pool2d_grad", normal(*g.output_shape), x.shape, size, **options)
    yield case("max_pool2d_grad", normal(*y.shape), argmax, x.shape)  # every window is asked


def _optimizers(case: Callable, normal: Callable, positive: Callable) -> Iterator[Case]:
    n = 300
    yield case("sgd_step", normal(n), normal(n), 0.1, 0.01)
    for nesterov in (False, True):
        yield case("momentum_step", normal(n), normal(n), normal(n), 0.1, 0.9, nesterov, 0.01)
    yield case("rmsprop_step", normal(n), normal(n), positive(n), 0.1, 0.9, 1e-7, 0.01)
    slots = {"momentum": 0.5, "velocity": normal(n), "average": 0.1 * normal(n)}
    yield case("rmsprop_step", normal(n), normal(n), 4 + positive(n), 0.1, 0.9, 1e-7, **slots)
    moments = (0.9, 0.99, 1e-7, 3)
    yield case("adam_step", normal(n), normal(n), normal(n), positive(n), 0.1, *moments, 0.01)
    arguments = (0.1, *moments, 0.01, 0.5, 0.6, 0.2)
    yield case("nadam_step", normal(n), normal(n), normal(n), positive(n), *arguments)
    yield case("squared_norm", normal(600))
    yield case("squared_norm", normal(3, 5, 4))
    yield case("all_finite", normal(4))
    yield case("clip_", normal(20), 0.5)
    yield case("scale_", normal(20), 0.5)
    pieces = np.array([(1, 0, 90), (1, 90, 120), (0, 128, 300)])
    average, scales = normal(n), np.array([0.7, 1.3])
    yield case("das_norms", normal(n), pieces, 2)
    yield case("das_sizes", normal(n), normal(n), pieces, 2)
    for step in (1, 3):
        arrays = (normal(n), normal(n), normal(n), positive(n), pieces)
        yield case("das_moments", *arrays, scales, *moments[:3], step)
    arrays = (normal(n), average, normal(n), positive(n), pieces)
    yield case("das_apply", *arrays, scales, scales / 100, 0.3, *moments)


def _sequences(case: Callable, rng: Any, normal: Callable) -> Iterator[Case]:
    n, h, t = 3, 5, 2
    gates_3, gates_4 = np.abs(np.tanh(normal(n, 3 * h))), np.abs(np.tanh(normal(n, 4 * h)))
    yield case("lstm_cell", normal(n, 4 * h), normal(n, h))
    yield case("lstm_cell_grad", normal(n, h), normal(n, h), gates_4, normal(n, h), normal(n, h))
    yield case("gru_cell", normal(n, 3 * h), normal(n, 3 * h), normal(n, h))
    yield case("gru_cell_grad", normal(n, h), gates_3, normal(n, 3 * h), normal(n, h))
    skip = np.array([[True, False, False], [False, True, False]])
    u_3, u_4 = normal(h, 3 * h), normal(h, 4 * h)
    yield case("lstm_sequence", normal(t, n, 4 * h), u_4, normal(n, h), normal(n, h))
    yield case(
        "lstm_sequence_grad", normal(n, h), normal(n, h), u_4, np.abs(np.tanh(normal(t, n, 4 * h))),
        normal(t + 1, n, h), normal(t, n, h), grad_y=normal(t, n, h), skip=skip,
    )  # fmt: skip
    yield case("gru_sequence", normal(t, n, 3 * h), u_3, normal(3 * h), normal(n, h))
    yield case(
        "gru_sequence_grad", normal(n, h), u_3, np.abs(np.tanh(normal(t, n, 3 * h))),
        normal(t, n, 3 * h), normal(t + 1, n, h), grad_y=normal(t, n, h), skip=skip,
    )  # fmt: skip
    indices = rng.integers(0, 6, (4, 5))
    yield case("embedding_grad", indices, normal(4, 5, 3), normal(6, 3))


def _half(case: Callable, rng: Any, normal: Callable) -> Iterator[Case]:
    bits = rng.integers(0, 2**32, 300, dtype=np.uint32)
    bits[:5] = (
        0x7F800000,
        0xFF800000,
        0x7F800001,
        0x7F7FFFFF,
        0x3F808000,
    )  # inf, NaN, largest, a tie
    yield case("pack_bfloat16", bits.view(np.float32), np.zeros(300, np.uint16))
    yield case("pack_bfloat16", normal(4, 6)[:, ::2], np.zeros((2, 12), np.uint16)[:, ::2])
    packed = rng.integers(0, 0x7F80, 300).astype(np.uint16)  # finite
    for accumulate in (False, True):
        yield case("unpack_bfloat16", packed.reshape(10, 30), normal(300), accumulate)
