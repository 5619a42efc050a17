"""The rungs of the ladder as contenders: kernels from the naive loop to the fast one, each a lesson."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydl.bench.contenders import Contender
from tinydl.bench.operations import Job, NotOffered

if TYPE_CHECKING:
    from tinydl.bench.operations.conv2d import Case

LADDERS = {"matmul": "matmul", "conv2d": "convolution"}  # operation -> module of the ladder


def rungs(operation: str) -> dict[str, Callable[..., Any]]:
    """Name -> kernel, from the lowest rung up."""
    module = importlib.import_module(f"tinydl_kernels.cpu.ladder.{LADDERS[operation]}")
    return {kernel.__name__: kernel for kernel in module.RUNGS}


def climbers(operation: str, chosen: list[str]) -> list[Contender]:
    """The chosen rungs (all, if none is named) as contenders."""
    known = rungs(operation)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(
            f"unknown rung {unknown[0]!r} of {operation}: expected one of {', '.join(known)}"
        )
    return [
        Contender(f"ladder:{name}", f"ladder:{name}", shares_any_process=True)
        for name in chosen or known
    ]


def matmul_rung(name: str, a: NDArray, b: NDArray) -> Job:
    kernel = rung("matmul", name)
    return keeping(lambda: kernel(a, b))


def convolution_rung(name: str, case: Case, x: NDArray, w: NDArray, bias: NDArray) -> Job:
    """The rungs know no bias; it is added afterwards, in place, so that all contenders compute the same."""
    if (case.s, case.p, case.d, case.g, case.direction) != (1, 0, 1, 1, "forward"):
        raise NotOffered("the rungs of conv2d are forward passes of stride 1 without padding")
    kernel = rung("conv2d", name)
    return keeping(lambda: np.add(y := kernel(x, w), bias, out=y))


def rung(operation: str, name: str) -> Callable[..., Any]:
    known = rungs(operation)
    if name not in known:
        raise NotOffered(f"{operation} has no rung {name!r}")
    return known[name]


def keeping(call: Callable[[], NDArray]) -> Job:
    """A job whose result is what the call returned last."""
    kept: list[NDArray] = []

    def run() -> None:
        kept[:] = [call()]

    return Job(run, lambda: kept[0])
