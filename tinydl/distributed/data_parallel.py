"""Data-parallel training: every rank has the whole model and a part of each batch.

Goyal et al. 2017, "Accurate, Large Minibatch SGD", arXiv 1706.02677, section 3; Li et al. 2020, "PyTorch
Distributed", arXiv 2006.15704. One step, on every rank at once:

    forward and loss on this rank's samples
    allreduce of [Σ loss, count, metrics]           a few numbers: the global loss, equal everywhere
    backward; as a bucket of gradients becomes final, its sum over ranks starts     (buckets.py, communication.py)
    wait for the last bucket; the optimizer's step, the same on every rank

All ranks begin with rank 0's parameters and apply equal updates, so they stay equal; every ``check_every`` steps a
checksum confirms it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from tinydl.distributed.buckets import Buckets
from tinydl.distributed.communication import BlockingSums, PolledSums, ThreadedSums
from tinydl.distributed.drift import check_equal
from tinydl.distributed.strategy import COUNT, Gradients, SingleProcess, Sums, T
from tinydl.distributed.tree import tree_sum
from tinydl.distributed.world import world
from tinydl.randomness import stream

MEBIBYTE = 1 << 20


class DataParallel(SingleProcess):
    """Train on all ranks of the world, each on its part of every batch.

        model.fit(x, y, batch_size=256, strategy=tl.distributed.DataParallel())      # 256 over all ranks together

    Args:
        deterministic: the same weights, to the last bit, for every number of ranks that divides ``shards``. The
            batch is cut into that many virtual shards, one forward and backward pass each, whose gradients are
            added in one fixed tree (tree.py). It costs the larger kernels' efficiency, and the overlap.
        shards: virtual shards of a batch with ``deterministic``.
        bucket_bytes, first_bucket_bytes: size of the slices of the gradient buffer that are summed at a time.
        overlap: "thread" or "poll" sum buckets beside the backward pass, "none" after it (communication.py).
        check_every: compare the parameters across ranks every so many steps; 0 never.
    """

    def __init__(
        self,
        deterministic: bool = False,
        shards: int = 8,
        bucket_bytes: int = 4 * MEBIBYTE,
        first_bucket_bytes: int = MEBIBYTE // 4,
        overlap: Literal["thread", "poll", "none"] = "thread",
        check_every: int = 100,
    ) -> None:
        for name, value in (("shards", shards), ("bucket_bytes", bucket_bytes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"DataParallel: {name} must be a positive whole number, got {value!r}"
                )
        if overlap not in ("thread", "poll", "none"):
            raise ValueError(
                f"DataParallel: overlap must be 'thread', 'poll' or 'none', got {overlap!r}"
            )
        self.world = world()
        if deterministic and shards % self.world.size:
            raise ValueError(
                f"DataParallel: {shards} virtual shards cannot be dealt evenly to {self.world.size} ranks; "
                f"choose shards as a multiple of {self.world.size}"
            )
        self.deterministic = deterministic
        self.shards = shards
        self.bucket_bytes = bucket_bytes
        self.first_bucket_bytes = first_bucket_bytes
        self.overlap = overlap
        self.check_every = check_every

    # ---- beginning and end --------------------------------------------------------------------------------

    def attach(self, model: Any, seed: int) -> None:
        """Rank 0's parameters, states and optimizer state become everyone's."""
        self.model, self.seed = model, seed
        self.store = model.store
        for array in (
            self.store.values,
            *(state for _, state in model.named_states()),
            *model.optimizer.slots.values(),
        ):
            self.world.broadcast(array)
        self.buckets = Buckets(
            self.store, model.layers_in_order(), self.bucket_bytes, self.first_bucket_bytes
        )
        self.sums = self._make_sums()
        if not self.deterministic and self.world.size > 1:
            for layer in model.layers_in_order():
                layer.after_backward = self._layer_finished

    def detach(self) -> None:
        if not hasattr(self, "sums"):
            return  # training ended before it began
        self.sums.close()
        for layer in self.model.layers_in_order():
            layer.after_backward = None

    def _make_sums(self) -> BlockingSums:
        if self.overlap == "poll":
            return PolledSums(self.world)
        if self.overlap == "thread" and self.world.size > 1 and not self.deterministic:
            return ThreadedSums(self.world.allreduce)
        return BlockingSums(self.world.allreduce)

    # ---- a step -------------------------------------------------------------------------------------------

    def gradients(self, compute: Gradients, batch: Any, step: int) -> Sums:
        if self.deterministic:
            return self._gradients_in_shards(compute, batch, step)
        if self.world.size > 1:
            self._reseed_dropout(step, self.world.rank)
        self.buckets.restart()
        sums = compute(batch, self.world.allreduce, self.world.rank == 0)
        self._start(self.buckets.rest())
        self.sums.finish()
        return sums

    def _layer_finished(self, layer: Any) -> None:
        self._start(self.buckets.finished(layer))
        self.sums.poll()

    def _start(self, slices: list[slice]) -> None:
        for part in slices:
            self.sums.start(self.store.grads[part])

    def _reseed_dropout(self, step: int, part: int) -> None:
        """Random numbers that depend on the step and on the part of the batch, not on what was drawn before."""
        for k, layer in enumerate(self.model.random_layers):
            layer.rng = stream(self.seed, "dropout", k, step, part)

    def _gradients_in_shards(self, compute: Gradients, batch: Any, step: int) -> Sums:
        """One forward and backward pass a virtual shard; sums, gradients and states added in the fixed tree."""
        states = [state for _, state in self.model.named_states()]
        before = [state.copy() for state in states]
        own = np.array([_length(batch)])
        self.world.allreduce(own)
        edges = [k * int(own[0]) // self.shards for k in range(self.shards + 1)]
        first_row = self.world.rank * int(own[0]) // self.world.size
        all_sums: list[tuple[int, Sums]] = []

        def leaf(k: int) -> Any:
            for state, start in zip(states, before, strict=True):
                state[...] = start
            self._reseed_dropout(step, k)
            rows = slice(edges[k] - first_row, edges[k + 1] - first_row)

            def share(sums: Sums) -> None:
                all_sums.append((k, sums.copy()))
                sums[COUNT] = (
                    1.0  # no division here: by the number of samples of the whole batch, at the end
                )

            compute(_rows(batch, rows), share, False)
            return np.concatenate([self.store.grads, *(state.ravel() for state in states)])

        total = tree_sum(self.world, self.shards, leaf)
        sums = self._sum_of_shards(all_sums)
        gradients, averages = np.split(total, [self.store.grads.size])
        np.multiply(gradients, 1.0 / max(sums[COUNT], 1.0), out=self.store.grads)
        for p, r in self.model.regularized:
            p.grad += r.gradient(p.value)
        offset = 0
        for state in states:
            state[...] = (averages[offset : offset + state.size] / self.shards).reshape(state.shape)
            offset += state.size
        return sums

    def _sum_of_shards(self, own: list[tuple[int, Sums]]) -> Sums:
        """Σ over all shards in their order: a table with a row for each, to which every rank adds its own rows."""
        table = np.zeros((self.shards, own[0][1].size))
        for k, sums in own:
            table[k] = sums
        self.world.allreduce(
            table
        )  # every row has one rank's numbers and zeros: exact in any order
        total = np.zeros(table.shape[1])
        for row in table:
            total += row
        return total

    # ---- between steps ------------------------------------------------------------------------------------

    def part_of(self, source: Any) -> Any:
        """Each rank reads its own rows of a loader's batches. Other iterables must give each rank its own batches."""
        return source.part(self.world.rank, self.world.size)

    def in_turn(self, prepare: Callable[[], T]) -> T:
        if self.world.rank == 0:
            result = prepare()
        self.world.barrier()
        if self.world.rank != 0:
            result = prepare()
        return result

    def after_update(self, step: int) -> None:
        if self.check_every and step % self.check_every == 0:
            check_equal(self.world, self.store, step)

    def synchronize_states(self) -> None:
        """The mean of the ranks' running statistics; with ``deterministic`` they are equal already."""
        if self.world.size == 1 or self.deterministic:
            return
        for _, state in self.model.named_states():
            self.world.allreduce(state)
            state /= self.world.size


def _length(batch: Any) -> int:
    x = batch[0]
    return len(x[0] if isinstance(x, list) else x)


def _rows(batch: Any, rows: slice) -> Any:
    """Some samples of (x, y, weight), each an array, a list of arrays, or None."""

    def take(data: Any) -> Any:
        if data is None:
            return None
        return [array[rows] for array in data] if isinstance(data, list) else data[rows]

    return tuple(take(data) for data in batch)
