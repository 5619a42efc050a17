"""Optimizers of other libraries, run through PyTorch on tinydl's own weights and gradients.

Each parameter becomes a tensor that shares its memory: same initial weights, same batches, same gradients to the last
bit; only the update is another library's. They need what tinydl itself does not: ``pip install torch prodigyopt
schedulefree``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tinydl.optimizers.base import Optimizer, StepInfo
from tinydl.optimizers.schedules import Schedule
from tinydl.parameters import ParameterStore

WARM_UP = 0.05  # share of the steps in which schedule-free AdamW warms up, as its authors advise


class TorchOptimizer(Optimizer):
    """A PyTorch optimizer behind tinydl's interface.

    Args:
        learning_rate: a number or a schedule; set before every step.
        make: from a list of tensors to the optimizer that updates them in place.
        package: that it comes from.
    """

    def __init__(
        self, learning_rate: float | Schedule, make: Callable[[list], Any], package: str
    ) -> None:
        super().__init__(learning_rate)
        self.make = make
        self.package = package
        self.version = importlib.metadata.version(package)

    def build(self, store: ParameterStore) -> None:
        super().build(store)
        torch = require("torch")
        torch.set_num_threads(1)
        tensors = []
        for segment in reversed(store.segments):  # forward order
            if segment.parameter.trainable:
                tensor = torch.nn.Parameter(torch.from_numpy(segment.parameter.value))
                tensor.grad = torch.from_numpy(segment.parameter.grad)
                tensors.append(tensor)
        self.theirs = self.make(tensors)

    def config(self) -> dict[str, Any]:
        return {"learning_rate": self.schedule, "package": self.package, "version": self.version}

    def step(self, loss: float | None = None) -> StepInfo:
        norm = self.prepare_gradients()  # refuses what is not finite, as for our own
        rate = self.learning_rate
        for group in self.theirs.param_groups:
            group["lr"] = rate
        self.theirs.step()
        self.iterations += 1
        return StepInfo(rate, norm)


class ScheduleFree(TorchOptimizer):
    """Trains at one point and recommends another, an average: Defazio et al. 2024, arXiv 2405.15682.

    Its authors ask that BatchNorm's running statistics, which belong to the point where it trains, are taken anew
    before an evaluation: the study does so, as ``fit`` does for DAS.
    """

    renews_statistics = True

    def build(self, store: ParameterStore) -> None:
        super().build(store)
        self.theirs.train()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """While entered, the weights are those to be used."""
        self.theirs.eval()
        try:
            yield
        finally:
            self.theirs.train()


def prodigy(rate: float | Schedule, steps: int) -> Optimizer:
    """Prodigy, as its authors have it by default: Mishchenko & Defazio 2023, arXiv 2306.06101."""
    module = require("prodigyopt")
    return TorchOptimizer(rate, lambda tensors: module.Prodigy(tensors), "prodigyopt")


def schedule_free(rate: float | Schedule, steps: int) -> Optimizer:
    module = require("schedulefree")
    warm_up = round(WARM_UP * steps)
    return ScheduleFree(
        rate,
        lambda tensors: module.AdamWScheduleFree(tensors, warmup_steps=warm_up),
        "schedulefree",
    )


def require(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"comparing with Prodigy and schedule-free AdamW needs the package {error.name}: "
            "pip install torch prodigyopt schedulefree"
        ) from None


def missing() -> str | None:
    """What is not installed of all that the peers need; None where they can run."""
    for package in ("torch", "prodigyopt", "schedulefree"):
        if importlib.util.find_spec(package) is None:
            return package
    return None
