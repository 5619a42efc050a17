"""Instructions of the GPU that Numba has no name for, each with a Python twin for the simulator.

A name here stands for one instruction or a few. Outside the simulator it is an intrinsic: a function
that writes LLVM IR, or PTX, into the kernel that calls it. In the simulator it is the twin, a plain
function with the same meaning, that also checks what the hardware leaves to the programmer: that
16-byte accesses are aligned, and that a copy under way is not read before it is waited for.

Source of the instructions and of the order of matrix fragments: NVIDIA, "PTX ISA", sections
"cp.async" and "Warp Level Matrix Multiply-Accumulate Instructions".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .device import SIMULATED, VECTOR_BYTES, intrinsic, types
from .simulated import WARPS

I32 = ir.IntType(32)
F32 = ir.FloatType()
SHARED_SPACE = 3  # LLVM's number for shared memory


def twin(python: Callable) -> Callable[[Callable], Any]:
    """Decorator of an intrinsic: in the simulator, `python` takes its place."""
    return lambda written: python if SIMULATED else intrinsic(written)


def _element(context, builder, kind, value, index):
    """The LLVM pointer to an element of a one-dimensional array, or of memory at a pointer."""
    if isinstance(kind, types.Array):
        value = context.make_array(kind)(context, builder, value).data
    return builder.gep(value, [index])


def _assembly(builder, text, result, constraints, arguments, side_effect=False):
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    code = ir.InlineAsm(signature, text, constraints, side_effect=side_effect)
    return builder.call(code, arguments)


# --- addresses and vectors ------------------------------------------------------------------------


def _pointer(address: Any, like: Any) -> Any:
    return address


@twin(_pointer)
def pointer(typingctx, address, like):
    """Memory at an address, as elements of the type of the number `like`."""

    def write(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), write


def _moved(memory: Any, elements: int) -> Any:
    return memory.moved(elements)


@twin(_moved)
def moved(typingctx, memory, elements):
    """Memory from so many elements on."""

    def write(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return memory(memory, elements), write


def _load(array: Any, index: int) -> Any:
    assert index >= 0
    return array[index]


@twin(_load)
def load(typingctx, array, index):
    """array[index], which is not negative: Python would count such an index from the end, and for an array of
    Numba's two instructions are spent on asking."""

    def write(context, builder, signature, arguments):
        return builder.load(_element(context, builder, array, *arguments))

    return array.dtype(array, index), write


def _load4(array: Any, index: int) -> tuple:
    _check_aligned(array, index)
    return array[index], array[index + 1], array[index + 2], array[index + 3]


