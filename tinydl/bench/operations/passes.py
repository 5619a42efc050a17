"""Passes over memory: little arithmetic for each number, so that bytes a second are what counts.

The bytes are those that must move: each input once, each output once. A kernel that reads its input twice shows less.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.bench.operations import Job, NotOffered, UnknownCase


@dataclass(frozen=True)
class Pass:
    """One kind of pass: arrays of the case's shape that it moves, operations for each element, and who does it."""

    moves: float
    flops: float
    usual: str
    ours: Callable[[NDArray], Callable[[], Any]]
    numpy: Callable[[NDArray], Callable[[], Any]] | None = None
    torch: Callable[[Any], Callable[[], Any]] | None = None


@dataclass(frozen=True)
class Case:
    """``"relu 4194304"``, ``"layer-norm 8192x256"``."""

    kind: str
    shape: tuple[int, ...]

    @property
    def flops(self) -> float:
        return PASSES[self.kind].flops * float(np.prod(self.shape))

    def bytes(self, itemsize: int) -> float:
        return PASSES[self.kind].moves * float(np.prod(self.shape)) * itemsize

    def __str__(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.shape))}"


def parse(text: str) -> Case:
    kind, _, sizes = text.strip().partition(" ")
    if kind not in PASSES:
        raise UnknownCase(f"passes: unknown pass {kind!r}: expected one of {', '.join(PASSES)}")
    usual = PASSES[kind].usual
    sizes = sizes or usual
    dimensions = usual.count("x") + 1
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes) or sizes.count("x") + 1 != dimensions:
        raise UnknownCase(
            f"passes: {kind} takes {dimensions} size(s), such as {usual}; got {sizes!r}"
        )
    return Case(kind, tuple(int(size) for size in sizes.split("x")))


def make(case: Case, library: str, dtype: str, threads: int) -> Job:
    x = np.random.default_rng(0).standard_normal(case.shape).astype(dtype)
    kind = PASSES[case.kind]
    if library == "tinydl":
        return Job(kind.ours(x))
    if library == "numpy" and kind.numpy is not None:
        return Job(kind.numpy(x))
    if library == "torch" and kind.torch is not None:
        import torch

        return Job(inference(kind.torch(torch.from_numpy(x))))
    raise NotOffered(f"passes: {library} has no {case.kind}")


def inference(call: Callable[[], Any]) -> Callable[[], Any]:
    """Without the records that autograd keeps."""
    import torch

    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def kernel(name: str) -> Callable[..., Any]:
    import tinydl_kernels

    return getattr(tinydl_kernels, name)


# ---- activations ---------------------------------------------------------------------------------------------


def activation(name: str, flops: float, numpy: Any = None) -> Pass:
    def ours(x: NDArray) -> Callable[[], Any]:
        out, run = np.empty_like(x), kernel("activation")
        return lambda: run(name, x, out)

    def with_numpy(x: NDArray) -> Callable[[], Any]:
        out = np.empty_like(x)
        return lambda: numpy(x, out)

    def with_torch(x: Any) -> Callable[[], Any]:
        import torch

        # By this name it writes into an array that is there already, as the others do.
        out = torch.empty_like(x)
        if name == "relu":
            return lambda: torch.clamp_min(x, 0, out=out)
        function = getattr(torch.ops.aten, name).out
        return lambda: function(x, out=out)

    return Pass(2, flops, "4194304", ours, with_numpy if numpy else None, with_torch)


def relu_grad(x: NDArray) -> Callable[[], Any]:
    grad, out, run = np.ones_like(x), np.empty_like(x), kernel("activation_grad")
    y = np.maximum(x, 0)
    return lambda: run("relu", grad, None, y, out)


# ---- rows and columns ----------------------------------------------------------------------------------------


def batch_norm(x: NDArray) -> Callable[[], Any]:
    """In training: mean and variance of each column, then the normalization."""
    gamma, beta = np.ones(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
    moments, apply, out = kernel("column_moments"), kernel("batch_norm_apply"), np.empty_like(x)

    def run() -> None:
        mean, variance = moments(x)
        apply(x, mean, (1 / np.sqrt(variance + 1e-5)).astype(x.dtype), gamma, beta, out)

    return run


def torch_batch_norm(x: Any) -> Callable[[], Any]:
    import torch

    gamma, beta = torch.ones(x.shape[1]).to(x), torch.zeros(x.shape[1]).to(x)
    return lambda: torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)


