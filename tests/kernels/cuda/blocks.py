"""Blocks of threads in Numba's simulator, that wait without keeping the others from work.

The simulator's own loop asks every thread, over and over, whether it waits at a barrier, and takes the time for
that from those that compute: with 128 threads, most of it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest


class Barrier:
    """Lets threads go on when all that have not ended wait."""

    def __init__(self, threads: int) -> None:
        self._changed = threading.Condition()
        self._alive, self._waiting, self._round = threads, 0, 0
        self._failed = False

    def wait(self) -> None:
        with self._changed:
            self._waiting += 1
            this_round = self._round
            self._release()
            self._changed.wait_for(lambda: self._failed or self._round != this_round)
            if self._failed:
                raise Stopped("another thread of the block failed")

    def leave(self, failed: bool) -> None:
        with self._changed:
            self._alive -= 1
            self._failed |= failed
            self._release()

    def _release(self) -> None:
        if self._waiting == self._alive or self._failed:
            self._waiting = 0
            self._round += 1
            self._changed.notify_all()


class Stopped(Exception):
    """What threads raise that did not fail themselves."""


def use_barriers(patch: pytest.MonkeyPatch) -> None:
    """Let the simulator run its blocks so."""
    from numba.cuda.simulator import kernel

    run_and_keep_exception = kernel.BlockThread.run

    def run_thread(self: Any) -> None:
        run_and_keep_exception(self)
        self._manager.barrier.leave(self.exception is not None)

    def run_block(self: Any, block: Any, *arguments: Any) -> None:
        places = list(np.ndindex(*self._block_dim))
        self.barrier = Barrier(len(places))
        threads = [
            kernel.BlockThread(lambda: self._f(*arguments), self, block, place, self._debug)
            for place in places
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failures = [thread.exception for thread in threads if thread.exception]
        failures.sort(key=lambda failure: isinstance(failure[0], Stopped))
        if failures:
            raise failures[0][0].with_traceback(failures[0][1])

    patch.setattr(kernel.BlockThread, "syncthreads", lambda self: self._manager.barrier.wait())
    patch.setattr(kernel.BlockThread, "run", run_thread)
    patch.setattr(kernel.BlockManager, "run", run_block)
