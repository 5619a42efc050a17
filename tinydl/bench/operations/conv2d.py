"""Convolutions and their two gradients, in tinydl's layout (channels last) and in PyTorch's two."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.bench.operations import Job, NotOffered, UnknownCase

PASSES = ("forward", "grad-input", "grad-weight")
DEFAULT_SHAPES = (
    "n32c64h32k64r3p1",
    "n32c128h14k128r3p1",
    "n32c32h28k64r3p1",
    "n64c3h32k32r3p1",
    "n64c1h28k8r5p2",
    "n32c64h28k128r1",  # 1 x 1
    "n32c128h14k128r1s2",
    "n32c64h28k64r3s2p1",  # stride 2
    "n32c128h28k128r3p1g128",  # depthwise
    "n32c64h28k64r3s2p1g64",
)
SYNTAX = "nNcChHkKrR with sSTRIDE, pPADDING, dDILATION, gGROUPS, wWIDTH where needed, e.g. n32c64h28k64r3s2p1"


@dataclass(frozen=True)
class Case:
    """Images (n, h, w, c), kernels (r, r, c // g, k), square strides, padding and dilation."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int = 1
    p: int = 0
    d: int = 1
    g: int = 1
    direction: str = "forward"

    def output(self, size: int) -> int:
        return (size + 2 * self.p - self.d * (self.r - 1) - 1) // self.s + 1

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.output(self.h), self.output(self.w), self.k

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        return self.r, self.r, self.c // self.g, self.k

    @property
    def flops(self) -> float:
        """Of all taps, those that meet padding too: a library that skips these can pass the machine's peak."""
        return 2.0 * float(np.prod(self.output_shape)) * self.r * self.r * (self.c // self.g)

    def bytes(self, itemsize: int) -> float:
        """Images, kernels and outputs once each; every pass reads two of them and writes the third."""
        arrays = ((self.n, self.h, self.w, self.c), self.kernel_shape, self.output_shape)
        return float(itemsize * sum(np.prod(shape) for shape in arrays))

    def __str__(self) -> str:
        width = f"w{self.w}" if self.w != self.h else ""
        text = f"n{self.n}c{self.c}h{self.h}{width}k{self.k}r{self.r}"
        for letter, usual in (("s", 1), ("p", 0), ("d", 1), ("g", 1)):
            value = getattr(self, letter)
            text += f"{letter}{value}" if value != usual else ""
        return f"{text} {self.direction}"


def parse(text: str) -> Case:
    """``"n32c64h28k64r3s2p1 grad-input"``; without a second word the forward pass."""
    shape, _, direction = text.strip().partition(" ")
    pairs = re.findall(r"([a-z])(\d+)", shape)
    sizes = {letter: int(number) for letter, number in pairs}
    if "".join(map("".join, pairs)) != shape or not set("nchkr") <= set(sizes) <= set("nchwkrspdg"):
        raise UnknownCase(f"conv2d: {text!r} is no shape: expected {SYNTAX}")
    if (direction or "forward") not in PASSES:
        raise UnknownCase(f"conv2d: {direction!r} is no pass: expected one of {', '.join(PASSES)}")
    sizes.setdefault("w", sizes["h"])
    case = Case(**sizes, direction=direction or "forward")
    if not all(value for letter, value in sizes.items() if letter != "p"):
        raise UnknownCase(f"conv2d: {shape}: sizes must be at least 1")
    if case.c % case.g or case.k % case.g:
        raise UnknownCase(f"conv2d: {shape}: {case.g} groups do not divide the channels")
    if min(case.output_shape) < 1:
        raise UnknownCase(f"conv2d: {shape}: the kernel is larger than the padded image")
    return case


def make(case: Case, library: str, dtype: str, threads: int) -> Job:
    x, w, grad, bias = operands(case, dtype)
    if library == "tinydl":
        return tinydl_job(case, x, w, grad, bias)
    if library in ("torch:nchw", "torch:channels-last"):
        return torch_job(case, library.partition(":")[2], x, w, grad, bias)
    if library.startswith("ladder:"):
        from tinydl.bench.ladders import convolution_rung

        return convolution_rung(library.partition(":")[2], case, x, w, bias)
    raise NotOffered(f"conv2d: no library {library!r}")


def operands(case: Case, dtype: str) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    rng = np.random.default_rng(0)
    shapes = ((case.n, case.h, case.w, case.c), case.kernel_shape, case.output_shape, (case.k,))
    x, w, grad, bias = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w, grad, bias


def tinydl_job(case: Case, x: NDArray, w: NDArray, grad: NDArray, bias: NDArray) -> Job:
    import tinydl_kernels as kernels

    window: dict[str, Any] = {
        "strides": case.s,
        "padding": case.p,
        "dilation": case.d,
        "groups": case.g,
    }
    dw, db = np.empty_like(w), np.zeros_like(bias)
    calls: dict[str, Callable[[], NDArray]] = {
        "forward": lambda: kernels.conv2d(x, w, bias=bias, **window),
        "grad-input": lambda: kernels.conv2d_grad_input(grad, w, x.shape, **window),
        "grad-weight": lambda: kernels.conv2d_grad_weight(
            x, grad, w.shape, out=dw, bias_grad=db, **window
        ),
    }
    call = calls[case.direction]
    kept: list[Any] = [None]  # images are allocated in each call, by all contenders alike

    def run() -> None:
        kept[0] = call()

    return Job(run, lambda: kept[0])


def torch_job(case: Case, layout: str, x: NDArray, w: NDArray, grad: NDArray, bias: NDArray) -> Job:
    """Forward as a user calls it; each gradient alone through the function that autograd calls."""
    import torch

    memory = torch.channels_last if layout == "channels-last" else torch.contiguous_format

    def images(array: NDArray) -> Any:  # (N, H, W, C) -> (N, C, H, W)
        return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=memory)

    xt, gt, bt = images(x), images(grad), torch.from_numpy(bias)
    wt = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous(memory_format=memory)
    pair = [[value, value] for value in (case.s, case.p, case.d)]
    kept: list[Any] = [None]

    def forward() -> None:
        kept[0] = torch.nn.functional.conv2d(
            xt, wt, bt, stride=case.s, padding=case.p, dilation=case.d, groups=case.g
        )

    def backward() -> None:
        wanted = [case.direction == "grad-input", *[case.direction == "grad-weight"] * 2]
        kept[0] = torch.ops.aten.convolution_backward(
            gt, xt, wt, [case.k], *pair, False, [0, 0], case.g, wanted
        )

    def result() -> NDArray:
        if case.direction == "forward":
            return kept[0].permute(0, 2, 3, 1).numpy()
        if case.direction == "grad-input":
            return kept[0][0].permute(0, 2, 3, 1).numpy()
        return kept[0][1].permute(2, 3, 1, 0).numpy()

    return Job(forward if case.direction == "forward" else backward, result)
