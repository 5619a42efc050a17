"""Every rank says where it is; together they add up a million numbers."""

import os

import numpy as np

from tinydl.distributed import world

w = world()
numbers = np.full(1_000_000, w.rank + 1, np.float32)
w.allreduce(numbers)
right = bool((numbers == w.size * (w.size + 1) / 2).all())
print(f"rank {w.rank} of {w.size} on {os.uname().nodename}: {right}", flush=True)
