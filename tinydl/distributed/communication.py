"""Sums of buckets over all ranks, running beside the backward pass: two ways, and one that does not overlap.

MPI libraries move data mostly while the program is inside an MPI call. So an ``Iallreduce`` that was started and
then left alone hardly advances while the kernels of the backward pass run. And a thread that stays inside a blocking
``Allreduce`` keeps asking whether something has arrived, which takes half of the core from these kernels where there
is one rank a core. Either a thread of its own looks in on the sum now and then and sleeps in between
(``ThreadedSums``), or the training thread looks in on its requests between layers (``PolledSums``), which is late
where a layer takes long. benchmarks/scaling.md has what was measured.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from tinydl.distributed.world import World

Sum = Callable[[slice], None]  # sums one bucket over all ranks, in place


class BlockingSums:
    """Every bucket is summed when it is handed over: nothing overlaps, nothing can go wrong.

    Attributes:
        seconds_waited: by the training thread, so far.
    """

    def __init__(self, total: Sum) -> None:
        self._sum = total
        self.seconds_waited = 0.0

    def start(self, bucket: slice) -> None:
        began = time.perf_counter()
        self._sum(bucket)
        self.seconds_waited += time.perf_counter() - began

    def poll(self) -> None:
        """Called between layers."""

    def finish(self, last: list[slice]) -> None:
        """Backward is over. Sum the ``last`` buckets, and wait until all others are summed."""
        for bucket in last:
            self.start(bucket)

    def close(self) -> None:
        """Let go of threads. After an error sums may be under way that will never end: wait for none."""


class PolledSums(BlockingSums):
    """Non-blocking allreduces of slices of ``buffer``, moved on by a look at them after each layer."""

    def __init__(self, world: World, buffer: NDArray) -> None:
        self._world = world
        self._buffer = buffer
        self._requests: list[Any] = []
        self.seconds_waited = 0.0

    def start(self, bucket: slice) -> None:
        self._requests.append(self._world.start_allreduce(self._buffer[bucket]))

    def poll(self) -> None:
        if self._requests:
            self._world.progress(self._requests)

    def finish(self, last: list[slice]) -> None:
        super().finish(last)
        began = time.perf_counter()
        self._world.finish(self._requests)
        self._requests = []
        self.seconds_waited += time.perf_counter() - began


class ThreadedSums(BlockingSums):
    """One thread that runs the sums in the order in which they were started.

    While the training thread computes, the sum is a non-blocking one, at which this thread looks every ``PAUSE``.
    When the training thread has nothing left to do but to wait, it stays inside the MPI library instead.
    More than one such thread would be slower: they would wait for each other inside the library.

    The last bucket, and so all of a small model, is summed by the training thread itself: a word to another thread
    takes longer than to sum a few kilobytes.

    Args:
        total: sums a bucket through ``world``.
        world: for these sums only.
    """

    PAUSE = 0.0005  # seconds; a link of 1 Gbit/s moves 64 KB meanwhile, less than sockets hold
    LOOKS = 10  # at a time: Open MPI asks the network only in every eighth of its calls

    def __init__(self, total: Sum, world: World) -> None:
        super().__init__(total)
        self._world = world
        self._jobs: queue.SimpleQueue[slice | None] = queue.SimpleQueue()
        self._started = 0
        self._done = threading.Semaphore(0)
        self._backward_is_over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tinydl-allreduce", daemon=True)
        self._thread.start()

    def start(self, bucket: slice) -> None:
        self._backward_is_over.clear()
        self._started += 1
        self._jobs.put(bucket)

    def finish(self, last: list[slice]) -> None:
        began = time.perf_counter()
        self._backward_is_over.set()
        while self._started:
            self._done.acquire()
            self._started -= 1
        if self._error is None:
            for bucket in last:
                self._sum(bucket)
        self.seconds_waited += time.perf_counter() - began
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._jobs.put(None)
        if not self._started:
            self._thread.join()

    def _run(self) -> None:
        while (bucket := self._jobs.get()) is not None:
            try:
                if self._error is None:
                    self._world.wait = self._wait
                    self._sum(bucket)
            except BaseException as error:
                self._error = error  # raised in the training thread, at the end of its step
            self._world.wait = None
            self._done.release()

    def _wait(self, request: Any) -> None:
        """Until a non-blocking collective is done."""
        while not any(request.Test() for _ in range(self.LOOKS)):
            if self._backward_is_over.wait(self.PAUSE):
                request.Wait()
                return
