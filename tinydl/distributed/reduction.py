"""How the ranks' gradients become their sum: as they are, or with less on the wire (see compression.py)."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tinydl.distributed.buckets import cut, stretches
from tinydl.distributed.world import World
from tinydl.parameters import ParameterStore


class AllReduce:
    """Every bucket becomes its sum over all ranks, in place and in one call of the MPI library.

    A subclass writes ``total``. One object serves one training at a time.
    """

    can_poll = True  # whether a non-blocking allreduce of the bucket does the same
    # The store's buffers that collectives get as they are: on one computer all ranks may see them.
    sent_as_they_are: tuple[str, ...] = ("grads",)

    def attach(self, world: World, store: ParameterStore) -> None:
        self.world = world
        self.store = store
        self.buffer: NDArray = store.grads

    def detach(self) -> None:
        """Refer no more to the buffers that the store had: they are to be given back."""
        del self.store, self.buffer

    def buckets(self, bucket_bytes: int, first_bucket_bytes: int) -> list[slice]:
        """The slices to be summed at a time; frozen parameters lie in none."""
        parts = stretches(self.store)
        return cut(parts, self.buffer.itemsize, bucket_bytes, first_bucket_bytes)

    def total(self, bucket: slice) -> None:
        """Sum a bucket of the gradient buffer over all ranks."""
        self.world.allreduce(self.buffer[bucket])

    # ---- what a checkpoint holds --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All ranks call this together; what rank 0 returns is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """On all ranks, with what rank 0 returned."""
