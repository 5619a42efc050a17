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
import traceback
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What launchers tell the processes that they start: Open MPI, MPICH (Hydra) and its kin, PMIx, Slurm with PMI.
LAUNCHER_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")


class World:
    """One process alone. ``MPIWorld`` has the same methods for many."""

    rank = 0
    size = 1
    local_rank = 0

    def allreduce(self, array: NDArray, op: str = "sum") -> None:
        """In place: every rank's ``array`` becomes the element-wise sum (or "max", "min") over all ranks."""

    def start_allreduce(self, array: NDArray) -> Any:
        """Begin an in-place sum and return a request; the array must be left alone until it is done."""
        return None

    def finish(self, requests: list[Any]) -> None:
        """Wait until all these requests are done."""

    def progress(self, requests: list[Any]) -> None:
        """Give the MPI library a moment to move data: many libraries do so only inside calls."""

    def all_to_all(self, send: NDArray, receive: NDArray) -> None:
        """``receive[r]`` becomes what rank r holds in its ``send[this rank]``. First axis: one row a rank."""
        receive[...] = send

    def reduce_scatter(self, array: NDArray, part: NDArray) -> None:
        """``part`` becomes this rank's slice (rank-th of equal ones) of the sum of all ``array``."""
        part[...] = array

    def all_gather(self, part: NDArray, array: NDArray) -> None:
        """``array`` becomes the concatenation of every rank's ``part``."""
        array.reshape(part.shape)[...] = part

    def broadcast(self, array: NDArray, root: int = 0) -> None:
        """In place: every rank's ``array`` becomes rank ``root``'s."""

    def broadcast_text(self, text: str | None, root: int = 0) -> str:
        """Rank ``root``'s ``text`` on every rank."""
        assert text is not None
        return text

    def barrier(self) -> None:
        """Wait for all ranks."""

    def abort(self, code: int = 1) -> None:
        """End every process of this world at once."""
        sys.exit(code)


class MPIWorld(World):
    """The processes that an MPI launcher started together."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD.Dup()  # a space of our own for messages
        self.rank = self._comm.rank
        self.size = self._comm.size
        self.local_rank = self._comm.Split_type(MPI.COMM_TYPE_SHARED).rank
        self._ops = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}

    def allreduce(self, array: NDArray, op: str = "sum") -> None:
        self._comm.Allreduce(self._mpi.IN_PLACE, array, self._ops[op])

    def start_allreduce(self, array: NDArray) -> Any:
        return self._comm.Iallreduce(self._mpi.IN_PLACE, array, self._mpi.SUM)

    def finish(self, requests: list[Any]) -> None:
        self._mpi.Request.Waitall(requests)

    def progress(self, requests: list[Any]) -> None:
        self._mpi.Request.Testall(requests)

    def all_to_all(self, send: NDArray, receive: NDArray) -> None:
        self._comm.Alltoall(send, receive)

    def reduce_scatter(self, array: NDArray, part: NDArray) -> None:
        self._comm.Reduce_scatter_block(array, part, self._mpi.SUM)

    def all_gather(self, part: NDArray, array: NDArray) -> None:
        self._comm.Allgather(part, array)

    def broadcast(self, array: NDArray, root: int = 0) -> None:
        self._comm.Bcast(array, root)

    def broadcast_text(self, text: str | None, root: int = 0) -> str:
        encoded = np.frombuffer((text or "").encode(), np.uint8).copy()
        length = np.array([encoded.size])
        self._comm.Bcast(length, root)
        if self.rank != root:
            encoded = np.empty(length[0], np.uint8)
        self._comm.Bcast(encoded, root)
        return encoded.tobytes().decode()

    def barrier(self) -> None:
        self._comm.Barrier()

    def abort(self, code: int = 1) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._mpi.COMM_WORLD.Abort(code)


@functools.cache
def world() -> World:
    """The world of this process: of many ranks where an MPI launcher started it, else of one."""
    if not started_by_launcher():
        return World()
    try:
        many = MPIWorld()
    except ImportError as error:
        variable = next(v for v in LAUNCHER_VARIABLES if v in os.environ)
        raise ImportError(
            f"this process was started by an MPI launcher ({variable} is set), but mpi4py cannot be imported "
            f"({error}): pip install 'tinydl[mpi]', or install mpi4py against your cluster's MPI"
        ) from error
    if many.size == 1:
        return World()
    stop_all_when_one_fails(many)
    return many


def started_by_launcher() -> bool:
    return "mpi4py.MPI" in sys.modules or any(v in os.environ for v in LAUNCHER_VARIABLES)


def stop_all_when_one_fails(many: World) -> None:
    """An uncaught error on one rank ends every rank, with that rank's own traceback.

    Without this the others would wait for ever in their next collective.
    """

    def stop(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        lines = "".join(traceback.format_exception(kind, error, trace)).splitlines()
        sys.stderr.write("".join(f"[rank {many.rank}] {line}\n" for line in lines))
        many.abort(1)

    sys.excepthook = stop
