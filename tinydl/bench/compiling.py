"""Compile ahead what programs will use, and see what each kernel costs.

Kernels are compiled when they are first called with some types of arguments, and kept on disk. So compiling ahead
means to run, on random data, what a program will run: nothing else meets the same kernels with the same types.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Compilation:
    """One kernel for one combination of argument types."""

    kernel: str
    types: str
    seconds: float


@dataclass
class Watch:
    """What was compiled; what a kernel compiles for itself alone counts as part of it."""

    compiled: list[Compilation] = field(default_factory=list)
    depth: int = 0

    @contextmanager
    def compilation(self, kernel: str, types: str) -> Iterator[Callable[[], None]]:
        """Time what happens inside, unless the function it yields is called: then nothing was compiled."""
        self.depth += 1
        start, counts = time.perf_counter(), [True]
        try:
            yield lambda: counts.__setitem__(0, False)
        finally:
            self.depth -= 1
            if self.depth == 0 and counts[0]:
                spent = time.perf_counter() - start
                self.compiled.append(Compilation(kernel, types, spent))

    @property
    def seconds(self) -> float:
        return sum(c.seconds for c in self.compiled)


@contextmanager
def watch_compilation() -> Iterator[Watch]:
    """A record of all that Numba compiles in the meantime. What it reads from the disk is not compiled."""
    from numba.core import event
    from numba.core.ccallback import CFunc

    watch = Watch()
    listener = _listener(watch)
    event.register("numba:compile", listener)
    original = CFunc.compile

    def compile_callback(self: Any) -> None:
        # Numba tells of no event here.
        with watch.compilation(kernel_name(self._pyfunc), str(self._sig)) as nothing:
            hits = self._cache_hits
            original(self)
            if self._cache_hits > hits:
                nothing()

    CFunc.compile = compile_callback  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        CFunc.compile = original  # type: ignore[method-assign]
        event.unregister("numba:compile", listener)


def _listener(watch: Watch) -> Any:
    from numba.core.event import Listener

    class CompileListener(Listener):
        def __init__(self) -> None:
            self.open: list[Any] = []

        def on_start(self, event: Any) -> None:
            types = ", ".join(map(str, event.data["args"]))
            part = watch.compilation(kernel_name(event.data["dispatcher"].py_func), types)
            part.__enter__()
            self.open.append(part)

        def on_end(self, event: Any) -> None:
            self.open.pop().__exit__(None, None, None)

    return CompileListener()


def kernel_name(function: Any) -> str:
    """``cpu.linear._multiply``: module and function, without the package."""
    return f"{function.__module__}.{function.__qualname__}".removeprefix("tinydl_kernels.")


# ---- what to run ---------------------------------------------------------------------------------------------

IMAGES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar": (32, 32, 3)}
# Architecture -> kinds of images on which it is usually trained.
ARCHITECTURES = {
    "mlp": ("mnist",),
    "cnn": ("digits", "mnist"),
    "lenet": ("mnist",),
    "resnet8": ("cifar",),
    "resnet20": ("cifar",),
}
RECURRENT = ("lstm", "gru", "simple_rnn")
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam", "nadam", "das")
GROUPS: dict[str, tuple[str, ...]] = {
    "train": tuple(ARCHITECTURES),
    "recurrent": RECURRENT,
    "optimizers": OPTIMIZERS,
}
GROUPS["all"] = tuple(name for names in list(GROUPS.values()) for name in names)


def names() -> list[str]:
    """Everything that can be asked for."""
    return [*GROUPS, *GROUPS["all"]]


def jobs(asked: list[str]) -> list[str]:
    """The single jobs behind names of groups and of jobs, each once."""
    from tinydl.configs import near

    known = names()
    for name in asked:
        if name not in known:
            raise ValueError(
                f"unknown {name!r}{near(name, known)}: expected some of {', '.join(known)}"
            )
    return list(dict.fromkeys(job for name in asked for job in GROUPS.get(name, (name,))))


def import_compiler() -> float:
    """Seconds that the import of Numba takes, which happens once in a process, at the first kernel."""
    start = time.perf_counter()
    import numba  # noqa: F401

    return time.perf_counter() - start


@dataclass
class Warmth:
    """How a job started: its first run, the same again, and what was compiled in the first."""

    job: str
    dtype: str
    first: float
    again: float
    compiled: list[Compilation]


def warm(job: str, dtype: str, batch_size: int = 32) -> Warmth:
    """Run a job twice, as a user's program would run it: ``fit`` with a metric, then ``predict``."""
    run = prepare(job, dtype, batch_size)
    with watch_compilation() as watch:
        start = time.perf_counter()
        run()
        first = time.perf_counter() - start
    start = time.perf_counter()
    run()
    return Warmth(job, dtype, first, time.perf_counter() - start, watch.compiled)


def prepare(job: str, dtype: str, batch_size: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    samples = 2 * batch_size + batch_size // 2  # the last batch of an epoch is usually smaller
    labels = rng.integers(10, size=samples)
    shapes = [IMAGES[kind] for kind in ARCHITECTURES.get(job, ("digits",))]
    models = [model_for(job, shape) for shape in shapes]
    inputs = [rng.standard_normal((samples, *shape)).astype(dtype) for shape in shapes]
    if job in RECURRENT:
        inputs = [rng.integers(100, size=(samples, 12))]
    for model in models:
        model.parameter_dtype = np.dtype(dtype)
        model.compile(optimizer_for(job), "sparse_categorical_crossentropy", ["accuracy"])

    def run() -> None:
        for model, x in zip(models, inputs, strict=True):
            model.fit(x, labels, batch_size=batch_size, verbose=0)
            model.predict(x, batch_size=batch_size)

    return run


def model_for(job: str, shape: tuple[int, ...]) -> Any:
    import tinydl as tl

    if job in ARCHITECTURES:
        return tl.architectures.ARCHITECTURES[job](shape, 10)
    if job in RECURRENT:
        cell = {"lstm": tl.layers.LSTM, "gru": tl.layers.GRU, "simple_rnn": tl.layers.SimpleRNN}[
            job
        ]
        return tl.Sequential([tl.layers.Embedding(100, 16), cell(32), tl.layers.Dense(10)])
    return tl.Sequential([tl.layers.Flatten(), tl.layers.Dense(10)])


def optimizer_for(job: str) -> Any:
    import tinydl as tl

    if job == "momentum":
        return tl.optimizers.SGD(momentum=0.9)
    return job if job in OPTIMIZERS else "adam"
