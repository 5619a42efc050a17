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
        turned = (slice(None, None, -1) if step < 0 else slice(None) for step in steps)
        lowest = x[(*turned, ...)]  # a view, also of an array without axes
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

    def __mod__(self, number: int) -> int:
        return self._address % number

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


PATIENCE = 60  # seconds, until a wait is taken for one that never ends


class Arrivals:
    """A barrier in shared memory that copies arrive at; see `bulk`.

    Copies leave poison where they go, and take place when somebody waits for them: who does not, sees it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._copies: list[tuple[np.ndarray, int, Memory, int, int]] = []
        self._phase, self._expected = 0, -1
        self.fenced = False

    @staticmethod
    def at(place: int) -> Arrivals:
        """The barrier at a place of this block's array of barriers."""
        there = _arrivals()
        assert int(place) in there, (
            "a barrier that was not begun, or without a barrier of threads after it"
        )
        return there[int(place)]

    @staticmethod
    def begin(place: int) -> None:
        assert int(place) not in _arrivals(), "a barrier was begun twice"
        _arrivals()[int(place)] = Arrivals()

    @staticmethod
    def fence() -> None:
        for barrier in _arrivals().values():
            barrier.fenced = True

    def expect(self, size: int) -> None:
        with self._changed:
            assert self.fenced, "what copies was not told that the barrier was begun"
            assert self._expected < 0, "copies are expected before the last ones were waited for"
            self._expected = size
            self._changed.notify_all()

    def add(self, shared: np.ndarray, place: int, source: Memory, index: int, count: int) -> None:
        size = count * shared.itemsize
        assert size % 16 == 0 and place * shared.itemsize % 16 == 0, "not in runs of 16 bytes"
        assert source.aligned(index, 16 // shared.itemsize), "not aligned in the device's memory"
        assert place + count <= len(shared), "more is copied than there is shared memory"
        with self._changed:
            shared[place : place + count] = np.nan
            self._copies.append((shared, place, source, index, count))
            self._changed.notify_all()

    def wait(self, parity: int) -> None:
        with self._changed:
            ended = self._changed.wait_for(
                lambda: self._phase % 2 != parity or self._has_all(), PATIENCE
            )
            assert ended, "a wait for copies that never ends"
            if self._phase % 2 == parity:
                for shared, place, source, index, count in self._copies:
                    for i in range(count):
                        shared[place + i] = source[index + i]
                self._copies, self._expected = [], -1
                self._phase += 1

    def _has_all(self) -> bool:
        found = sum(count * shared.itemsize for shared, _, _, _, count in self._copies)
        return self._expected == found


def _arrivals() -> dict[int, Arrivals]:
    thread: Any = threading.current_thread()
    return vars(thread._manager).setdefault("arrivals", {})


class Wgmma:
    """What tensor cores compute for one thread of a warpgroup, while it does something else; see `wgmma`."""

    def __init__(self) -> None:
        self._groups: list[list[tuple]] = [[]]  # oldest first; the last is not committed yet
        self._sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # under way: what shows, what is
        self._left: dict[int, np.ndarray] = {}  # what the last products left in sums
        self._fenced = False

    @staticmethod
    def of_thread() -> Wgmma:
        return vars(threading.current_thread()).setdefault("wgmma", Wgmma())

    def fence(self) -> None:
        self._fenced = True

    def multiply(self, sums: np.ndarray, a: tuple, b: tuple, n: int, precision: str) -> None:
        thread: Any = threading.current_thread()
        warp, g, t = thread.thread_id // 32 % 4, thread.thread_id % 32 // 4, thread.thread_id % 4
        rows = 16 * warp + g + np.array([0, 8])
        columns = (8 * np.arange(n // 8)[:, np.newaxis] + 2 * t + np.arange(2)).ravel()
        key = id(sums)
        if key not in self._sums:
            untouched = key in self._left and np.array_equal(self._left[key], sums, equal_nan=True)
            assert self._fenced or untouched, "wgmma adds to sums that were not fenced"
            self._sums[key] = sums, sums.copy()
            sums[:] = np.nan
        self._fenced = False
        factors = []
        for (shared, bits), lines in ((a, rows), (b, columns)):
            words = shared.view(np.uint32)
            places = _core_matrices(bits, lines)
            factors.append((words, places, words[places]))
        self._groups[-1].append((key, factors, precision))

    def commit(self) -> None:
        self._groups.append([])

    def wait(self, younger: int) -> None:
        while len(self._groups) - 1 > younger:
            for key, factors, precision in self._groups.pop(0):
                self._add(key, factors, precision)
        under_way = {key for group in self._groups for key, *_ in group}
        for key in self._sums.keys() - under_way:
            shown, sums = self._sums.pop(key)
            assert np.isnan(shown).all(), "sums were written while wgmma added to them"
            shown[:] = sums
            self._left[key] = sums

    def _add(self, key: int, factors: list, precision: str) -> None:
        for words, places, seen in factors:
            same = np.array_equal(words[places], seen)
            assert same, "a factor in shared memory was overwritten while wgmma read it"
        a, b = (_numbers(seen, precision) for _, _, seen in factors)
        product = (a @ b.T).reshape(2, -1, 2)  # rows, pairs of columns
        self._sums[key][1][:] += product.transpose(1, 0, 2).ravel().astype(np.float32)


def _core_matrices(descriptor: int, rows: np.ndarray) -> np.ndarray:
    """Where the 32 bytes of each of these rows of a factor lie: places of 4 bytes, (rows, 8)."""
    start, leading, stride = ((descriptor >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    half, word = np.arange(2)[:, np.newaxis], np.arange(4)
    first = start + rows // 8 * stride + rows % 8 * 16
    places = first[:, np.newaxis, np.newaxis] // 4 + half * (leading // 4) + word
    return places.reshape(len(rows), 8)


def _numbers(words: np.ndarray, precision: str) -> np.ndarray:
    """What tensor cores read from words of 4 bytes."""
    if precision == "tf32":
        return (words & np.uint32(0xFFFFE000)).view(np.float32).astype(float)
    halves = np.ascontiguousarray(words).view(np.uint16).astype(np.uint32)
    return (halves << np.uint32(16)).view(np.float32).astype(float)
