"""bfloat16 for device arrays, as bits in uint16; `reference.half` holds the definitions.

Halves what gradients take on their way to other devices. Each pass is bound by memory: three quarters of what
a copy in float32 would move.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import device
from .arrays import check_floats, plain
from .device import cuda, kernel
from .instructions import bits_of_float, float_of_bits, pointer
from .passes import THREADS, each


def pack_bfloat16(x: Any, out: Any) -> Any:
    """See `reference.pack_bfloat16`."""
    _check("pack_bfloat16", x, out, out)
    straight = plain(out)
    each(pack_kernel(), x.size, (plain(x), straight))
    return _deliver(straight, out)


def unpack_bfloat16(bits: Any, out: Any, accumulate: bool = False) -> Any:
    """See `reference.unpack_bfloat16`."""
    _check("unpack_bfloat16", out, bits, out)
    straight = plain(out)
    each(unpack_kernel(bool(accumulate)), bits.size, (plain(bits), straight))
    return _deliver(straight, out)


@functools.cache
def pack_kernel() -> Any:
    number, narrow, wide = np.float32(0), np.uint16(0), np.uint32
    half, quiet, one, width = wide(0x7FFF), wide(0x40), wide(1), wide(16)

    @kernel(THREADS)
    def pack(elements, x, out):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        value = pointer(x, number)[i]
        bits = bits_of_float(value)
        upper = bits >> width
        # To the nearest, ties to even: half a unit, less one where the last bit that stays is 0. A NaN stays one.
        rounded = (bits + half + (upper & one)) >> width
        pointer(out, narrow)[i] = np.uint16(upper | quiet if value != value else rounded)

    return pack


@functools.cache
def unpack_kernel(accumulate: bool) -> Any:
    number, narrow, width = np.float32(0), np.uint16(0), np.uint32(16)

    @kernel(THREADS)
    def unpack(elements, bits, out):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        value = float_of_bits(np.uint32(np.uint32(pointer(bits, narrow)[i]) << width))
        if accumulate:
            value += pointer(out, number)[i]
        pointer(out, number)[i] = value

    return unpack


def _check(name: str, floats: Any, bits: Any, out: Any) -> None:
    check_floats(name, **{"out" if floats is out else "x": floats})
    other = "bits" if floats is out else "out"
    device.check_array(name, other, bits)
    if floats.dtype != np.float32 or bits.dtype != np.uint16:
        raise TypeError(f"{name}: packs float32 into uint16, got {floats.dtype} and {bits.dtype}")
    if floats.size != bits.size:
        raise ValueError(
            f"{name}: {floats.shape} and {bits.shape} have different numbers of elements"
        )


def _deliver(straight: Any, out: Any) -> Any:
    if straight is not out:
        out[...] = straight
    return out
