"""How well a warp's accesses to memory fit together: counted, not timed.

The 32 threads of a warp ask at once. Shared memory has 32 banks of four bytes, each of which answers for one word at
a time; what goes to the same word is answered together. Accesses of 8 bytes are made for half a warp at a time, of 16
for a quarter. The device's memory is read and written in sectors of 32 bytes.

Source: NVIDIA, "CUDA C++ Programming Guide", sections "Shared Memory" and "Global Memory" of the compute capabilities.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BANKS, WORD, SECTOR, WARP = 32, 4, 32, 32


class Traffic(NamedTuple):
    """Of all a warp's accesses in one line of PTX."""

    line: int
    shared: bool
    writes: bool
    size: int  # bytes for each thread
    requests: int
    needed: int  # turns of the banks, or sectors, of all requests
    least: int  # that there could be with these bytes

    @property
    def ratio(self) -> float:
        """1 where nothing is wasted."""
        return self.needed / self.least


def traffic(accesses: np.ndarray) -> list[Traffic]:
    """From the accesses of the threads of a warp, each thread's in order."""
    found: dict[tuple, list] = defaultdict(lambda: [0, 0, 0])
    for (line, shared, writes, size), request in requests(accesses):
        needed, least = (turns if shared else sectors)(request, size)
        for i, count in enumerate((1, needed, least)):
            found[line, shared, writes, size][i] += count
    return [Traffic(*what, *counts) for what, counts in sorted(found.items())]


def requests(accesses: np.ndarray) -> Iterator[tuple[tuple, dict[int, int]]]:
    """What a warp asks for at once: each time that its threads come to a line. The address of each thread."""
    found: dict[tuple, dict[int, int]] = defaultdict(dict)
    times: dict[tuple, int] = defaultdict(int)
    for address, line, lane, size, shared, writes in accesses.tolist():
        what = line, bool(shared), bool(writes), size
        found[what, times[what, lane]][lane] = address
        times[what, lane] += 1
    for (what, _), request in found.items():
        yield what, request


def turns(request: dict[int, int], size: int) -> tuple[int, int]:
    """Turns of the banks, and the least that there could be for so many different words."""
    needed = least = 0
    together = WARP * WORD // max(size, WORD)  # threads
    for first in range(0, WARP, together):
        asked = [request[lane] for lane in range(first, first + together) if lane in request]
        words = {(address + place) // WORD for address in asked for place in range(0, size, WORD)}
        of_banks = Counter(word % BANKS for word in words)
        needed += max(of_banks.values(), default=0)
        least += -(-len(words) // BANKS)
    return needed, least


def sectors(request: dict[int, int], size: int) -> tuple[int, int]:
    """Sectors touched, and the least that there could be for so many different bytes."""
    words = {
        (address + place) // WORD for address in request.values() for place in range(0, size, WORD)
    }
    return len({word * WORD // SECTOR for word in words}), -(-len(words) * WORD // SECTOR)
