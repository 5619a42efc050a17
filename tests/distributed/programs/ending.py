"""Ranks that add numbers together for ever; rank 1 ends in its fourth round, in the way that is asked for."""

import os
import signal
import sys

import numpy as np

from tinydl.distributed import world


def end(how: str) -> None:
    if how == "raise":
        raise ValueError("rank one has had enough")
    if how == "exit":
        sys.exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        raise MemoryError


w = world()
how = sys.argv[1]
if how == "all alike":
    raise ValueError("nobody can do this")
if how == "all differ":
    raise ValueError(f"reason {w.rank}")
if how == "all exit":
    sys.exit(5)
numbers = np.ones(10)
for turn in range(10**9):
    if turn == 3 and w.rank == 1:
        print("now", flush=True)
        end(how)
    w.allreduce(numbers)
    numbers /= w.size
