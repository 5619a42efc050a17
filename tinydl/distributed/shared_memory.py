"""Sums over ranks of one computer without messages: each rank reads the others' arrays where they lie.

An MPI library sums in shared memory by copying: into its own buffers and out of them, part by part. If the gradients
themselves lie in memory that all ranks see, the sum is two steps with nothing in between:

    barrier       all gradients are there
    rank r        adds up the r-th of N parts, from all ranks, into its own memory         reduce-scatter
    barrier       all parts are summed
    rank r        copies the parts that the others have summed                             all-gather
    barrier       all have read: the arrays may be written again

Every element is read N times and added once, by one rank: all ranks get the same bits. Memory that processes share is
MPI's own offer (MPI 4.1, section 12.2.3, MPI_Win_allocate_shared).
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.distributed.world import share

PIECE = 16384  # elements added at a time: they stay in the first-level cache from one rank's part to the next


class SharedArray:
    """A flat array of zeros for every rank of one computer, which the others can read. Made by all ranks together.

    Attributes:
        own: this rank's array.
    """

    def __init__(self, mpi: Any, communicator: Any, length: int, dtype: np.dtype) -> None:
        self._comm = communicator
        self._rank, self._size = communicator.rank, communicator.size
        whole_pages = -(-max(length, 1) * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        self._window = mpi.Win.Allocate_shared(whole_pages, 1, comm=communicator)
        memories = [self._window.Shared_query(rank)[0] for rank in range(self._size)]
        self._memory = memories[self._rank]
        self.own = np.frombuffer(self._memory, dtype, length)
        self.own[...] = 0
        self._others = {
            rank: np.frombuffer(memory, dtype, length)
            for rank, memory in enumerate(memories)
            if rank != self._rank
        }
        self._window.Lock_all(mpi.MODE_NOCHECK)
        self._first = self.own.__array_interface__["data"][0]

    @staticmethod
    def fits(ranks: int, length: int, dtype: np.dtype, folder: str = "/dev/shm") -> bool:
        """Whether there is room. MPI does not ask: a process that writes to memory that is not there just dies."""
        if not os.path.isdir(folder):
            return True  # not Linux; memory that is shared is not kept in files
        there = os.statvfs(folder)
        return 2 * ranks * length * dtype.itemsize < there.f_bavail * there.f_frsize

    def place_of(self, array: NDArray) -> slice | None:
        """Where in ``own`` this array lies; None if it lies elsewhere."""
        if not isinstance(array, np.ndarray):
            return None  # a GPU's
        start = array.__array_interface__["data"][0] - self._first
        if not 0 <= start < max(self.own.nbytes, 1) or array.dtype != self.own.dtype:
            return None
        first = start // self.own.itemsize
        return slice(first, first + array.size)

    def reduce_scatter(self, place: slice, part: NDArray) -> None:
        """``part`` becomes this rank's ``share`` of the sum of all ranks' ``place``."""
        self._meet()
        mine = self._parts(place)[self._rank]
        others = [array[mine] for array in self._others.values()]
        own = self.own[mine]
        for start in range(0, part.size, PIECE):
            piece = slice(start, start + PIECE)
            np.add(own[piece], others[0][piece], out=part[piece])
            for other in others[1:]:
                part[piece] += other[piece]
        self._meet()  # nobody writes there before all have read

    def all_gather(self, place: slice) -> None:
        """Every rank's ``place`` becomes whole, from the ``share`` of it that each has."""
        self._meet()
        parts = self._parts(place)
        for rank, array in self._others.items():
            self.own[parts[rank]] = array[parts[rank]]
        self._meet()  # nobody writes there before all have read

    def allreduce(self, place: slice) -> None:
        """Every rank's ``place`` becomes the sum of all ranks'."""
        self.reduce_scatter(place, self.own[self._parts(place)[self._rank]])
        self.all_gather(place)

    def in_use(self) -> bool:
        """Whether anybody else refers to ``own`` or to a part of it: to read it when it is freed ends the process."""
        reference = weakref.ref(self.own)
        dtype, length = self.own.dtype, self.own.size
        del self.own
        still = reference()
        self.own = np.frombuffer(self._memory, dtype, length) if still is None else still
        return still is not None

    def free(self) -> None:
        """All ranks call this together, when it is in use on none."""
        self._window.Unlock_all()
        self._window.Free()

    def _parts(self, place: slice) -> list[slice]:
        parts = [share(place.stop - place.start, rank, self._size) for rank in range(self._size)]
        return [slice(place.start + p.start, place.start + p.stop) for p in parts]

    def _meet(self) -> None:
        """What every rank has written before, every rank reads after."""
        self._window.Sync()
        self._comm.Barrier()
        self._window.Sync()
