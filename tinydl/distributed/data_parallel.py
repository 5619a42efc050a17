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

from typing import Any, Literal

from tinydl.arguments import whole_number
from tinydl.configs import from_config
from tinydl.devices import DeviceError
from tinydl.distributed.buckets import Buckets
from tinydl.distributed.communication import BlockingSums, PolledSums, ThreadedSums
from tinydl.distributed.compression import BFloat16, Float16
from tinydl.distributed.gpu_ranks import GPUGradients
from tinydl.distributed.power_sgd import PowerSGD
from tinydl.distributed.reduction import AllReduce
from tinydl.distributed.replicas import Replicas
from tinydl.distributed.sharding import ShardedUpdate
from tinydl.distributed.strategy import Compute, Sums
from tinydl.distributed.top_k import TopK
from tinydl.distributed.virtual_shards import VirtualShards
from tinydl.parameters import aligned_zeros

MEBIBYTE = 1 << 20
COMPRESSIONS: dict[str, type[AllReduce]] = {
    "bfloat16": BFloat16,
    "float16": Float16,
    "top_k": TopK,
    "power_sgd": PowerSGD,
}


class DataParallel(Replicas):
    """Train on all ranks of the world, each on its part of every batch.

        model.fit(x, y, batch_size=256, strategy=tl.distributed.DataParallel())      # 256 over all ranks together

    Args:
        deterministic: the same weights, to the last bit, for every number of ranks that divides ``shards``. The
            batch is cut into that many virtual shards, one forward and backward pass each, whose gradients are
            added in one fixed tree (tree.py). It costs the larger kernels' efficiency, and the overlap; validation
            data are measured as a whole by every rank.
        shards: virtual shards of a batch with ``deterministic``.
        bucket_bytes, first_bucket_bytes: size of the slices of the gradient buffer that are summed at a time.
        overlap: "thread" or "poll" sum buckets beside the backward pass, "none" after each of its parts
            (communication.py). "auto" is "thread" between computers and for GPUs, and "none" where all ranks are on one
            computer's cores: to move data through its memory is work for them, and leaves nothing to be hidden.
        compression: less traffic for a less exact gradient: "bfloat16" or "float16" on the wire (compression.py),
            ``TopK(ratio)`` (top_k.py) or ``PowerSGD(rank)`` (power_sgd.py), or their names.
        shard_optimizer: each rank keeps 1/N of the optimizer's slots, and updates 1/N of the parameters (sharding.py).
            On one computer that is faster, too, where an optimizer's pass over a large model keeps the memory busy.
            After a step ``grad`` holds the sum over ranks in this rank's part only.
        check_every: compare the parameters across ranks every so many steps; 0 never.
    """

    def __init__(
        self,
        deterministic: bool = False,
        shards: int = 8,
        bucket_bytes: int = 4 * MEBIBYTE,
        first_bucket_bytes: int = MEBIBYTE // 4,
        overlap: Literal["auto", "thread", "poll", "none"] = "auto",
        compression: AllReduce | str | dict | None = None,
        shard_optimizer: bool = False,
        check_every: int = 100,
    ) -> None:
        super().__init__(check_every)
        for name, value in (("deterministic", deterministic), ("shard_optimizer", shard_optimizer)):
            if value not in (True, False):
                raise ValueError(f"DataParallel: {name} must be True or False, got {value!r}")
        self.shards = whole_number("DataParallel: shards", shards)
        self.bucket_bytes = whole_number("DataParallel: bucket_bytes", bucket_bytes)
        self.first_bucket_bytes = whole_number(
            "DataParallel: first_bucket_bytes", first_bucket_bytes
        )
        if overlap not in ("auto", "thread", "poll", "none"):
            raise ValueError(
                f"DataParallel: overlap must be 'auto', 'thread', 'poll' or 'none', got {overlap!r}"
            )
        if deterministic and shards % self.world.size:
            raise ValueError(
                f"DataParallel: {shards} virtual shards cannot be dealt evenly to {self.world.size} ranks; "
                f"choose shards as a multiple of {self.world.size}"
            )
        chosen = {
            "deterministic": deterministic,
            "compression": compression is not None,
            "shard_optimizer": shard_optimizer,
        }
        if sum(chosen.values()) > 1:
            both = " and ".join(name for name, yes in chosen.items() if yes)
            raise ValueError(f"DataParallel: {both} cannot be combined, choose one")
        self.deterministic = deterministic
        self.overlap = overlap
        self.reduction = ShardedUpdate() if shard_optimizer else as_reduction(compression)
        if overlap == "poll" and not self.reduction.can_poll:
            raise ValueError(
                "DataParallel: overlap='poll' is for plain sums; with compression or shard_optimizer choose 'thread'"
            )

    # ---- beginning and end --------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        names = ("deterministic", "shards", "bucket_bytes", "first_bucket_bytes", "overlap")
        arguments: dict = getattr(self.reduction, "config", dict)()
        return {
            **super().options(),
            **{name: getattr(self, name) for name in names},
            "reduction": f"{type(self.reduction).__name__}({arguments or ''})",
        }

    def attach(self, model: Any, seed: int) -> None:
        super().attach(model, seed)
        if self.deterministic and self.synchronized_layers():
            raise ValueError(
                "SyncBatchNorm needs all of a batch at once, deterministic=True computes it shard by shard: use "
                "BatchNorm"
            )
        self.gpu: GPUGradients | None = None
        self._shares_memory = False
        if model.on_device:
            self._refuse_what_needs_the_host()
            self.gpu = GPUGradients(self.world.side, self.store, self.reduction)
        else:
            self._share_memory()
            self.reduction.attach(self.world.side, self.store)
        self.sums = self._make_sums()
        self._cut()
        if self.sharded is not None:
            self.sharded.take_over(model.optimizer)
        if self._way() != "none":
            for layer in model.layers_in_order():
                layer.after_backward = self._layer_finished

    def finish(self) -> None:
        if self.sharded is not None:
            self.sharded.give_back()
        self._leave_shared_memory()
        self.world.side.free_unused_arrays()

    def detach(self) -> None:
        if hasattr(self, "sums"):  # else training ended before it began
            self.sums.close()
            for layer in self.model.layers_in_order():
                layer.after_backward = None
            if self.sharded is not None:
                self.sharded.let_go()
            self._leave_shared_memory()
            del self.sums
        super().detach()

    @property
    def sharded(self) -> ShardedUpdate | None:
        shards = isinstance(self.reduction, ShardedUpdate) and self.world.size > 1
        return self.reduction if shards else None  # type: ignore[return-value]

    def part_of_validation(self, source: Any) -> Any:
        return source if self.deterministic else super().part_of_validation(source)

    def _way(self) -> str:
        """How sums overlap with backward: what ``overlap`` means here."""
        if self.world.size == 1 or self.deterministic:
            return "none"
        if self.overlap == "auto":
            # A GPU leaves the cores free, whose memory carries the sums.
            beside = self.model.on_device or not self.world.one_computer
            return "thread" if beside and self.world.threads else "none"
        return "none" if self.overlap == "thread" and not self.world.threads else self.overlap

    def _make_sums(self) -> BlockingSums:
        way = self._way()
        total = self.reduction.total if self.gpu is None else self.gpu.total
        if way == "thread":
            return ThreadedSums(total, self.world.side)
        if way == "poll":
            return PolledSums(self.world.side, self.store.grads)
        return BlockingSums(total)

    def _refuse_what_needs_the_host(self) -> None:
        for name, chosen in (
            ("deterministic=True", self.deterministic),
            ("shard_optimizer=True", isinstance(self.reduction, ShardedUpdate)),
            ("overlap='poll'", self.overlap == "poll"),
        ):
            if chosen:
                raise DeviceError(f"DataParallel: device='cuda' cannot be had with {name} yet")

    def _share_memory(self) -> None:
        """On one computer, gradients that all ranks see are summed without messages (shared_memory.py)."""
        if self._way() != "none" or self.deterministic:
            return
        for name in self.reduction.sent_as_they_are:
            buffer = getattr(self.store, name)
            shared = self.world.side.shared_array(buffer.size, buffer.dtype)
            if shared is not None:
                self.store.move(**{name: shared})
                self._shares_memory = True

    def _leave_shared_memory(self) -> None:
        if self._shares_memory:
            self._shares_memory = False
            size, dtype = self.store.values.size, self.store.dtype
            self.store.move(aligned_zeros(size, dtype), aligned_zeros(size, dtype))
            self.reduction.detach()

    def _cut(self) -> None:
        """The buckets, of those parameters that are trained at the moment."""
        slices = self.reduction.buckets(self.bucket_bytes, self.first_bucket_bytes)
        self.buckets = Buckets(self.store, self.model.layers_in_order(), slices)
        self._trainable = self._what_is_trainable()
        self._in_last_backward = False

    def _what_is_trainable(self) -> list[bool]:
        return [s.parameter.trainable for s in self.store.segments]

    # ---- a step -------------------------------------------------------------------------------------------

    def gradients(self, compute: Compute, batch: Any, step: int, passes: int = 1) -> Sums:
        if self.deterministic:
            return VirtualShards(self, self.shards).gradients(compute, batch, step)
        if self.world.size == 1:
            return super().gradients(compute, batch, step, passes)
        self.reseed_dropout(step, self.world.rank)
        sums = super().gradients(compute, batch, step, passes)
        self._finish_sums()
        self._in_last_backward = False
        return sums

    @property
    def regularizes(self) -> bool:
        return self.world.rank == 0  # gradients are summed

    def share(self, sums: Sums) -> None:
        self.world.allreduce(sums)

    def last_backward_begins(self) -> None:
        if self._what_is_trainable() != self._trainable:
            self._cut()  # a callback froze a layer, or thawed it
        self.buckets.restart()
        self._in_last_backward = True

    def _layer_finished(self, layer: Any) -> None:
        if self._in_last_backward:
            self._start(self.buckets.finished(layer))
            self.sums.poll()

    def _finish_sums(self) -> None:
        """Whatever backward left over; the last bucket has a place of its own, the same on all ranks."""
        rest = self.buckets.rest()
        self._start(rest[:-1])
        self._computed(rest[-1:])
        self.sums.finish(rest[-1:])
        if self.gpu is not None:
            self.gpu.finish()

    def _start(self, slices: list[slice]) -> None:
        self._computed(slices)
        for part in slices:
            self.sums.start(part)

    def _computed(self, slices: list[slice]) -> None:
        if self.gpu is not None:
            for part in slices:
                self.gpu.computed(part)

    def update(self, loss: float) -> float:
        return super().update(loss) if self.sharded is None else self.sharded.update(loss)

    # ---- between steps ------------------------------------------------------------------------------------

    def synchronize(self) -> Sums | None:
        """With ``deterministic`` the states are equal already."""
        return None if self.deterministic else super().synchronize()

    def add_up(self, sums: Sums) -> None:
        if not self.deterministic:
            super().add_up(sums)

    def training_state(self) -> dict[str, Any]:
        if self.sharded is not None:
            return {"optimizer": self.sharded.whole_state()}
        return {**super().training_state(), "reduction": self.reduction.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        if state.get("reduction"):
            self.reduction.load_state_dict(state["reduction"])

    @property
    def seconds_waited(self) -> float:
        sums = getattr(self, "sums", None)
        return self.world.seconds + (0.0 if sums is None else sums.seconds_waited)


def as_reduction(compression: AllReduce | str | dict | None) -> AllReduce:
    """The reduction that ``compression`` names or is."""
    if compression is None:
        return AllReduce()
    if isinstance(compression, AllReduce):
        return compression
    return from_config(compression, COMPRESSIONS, "compression")
