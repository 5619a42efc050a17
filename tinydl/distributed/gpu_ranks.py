"""Ranks that compute on GPUs: their gradients on the way to the sum over all ranks, and back.

Each rank has a GPU of its own (`devices.require`), and the training thread only gives orders to it. So
while the GPU is still computing the gradients of the first layers, a thread of the CPU has those of the last ones
copied to the host in a stream of their own, summed by MPI, and copied back:

    computing stream    backward of layer 3 | layer 2         | layer 1         | wait | the optimizer's step
    copying stream                          | bucket 0 to host         | back |
    thread                                                 | MPI's sum |

An MPI library that reads the GPU's memory itself (a CUDA-aware one) gets the bucket where it lies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from tinydl import devices
from tinydl.distributed.reduction import AllReduce
from tinydl.distributed.world import World
from tinydl.parameters import ParameterStore


def reads_gpu_memory(mpi: Any) -> bool:
    """Whether this MPI library says that it can be given the GPU's memory; those that do not say (others than Open MPI
    and MPICH) cannot."""
    library = ctypes.CDLL(mpi.__file__)  # with the symbols of the MPI that mpi4py was linked to
    asked = getattr(library, "MPIX_Query_cuda_support", None)
    return asked is not None and bool(asked())


def through_host(array: Any, collective: Callable[[NDArray], None]) -> None:
    """``collective(array)``, which works in place; of an array on a GPU by way of the host."""
    host = devices.to_host(array)
    collective(host)
    if host is not array:
        devices.assign(array, host)


class HostMirror:
    """What a reduction sees of a store on a GPU: the layout, and a gradient buffer in the host's memory."""

    def __init__(self, store: ParameterStore) -> None:
        self.segments, self.dtype = store.segments, store.dtype
        self.grads = devices.pinned(store.grads.shape, store.dtype)
        self.grads[...] = 0


class GPUGradients:
    """Sums buckets of a gradient buffer that lies on a GPU.

    ``computed`` is called by the training thread when it has ordered all that writes into a bucket, ``total`` by the
    thread that sums; ``finish`` by the training thread, before it orders what reads the sums.
    """

    def __init__(self, world: World, store: ParameterStore, reduction: AllReduce) -> None:
        self._direct = world.reads_gpu_memory and type(reduction) is AllReduce
        seen: Any = store if self._direct else HostMirror(store)
        reduction.attach(world, seen)
        self._grads: Any = store.grads
        self._host, self._total = seen.grads, reduction.total
        cuda = devices.library().cuda
        self._gpu = cuda.Device()  # the current one, also for the thread that sums
        self._copies = cuda.Stream(non_blocking=True)
        self._computed: dict[int, Any] = {}

    def computed(self, bucket: slice) -> None:
        self._computed[bucket.start] = devices.library().cuda.get_current_stream().record()

    def total(self, bucket: slice) -> None:
        with self._gpu, self._copies:
            self._copies.wait_event(self._computed.pop(bucket.start))
            if self._direct:
                self._copies.synchronize()
                self._total(bucket)
                return
            self._grads[bucket].get(out=self._host[bucket], blocking=False)
            self._copies.synchronize()
            self._total(bucket)
            self._grads[bucket].set(self._host[bucket], stream=self._copies)

    def finish(self) -> None:
        devices.library().cuda.get_current_stream().wait_event(self._copies.record())
