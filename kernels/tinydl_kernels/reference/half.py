"""bfloat16, the upper half of a float32's bits: definitions in plain NumPy.

    float32    s eeeeeeee mmmmmmm mmmmmmmmmmmmmmmm
    bfloat16   s eeeeeeee mmmmmmm

The exponent keeps its 8 bits, so every float32 has a bfloat16 near it, and 7 of the 23 bits of the
mantissa are left: a relative error of at most 2^-8. NumPy has no such type; its bits are uint16.
"""

import numpy as np

HALF = np.uint32(0x7FFF)  # half a unit of the last bit that is kept, less one
QUIET = np.uint16(0x40)  # a NaN's first mantissa bit: what is cut off may have been its only ones


def pack_bfloat16(x, out):
    """The bits of x (float32), rounded to the nearest bfloat16, ties to even; NaN stays NaN.

    out: uint16, as many elements. Returns out.
    """
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(out.shape)
    upper = bits >> np.uint32(16)
    rounded = (bits + (HALF + (upper & np.uint32(1)))) >> np.uint32(16)
    is_nan = np.isnan(x).reshape(out.shape)
    out[...] = np.where(is_nan, upper | QUIET, rounded)
    return out


def unpack_bfloat16(bits, out, accumulate=False):
    """The numbers that `bits` (uint16) stand for, exactly, written or added to out (float32)."""
    x = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(out.shape)
    out[...] = out + x if accumulate else x
    return out
