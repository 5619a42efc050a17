"""Tensor cores by `mma`: the threads of a warp hold the factors in registers, and multiply them together.

Source of the instructions and of the order of fragments: NVIDIA, "PTX ISA", section "Warp Level Matrix
Multiply-Accumulate Instructions".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .device import types
from .instructions import F32, I32, assembly, twin
from .simulated import WARPS


def _to_tf32(x: Any) -> np.float32:
    bits = int(np.float32(x).view(np.uint32))
    return np.uint32(bits + 0x1000 if np.isfinite(x) else bits).view(np.float32)


@twin(_to_tf32)
def to_tf32(typingctx, x):
    """x, to be cut to TF32 (float32's range, with 10 of its 23 bits of fraction) by the tensor cores that read
    it: with half of what is cut off added, so that x is rounded.

    There is an instruction for it, cvt.rna.tf32, but for that the assembler writes five. These are two.
    """

    def write(context, builder, signature, arguments):
        # Not of infinity, which would look like a NaN to who reads all bits, nor of a NaN, which might become
        # a number.
        text = "{ .reg .pred finite; .reg .f32 size; abs.f32 size, $1; setp.lt.f32 finite, size, 0f7F800000;"
        text += " mov.b32 $0, $1; @finite add.s32 $0, $0, 0x1000; }"
        return builder.bitcast(assembly(builder, text, I32, "=r,f", arguments), F32)

    return types.float32(types.float32), write


def _to_bf16(x: Any) -> int:
    bits = int(np.float32(x).view(np.uint32))
    if np.isnan(x):
        return 0x7FFF
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def _pack_bf16(low: Any, high: Any) -> np.int32:
    return np.uint32(_to_bf16(high) << 16 | _to_bf16(low)).view(np.int32)


@twin(_pack_bf16)
def pack_bf16(typingctx, low, high):
    """Two numbers rounded to bfloat16 (float32's range, 7 bits of fraction) in one register."""

    def write(context, builder, signature, arguments):
        low, high = arguments
        return assembly(builder, "cvt.rn.bf16x2.f32 $0, $1, $2;", I32, "=r,f,f", [high, low])

    return types.int32(types.float32, types.float32), write


# C (16 x 8) += A (16 x k) B (k x 8), shared by the 32 threads of a warp. With g = lane // 4 and
# t = lane % 4, a thread holds of C: rows g and g + 8, columns 2 t and 2 t + 1. Of A and B it holds:
#   TF32, k = 8:   A[g, t], A[g + 8, t], A[g, t + 4], A[g + 8, t + 4];  B[t, g], B[t + 4, g]
#   bf16, k = 16:  the same with pairs: A[g, 2 t : 2 t + 2], A[g + 8, ...], A[g, 2 t + 8 : 2 t + 10], ...


def _multiply_fragments(sums: tuple, a: tuple, b: tuple, unpack: Callable, depth: int) -> tuple:
    whole_a, whole_b = np.zeros((16, depth)), np.zeros((depth, 8))
    width = depth // 8  # numbers in a register
    for lane, (its_a, its_b) in enumerate(WARPS.exchange((a, b))):
        g, t = divmod(lane, 4)
        for i, register in enumerate(its_a):
            column = t * width + (i // 2) * (depth // 2)
            whole_a[g + i % 2 * 8, column : column + width] = unpack(register)
        for i, register in enumerate(its_b):
            row = t * width + i * (depth // 2)
            whole_b[row : row + width, g] = unpack(register)
    thread: Any = threading.current_thread()
    g, t = divmod(thread.thread_id % 32, 4)
    product = whole_a[[g, g + 8]] @ whole_b[:, 2 * t : 2 * t + 2]
    return tuple(np.float32(s + p) for s, p in zip(sums, product.ravel(), strict=True))


def _mma_tf32(c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
    def unpack(register: np.float32) -> list:
        return [np.uint32(np.float32(register).view(np.uint32) & 0xFFFFE000).view(np.float32)]

    return _multiply_fragments((c0, c1, c2, c3), (a0, a1, a2, a3), (b0, b1), unpack, 8)


def _mma_bf16(c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
    def unpack(register: np.int32) -> np.ndarray:
        bits = int(np.int32(register).view(np.uint32))
        return np.array([bits << 16 & 0xFFFFFFFF, bits & 0xFFFF0000], np.uint32).view(np.float32)

    return _multiply_fragments((c0, c1, c2, c3), (a0, a1, a2, a3), (b0, b1), unpack, 16)


def _writer(operation: str) -> Callable:
    """The function that writes one mma instruction: write(builder, 4 sums, 6 operands) -> 4 sums."""

    def write(builder: Any, sums: list, operands: list) -> list:
        operands = [builder.bitcast(x, I32) for x in operands]
        results = ir.LiteralStructType([F32] * 4)
        d, c = "{$0, $1, $2, $3}", "{$4, $5, $6, $7}"
        text = f"{operation} {d}, {{$8, $9, $10, $11}}, {{$12, $13}}, {c};"
        constraints = ",".join(["=f"] * 4 + ["f"] * 4 + ["r"] * 6)
        found = assembly(builder, text, results, constraints, [*sums, *operands], together=True)
        return [builder.extract_value(found, i) for i in range(4)]

    return write


MMA = {
    "tf32": _writer("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
    "bf16": _writer("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
}


def _mma(precision: str, operand: Any) -> Callable:
    def intrinsic_function(typingctx, c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
        def write(context, builder, signature, arguments):
            parts = MMA[precision](builder, arguments[:4], arguments[4:])
            return context.make_tuple(builder, signature.return_type, parts)

        c = types.float32
        return types.UniTuple(c, 4)(c, c, c, c, *[operand] * 6), write

    return intrinsic_function


mma_tf32 = twin(_mma_tf32)(_mma("tf32", types.float32))
mma_bf16 = twin(_mma_bf16)(_mma("bf16", types.int32))
