"""Gradients with fewer bytes on the wire: 16-bit numbers. (Fewer numbers: top_k.py, power_sgd.py.)

What is cut to 16 bits must not be added up in 16 bits, and all ranks must end with the same bits. So a bucket is
cut into a slice for each rank, and an allreduce is made of its two halves:

    all-to-all:   rank r gets slice r of every rank's bucket, encoded        (N-1)/N · 2 bytes an element
    rank r decodes them, adds them up in float32 in the order of the ranks, and encodes the sum
    all-gather:   every rank gets every slice's sum                          (N-1)/N · 2 bytes an element

Half of what a float32 allreduce sends. All ranks decode the same bytes, so they stay equal.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.distributed.reduction import AllReduce


class HalfPrecision(AllReduce):
    """Sums of what 16 bits hold; a subclass writes ``encode`` and ``decode``."""

    can_poll = False
    sent_as_they_are = ()

    def encode(self, x: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
        raise NotImplementedError

    def decode(self, bits: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
        raise NotImplementedError

    def total(self, bucket: slice) -> None:
        gradient = self.buffer[bucket]
        single = gradient if gradient.dtype == np.float32 else gradient.astype(np.float32)
        ranks, width = self.world.size, -(-gradient.size // self.world.size)

        wire = np.zeros(ranks * width, np.uint16)  # the last slice is filled up
        self.encode(single, wire[: gradient.size])
        received = np.empty((ranks, width), np.uint16)
        self.world.all_to_all(wire.reshape(ranks, width), received)

        total, part = np.zeros(width, np.float32), np.empty(width, np.float32)
        for row in received:
            self.decode(row, part)
            total += part
        self.encode(total, received[0])

        self.world.all_gather(received[0], wire)
        self.decode(wire[: gradient.size], single)
        if single is not gradient:
            gradient[...] = single


class BFloat16(HalfPrecision):
    """8 bits of mantissa, and float32's range: a relative error of 2^-8, whatever the size of the number."""

    def encode(self, x: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
        kernels.pack_bfloat16(x, out)

    def decode(self, bits: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
        kernels.unpack_bfloat16(bits, out)


class Float16(HalfPrecision):
    """11 bits of mantissa, but only from 6e-5 to 65504: numbers are scaled into that range before.

    The scale is a power of two, so it costs no digits: with it, N times the largest number on any rank is below
    2^15, and no sum overflows. What is 2^-28 of the largest, and less, loses digits.
    """

    LARGEST = 2.0**15

    def total(self, bucket: slice) -> None:
        gradient = self.buffer[bucket]
        largest = np.array([max(gradient.max(), -gradient.min())], np.float64)
        self.world.allreduce(largest, "max")
        bound = float(largest[0]) * self.world.size
        exact = math.isfinite(bound) and bound > 0  # else what is not finite goes through as it is
        exponent = math.floor(math.log2(self.LARGEST / bound)) if exact else 0
        self._scale = np.float32(2.0 ** min(max(exponent, -100), 100))
        super().total(bucket)

    def encode(self, x: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
        with np.errstate(over="ignore"):
            np.multiply(x, self._scale, out=out.view(np.float16), casting="same_kind")

    def decode(self, bits: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
        np.divide(bits.view(np.float16), self._scale, out=out)
