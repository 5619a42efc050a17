"""The tasks on which optimizers are compared, each a network with its data, small enough to be trained often.

A task says what to train and for how long, never how: optimizer, rate and seed are a run's own (``runs.py``). Data are
the same in all runs; the seed decides initial weights, the order of samples, and dropout.

| task            | network                                             | data                        | DAS is     |
| --------------- | --------------------------------------------------- | --------------------------- | ---------- |
| digits          | MLP 64-128-64-10                                    | digits                      | developed  |
| sigmoid-6       | six hidden layers of 64 with sigmoid                | digits                      | developed  |
| cifar-cnn       | two convolutions, two dense layers                  | CIFAR-10, a subset          | developed  |
| names-lstm      | LSTM over characters                                | names                       | developed  |
| label-noise     | as digits, 30 % of the training labels random       | digits                      | developed  |
| mnist-lenet     | LeNet-5                                             | MNIST, 10,000 images        | judged     |
| cifar-resnet8   | residual network with BatchNorm                     | CIFAR-10, a subset          | judged     |
| tanh-20         | twenty hidden layers of 64, weights far too small   | digits                      | developed  |
| relu-12         | twelve hidden layers of 64, weights far too large   | digits                      | developed  |
| shakespeare-gru | GRU over characters                                 | tinyshakespeare             | judged     |
| outlier-batch   | as digits, the inputs of one batch times 10,000     | digits                      | judged     |
| nan-batch       | as digits, the inputs of one batch NaN              | digits                      | judged     |
| batch-64 … 4096 | MLP 784-128-10, ten epochs at each batch size       | MNIST, 10,000 images        | judged     |

Whoever tunes DAS looks at the tasks marked "developed" alone, so that the others can judge what came out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinydl.architectures import build
from tinydl.architectures.catalog import from_file
from tinydl.configs import near
from tinydl.data import Standardize, load
from tinydl.initializers import RandomNormal, VarianceScaling
from tinydl.layers import GRU, LSTM, Conv2D, Dense, Embedding, Flatten, MaxPool2D
from tinydl.randomness import stream
from tinydl.training.model import BaseModel, Sequential

LOSS = "sparse_categorical_crossentropy"


class Arrays(NamedTuple):
    """What a task trains on and is tested on: inputs ready for the network, and class numbers."""

    x_train: NDArray
    y_train: NDArray
    x_test: NDArray
    y_test: NDArray


@dataclass(frozen=True)
class Task:
    """One thing to learn.

    Attributes:
        name, summary: for tables.
        data: gives the arrays; called once a process.
        model: makes the network for a seed, built.
        batch_size, epochs: how long it is trained.
        metric: what is measured on the test samples at the end: "accuracy", in percent, more is better, or
            "loss", in nats, less is better.
        chance: the metric of guessing. A run that ends non-finite counts as that.
        target_loss: the training loss that an optimizer should reach soon.
        disturb: (step, steps, x) -> x changes the inputs of a batch; None leaves all as they are.
        development: whether DAS may be tuned on it.
        loss: of the training; a name or a ``tl.losses`` object.
    """

    name: str
    summary: str
    data: Callable[[], Arrays]
    model: Callable[[int], BaseModel]
    batch_size: int
    epochs: int
    target_loss: float
    chance: float
    metric: str = "accuracy"
    disturb: Callable[[int, int, NDArray], NDArray] | None = None
    development: bool = False
    loss: Any = LOSS

    def __post_init__(self) -> None:
        if self.metric not in ("accuracy", "loss"):
            raise ValueError(
                f"task {self.name}: metric must be 'accuracy' or 'loss', got {self.metric!r}"
            )
        if not hasattr(self.data, "cache_info"):
            object.__setattr__(self, "data", functools.cache(self.data))

    @property
    def higher_is_better(self) -> bool:
        return self.metric == "accuracy"

    def steps(self, scale: float = 1.0) -> int:
        """Steps of a run; ``scale`` makes it shorter or longer."""
        an_epoch = math.ceil(len(self.data().x_train) / self.batch_size)
        return max(1, round(scale * an_epoch * self.epochs))


# ---- data -------------------------------------------------------------------------------------------------


def some(count: int, *arrays: NDArray) -> list[NDArray]:
    """The same ``count`` samples of each array, always the same ones."""
    chosen = stream(0, "shuffling").permutation(len(arrays[0]))[:count]
    return [array[chosen] for array in arrays]


def images(name: str, train: int | None = None, test: int | None = None) -> Arrays:
    """A data set of images, standardized; a part of it where numbers are given."""
    data = load(name)
    x_train, y_train = some(train or len(data.x_train), data.x_train, data.y_train)
    x_test, y_test = some(test or len(data.x_test), data.x_test, data.y_test)
    standardize = Standardize.fit(x_train)
    return Arrays(standardize(x_train), y_train, standardize(x_test), y_test)


@functools.cache
def digits() -> Arrays:
    """1,000 to train on and 797 to test on: more than usual for the test, so that a point is eight images."""
    data = load("digits")
    x, y = some(
        1_797, *map(np.concatenate, ((data.x_train, data.x_test), (data.y_train, data.y_test)))
    )
    x = Standardize.fit(x[:1000])(x)
    return Arrays(x[:1000], y[:1000], x[1000:], y[1000:])


@functools.cache
def noisy_digits() -> Arrays:
    """30 % of the training labels are drawn anew, from all ten classes; those of the test are right."""
    arrays = digits()
    rng = stream(0, "augmentation")
    noisy = rng.random(len(arrays.y_train)) < 0.3
    y_train = np.where(noisy, rng.integers(0, 10, len(noisy)), arrays.y_train)
    return arrays._replace(y_train=y_train)


@functools.cache
def mnist() -> Arrays:
    return images("mnist", train=10_000, test=5_000)


@functools.cache
def cifar10() -> Arrays:
    return images("cifar10", train=10_000, test=2_000)


@functools.cache
def names() -> Arrays:
    data = load("names")
    return Arrays(*some(25_600, data.x_train, data.y_train), *some(2_000, data.x_test, data.y_test))


@functools.cache
def shakespeare() -> Arrays:
    data = load("shakespeare", length=50)  # type: ignore[arg-type]
    return Arrays(*some(12_800, data.x_train, data.y_train), *some(500, data.x_test, data.y_test))


# ---- networks ---------------------------------------------------------------------------------------------


def built(layers: list, input_shape: tuple, seed: int) -> Sequential:
    model = Sequential(layers, seed=seed)
    model.build_model(input_shape)
    return model


def mlp(seed: int) -> BaseModel:
    return deep(seed, (128, 64), "relu", "he_normal", "he_normal")


def deep(
    seed: int, units: tuple[int, ...], activation: str, initializer: Any, last: Any
) -> BaseModel:
    """8 × 8 pixels, dense layers with one activation and one initializer, ten logits."""
    body = [Dense(n, activation, kernel_initializer=initializer) for n in units]
    return built([Flatten(), *body, Dense(10, kernel_initializer=last)], (8, 8, 1), seed)


def sigmoid_6(seed: int) -> BaseModel:
    """Sigmoid's slope is at most 1/4: each layer takes away a factor of the gradient (Hochreiter 1991)."""
    return deep(seed, (64,) * 6, "sigmoid", "glorot_uniform", "glorot_uniform")


