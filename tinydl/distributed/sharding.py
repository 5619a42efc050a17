"""The optimizer's slots shared out among the ranks: stage 1 of ZeRO.

Adam keeps two numbers for every parameter, the same two on every rank. Here each rank keeps 1/N of them:

    reduce-scatter:   rank r gets the sum of all ranks' gradients for its own 1/N of every bucket
    rank r's optimizer updates these parameters, and has slots for no others
    all-gather:       every rank gets the updated parameters of all

An allreduce is a reduce-scatter and an all-gather, so as much travels as without sharding.

    gradient buffer     [ bucket 0: a₀ b₀ | bucket 1: a₁ b₁ | … ]      N = 2: a is rank 0's, b is rank 1's
    rank 0's shard      [ a₀ a₁ … ]

Source: Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, section 5.1, with buckets, so that the reduce-scatter of one
runs beside the backward pass of the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.distributed.buckets import cut
from tinydl.distributed.reduction import AllReduce
from tinydl.distributed.world import share
from tinydl.optimizers import Optimizer
from tinydl.parameters import ParameterStore, Segment, aligned_zeros


class Shard:
    """This rank's part of a store: to an optimizer, a store of its own.

    Has the ``values``, ``grads``, ``segments`` and ``dtype`` of a ``ParameterStore``. Segments are those of the whole
    store, in the same order, cut to what lies in this shard (nothing, of some).

    Args:
        buckets: of the whole store; this rank has its ``share`` of each.
        in_place: values and gradients are those of the whole store, not copies; there must be one bucket.
    """

    def __init__(
        self,
        store: ParameterStore,
        buckets: list[slice],
        rank: int,
        size: int,
        in_place: bool = False,
    ) -> None:
        self.dtype = store.dtype
        self.whole = store
        parts = [share(b.stop - b.start, rank, size) for b in buckets]
        self.sources = [
            slice(b.start + p.start, b.start + p.stop) for b, p in zip(buckets, parts, strict=True)
        ]
        ends = np.cumsum([0, *(s.stop - s.start for s in self.sources)])
        self.places = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        self.in_place = in_place
        if in_place:
            [source] = self.sources
            self.values, self.grads = store.values[source], store.grads[source]
        else:
            self.values = aligned_zeros(int(ends[-1]), store.dtype)
            self.grads = aligned_zeros(int(ends[-1]), store.dtype)
        self.segments = [
            Segment(s.parameter, self.place_of(s.start), self.place_of(s.stop))
            for s in store.segments
        ]

    def place_of(self, position: int) -> int:
        """How many elements of the shard lie before ``position`` of the whole buffer."""
        return sum(min(max(position - s.start, 0), s.stop - s.start) for s in self.sources)

    def take(self, whole: NDArray, part: NDArray) -> None:
        """Copy what is this rank's from a buffer laid out as the whole store."""
        for source, place in zip(self.sources, self.places, strict=True):
            part[place] = whole[source]


