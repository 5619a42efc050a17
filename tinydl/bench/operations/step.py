"""Whole training steps: forward, loss, backward, optimizer, on one batch that is there already.

Nothing but the data's way into memory is left out: tinydl runs the step that ``fit`` runs, with all its checks;
PyTorch runs the five lines of its tutorials. Models, batch, optimizer, loss and threads are the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.bench.operations import Job, NotOffered, UnknownCase

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A network by name, a batch size and an optimizer: ``"lenet b64 adam"``."""

    network: str
    batch: int
    optimizer: str = "adam"

    @property
    def flops(self) -> float:
        """Not counted: a step is told in milliseconds."""
        return 0.0

    def bytes(self, itemsize: int) -> float:
        return 0.0

    def __str__(self) -> str:
        return f"{self.network} b{self.batch} {self.optimizer}"


# Network -> (shape of one sample, usual batch size).
NETWORKS: dict[str, tuple[tuple[int, ...], int]] = {
    "mlp": ((784,), 128),  # 784-512-256-10
    "lenet": ((28, 28, 1), 64),
    "resnet8": ((32, 32, 3), 64),
    "lstm": ((64, 64), 32),  # 64 time steps of 64 features, LSTM(128), Dense(10)
}
OPTIMIZERS = ("sgd", "momentum", "adam")
RATE = 1e-3  # so small that no loss runs away over thousands of steps on one batch


def parse(text: str, optimizer: str = "adam") -> Case:
    """``"mlp"``, ``"mlp b128"``, ``"mlp b128 sgd"``; ``optimizer`` where the text names none."""
    match = re.fullmatch(r"([a-z0-9]+)(?: b(\d+))?(?: ([a-z]+))?", text.strip())
    if match is None or match[1] not in NETWORKS:
        raise UnknownCase(
            f"step: {text!r} is no network: expected one of {', '.join(NETWORKS)}, "
            "with b and a batch size and an optimizer where they are not the usual ones (lenet b64 adam)"
        )
    case = Case(match[1], int(match[2] or NETWORKS[match[1]][1]), match[3] or optimizer)
    if case.optimizer not in OPTIMIZERS:
        raise UnknownCase(
            f"step: unknown optimizer {case.optimizer!r}: expected one of {', '.join(OPTIMIZERS)}"
        )
    if case.batch < 1:
        raise UnknownCase(f"step: {text!r}: the batch size must be at least 1")
    return case


def batch_of(case: Case, dtype: str) -> tuple[NDArray, NDArray]:
    """Random samples with random labels: the arithmetic does not care."""
    rng = np.random.default_rng(0)
    shape, _ = NETWORKS[case.network]
    x = rng.standard_normal((case.batch, *shape)).astype(dtype)
    return x, rng.integers(CLASSES, size=case.batch)


def make(case: Case, library: str, dtype: str, threads: int) -> Job:
    x, y = batch_of(case, dtype)
    if library == "tinydl":
        loop = tinydl_loop(case, x, y, dtype)
        parameters = sum(p.size for p in loop.model.parameters())
        return Job(lambda: loop.train_step(x, y, None), details={"parameters": parameters})
    if library in ("torch:nchw", "torch:channels-last"):
        from tinydl.bench.operations.torch_step import make_step

        step, parameters = make_step(case, library.partition(":")[2], x, y)
        return Job(step, details={"parameters": parameters})
    raise NotOffered(f"step: no library {library!r}")


def tinydl_model(case: Case, dtype: str) -> Any:
    """The network, built and compiled."""
    import tinydl as tl

    shape, _ = NETWORKS[case.network]
    if case.network == "lstm":
        model = tl.Sequential([tl.layers.LSTM(128), tl.layers.Dense(CLASSES)], name="lstm")
    else:
        model = tl.architectures.ARCHITECTURES[case.network](shape, CLASSES)
    model.parameter_dtype = np.dtype(dtype)
    model.build_model(shape)
    optimizers = {
        "sgd": lambda: tl.optimizers.SGD(RATE),
        "momentum": lambda: tl.optimizers.SGD(RATE, momentum=0.9),
        "adam": lambda: tl.optimizers.Adam(RATE),
    }
    model.compile(optimizers[case.optimizer](), "sparse_categorical_crossentropy")
    return model


def tinydl_loop(case: Case, x: NDArray, y: NDArray, dtype: str) -> Any:
    """The training loop of ``fit``, ready for its next step."""
    from threadpoolctl import threadpool_limits

    from tinydl.training.batches import make_source
    from tinydl.training.loop import TrainingLoop
    from tinydl.training.memory import keep_freed_memory

    # What `fit` and TrainingLoop.run do before the first step. (A peer in the same process keeps its freed memory,
    # too, and gains from it as well.)
    keep_freed_memory()
    model = tinydl_model(case, dtype)
    source = make_source(x, y, None, batch_size=case.batch, dtype=model.parameter_dtype)
    loop = TrainingLoop(model, source, epochs=1)
    threadpool_limits(limits=1, user_api="blas")
    model.set_needs_input_grad(False)
    model.optimizer.build(model.store)
    loop.strategy.attach(model, loop.seed)
    loop.tracker.reset()
    return loop
