"""Instructions of the GPU that Numba has no name for, each with a Python twin for the simulator.

A name here stands for one instruction or a few. Outside the simulator it is an intrinsic: a function
that writes LLVM IR, or PTX, into the kernel that calls it. In the simulator it is the twin, a plain
function with the same meaning, that also checks what the hardware leaves to the programmer: that
16-byte accesses are aligned, and that a copy under way is not read before it is waited for.

Source of the instructions: NVIDIA, "PTX ISA". Those of tensor cores stand in `mma` and `wgmma`, copies of whole runs
of memory in `bulk`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .device import SIMULATED, VECTOR_BYTES, intrinsic, types

I32 = ir.IntType(32)
F32 = ir.FloatType()
SHARED_SPACE = 3  # LLVM's number for shared memory


def twin(python: Callable) -> Callable[[Callable], Any]:
    """Decorator of an intrinsic: in the simulator, `python` takes its place."""
    return lambda written: python if SIMULATED else intrinsic(written)


def element_of(context, builder, kind, value, index):
    """The LLVM pointer to an element of a one-dimensional array, or of memory at a pointer."""
    if isinstance(kind, types.Array):
        value = context.make_array(kind)(context, builder, value).data
    return builder.gep(value, [index])


def assembly(builder, text, result, constraints, arguments, side_effect=False, together=False):
    """Write PTX. `together`: a warp's threads meet in it, so the compiler must not move it into a branch that
    not all of them take, nor make two of one."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    code = ir.InlineAsm(signature, text, constraints, side_effect=side_effect)
    return builder.call(code, arguments, attrs=["convergent"] if together else ())


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
        return builder.load(element_of(context, builder, array, *arguments))

    return array.dtype(array, index), write


def _load4(array: Any, index: int) -> tuple:
    _check_aligned(array, index)
    return array[index], array[index + 1], array[index + 2], array[index + 3]


@twin(_load4)
def load4(typingctx, array, index):
    """Four elements that lie side by side, by accesses of 16 bytes; array[index] must be aligned to 16."""

    def write(context, builder, signature, arguments):
        element = context.get_value_type(array.dtype)
        place = element_of(context, builder, array, *arguments)
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
        place = element_of(context, builder, array, *arguments[:2])
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
        index, factor, shift = (narrow(builder, x) for x in arguments)
        arguments = [builder.shl(index, I32(1)), factor]
        return builder.lshr(
            assembly(builder, "mul.hi.u32 $0, $1, $2;", I32, "=r,r,r", arguments), shift
        )

    return types.int32(index, factor, shift), write


def narrow(builder, x):
    return x if x.type == I32 else builder.trunc(x, I32)


def _multiply_add(x: Any, y: Any, z: Any) -> int:
    assert max(abs(int(x)), abs(int(y))) < 2**31
    return int(x) * int(y) + int(z)


@twin(_multiply_add)
def multiply_add(typingctx, x, y, z):
    """x y + z for x and y that fit into 32 bits, z and the result in 64: one instruction."""

    def write(context, builder, signature, arguments):
        x, y, z = arguments
        arguments = [narrow(builder, x), narrow(builder, y), z]
        text = "mad.wide.s32 $0, $1, $2, $3;"
        return assembly(builder, text, ir.IntType(64), "=l,r,r,l", arguments)

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
        return assembly(builder, text, ir.IntType(bits), constraints, arguments, True)

    return x(x), write


def _reciprocal(x: Any) -> np.float32:
    return np.float32(1) / np.float32(x)


@twin(_reciprocal)
def reciprocal(typingctx, x):
    """1 / x for a float32, correct but for the last bit: one instruction, where a division calls a function."""

    def write(context, builder, signature, arguments):
        return assembly(builder, "rcp.approx.ftz.f32 $0, $1;", F32, "=f,f", arguments)

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
            target = element_of(context, builder, shared, target, place)
            target = builder.addrspacecast(
                target, ir.PointerType(target.type.pointee, SHARED_SPACE)
            )
            memory = builder.gep(memory, [index])
            read = builder.mul(builder.trunc(count, I32), I32(source.dtype.bitwidth // 8))
            text = f"cp.async.{cache}.shared.global [$0], [$1], {size}, $2;"
            arguments = [builder.ptrtoint(target, I32), memory, read]
            assembly(builder, text, ir.VoidType(), "r,l,r,~{memory}", arguments, True)
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
        assembly(builder, text, ir.VoidType(), "~{memory}", [], True)
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
            assembly(builder, text, ir.VoidType(), "~{memory}", [], True)
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
