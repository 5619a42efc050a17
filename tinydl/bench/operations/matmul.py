"""Matrix products, C = A B, with either operand stored transposed."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydl.bench.operations import Job, NotOffered, UnknownCase

TRANSPOSES = ("NN", "TN", "NT", "TT")
DEFAULT_SHAPES = (
    *(f"{n}x{n}x{n}" for n in (128, 256, 512, 1024, 2048)),
    "128x784x512",
    "64x576x8192",
    "64x1024x10",
)


@dataclass(frozen=True)
class Case:
    """(M, K) @ (K, N). ``transposes``: of A, then of B; T is stored as its transpose, as in BLAS."""

    m: int
    k: int
    n: int
    transposes: str = "NN"

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.k * self.n

    def bytes(self, itemsize: int) -> float:
        """A and B read once, C written once."""
        return float(itemsize * (self.m * self.k + self.k * self.n + self.m * self.n))

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n} {self.transposes}"


def parse(text: str) -> Case:
    """``"128x784x512"`` or ``"512"`` (a cube), with NN, TN, NT or TT behind a space where it is not NN."""
    match = re.fullmatch(r"(\d+)(?:x(\d+)x(\d+))?(?: ([NT]{2}))?", text.strip())
    sizes = [int(s) for s in match.groups()[:3] if s] if match else []
    if match is None or not all(sizes):
        raise UnknownCase(
            f"matmul: {text!r} is no shape: expected MxKxN (128x784x512) or one size for all three (512)"
        )
    m, k, n = (sizes * 3)[:3]
    return Case(m, k, n, match[4] or "NN")


def make(case: Case, library: str, dtype: str, threads: int) -> Job:
    a, b = operands(case, dtype)
    if library == "tinydl":
        import tinydl_kernels as kernels

        out = np.empty((case.m, case.n), dtype)
        return Job(lambda: kernels.matmul(a, b, out), lambda: out)
    if library == "numpy":
        out = np.empty((case.m, case.n), dtype)
        return Job(lambda: np.matmul(a, b, out=out), lambda: out)
    if library == "torch":
        return torch_job(a, b)
    if library.startswith("ladder:"):
        from tinydl.bench.ladders import matmul_rung

        return matmul_rung(library.partition(":")[2], a, b)
    raise NotOffered(f"matmul: no library {library!r}")


def operands(case: Case, dtype: str) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((case.m, case.k)).astype(dtype)
    b = rng.standard_normal((case.k, case.n)).astype(dtype)
    # The same numbers in the other order in memory: .T of a contiguous array of the transposed shape.
    return (
        np.ascontiguousarray(a.T).T if case.transposes[0] == "T" else a,
        np.ascontiguousarray(b.T).T if case.transposes[1] == "T" else b,
    )


def torch_job(a: NDArray, b: NDArray) -> Job:
    import torch

    x, y = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty(x.shape[0], y.shape[1], dtype=x.dtype)
    return Job(lambda: torch.mm(x, y, out=out), out.numpy)
