"""The device's memory as the simulator sees it, with every access checked."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided


class Memory:
    """Stands for the address of an array's first element: `memory[i]` is what lies i elements on.

    An index outside the array's bounds is an error here; on a GPU it would read or write something
    else. `aligned(i, n)` tells whether n elements at i could be moved by one 16-byte access.
    """

    def __init__(self, x: np.ndarray) -> None:
        steps = [stride // x.itemsize for stride in x.strides]
        last = [(size - 1) * step for size, step in zip(x.shape, steps, strict=True)]
        before = sum(min(0, span) for span in last) if x.size else 0
        behind = sum(max(0, span) for span in last) + 1 if x.size else 0
        lowest = x[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in steps)]
        shape, strides = (behind - before,), (x.itemsize,)
        self._flat = as_strided(lowest, shape, strides, writeable=x.flags.writeable)
        self._first = -before
        self._address = x.__array_interface__["data"][0]

    def _at(self, index: Any) -> int:
        place = self._first + int(index)
        if not 0 <= place < len(self._flat):
            raise IndexError(f"element {index} lies outside the array")
        return place

    def __getitem__(self, index: Any) -> Any:
        return self._flat[self._at(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._flat[self._at(index)] = value

    def moved(self, elements: Any) -> Memory:
        """The memory as seen from an element, which need not exist."""
        there = object.__new__(Memory)
        there._flat, there._first = self._flat, self._first + int(elements)
        there._address = self._address + int(elements) * self._flat.itemsize
        return there

    def aligned(self, index: Any, elements: int) -> bool:
        size = elements * self._flat.itemsize
        return (self._address + int(index) * self._flat.itemsize) % size == 0


class Warps:
    """Lets the threads of one warp hand values to each other, as tensor cores do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._warps: dict[Any, tuple[threading.Barrier, list[Any]]] = {}

    def exchange(self, value: Any) -> list[Any]:
        """What each of the 32 threads of this thread's warp gave, in their order."""
        thread: Any = threading.current_thread()
        with self._lock:
            key = id(thread._manager), thread.thread_id // 32
            if key not in self._warps:
                self._warps[key] = threading.Barrier(32), [None] * 32
            barrier, values = self._warps[key]
        values[thread.thread_id % 32] = value
        barrier.wait(timeout=60)
        seen = list(values)
        barrier.wait(timeout=60)
        return seen


WARPS = Warps()