def tanh_20(seed: int) -> BaseModel:
    """Weights of half the size that keeps the signal: two to the minus 20th is a millionth."""
    poor = RandomNormal(stddev=0.5 / math.sqrt(64))
    return deep(seed, (64,) * 20, "tanh", poor, poor)


def relu_12(seed: int) -> BaseModel:
    """Weights of three times He's size: the logits begin with a size of three to the 12th, half a million."""
    large = VarianceScaling(2 * 3.0**2, "fan_in", "normal")
    return deep(seed, (64,) * 12, "relu", large, "he_normal")


def lenet(seed: int) -> BaseModel:
    return build("lenet", (28, 28, 1), 10, seed=seed)


def resnet8(seed: int) -> BaseModel:
    return build("resnet8", (32, 32, 3), 10, seed=seed)


def plain_cnn(seed: int) -> BaseModel:
    return built(
        [
            Conv2D(16, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
            MaxPool2D(2),
            Conv2D(32, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
            MaxPool2D(2),
            Flatten(),
            Dense(64, "relu", kernel_initializer="he_normal"),
            Dense(10),
        ],
        (32, 32, 3),
        seed,
    )


def mnist_mlp(seed: int) -> BaseModel:
    hidden = Dense(128, "relu", kernel_initializer="he_normal")
    return built([Flatten(), hidden, Dense(10)], (28, 28, 1), seed)


def names_lstm(seed: int) -> BaseModel:
    symbols = len(load("names").class_names)
    layers = [
        Embedding(symbols, 32, mask_zero=True),
        LSTM(64, return_sequences=True),
        Dense(symbols),
    ]
    return built(layers, (None,), seed)


def shakespeare_gru(seed: int) -> BaseModel:
    symbols = len(load("shakespeare").class_names)
    layers = [Embedding(symbols, 32), GRU(96, return_sequences=True), Dense(symbols)]
    return built(layers, (None,), seed)


# ---- one bad batch ----------------------------------------------------------------------------------------


def outlier(step: int, steps: int, x: NDArray) -> NDArray:
    """One batch comes 10,000 times too large, a tenth into training.

    Not later: inputs times 10,000 make logits about as much larger, and for images that are by then classified right
    softmax gives a probability of 1 and a gradient of exactly 0. The batch must still hold mistakes to do harm.
    """
    return x * np.float32(1e4) if step == steps // 10 else x


def nan(step: int, steps: int, x: NDArray) -> NDArray:
    """One batch is not a number, a tenth into training."""
    return np.full_like(x, np.nan) if step == steps // 10 else x


# ---- the table --------------------------------------------------------------------------------------------


def on_digits(name: str, summary: str, model: Callable[[int], BaseModel], **rest: Any) -> Task:
    """A task on digits; ``rest`` may say otherwise."""
    usual = {"data": digits, "batch_size": 32, "epochs": 30, "chance": 10.0}
    return Task(name=name, summary=summary, model=model, **{**usual, **rest})


BATCH_SIZES = (64, 256, 1024, 4096)
TABLE = (
    on_digits("digits", "MLP on digits", mlp, target_loss=0.02, development=True),
    on_digits(
        "sigmoid-6",
        "six sigmoid layers on digits",
        sigmoid_6,
        epochs=45,
        target_loss=0.3,
        development=True,
    ),
    Task(
        name="cifar-cnn",
        summary="plain CNN on 10,000 images of CIFAR-10",
        data=cifar10,
        model=plain_cnn,
        batch_size=64,
        epochs=3,
        target_loss=1.4,
        chance=10.0,
        development=True,
    ),
    Task(
        name="names-lstm",
        summary="LSTM that spells names",
        data=names,
        model=names_lstm,
        batch_size=64,
        epochs=2,
        target_loss=2.2,
        chance=math.log(28),
        metric="loss",
        development=True,
    ),
    on_digits(
        "label-noise",
        "MLP on digits with 30 % random labels",
        mlp,
        data=noisy_digits,
        target_loss=1.2,
        development=True,
    ),
    Task(
        name="mnist-lenet",
        summary="LeNet on 10,000 images of MNIST",
        data=mnist,
        model=lenet,
        batch_size=64,
        epochs=2,
        target_loss=0.15,
        chance=10.0,
    ),
    Task(
        name="cifar-resnet8",
        summary="resnet8 with BatchNorm on 10,000 images of CIFAR-10",
        data=cifar10,
        model=resnet8,
        batch_size=32,
        epochs=1,
        target_loss=1.6,
        chance=10.0,
    ),
    on_digits(
        "tanh-20",
        "twenty tanh layers on digits, weights too small",
        tanh_20,
        epochs=45,
        target_loss=1.5,
        development=True,
    ),
    on_digits(
        "relu-12",
        "twelve ReLU layers on digits, weights too large",
        relu_12,
        epochs=45,
        target_loss=1.5,
        development=True,
    ),
    Task(
        name="shakespeare-gru",
        summary="GRU that writes Shakespeare",
        data=shakespeare,
        model=shakespeare_gru,
        batch_size=32,
        epochs=2,
        target_loss=2.0,
        chance=math.log(66),
        metric="loss",
    ),
    on_digits(
        "outlier-batch",
        "MLP on digits, one batch times 10,000",
        mlp,
        target_loss=0.02,
        disturb=outlier,
    ),
    on_digits("nan-batch", "MLP on digits, one batch NaN", mlp, target_loss=0.02, disturb=nan),
    *(
        Task(
            name=f"batch-{size}",
            summary=f"MLP on 10,000 images of MNIST, ten epochs in batches of {size}",
            data=mnist,
            model=mnist_mlp,
            batch_size=size,
            epochs=10,
            target_loss=0.4,
            chance=10.0,
        )
        for size in BATCH_SIZES
    ),
)
TASKS = {task.name: task for task in TABLE}
LARGE_BATCH_TASKS = tuple(f"batch-{size}" for size in BATCH_SIZES)
MAIN_TASKS = tuple(name for name in TASKS if name not in LARGE_BATCH_TASKS)


def get(name: str) -> Task:
    """The task called ``name``, or what FUNCTION in ``FILE.py:FUNCTION`` returns: a task of the user's own."""
    if name in TASKS:
        return TASKS[name]
    if ".py" not in name:
        raise ValueError(
            f"unknown task {name!r}{near(name, TASKS)}: expected one of {', '.join(TASKS)}, or a "
            "function in a file of your own as FILE.py:FUNCTION"
        )
    return own(name)


@functools.cache
def own(reference: str) -> Task:
    task = from_file(reference)()
    if not isinstance(task, Task):
        raise TypeError(f"{reference} must return a tinydl.study.Task, got {type(task).__name__}")
    return task
