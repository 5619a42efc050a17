"""Data-parallel training that talks only now and then: every rank takes some steps alone, then all meet.

Stich 2018, "Local SGD Converges Fast and Communicates Little", arXiv 1805.09767, algorithm 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import whole_number
from tinydl.distributed.gpu_ranks import through_host
from tinydl.distributed.replicas import Replicas
from tinydl.distributed.strategy import COUNT, TOTAL, Compute, Sums


class LocalSGD(Replicas):
    """Each rank updates its own parameters w_r by its own gradients; every ``every`` steps all take the mean:

        w_r ← Σ_r n_r/n w_r             n_r: samples of rank r since the last meeting, n = Σ n_r

    With ``every=1`` and an update that is linear in the gradient (SGD, momentum) that is ``DataParallel``. With a
    larger one there is that much less traffic, and the ranks' parameters drift apart in between: the result
    is another one, often as good while ``every`` is small.

    The optimizer's slots are averaged like the parameters (Yu, Jin, Yang 2019, arXiv 1905.03817, algorithm 1, for
    momentum), so that after a meeting all ranks are equal and a checkpoint holds everything. The ranks also meet at the
    end of an epoch and before a checkpoint. Loss and metrics become known when they meet; so does a Ctrl-C.

    Args:
        every: steps from one meeting to the next.
        check_every: compare the parameters across ranks every so many meetings; 0 never.
    """

    def __init__(self, every: int = 8, check_every: int = 100) -> None:
        super().__init__(check_every)
        self.every = whole_number("LocalSGD: every", every)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "every": self.every}

    def attach(self, model: Any, seed: int) -> None:
        super().attach(model, seed)
        self.pending: Sums | None = None  # of this rank since the last meeting
        self.meetings = 0

    # ---- a step, of this rank alone -----------------------------------------------------------------------

    def gradients(self, compute: Compute, batch: Any, step: int, passes: int = 1) -> Sums:
        if self.world.size > 1:
            self.reseed_dropout(step, self.world.rank)
        return super().gradients(compute, batch, step, passes)

    def after_update(self, step: int, sums: Sums) -> Sums:
        """Remember the sums; those of all ranks, since the last meeting, when they meet, zeros until then."""
        if self.pending is None:
            self.pending = np.zeros_like(sums)
        if math.isfinite(sums[TOTAL]):
            self.pending += sums
        return self.meet() if step % self.every == 0 else np.zeros_like(sums)

    # ---- all ranks ----------------------------------------------------------------------------------------

    def meet(self) -> Sums:
        """The mean of all ranks' parameters, slots and scalars; the sum of their sums."""
        assert self.pending is not None
        own, sums, self.pending = self.pending[COUNT], self.pending, None
        self.world.allreduce(sums)
        weight = float(own / sums[COUNT]) if sums[COUNT] else 1.0 / self.world.size
        optimizer = self.model.optimizer
        for array in (self.store.values, *optimizer.slots.values()):
            self.average(array, weight)
        scalars = np.array(list(optimizer.scalars.values()))
        self.average(scalars, weight)
        optimizer.scalars = dict(zip(optimizer.scalars, map(float, scalars), strict=True))
        self.meetings += 1
        super().after_update(self.meetings, sums)
        return sums

    def average(self, array: NDArray, weight: float) -> None:
        array *= weight
        through_host(array, self.world.allreduce)

    def synchronize(self) -> Sums | None:
        super().synchronize()
        return None if self.pending is None else self.meet()