@twin(_load4)
def load4(typingctx, array, index):
    """Four elements that lie side by side, by accesses of 16 bytes; array[index] must be aligned to 16."""

    def write(context, builder, signature, arguments):
        element = context.get_value_type(array.dtype)
        place = _element(context, builder, array, *arguments)
        vector = ir.VectorType(element, 4)
        loaded = builder.load(builder.bitcast(place, vector.as_pointer()))
        loaded.align = VECTOR_BYTES
        parts = [builder.extract_element(loaded, I32(i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(array.dtype, 4)(array, index), write


def _store4(array: Any, index: int, x0: Any, x1: Any, x2: Any, x3: Any) -> None:
    _check_aligned(array, index)
    for i, x in enumerate((x0, x1, x2, x3)):
        array[index + i] = x


@twin(_store4)
def store4(typingctx, array, index, x0, x1, x2, x3):
    """Write four elements side by side, by accesses of 16 bytes; array[index] must be aligned to 16."""

    def write(context, builder, signature, arguments):
        element = context.get_value_type(array.dtype)
        place = _element(context, builder, array, *arguments[:2])
        vector = ir.VectorType(element, 4)
        packed = ir.Constant(vector, ir.Undefined)
        for i, part in enumerate(arguments[2:]):
            packed = builder.insert_element(packed, part, I32(i))
        builder.store(packed, builder.bitcast(place, vector.as_pointer())).align = VECTOR_BYTES
        return context.get_dummy_value()

    x = array.dtype
    return types.void(array, index, x, x, x, x), write


def _check_aligned(array: Any, index: int) -> None:
    """Shared arrays begin at a multiple of 16 bytes (`device.ALIGNED`), others tell for themselves."""
    if hasattr(array, "aligned"):
        aligned = array.aligned(index, VECTOR_BYTES // array[index].itemsize)
    else:
        aligned = int(index) * array.itemsize % VECTOR_BYTES == 0
    assert aligned, f"element {index} does not lie at a multiple of 16 bytes"


def _quotient(index: Any, factor: Any, shift: Any) -> np.int32:
    assert 0 <= index < 2**31
    return np.int32(2 * int(index) * int(factor) >> 32 >> int(shift))


@twin(_quotient)
def quotient(typingctx, index, factor, shift):
    """The upper 32 bits of 2 * index * factor, shifted right: how GPUs divide by a number known beforehand (see
    `operands.divisor`). In 32 bits these are three instructions, in 64 there would be ten."""

    def write(context, builder, signature, arguments):
        index, factor, shift = (_narrow(builder, x) for x in arguments)
        arguments = [builder.shl(index, I32(1)), factor]
        return builder.lshr(
            _assembly(builder, "mul.hi.u32 $0, $1, $2;", I32, "=r,r,r", arguments), shift
        )

    return types.int32(index, factor, shift), write


def _narrow(builder, x):
    return x if x.type == I32 else builder.trunc(x, I32)


def _multiply_add(x: Any, y: Any, z: Any) -> int:
    assert max(abs(int(x)), abs(int(y))) < 2**31
    return int(x) * int(y) + int(z)


@twin(_multiply_add)
def multiply_add(typingctx, x, y, z):
    """x y + z for x and y that fit into 32 bits, z and the result in 64: one instruction."""

    def write(context, builder, signature, arguments):
        x, y, z = arguments
        arguments = [_narrow(builder, x), _narrow(builder, y), z]
        text = "mad.wide.s32 $0, $1, $2, $3;"
        return _assembly(builder, text, ir.IntType(64), "=l,r,r,l", arguments)

    return types.int64(x, y, types.int64), write


def _bits_of_float(x: Any) -> np.uint32:
    return np.float32(x).view(np.uint32)


@twin(_bits_of_float)
def bits_of_float(typingctx, x):
    """The 32 bits of a float32."""

    def write(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], I32)

    return types.uint32(types.float32), write


def _float_of_bits(bits: Any) -> np.float32:
    return np.uint32(bits).view(np.float32)


@twin(_float_of_bits)
def float_of_bits(typingctx, bits):
    """The float32 of 32 bits."""

    def write(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], F32)

    return types.float32(types.uint32), write


def _keep(x: Any) -> Any:
    return x


@twin(_keep)
def keep(typingctx, x):
    """x, an integer, in a register of its own from here on. Where registers seem short the compiler would rather
    compute a number anew at each use, even inside a loop."""

    def write(context, builder, signature, arguments):
        bits, letter = (64, "l") if x.bitwidth == 64 else (32, "r")
        text, constraints = f"mov.b{bits} $0, $1;", f"={letter},{letter}"
        return _assembly(builder, text, ir.IntType(bits), constraints, arguments, True)

    return x(x), write


def _reciprocal(x: Any) -> np.float32:
    return np.float32(1) / np.float32(x)


@twin(_reciprocal)
def reciprocal(typingctx, x):
    """1 / x for a float32, correct but for the last bit: one instruction, where a division calls a function."""

    def write(context, builder, signature, arguments):
        return _assembly(builder, "rcp.approx.ftz.f32 $0, $1;", F32, "=f,f", arguments)

    return types.float32(types.float32), write


# --- copies that run by themselves ----------------------------------------------------------------


def copy_async(elements: int) -> Any:
    """cp.async: the function copy(shared, place, source, index, count), which starts to copy
    source[index : index + count] to shared[place:], followed by zeros up to `elements` elements.

    The copy bypasses registers and runs while the thread computes; `commit` and `wait_for` tell when it
    has ended. 4, 8 or 16 bytes at a time, aligned to their number. With a count of 0 nothing is read:
    so edges are filled, without a branch.
    """

    def python(shared: Any, place: int, source: Any, index: int, count: int) -> None:
        assert int(place) % elements == 0, "not aligned in shared memory"
        assert not count or source.aligned(index, elements), "not aligned in the device's memory"
        shared[place : place + elements] = np.nan if shared.dtype.kind == "f" else -(2**30)
        _open_group().append((shared, int(place), source, int(index), int(count), elements))

    @twin(python)
    def copy(typingctx, shared, place, source, index, count):
        def write(context, builder, signature, arguments):
            target, place, memory, index, count = arguments
            size = elements * source.dtype.bitwidth // 8
            cache = "cg" if size == VECTOR_BYTES else "ca"  # past L1, where that is allowed
            target = _element(context, builder, shared, target, place)
            target = builder.addrspacecast(
                target, ir.PointerType(target.type.pointee, SHARED_SPACE)
            )
            memory = builder.gep(memory, [index])
            read = builder.mul(builder.trunc(count, I32), I32(source.dtype.bitwidth // 8))
            text = f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;"
            arguments = [builder.ptrtoint(target, I32), memory, read]
            _assembly(builder, text, ir.VoidType(), "r,l,r,~{memory}", arguments, True)
            return context.get_dummy_value()

        return types.void(shared, types.int64, source, types.int64, types.int64), write

    return copy


def _commit() -> None:
    _groups().append([])


@twin(_commit)
def commit(typingctx):
    """cp.async.commit_group: the copies started since the last time are one group."""

    def write(context, builder, signature, arguments):
        text = "cp.async.commit_group;"
        _assembly(builder, text, ir.VoidType(), "~{memory}", [], True)
        return context.get_dummy_value()

    return types.void(), write


def wait_for(younger: int) -> Any:
    """cp.async.wait_group: the function that waits until all of this thread's groups of copies have
    ended but for the `younger` last ones. Other threads' copies are seen after a barrier."""

    def python() -> None:
        groups = _groups()
        while len(groups) - 1 > younger:  # the last of the list is not committed yet
            for shared, place, source, index, count, elements in groups.pop(0):
                for i in range(elements):
                    shared[place + i] = source[index + i] if i < count else 0

    @twin(python)
    def wait(typingctx):
        def write(context, builder, signature, arguments):
            text = f"cp.async.wait_group {younger};"
            _assembly(builder, text, ir.VoidType(), "~{memory}", [], True)
            return context.get_dummy_value()

        return types.void(), write

    return wait


def _groups() -> list:
    """The simulator's record of what a thread has still to copy: groups, oldest first."""
    thread: Any = threading.current_thread()
    if not hasattr(thread, "copies"):
        thread.copies = [[]]
    return thread.copies


def _open_group() -> list:
    return _groups()[-1]


# --- tensor cores ---------------------------------------------------------------------------------


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
        return builder.bitcast(_assembly(builder, text, I32, "=r,f", arguments), F32)

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
        return _assembly(builder, "cvt.rn.bf16x2.f32 $0, $1, $2;", I32, "=r,f,f", [high, low])

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
        # All threads of a warp must execute it together: "side effects" keep it where it stands.
        found = _assembly(builder, text, results, constraints, [*sums, *operands], True)
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
