"""The gradient of a batch in a fixed number of pieces: the same bits, however many ranks compute them (see tree.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.distributed.replicas import Replicas
from tinydl.distributed.strategy import (
    COUNT,
    Compute,
    Sums,
    add_regularization,
    length,
    remember,
    rows,
)
from tinydl.distributed.tree import leaves_of, tree_sum
from tinydl.distributed.world import share


class VirtualShards:
    """Forward and backward, one virtual shard after another; sums, gradients and states added in the fixed tree.

    Args:
        strategy: attached to a model.
        shards: how many the batch of all ranks is cut into.
    """

    def __init__(self, strategy: Replicas, shards: int) -> None:
        self.strategy = strategy
        self.model = strategy.model
        self.world = strategy.world
        self.shards = shards

    def gradients(self, compute: Compute, batch: Any, step: int) -> Sums:
        states: list[NDArray] = self.model.states
        before = [state.copy() for state in states]
        place = self.places(batch)
        kept: list[Sums] = []

        def leaf(k: int) -> NDArray:
            for state, start in zip(states, before, strict=True):
                state[...] = start
            self.strategy.reseed_dropout(step, k)
            self.model.store.zero_grad()
            compute(rows(batch, place[k]), remember(kept))
            return np.concatenate([self.model.store.grads, *(state.ravel() for state in states)])

        total = tree_sum(self.world, self.shards, leaf)
        sums = self.sum_in_order(kept)
        gradients, averages = np.split(total, [self.model.store.grads.size])
        np.multiply(gradients, 1.0 / max(sums[COUNT], 1.0), out=self.model.store.grads)
        add_regularization(self.model)
        start = 0
        for state in states:
            mean = averages[start : start + state.size] / self.shards
            state[...] = mean.reshape(state.shape)
            start += state.size
        return sums

    def places(self, batch: Any) -> dict[int, slice]:
        """Which rows of this rank's part of the batch each of its shards has."""
        rank, size = self.world.rank, self.world.size
        everyone = np.array([length(batch)])
        self.world.allreduce(everyone)
        samples = int(everyone[0])
        own = share(samples, rank, size)
        wrong = np.array([int(own.stop - own.start != length(batch))])
        self.world.allreduce(wrong, "max")
        if wrong[0]:
            raise ValueError(
                "deterministic training needs arrays or a DataLoader, which give every rank its share of a batch: "
                f"rank {rank} was given {length(batch)} samples of {samples}, and should have {own.stop - own.start}"
            )
        first, last = leaves_of(rank, size, self.shards)
        parts = {k: share(samples, k, self.shards) for k in range(first, last)}
        return {k: slice(p.start - own.start, p.stop - own.start) for k, p in parts.items()}

    def sum_in_order(self, own: list[Sums]) -> Sums:
        """Σ over all shards in their order: a table with a row for each, to which every rank adds its own rows."""
        first, last = leaves_of(self.world.rank, self.world.size, self.shards)
        table = np.zeros((self.shards, own[0].size))
        table[first:last] = own
        self.world.allreduce(table)  # each row is one rank's numbers plus zeros: exact in any order
        total = np.zeros(table.shape[1])
        for row in table:
            total += row
        return total
