"""Products by warpgroups: the tensor cores' own instructions on Hopper (compute capability 9.0).

`mma`, the instruction of the GPUs before (see `instructions`), belongs to a warp, which first brings its factors
into registers. Reading them from shared memory then takes as long as multiplying. `wgmma` belongs to four warps,
a warpgroup, and differs in three ways:

* Factors stay in shared memory, from where the tensor cores fetch them. The instruction names them by
  descriptors: where a matrix begins, and how far apart its pieces are.
* It runs by itself. The instruction returns at once; until its group is waited for, no thread may touch the
  sums, nor write where the factors lie.
* It reads shared memory past the path that threads use, by the "async proxy", as bulk copies write it (see
  `bulk`). What a thread stores there by itself would have to be fenced first.

The order in which a kernel calls them, when factors have come:

    fence_sums()                        # what threads did to the sums is to be seen by the tensor cores
    multiply(sums, a, b), ...           # start
    commit(), ...                       # these are a group
    wait_for(1) or finish(sums)         # all groups but the last have ended; or all, and sums can be read

The twins check it: products are computed when they are waited for, and are an error if by then anything has
changed that they read; sums that were not fenced are an error, and hold NaN until they can be read.

Source: NVIDIA, "PTX ISA", sections "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Operation using
wgmma.mma_async instruction" and "Async proxy".
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from .device import types
from .instructions import F32, I32, SHARED_SPACE, assembly, element_of, twin
from .registers import Registers
from .simulated import Wgmma

I64 = ir.IntType(64)
ROWS, THREADS = 64, 128  # of the result, and of a warpgroup
STEP_BYTES = 32  # of each row of A and B in one instruction: 8 numbers in TF32, 16 in bf16
FIELD = 0x3FFFF  # descriptors hold the lower 18 bits of addresses and distances, without the last 4
LEADING_AT, STRIDE_AT = 16, 32  # the bits where the distances begin

# The instruction's name behind m64nN, and what follows its operands: the sums are added to (1), no factor's sign
# is changed (1, 1), and bf16's factors, which could lie by columns, lie by rows, too (0, 0).
OPERATIONS = {
    "tf32": ("k8.f32.tf32.tf32", "1, 1, 1"),
    "bf16": ("k16.f32.bf16.bf16", "1, 1, 1, 0, 0"),
}


def _descriptor(shared: Any, place: int, leading: int, stride: int) -> tuple:
    start = int(place) * shared.itemsize
    for name, distance in (("start", start), ("leading", leading), ("stride", stride)):
        assert 0 <= distance <= FIELD and distance % 16 == 0, f"{name} = {distance} bytes"
    return shared, start >> 4 | leading >> 4 << LEADING_AT | stride >> 4 << STRIDE_AT


@twin(_descriptor)
def descriptor(typingctx, shared, place, leading, stride):
    """What tells the tensor cores where a factor begins, shared[place], and how it lies.

    It is made of core matrices: 8 rows of 16 bytes, which follow each other. The next core matrix along the
    sum is `leading` bytes further, the next 8 rows are `stride` bytes further. B is given by its columns, as
    rows. (Bits 62 and 63 would name a way in which the 16 bytes are swizzled against conflicts of banks. There
    are none here, as a core matrix is read as one run of 128 bytes.)
    """

    def write(context, builder, signature, arguments):
        target = element_of(context, builder, shared, *arguments[:2])
        target = builder.addrspacecast(target, ir.PointerType(target.type.pointee, SHARED_SPACE))
        start = builder.zext(builder.ptrtoint(target, I32), I64)
        start = builder.lshr(builder.and_(start, I64(FIELD)), I64(4))
        leading, stride = (
            builder.shl(builder.lshr(distance, I64(4)), I64(at))
            for distance, at in zip(arguments[2:], (LEADING_AT, STRIDE_AT), strict=True)
        )
        return builder.or_(start, builder.or_(leading, stride))

    return types.int64(shared, types.int64, types.int64, types.int64), write


def _statement(text: str, python: Any) -> Any:
    """The function without arguments that is one instruction."""

    @twin(python)
    def instruction(typingctx):
        def write(context, builder, signature, arguments):
            assembly(builder, text, ir.VoidType(), "~{memory}", [], True, together=True)
            return context.get_dummy_value()

        return types.void(), write

    return instruction


fence_sums = _statement("wgmma.fence.sync.aligned;", lambda: Wgmma.of_thread().fence())
commit = _statement("wgmma.commit_group.sync.aligned;", lambda: Wgmma.of_thread().commit())


def wait_for(younger: int) -> Any:
    """The function that waits until all groups have ended but for the `younger` last ones. The places of their
    factors in shared memory are free then; sums stay untouchable while any group adds to them."""
    text = f"wgmma.wait_group.sync.aligned {younger};"
    return _statement(text, lambda: Wgmma.of_thread().wait(younger))


class Instructions(NamedTuple):
    """multiply(sums, a, b): start sums += A B, for A (64, k) and B (k, n) by their descriptors.

    Each of the 128 threads holds a part of sums, n // 2 numbers: with warp, g and t its number // 32,
    % 32 // 4 and % 4, sums[4 j + 2 i + e] belongs to row 16 warp + g + 8 i and column 8 j + 2 t + e.

    finish(sums): wait for all groups; the sums can be read.
    store(sums, shared, place, pitch): write them to shared memory, row by row, `pitch` numbers apart;
    place is the thread's first one.
    """

    multiply: Any
    finish: Any
    store: Any


def instructions(n: int, precision: str) -> Instructions:
    """For results of 64 x n, n a multiple of 8 up to 256."""
    count = n // 2
    kind, flags = OPERATIONS[precision]
    registers = "{" + ", ".join(f"${i}" for i in range(count)) + "}"
    multiply_text = (
        f"wgmma.mma_async.sync.aligned.m64n{n}{kind} "
        f"{registers}, ${2 * count}, ${2 * count + 1}, {flags};"
    )

    def through(context, builder, sums, arguments, text) -> None:
        """Write an instruction that reads all sums and writes them to the same registers."""
        c = Registers(context, builder, sums, arguments[0])
        others = arguments[1:]
        tied = [str(i) for i in range(count)]
        constraints = ",".join(["=f"] * count + tied + ["l"] * len(others) + ["~{memory}"])
        result = ir.LiteralStructType([F32] * count)
        values = [c.get(i) for i in range(count)]
        found = assembly(
            builder, text, result, constraints, [*values, *others], True, together=True
        )
        for i in range(count):
            c.put(builder.extract_value(found, i), i)

    def _multiply(sums: Any, a: Any, b: Any) -> None:
        Wgmma.of_thread().multiply(sums, a, b, n, precision)

    @twin(_multiply)
    def multiply(typingctx, sums, a, b):
        def write(context, builder, signature, arguments):
            through(context, builder, sums, arguments, multiply_text)
            return context.get_dummy_value()

        return types.void(sums, a, b), write

    @twin(lambda sums: Wgmma.of_thread().wait(0))
    def finish(typingctx, sums):
        def write(context, builder, signature, arguments):
            # To the compiler this makes the sums: so nothing is computed with them before it.
            through(context, builder, sums, arguments, "wgmma.wait_group.sync.aligned 0;")
            return context.get_dummy_value()

        return types.void(sums), write

    def _store(sums: Any, shared: Any, place: int, pitch: int) -> None:
        for j in range(n // 8):
            for i in range(2):
                start = place + 8 * i * pitch + 8 * j
                shared[start : start + 2] = sums[4 * j + 2 * i : 4 * j + 2 * i + 2]

    @twin(_store)
    def store(typingctx, sums, shared, place, pitch):
        def write(context, builder, signature, arguments):
            c = Registers(context, builder, sums, arguments[0])
            base, pitch = arguments[2:]
            pair = ir.VectorType(F32, 2)
            for i in range(2):
                row = builder.add(base, builder.mul(pitch, I64(8 * i)))
                for j in range(n // 8):
                    target = element_of(
                        context, builder, shared, arguments[1], builder.add(row, I64(8 * j))
                    )
                    target = builder.bitcast(target, pair.as_pointer())
                    values = ir.Constant(pair, ir.Undefined)
                    for e in range(2):
                        values = builder.insert_element(values, c.get(4 * j + 2 * i + e), I32(e))
                    builder.store(values, target).align = 8
            return context.get_dummy_value()

        return types.void(sums, shared, types.int64, types.int64), write

    return Instructions(multiply, finish, store)
