"""How blocks of one kernel know which of them is the last: it can use what all the others left in memory.

Blocks start in no certain order and cannot wait for each other. But each can count itself when its part is
written; the one that counts to the end knows that all parts are there. Two fences make that so: what a block
wrote before it counted itself is seen by whoever counts after it (NVIDIA, "PTX ISA", section "Memory Consistency
Model": release and acquire patterns).
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
from llvmlite import ir

from . import device
from .device import types
from .instructions import I32, assembly, twin

_lock = threading.Lock()


def _arrive(counters: Any, place: Any, others: Any) -> int:
    with _lock:
        before = int(counters[place])
        counters[place] = 0 if before >= others else before + 1
    return before


@twin(_arrive)
def arrive(typingctx, counters, place, others):
    """How many blocks have come before this one, of which `others` more are expected; the last one leaves the
    counter at 0. One thread of a block calls it, between two barriers."""

    def write(context, builder, signature, arguments):
        memory, index, most = arguments
        address = builder.ptrtoint(builder.gep(memory, [index]), ir.IntType(64))
        count = builder.trunc(most, I32) if most.type.width > 32 else most
        text = "fence.acq_rel.gpu; atom.inc.u32 $0, [$1], $2; fence.acq_rel.gpu;"
        return assembly(builder, text, I32, "=r,l,r,~{memory}", [address, count], True)

    return types.int32(counters, place, others), write


def counters(blocks: int) -> Any:
    """Zeros, one for each of so many groups of blocks. Kernels of one stream run one after another, and leave zeros:
    they share them."""
    return _counters(_rounded(blocks), device.place())


def workspace(blocks: int, numbers: int) -> tuple[Any, Any]:
    """`counters`, and room for so many float64 numbers that blocks leave to the last one, shared as well."""
    return _workspace(_rounded(blocks), _rounded(numbers), device.place())


def _rounded(size: int) -> int:
    """Up to a power of two, so that there are few of them."""
    return 1 << (size - 1).bit_length()


@functools.lru_cache(maxsize=64)
def _counters(size: int, place: tuple) -> Any:
    zeros = device.namespace().empty((size,), np.dtype("int32"))
    zeros.fill(0)
    return zeros


@functools.lru_cache(maxsize=64)
def _workspace(blocks: int, numbers: int, place: tuple) -> tuple[Any, Any]:
    room = device.namespace().empty((numbers,), np.dtype("float64"))
    return _counters(blocks, place), room
