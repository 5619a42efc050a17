"""Gradients with fewer numbers on the wire: matrices of low rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import whole_number
from tinydl.distributed.top_k import ErrorFeedback
from tinydl.distributed.world import World
from tinydl.parameters import ParameterStore, Segment


@dataclass
class LowRank:
    """A parameter seen as a matrix, (n, m) = (all axes but the last, last axis), and its q (m, rank)."""

    part: slice
    shape: tuple[int, int]
    q: NDArray


class PowerSGD(ErrorFeedback):
    """Every weight's gradient as a product of two thin matrices, p (n, rank) and q (m, rank).

    Rank r has M_r = G_r + E_r (n, m); M = Σ_r M_r is never formed. One step of a power iteration, begun with the q of
    the step before, finds the best p and q nearly as well as an SVD would:

        p   ← Σ_r M_r q               allreduce of n · rank numbers
        p   ← orthonormal columns of p
        q_r = M_rᵀ p
        q   ← Σ_r q_r                 allreduce of m · rank numbers
        E_r ← M_r - p q_rᵀ            error feedback
        G   = p qᵀ                    = p pᵀ M

    (n + m) · rank numbers in place of n · m. Vectors, and matrices too small to gain, are sent as they are.

    Args:
        rank: columns of p and q.

    Source: Vogels, Karimireddy, Jaggi 2019, "PowerSGD", arXiv 1905.13727, algorithms 1 and 2.
    """

    def __init__(self, rank: int = 4) -> None:
        self.rank = whole_number("PowerSGD: rank", rank)

    def attach(self, world: World, store: ParameterStore) -> None:
        super().attach(world, store)
        self.matrices: dict[str, LowRank] = {}
        for k, s in enumerate(store.segments):
            n, m = s.parameter.size // max(s.parameter.shape[-1:] or (1,)), s.parameter.shape[-1:]
            if m and (n + m[0]) * self.rank < n * m[0]:
                # Any start will do that no gradient is orthogonal to, and that is the same on all ranks.
                q = np.random.default_rng(k).standard_normal((m[0], self.rank))
                self.matrices[s.parameter.name] = LowRank(
                    slice(s.start, s.stop), (n, m[0]), q.astype(store.dtype)
                )

    def buckets(self, bucket_bytes: int, first_bucket_bytes: int) -> list[slice]:
        """Whole parameters, as many as make up ``bucket_bytes``."""
        self._inside: dict[int, list[Segment]] = {}  # by where the bucket starts
        found: list[slice] = []
        room = 0  # bytes that the last bucket has left
        for s in self.store.segments:
            if not s.parameter.trainable:
                continue
            if room <= 0:
                room = bucket_bytes if found else first_bucket_bytes
                found.append(slice(s.start, s.stop))
                self._inside[s.start] = []
            found[-1] = slice(found[-1].start, s.stop)
            self._inside[found[-1].start].append(s)
            room -= (s.stop - s.start) * self.buffer.itemsize
        return found

    def total(self, bucket: slice) -> None:
        segments = self._inside[bucket.start]
        low = [m for s in segments if (m := self.matrices.get(s.parameter.name))]
        plain = [s for s in segments if s.parameter.name not in self.matrices]
        ms = [self.error[m.part].reshape(m.shape) for m in low]
        for matrix, m in zip(ms, low, strict=True):
            matrix += self.buffer[m.part].reshape(m.shape)

        ps = [kernels.matmul(matrix, m.q) for matrix, m in zip(ms, low, strict=True)]
        self.sum_all([*ps, *(self.buffer[s.start : s.stop] for s in plain)])
        for p in ps:
            orthonormalize(p)
        qs = [kernels.matmul(matrix.T, p) for matrix, p in zip(ms, ps, strict=True)]
        for matrix, p, q in zip(ms, ps, qs, strict=True):
            kernels.matmul(p, q.T, out=matrix, alpha=-1.0, beta=1.0)
        self.sum_all(qs)
        for m, matrix, p, q in zip(low, ms, ps, qs, strict=True):
            kernels.matmul(p, q.T, out=self.buffer[m.part].reshape(m.shape))
            if np.isfinite(q).all():
                m.q = q
            else:  # the optimizer will refuse this gradient; the next step must not remember it
                matrix[...] = 0

    def sum_all(self, arrays: list[NDArray]) -> None:
        """The sums over all ranks, in place, in one call: a call has a price of its own."""
        if not arrays:
            return
        flat = np.concatenate([array.reshape(-1) for array in arrays])
        self.world.allreduce(flat)
        start = 0
        for array in arrays:
            array[...] = flat[start : start + array.size].reshape(array.shape)
            start += array.size

    def state_dict(self) -> dict[str, Any]:
        q = {name: m.q.copy() for name, m in self.matrices.items()}
        return {**super().state_dict(), "q": q}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for name, q in state.get("q", {}).items():
            self.matrices[name].q = np.array(q)

    def config(self) -> dict[str, Any]:
        return {"rank": self.rank}


def orthonormalize(p: NDArray) -> None:
    """The columns of p (n, rank) at length 1 and at right angles to each other, in place.

    Gram and Schmidt's method: from each column its components along those before it are taken away. A column of
    which only rounding errors are left becomes 0.
    """
    at_first = np.linalg.norm(p, axis=0)
    for k in range(p.shape[1]):
        column = p[:, k]
        length = np.linalg.norm(column)
        nothing = length <= 1000 * np.finfo(p.dtype).eps * at_first[k]
        column *= 0 if nothing else 1 / length
        p[:, k + 1 :] -= column[:, None] * (column @ p[:, k + 1 :])
