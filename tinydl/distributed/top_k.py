"""Gradients with fewer numbers on the wire: only the largest, the rest is remembered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.distributed.reduction import AllReduce
from tinydl.distributed.world import World
from tinydl.parameters import ParameterStore


class ErrorFeedback(AllReduce):
    """Base of reductions that leave something out: what a step leaves out is added to the next step's gradient.

    With e_r = 0 at first, on rank r in each step:

        u_r = g_r + e_r              what there is to send
        c_r = C(u_r)                 what is sent
        e_r = u_r - c_r              remembered
        g   = Σ_r c_r                what the optimizer sees, on all ranks

    Nothing is lost, only delayed: Σ over steps of g differs from that of the true gradients by Σ_r e_r alone.

    In a checkpoint Σ_r e_r stands for all e_r, and from there on every rank has an equal part of it: in the run that
    goes on as in one that is resumed, with any number of ranks.

    Source: Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with Memory", arXiv 1809.07599, algorithm 1.
    """

    can_poll = False
    sent_as_they_are = ()

    def attach(self, world: World, store: ParameterStore) -> None:
        super().attach(world, store)
        self.error: NDArray = np.zeros_like(self.buffer)

    def state_dict(self) -> dict[str, Any]:
        total = self.error.copy()
        self.world.allreduce(total)
        self.load_state_dict({"error": total})
        return {"error": total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        np.divide(state["error"], self.world.size, out=self.error)


class TopK(ErrorFeedback):
    """The largest entries of every bucket, with their places: 8 bytes for each in float32.

    Every rank receives what each rank sends, (N-1) · 8 · ratio bytes an element of the gradient: it pays where that
    is well below the 8 (N-1)/N of an allreduce, so for ratio ≪ 1/N.

    Args:
        ratio: share of the entries that are sent, in (0, 1].

    Source: Aji & Heafield 2017, "Sparse Communication for Distributed Gradient Descent", arXiv 1704.05021, with
    ``ErrorFeedback``.
    """

    def __init__(self, ratio: float = 0.01) -> None:
        if not (isinstance(ratio, float | int) and 0 < ratio <= 1):
            raise ValueError(f"TopK: ratio must be in (0, 1], got {ratio!r}")
        self.ratio = float(ratio)

    def total(self, bucket: slice) -> None:
        gradient, u = self.buffer[bucket], self.error[bucket]
        u += gradient
        count = math.ceil(self.ratio * u.size)
        # NaN counts as largest here, so it is sent, and seen by the optimizer.
        places = np.argpartition(np.abs(u), u.size - count)[u.size - count :].astype(np.int32)
        values = u[places]
        u[places] = 0

        all_places = np.empty((self.world.size, count), np.int32)
        all_values = np.empty((self.world.size, count), u.dtype)
        self.world.all_gather(places, all_places.reshape(-1))
        self.world.all_gather(values, all_values.reshape(-1))
        gradient[...] = 0
        for where, what in zip(all_places, all_values, strict=True):  # in the order of ranks
            gradient[where] += what  # a rank's places differ from each other

    def config(self) -> dict[str, Any]:
        return {"ratio": self.ratio}