class ShardedUpdate(AllReduce):
    """Sums of gradients of which each rank gets its shard, and the update of that shard.

    Raises:
        ValueError: the optimizer needs more than one element at a time, so it cannot work on a shard.
    """

    can_poll = False
    sent_as_they_are = ("grads", "values")
    optimizer: Optimizer | None = None  # that has slots for the shard only

    def detach(self) -> None:
        super().detach()
        del self.shard

    def buckets(self, bucket_bytes: int, first_bucket_bytes: int) -> list[slice]:
        """All of the buffer: which part is whose must not depend on what is frozen at the moment."""
        self.slices = [slice(0, self.buffer.size)]
        # What all ranks see needs no copies, if each rank's part is in one piece.
        in_place = self.world.shares(self.store.grads) and self.world.shares(self.store.values)
        if not in_place:
            itemsize = self.buffer.itemsize
            self.slices = cut(self.slices, itemsize, bucket_bytes, first_bucket_bytes)
        self.shard = Shard(self.store, self.slices, self.world.rank, self.world.size, in_place)
        self._number = {bucket.start: k for k, bucket in enumerate(self.slices)}
        return self.slices

    def total(self, bucket: slice) -> None:
        place = self.shard.places[self._number[bucket.start]]
        self.world.reduce_scatter(self.buffer[bucket], self.shard.grads[place])

    # ---- the optimizer, on its shard ----------------------------------------------------------------------

    def take_over(self, optimizer: Optimizer) -> None:
        """From here on ``optimizer`` has slots for this rank's shard only. They are cut out of what it had."""
        if type(optimizer).step is not Optimizer.step:
            raise ValueError(
                f"shard_optimizer needs an optimizer that updates each element by itself; {optimizer.label} looks at "
                "whole layers"
            )
        whole_slots, self.optimizer = optimizer.slots, optimizer
        optimizer.store = self.shard  # type: ignore[assignment]
        optimizer.norm = self.norm  # type: ignore[method-assign]
        optimizer.slots = {}
        for name in list(whole_slots):
            part = aligned_zeros(self.shard.values.size, self.store.dtype)
            self.shard.take(whole_slots.pop(name), part)
            optimizer.slots[name] = part

    def update(self, loss: float) -> float:
        """The optimizer's step on every rank's own shard, then everyone's parameters to everyone."""
        assert self.optimizer is not None
        if not self.shard.in_place:
            self.shard.take(self.store.values, self.shard.values)
        info = self.optimizer.step(loss)
        self.gather(self.shard.values, self.store.values)
        return info.learning_rate

    def gather(self, part: NDArray, whole: NDArray) -> None:
        for bucket, place in zip(self.slices, self.shard.places, strict=True):
            self.world.all_gather(part[place], whole[bucket])

    def norm(self, arrays: Iterable[NDArray]) -> float:
        """Of gradients of which each rank has a part. Not finite on one rank is an error on all."""
        square = np.array([math.fsum(kernels.squared_norm(a) for a in arrays)])
        self.world.allreduce(square)
        if not math.isfinite(square[0]):
            self.refuse()
        return math.sqrt(square[0])

    def refuse(self) -> None:
        """An error on every rank that names the first gradient which is not finite, in the order of backward."""
        segments = self.shard.segments
        bad = [
            k
            for k, s in enumerate(segments)
            if s.parameter.trainable and not kernels.all_finite(self.shard.grads[s.start : s.stop])
        ]
        first = np.array([min(bad, default=len(segments))])
        self.world.allreduce(first, "min")
        where = "gradient" if first[0] == len(segments) else segments[first[0]].parameter.name
        raise FloatingPointError(
            f"the gradient of '{where}' is not finite: nothing was updated (a smaller learning rate, "
            "global_clipnorm or cleaner data may help)"
        )

    # ---- whole slots again --------------------------------------------------------------------------------

    def whole_state(self) -> dict[str, Any]:
        """The optimizer's ``state_dict`` with whole slots, on rank 0; on others with what they have."""
        assert self.optimizer is not None
        state = self.optimizer.state_dict()
        for name, part in self.optimizer.slots.items():
            whole = np.zeros_like(self.store.values) if self.world.rank == 0 else None
            for bucket, place in zip(self.slices, self.shard.places, strict=True):
                self.world.gather(part[place], None if whole is None else whole[bucket])
            if whole is not None:
                state["slots"][name] = whole
        return state

    def give_back(self) -> None:
        """The optimizer has all slots again, on every rank."""
        assert self.optimizer is not None
        for name, part in self.optimizer.slots.items():
            whole = aligned_zeros(self.store.values.size, self.store.dtype)
            self.gather(part, whole)
            self.optimizer.slots[name] = whole
        self.let_go()

    def let_go(self) -> None:
        """The optimizer is a usual one again; after an error without its slots, which nobody can give back."""
        optimizer, self.optimizer = self.optimizer, None
        if optimizer is not None:
            whole = self.store.values.size
            complete = all(slot.size == whole for slot in optimizer.slots.values())
            optimizer.store = self.store if complete else None
            del optimizer.norm
