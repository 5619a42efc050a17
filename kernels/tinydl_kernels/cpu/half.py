"""bfloat16 for NumPy arrays; definitions in `reference.half`."""

from __future__ import annotations

import numpy as np
from numba import prange

from ._passes import Pass, blocks, part

HALF = np.uint32(0x7FFF)
ONE = np.uint32(1)
WORD = np.uint32(16)
QUIET = np.uint32(0x40)
ALL_BUT_SIGN = np.uint32(0x7FFFFFFF)
INFINITY = np.uint32(0x7F800000)  # larger bits, but for the sign, are a NaN's

# --- loops ------------------------------------------------------------------------------------------
# They work on bits, as uint32: what is added in float32 is seen as such by `unpack_bfloat16` alone.


def _pack(bits, out):
    for block in prange(blocks(out.size)):
        here, there = part(bits, block), part(out, block)
        for k in range(there.size):
            u = here[k]
            upper = np.uint32(u >> WORD)
            rounded = np.uint32(np.uint32(u + HALF) + np.uint32(upper & ONE)) >> WORD
            is_nan = np.uint32(u & ALL_BUT_SIGN) > INFINITY
            there[k] = np.uint16(upper | QUIET) if is_nan else np.uint16(rounded)


def _unpack(bits, out):
    for block in prange(blocks(out.size)):
        here, there = part(bits, block), part(out, block)
        for k in range(there.size):
            there[k] = np.uint32(here[k]) << WORD


_PACK, _UNPACK = Pass(_pack), Pass(_unpack)


def pack_bfloat16(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    _check("pack_bfloat16", ("x", x, np.float32), ("out", out, np.uint16))
    _PACK(out.size, x.reshape(-1).view(np.uint32), out.reshape(-1))
    return out


def unpack_bfloat16(bits: np.ndarray, out: np.ndarray, accumulate: bool = False) -> np.ndarray:
    _check("unpack_bfloat16", ("bits", bits, np.uint16), ("out", out, np.float32))
    target = np.empty_like(out) if accumulate else out
    _UNPACK(out.size, bits.reshape(-1), target.reshape(-1).view(np.uint32))
    if accumulate:
        out += target
    return out


def _check(name: str, *arguments: tuple[str, np.ndarray, type]) -> None:
    for argument, array, dtype in arguments:
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{name}: {argument} must be an array of {np.dtype(dtype)}, not {kind}")
        if not array.flags.c_contiguous:
            raise ValueError(f"{name}: {argument} must be contiguous")
    (first, a, _), (second, b, _) = arguments
    if a.size != b.size:
        raise ValueError(f"{name}: {first} has {a.size} elements, {second} has {b.size}")
    if not b.flags.writeable:
        raise ValueError(f"{name}: {second} is read-only")