def layer_norm(x: NDArray) -> Callable[[], Any]:
    gamma, beta = np.ones(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
    run = kernel("layer_norm")
    return lambda: run(x, gamma, beta, 1e-5)


def torch_layer_norm(x: Any) -> Callable[[], Any]:
    import torch

    gamma, beta = torch.ones(x.shape[1]).to(x), torch.zeros(x.shape[1]).to(x)
    return lambda: torch.nn.functional.layer_norm(x, x.shape[1:], gamma, beta)


def cross_entropy(x: NDArray) -> Callable[[], Any]:
    """Losses and their gradient in one pass."""
    labels, run = np.arange(len(x)) % x.shape[1], kernel("softmax_cross_entropy")
    return lambda: run(x, labels)


def torch_cross_entropy(x: Any) -> Callable[[], Any]:
    import torch

    labels = torch.arange(len(x)) % x.shape[1]
    ones = torch.ones(len(x)).to(x)

    def run() -> None:
        logarithms = torch.log_softmax(x, 1)
        torch.nn.functional.nll_loss(logarithms, labels, reduction="none")
        grad = torch.zeros_like(x).scatter_(1, labels[:, None], -ones[:, None])
        torch.ops.aten._log_softmax_backward_data(grad, logarithms, 1, x.dtype)

    return run


def softmax(x: NDArray) -> Callable[[], Any]:
    run, out = kernel("softmax"), np.empty_like(x)
    return lambda: run(x, out)


def torch_softmax(x: Any) -> Callable[[], Any]:
    import torch

    return lambda: torch.softmax(x, 1)


# ---- optimizers: over all parameters at once -----------------------------------------------------------------


def sgd(x: NDArray) -> Callable[[], Any]:
    grad, run = np.ones_like(x), kernel("sgd_step")
    return lambda: run(x, grad, 1e-6, 0.0)


def momentum(x: NDArray) -> Callable[[], Any]:
    grad, velocity, run = np.ones_like(x), np.zeros_like(x), kernel("momentum_step")
    return lambda: run(x, grad, velocity, 1e-6, 0.9, False, 0.0)


def adam(x: NDArray) -> Callable[[], Any]:
    grad, m, v, run = np.ones_like(x), np.zeros_like(x), np.zeros_like(x), kernel("adam_step")
    return lambda: run(x, grad, m, v, 1e-6, 0.9, 0.999, 1e-8, 10, 0.0)


def torch_optimizer(name: str, **arguments: Any) -> Callable[[Any], Callable[[], Any]]:
    """PyTorch's own single pass."""

    def prepare(x: Any) -> Callable[[], Any]:
        import torch

        parameter = torch.nn.Parameter(x)
        parameter.grad = torch.ones_like(x)
        return getattr(torch.optim, name)([parameter], lr=1e-6, fused=True, **arguments).step

    return prepare


PASSES: dict[str, Pass] = {
    "relu": activation("relu", 1, lambda x, out: np.maximum(x, 0, out=out)),
    "relu-grad": Pass(3, 1, "4194304", relu_grad),
    "tanh": activation("tanh", 20, lambda x, out: np.tanh(x, out=out)),
    "sigmoid": activation("sigmoid", 20),
    "gelu": activation("gelu", 25),
    "batch-norm": Pass(2, 8, "65536x16", batch_norm, torch=torch_batch_norm),
    "layer-norm": Pass(2, 8, "8192x256", layer_norm, torch=torch_layer_norm),
    "softmax": Pass(2, 22, "8192x256", softmax, torch=torch_softmax),
    "cross-entropy": Pass(2, 25, "8192x256", cross_entropy, torch=torch_cross_entropy),
    "sgd": Pass(3, 2, "4194304", sgd, torch=torch_optimizer("SGD")),
    "momentum": Pass(5, 4, "4194304", momentum, torch=torch_optimizer("SGD", momentum=0.9)),
    "adam": Pass(7, 12, "4194304", adam, torch=torch_optimizer("Adam")),
}
