"""How many blocks of a kernel a multiprocessor holds at once.

While one warp waits, another computes; so a kernel needs enough of them, and what they need has to fit:
registers, shared memory, places for warps and blocks. Limits and rounding: NVIDIA, "CUDA C++ Programming
Guide", table "Technical Specifications per Compute Capability", and the occupancy calculator that comes
with Nsight Compute.
"""

from __future__ import annotations

from typing import NamedTuple

from .device import Usage

WARP = 32


class Multiprocessor(NamedTuple):
    """What a multiprocessor has; memory in bytes."""

    registers: int
    shared: int
    warps: int
    blocks: int


MULTIPROCESSORS = {
    (8, 0): Multiprocessor(65536, 164 * 1024, 64, 32),
    (9, 0): Multiprocessor(65536, 228 * 1024, 64, 32),
}
REGISTER_UNIT = 256  # registers are given to a warp in multiples of this,
SHARED_UNIT = 128  # shared memory to a block in multiples of this


def blocks_at_once(usage: Usage, threads: int, compute: tuple) -> int:
    """Blocks of so many threads that fit on a multiprocessor of a compute capability."""
    has = MULTIPROCESSORS[compute[:2]]
    warps = -(-threads // WARP)
    registers = _rounded(usage.registers * WARP, REGISTER_UNIT) * warps
    shared = _rounded(usage.shared, SHARED_UNIT)
    return min(
        has.blocks,
        has.warps // warps,
        has.registers // registers,
        has.shared // max(1, shared),
    )


def _rounded(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
