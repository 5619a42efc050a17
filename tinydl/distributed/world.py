"""The world: the processes that train together, one or many.

Everything else asks ``world().rank`` and ``world().size`` and calls its few collectives. Only this file imports
mpi4py, and only in a process that an MPI launcher started; everywhere else the world has one process, every
collective is the identity, and nobody needs to ask which case it is.

Arrays travel as they lie in memory, through mpi4py's upper-case calls; the lower-case ones would pickle them.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.distributed.faults import watch
from tinydl.distributed.launchers import LaunchError

# What launchers tell the processes that they start: Open MPI, MPICH (Hydra) and its kin, PMIx, Slurm with PMI.
LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")
# Where `tinydl launch`, Open MPI and MPICH say how many they started.
SIZE_VARIABLES = ("TINYDL_RANKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def share(length: int, rank: int, size: int) -> slice:
    """The rank-th of ``size`` neighbouring parts of ``length`` elements, which differ by one element at most."""
    return slice(rank * length // size, (rank + 1) * length // size)


class World:
    """One process alone. ``MPIWorld`` has the same methods for many.

    Collectives must be called by all ranks, in the same order. ``side`` is a second world of the same ranks with an
    order of its own, for collectives that run in another thread; all ranks ask for it together the first time.

    Attributes:
        local_rank: this rank's number among those on the same computer.
        seconds: spent in this world's blocking calls so far.
        threads: whether two threads may call the MPI library at once.
        wait: where it is set, collectives are begun only, and this function waits until their request is done.
        one_computer: whether all ranks are on the same one.
        reads_gpu_memory: whether ``allreduce`` may be given arrays on a GPU; nothing else may.
    """

    rank = 0
    size = 1
    local_rank = 0
    seconds = 0.0
    threads = True
    one_computer = True
    reads_gpu_memory = False
    wait: Callable[[Any], None] | None = None

    @property
    def side(self) -> World:
        return self

    def split(self, color: int) -> World:
        """The world of those ranks that give the same ``color``, in the order of their ranks here."""
        return self

    def allreduce(self, array: NDArray, op: str = "sum") -> None:
        """In place: every rank's ``array`` becomes the element-wise sum (or "max", "min") over all ranks."""

    def start_allreduce(self, array: NDArray) -> Any:
        """Begin an in-place sum and return a request; the array must be left alone until it is done."""
        return None

    def finish(self, requests: list[Any]) -> None:
        """Wait until all these requests are done."""

    def progress(self, requests: list[Any]) -> bool:
        """Give the MPI library a moment to move data (many do so only inside calls). Are all requests done?"""
        return True

    def all_to_all(self, send: NDArray, receive: NDArray) -> None:
        """``receive[r]`` becomes what rank r holds in its ``send[this rank]``. First axis: one row a rank."""
        receive[...] = send

    def reduce_scatter(self, array: NDArray, part: NDArray) -> None:
        """``part`` becomes this rank's ``share`` of the sum of all ranks' flat ``array``."""
        part[...] = array

    def all_gather(self, part: NDArray, array: NDArray) -> None:
        """The flat ``array`` becomes the concatenation of every rank's ``part``, its ``share`` of it."""
        array[...] = part

    def gather(self, part: NDArray, array: NDArray | None) -> None:
        """As ``all_gather``, on rank 0 alone; ``array`` may be None on the others."""
        assert array is not None
        array[...] = part

    def broadcast(self, array: NDArray, root: int = 0) -> None:
        """In place: every rank's ``array`` becomes rank ``root``'s."""

    def broadcast_text(self, text: str | None, root: int = 0) -> str:
        """Rank ``root``'s ``text`` on every rank."""
        assert text is not None
        return text

    def shared_array(self, length: int, dtype: np.dtype) -> NDArray | None:
        """Zeros in memory that all ranks see, where collectives need no messages. None where there is none to be had.

        All ranks call this together.
        """
        return None

    def free_unused_arrays(self) -> None:
        """Give back the shared arrays that no rank refers to any more. All ranks call this together."""

    def shares(self, array: NDArray) -> bool:
        """Whether ``array`` lies in a shared array. There a collective's result may replace what it is made from."""
        return False

    def barrier(self) -> None:
        """Wait for all ranks."""


