"""Bulk copies: one thread has a run of memory copied to shared memory, and all wait for it at a barrier there.

`cp.async` (see `instructions`) copies 16 bytes for each thread that asks. From compute capability 9.0 on, one
instruction of one thread copies a run of any length, and the others need not know. Who waits for it?
A barrier in shared memory, an `mbarrier`, counts the bytes that arrive:

    begin(barriers, i), ...           # one thread, once; then fence_begun() and a barrier of threads
    expect(barriers, i, bytes)        # one thread: so many bytes, in however many copies,
    copy(shared, place, source, index, count, barriers, i), ...
    wait(barriers, i, parity)         # every thread, until they all are there

A barrier is used again and again: each time that all has arrived, a phase ends and the next begins. `parity` is
that of the number of the phase waited for, counted from 0: 0, 1, 0, ... Nobody may be two phases behind.

Copies write by the "async proxy", by which `wgmma` reads: between the two nothing has to be fenced.

Source: NVIDIA, "PTX ISA", sections "cp.async.bulk", "mbarrier" and "Async proxy"; "CUDA C++ Programming Guide",
section "Asynchronous Data Copies using the Tensor Memory Accelerator".
"""

from __future__ import annotations

from llvmlite import ir

from .device import types
from .instructions import I32, SHARED_SPACE, assembly, element_of, narrow, twin
from .simulated import Arrivals


def _shared_address(context, builder, kind, array, index):
    """The address in shared memory of an array's element, 32 bits."""
    target = element_of(context, builder, kind, array, index)
    target = builder.addrspacecast(target, ir.PointerType(target.type.pointee, SHARED_SPACE))
    return builder.ptrtoint(target, I32)


def _effect(builder, text: str, constraints: str, arguments: list) -> None:
    assembly(
        builder, text, ir.VoidType(), f"{constraints},~{{memory}}".lstrip(","), arguments, True
    )


@twin(lambda barriers, place: Arrivals.begin(place))
def begin(typingctx, barriers, place):
    """Make barriers[place], an int64 in shared memory, a barrier at which one thread expects copies."""

    def write(context, builder, signature, arguments):
        barrier = _shared_address(context, builder, barriers, *arguments)
        _effect(builder, "mbarrier.init.shared::cta.b64 [$0], 1;", "r", [barrier])
        return context.get_dummy_value()

    return types.void(barriers, types.int64), write


@twin(Arrivals.fence)
def fence_begun(typingctx):
    """Let what copies see the barriers that were begun."""

    def write(context, builder, signature, arguments):
        text = "fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;"
        _effect(builder, text, "", [])
        return context.get_dummy_value()

    return types.void(), write


@twin(lambda barriers, place, size: Arrivals.at(place).expect(int(size)))
def expect(typingctx, barriers, place, size):
    """So many bytes shall arrive, then the phase ends."""

    def write(context, builder, signature, arguments):
        barrier = _shared_address(context, builder, barriers, *arguments[:2])
        text = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;"
        _effect(builder, text, "r,r", [barrier, narrow(builder, arguments[2])])
        return context.get_dummy_value()

    return types.void(barriers, types.int64, types.int64), write


def _copy(shared, place, source, index, count, barriers, barrier) -> None:
    Arrivals.at(barrier).add(shared, int(place), source, int(index), int(count))


@twin(_copy)
def copy(typingctx, shared, place, source, index, count, barriers, barrier):
    """Start to copy source[index : index + count] to shared[place:], both at multiples of 16 bytes."""

    def write(context, builder, signature, arguments):
        target = _shared_address(context, builder, shared, *arguments[:2])
        memory = builder.gep(arguments[2], [arguments[3]])
        width = I32(source.dtype.bitwidth // 8)
        size = builder.mul(narrow(builder, arguments[4]), width)
        where = _shared_address(context, builder, barriers, *arguments[5:])
        text = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], $2, [$3];"
        _effect(builder, text, "r,l,r,r", [target, memory, size, where])
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(shared, i64, source, i64, i64, barriers, i64), write


@twin(lambda barriers, place, parity: Arrivals.at(place).wait(int(parity)))
def wait(typingctx, barriers, place, parity):
    """Wait until the phase of this parity has ended."""

    def write(context, builder, signature, arguments):
        barrier = _shared_address(context, builder, barriers, *arguments[:2])
        # The instruction gives up after some time: then it is asked again.
        text = (
            "{ .reg .pred ended; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 ended, [$0], $1;"
        )
        text += " @!ended bra AGAIN; }"
        _effect(builder, text, "r,r", [barrier, narrow(builder, arguments[2])])
        return context.get_dummy_value()

    return types.void(barriers, types.int64, types.int64), write