class MPIWorld(World):
    """The processes that an MPI launcher started together, or some of them."""

    def __init__(self, mpi: Any, communicator: Any) -> None:
        self._mpi = mpi
        self._comm = communicator
        self.rank = communicator.rank
        self.size = communicator.size
        self.threads = mpi.Query_thread() == mpi.THREAD_MULTIPLE
        self._ops = {"sum": mpi.SUM, "max": mpi.MAX, "min": mpi.MIN}
        same_computer = communicator.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank = same_computer.rank
        self.one_computer = same_computer.size == self.size
        same_computer.Free()
        self._shared: list[Any] = []

    @functools.cached_property
    def side(self) -> World:  # type: ignore[override]
        return MPIWorld(self._mpi, self._comm.Dup())

    @functools.cached_property
    def reads_gpu_memory(self) -> bool:  # type: ignore[override]
        from tinydl.distributed.gpu_ranks import reads_gpu_memory

        return reads_gpu_memory(self._mpi)

    def split(self, color: int) -> World:
        return MPIWorld(self._mpi, self._comm.Split(color, self.rank))

    def allreduce(self, array: NDArray, op: str = "sum") -> None:
        shared, place = self._in_shared_memory(array)
        if shared is not None and op == "sum":
            self._timed(shared.allreduce, place)
        else:
            self._collective("Allreduce", self._mpi.IN_PLACE, array, self._ops[op])

    def start_allreduce(self, array: NDArray) -> Any:
        return self._comm.Iallreduce(self._mpi.IN_PLACE, array, self._mpi.SUM)

    def finish(self, requests: list[Any]) -> None:
        began = time.perf_counter()
        self._mpi.Request.Waitall(requests)
        self.seconds += time.perf_counter() - began

    def progress(self, requests: list[Any]) -> bool:
        return self._mpi.Request.Testall(requests)

    def all_to_all(self, send: NDArray, receive: NDArray) -> None:
        self._collective("Alltoall", send, receive)

    def reduce_scatter(self, array: NDArray, part: NDArray) -> None:
        shared, place = self._in_shared_memory(array)
        if shared is not None:
            self._timed(shared.reduce_scatter, place, part)
        else:
            counts = self._counts(array.size)
            self._collective("Reduce_scatter", array, part, counts, self._mpi.SUM)

    def all_gather(self, part: NDArray, array: NDArray) -> None:
        shared, place = self._in_shared_memory(array)
        if shared is not None:
            if not self.shares(part):
                array[share(array.size, self.rank, self.size)] = part
            self._timed(shared.all_gather, place)
        else:
            self._collective("Allgatherv", part, [array, self._counts(array.size)])

    def gather(self, part: NDArray, array: NDArray | None) -> None:
        receive = None if array is None else [array, self._counts(array.size)]
        self._collective("Gatherv", part, receive)

    def broadcast(self, array: NDArray, root: int = 0) -> None:
        self._collective("Bcast", array, root)

    def broadcast_text(self, text: str | None, root: int = 0) -> str:
        encoded = np.frombuffer((text or "").encode(), np.uint8).copy()
        length = np.array([encoded.size])
        self.broadcast(length, root)
        if self.rank != root:
            encoded = np.empty(length[0], np.uint8)
        self.broadcast(encoded, root)
        return encoded.tobytes().decode()

    def shared_array(self, length: int, dtype: np.dtype) -> NDArray | None:
        from tinydl.distributed.shared_memory import SharedArray

        fits = self.one_computer and SharedArray.fits(self.size, length, dtype)
        everywhere = np.array([float(fits)])
        self.allreduce(everywhere, "min")
        if not everywhere[0]:
            return None
        self._shared.append(SharedArray(self._mpi, self._comm, length, dtype))
        return self._shared[-1].own

    def free_unused_arrays(self) -> None:
        used = np.array([float(shared.in_use()) for shared in self._shared])
        self.allreduce(used, "max")
        for shared, kept in zip(self._shared, used, strict=True):
            if not kept:
                shared.free()
        self._shared = [shared for shared, kept in zip(self._shared, used, strict=True) if kept]

    def shares(self, array: NDArray) -> bool:
        return self._in_shared_memory(array)[0] is not None

    def _in_shared_memory(self, array: NDArray) -> tuple[Any, slice]:
        """The shared array that ``array`` is a part of, and which part."""
        for shared in self._shared:
            place = shared.place_of(array)
            if place is not None:
                return shared, place
        return None, slice(0)

    def barrier(self) -> None:
        self._collective("Barrier")

    def _counts(self, length: int) -> list[int]:
        """Elements of every rank's share."""
        parts = [share(length, rank, self.size) for rank in range(self.size)]
        return [part.stop - part.start for part in parts]

    def _collective(self, name: str, *arguments: Any) -> None:
        """Call the communicator's ``name``: it blocks; or its non-blocking twin, where ``wait`` does the waiting."""
        wait = self.wait
        if wait is None:
            self._timed(getattr(self._comm, name), *arguments)
        else:
            self._timed(lambda: wait(getattr(self._comm, f"I{name.lower()}")(*arguments)))

    def _timed(self, call: Callable, *arguments: Any) -> None:
        began = time.perf_counter()
        call(*arguments)
        self.seconds += time.perf_counter() - began


@functools.cache
def world() -> World:
    """The world of this process: of many ranks where an MPI launcher started it, else of one."""
    if not started_by_launcher():
        return World()
    # Shared arrays are all that windows are used for here. Open MPI also offers them over UCX, and complains on the
    # screen where there is no network for it.
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")
    try:
        from mpi4py import MPI
    except ImportError as error:
        variable = next((v for v in LAUNCHER_VARIABLES if v in os.environ), "an MPI variable")
        raise ImportError(
            f"this process was started by an MPI launcher ({variable} is set), but mpi4py cannot be imported "
            f"({error}): pip install 'tinydl[mpi]', or install mpi4py against your cluster's MPI"
        ) from error
    require_all(MPI)
    if MPI.COMM_WORLD.size == 1:
        return World()
    watch(MPI.COMM_WORLD.Dup())  # errors of one rank end all
    return MPIWorld(MPI, MPI.COMM_WORLD.Dup())  # a space of our own for messages


def started_by_launcher() -> bool:
    return "mpi4py.MPI" in sys.modules or any(v in os.environ for v in LAUNCHER_VARIABLES)


def require_all(mpi: Any) -> None:
    """Launchers tell the ranks how many they started: are they one world, or does each train by itself?"""
    size = mpi.COMM_WORLD.size
    wanted = next((os.environ[name] for name in SIZE_VARIABLES if name in os.environ), str(size))
    if wanted != str(size):
        library = mpi.Get_library_version().splitlines()[0]
        raise LaunchError(
            f"{wanted} ranks were launched, but this one sees {size}: mpi4py uses another MPI ({library}) than the "
            "mpiexec that started it. Install mpi4py with the MPI whose mpiexec is beside python or first on the PATH"
        )
