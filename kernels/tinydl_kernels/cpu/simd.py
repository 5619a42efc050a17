"""SIMD instructions for kernels: a thin layer over LLVM's vector instructions.

A processor core multiplies and adds whole vectors: 16 float32 numbers at once with AVX-512, 8 with
AVX2, 4 with NEON. Compilers turn simple loops into vector code by themselves, but they do not find
the arrangement that a fast matrix product needs, where dozens of partial sums stay in registers
through the whole loop. Such inner kernels are written here with explicit vectors: a Python function
runs at compile time and emits instructions through an `Emitter`.

    @simd.intrinsic
    def axpy(e, n, alpha, x, y):           # y += alpha * x for the first n <= e.lanes elements
        mask = e.mask(n)
        total = e.fma(e.splat(alpha), e.masked_load(x, mask), e.masked_load(y, mask))
        e.masked_store(total, y, mask)

    @jit
    def kernel(x, y):
        axpy(5, x.dtype.type(2), x, y)      # called like any function, from compiled code only

`e` knows the element type (from the first array argument) and the number of lanes of the host, so
one definition serves float32 and float64 on every processor. Arrays arrive as pointers to their
first element, integers as 64-bit values. Nothing here checks bounds: callers do, once, before.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from llvmlite.ir.values import MDValue
from numba import types
from numba.extending import intrinsic as numba_intrinsic

from .target import vector_bytes

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Emitter:
    """Emits vector instructions for one element type (`dtype`, a Numba float type)."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float, lanes: int | None = None) -> None:
        self.builder = builder
        self.dtype = dtype
        self.element = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.itemsize = dtype.bitwidth // 8
        self.lanes = lanes or vector_bytes() // self.itemsize
        self.vector = ir.VectorType(self.element, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    # --- addresses: a pointer plus a number of elements ---------------------------------------
    def at(self, pointer: ir.Value, offset: ir.Value | int) -> ir.Value:
        return self.builder.gep(pointer, [integer(offset)])

    # --- memory -------------------------------------------------------------------------------
    # Loads and stores promise only the alignment of one element: a view may begin anywhere.
    def load_scalar(self, pointer: ir.Value) -> ir.Value:
        return self.builder.load(pointer, align=self.itemsize)

    def load(self, pointer: ir.Value) -> ir.Value:
        return self.builder.load(self._as_vector(pointer), align=self.itemsize)

    def store(self, vector: ir.Value, pointer: ir.Value) -> None:
        self.builder.store(vector, self._as_vector(pointer), align=self.itemsize)

    def masked_load(self, pointer: ir.Value, mask: ir.Value) -> ir.Value:
        """Lanes outside the mask become 0; their memory is not touched."""
        mask_type = ir.VectorType(I1, self.lanes)
        # The type of the pointer argument is spelled `p0` in the intrinsic's name.
        load = self._declare(
            f"llvm.masked.load.{self._suffix}.p0",
            self.vector,
            [self.vector.as_pointer(), I32, mask_type, self.vector],
        )
        arguments = [self._as_vector(pointer), I32(self.itemsize), mask, self.zero]
        return self.builder.call(load, arguments)

    def masked_store(self, vector: ir.Value, pointer: ir.Value, mask: ir.Value) -> None:
        mask_type = ir.VectorType(I1, self.lanes)
        store = self._declare(
            f"llvm.masked.store.{self._suffix}.p0",
            ir.VoidType(),
            [self.vector, self.vector.as_pointer(), I32, mask_type],
        )
        self.builder.call(store, [vector, self._as_vector(pointer), I32(self.itemsize), mask])

    def prefetch(self, pointer: ir.Value, *, write: bool = False) -> None:
        """Ask for a cache line ahead of its use; never faults."""
        byte_pointer = ir.IntType(8).as_pointer()
        prefetch = self._declare("llvm.prefetch.p0", ir.VoidType(), [byte_pointer, I32, I32, I32])
        address = self.builder.bitcast(pointer, byte_pointer)
        self.builder.call(prefetch, [address, I32(int(write)), I32(3), I32(1)])

    # --- making vectors -----------------------------------------------------------------------
    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.vector, [float(value)] * self.lanes)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """The scalar in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, I32(0))
        return self.builder.shuffle_vector(first, undefined, lane_numbers([0] * self.lanes))

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """Lane i of the result is lane `lanes[i]` of a followed by b."""
        return self.builder.shuffle_vector(a, b, lane_numbers(lanes))

    def mask(self, count: ir.Value | int) -> ir.Value:
        """True in the first `count` lanes; a count below 0 or above `lanes` is fine."""
        lane = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", lane, self.splat(integer(count)))

    # --- arithmetic ---------------------------------------------------------------------------
    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c in one instruction, with one rounding, where the processor has such a one; else
        a multiplication and an addition (a true `fma` would be a slow call there)."""
        return self.call("fmuladd", a, b, c)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fadd(a, b)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fmul(a, b)

    def select(self, condition: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(condition, a, b)

    def sum_lanes(self, vector: ir.Value) -> ir.Value:
        """Sum over the lanes by halving: shorter chains and less rounding than one by one."""
        lanes = list(range(self.lanes))
        width = self.lanes
        while width > 1:
            width //= 2
            upper = self.shuffle(vector, vector, [lane ^ width for lane in lanes])
            vector = self.add(vector, upper)
        return self.builder.extract_element(vector, I32(0))

    def call(self, name: str, *operands: ir.Value) -> ir.Value:
        """An elementwise LLVM intrinsic by its short name: `sqrt`, `fabs`, `floor`, `maximum` (the
        one through which NaN passes), `copysign`, ..."""
        function = self._declare(
            f"llvm.{name}.{self._suffix}", self.vector, [self.vector] * len(operands)
        )
        return self.builder.call(function, operands)

    # --- control flow -------------------------------------------------------------------------
    def loop(
        self,
        count: ir.Value,
        carried: Sequence[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]],
        *,
        unroll: bool = True,
    ) -> list[ir.Value]:
        """`for i in range(count): carried = body(i, carried)`; returns what was carried out.

        Carried values are phi nodes: they live in registers from one round to the next, which is the
        whole point of a register tile. A count of 0 or less runs no round. With `unroll=False` LLVM
        may not put two rounds into one: where the registers are full, the second would push sums out.
        """
        builder = self.builder
        before = builder.block
        round_, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), round_, after)

        builder.position_at_end(round_)
        index = builder.phi(I64)
        current = [builder.phi(value.type) for value in carried]
        following = list(body(index, current))
        next_index = builder.add(index, I64(1))
        last = builder.block  # the body may have added blocks of its own
        again = builder.cbranch(builder.icmp_signed("<", next_index, count), round_, after)
        if not unroll:
            again.set_metadata("llvm.loop", _NeverUnrolled(builder.module))
        for phi, first, later in zip(
            [index, *current], [I64(0), *carried], [next_index, *following], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(later, last)

        builder.position_at_end(after)
        results = []
        for first, later in zip(carried, following, strict=True):
            phi = builder.phi(first.type)
            phi.add_incoming(first, before)
            phi.add_incoming(later, last)
            results.append(phi)
        return results

    # --- helpers ------------------------------------------------------------------------------
    @property
    def _suffix(self) -> str:
        return f"v{self.lanes}f{8 * self.itemsize}"

    def _as_vector(self, pointer: ir.Value) -> ir.Value:
        return self.builder.bitcast(pointer, self.vector.as_pointer())

    def _declare(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        # llvmlite's own declare_intrinsic does not know vector types; the full name says it all.
        module = self.builder.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(result, arguments), name)


class _NeverUnrolled(MDValue):
    """A mark for the branch that closes a loop. LLVM tells loops apart by nodes that are `distinct`
    and begin with themselves, which llvmlite does not write."""

    def __init__(self, module: ir.Module) -> None:
        disable = module.add_metadata(["llvm.loop.unroll.disable"])
        super().__init__(module, [disable], name=str(len(module.metadata)))

    def descr(self, buf: list[str]) -> None:
        buf += [f"distinct !{{ {self.get_reference()}, {self.operands[0].get_reference()} }}\n"]


def integer(value: ir.Value | int) -> ir.Value:
    """A 64-bit integer for a Python number; LLVM values pass unchanged."""
    return I64(value) if isinstance(value, int) else value


def lane_numbers(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


def intrinsic(emit: Callable | None = None, *, returns: str | None = None) -> Any:
    """Make a function for compiled code out of `emit(e, *arguments)`, which writes its instructions.

    Arguments may be arrays and typed pointers (to float32 or float64; to integers for tables of
    offsets), integers, booleans (as 0 or 1) and floats. The element type of `e` is that of the
    first argument that points to floats. `returns` says what `emit` returns: None, "int" for a
    64-bit integer, "element" for one number of the element type, "pointer" for an address of such.
    """
    if emit is None:
        return functools.partial(intrinsic, returns=returns)
    parameters = list(inspect.signature(emit).parameters.values())[1:]

    def typing(context: Any, *arguments: Any) -> Any:
        dtype = _element_type(emit, arguments)
        result = {
            None: types.void,
            "int": types.int64,
            "element": dtype,
            "pointer": types.CPointer(dtype),
        }[returns]

        def generate(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            e = Emitter(builder, dtype)
            unpacked = [
                _unpack(e, target, kind, value)
                for kind, value in zip(signature.args, values, strict=True)
            ]
            value = emit(e, *unpacked)
            return target.get_dummy_value() if returns is None else value

        return result(*[types.unliteral(kind) for kind in arguments]), generate

    # Numba counts and names the arguments by this signature.
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    functools.update_wrapper(typing, emit)
    typing.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    made = numba_intrinsic(typing)
    made.emit = emit  # to emit the same instructions for another processor
    return made


def _element_type(emit: Callable, arguments: Sequence[types.Type]) -> types.Float:
    for kind in arguments:
        if isinstance(getattr(kind, "dtype", None), types.Float):
            return kind.dtype
    raise TypeError(f"{emit.__name__} needs an array or pointer of floats among its arguments")


def _unpack(e: Emitter, target: Any, kind: types.Type, value: ir.Value) -> ir.Value:
    """What `emit` sees of one argument: a pointer, a 64-bit integer or an element."""
    if isinstance(kind, types.Array):
        return target.make_array(kind)(target, e.builder, value).data
    if isinstance(kind, types.Float):
        return target.cast(e.builder, value, kind, e.dtype)
    if isinstance(kind, types.Integer | types.Boolean):
        return target.cast(e.builder, value, kind, types.int64)
    return value


# --- pointers in compiled code -----------------------------------------------------------------
# A kernel that takes arrays is compiled anew for each combination of memory layouts. Kernels that
# are long to compile take pointers and strides instead, and these few functions handle them.


@intrinsic(returns="int")
def lanes(e: Emitter, array: ir.Value) -> ir.Value:
    """How many elements of `array` fill a vector register: a constant at compile time."""
    return I64(e.lanes)


@intrinsic(returns="int")
def itemsize(e: Emitter, array: ir.Value) -> ir.Value:
    """Bytes of an element of `array`: a constant at compile time."""
    return I64(e.itemsize)


@intrinsic(returns="pointer")
def pointer(e: Emitter, like: ir.Value, address: ir.Value) -> ir.Value:
    """The address (an integer) as a pointer to elements of the type that `like` points to."""
    return e.builder.inttoptr(address, e.element.as_pointer())


@intrinsic(returns="int")
def address_of(e: Emitter, start: ir.Value) -> ir.Value:
    """The address (an integer) of an array's or pointer's first element."""
    return e.builder.ptrtoint(start, I64)


@intrinsic(returns="pointer")
def advance(e: Emitter, start: ir.Value, elements: ir.Value) -> ir.Value:
    """The address `elements` elements after `start` (an array or pointer); may be negative."""
    return e.at(start, elements)


@intrinsic
def prefetch(e: Emitter, address: ir.Value) -> None:
    """Ask for the cache line at an address; one that does not exist does no harm."""
    e.prefetch(address)


@numba_intrinsic
def call_native(context: Any, kernel: Any, fields: Any, workspace: Any) -> Any:
    """Call a `NativeKernel` of signature int64(int64*, element*). All three are addresses: integers
    or typed pointers."""

    def generate(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        kernel_type = ir.FunctionType(I64, [byte_pointer, byte_pointer])
        cast = {True: builder.inttoptr, False: builder.bitcast}
        code, *arguments = (
            cast[isinstance(kind, types.Integer)](value, pointer_type)
            for kind, value, pointer_type in zip(
                signature.args,
                values,
                (kernel_type.as_pointer(), byte_pointer, byte_pointer),
                strict=True,
            )
        )
        return builder.call(code, arguments)

    return types.int64(kernel, fields, workspace), generate


@numba_intrinsic
def record(context: Any, fields: Any, at: Any, value: Any) -> Any:
    """Write `value` into a table of 64-bit fields, given by its address, from field `at` on:
    an array as its address, shape and strides (in bytes); a float as its bits; an integer."""

    def generate(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        kind = signature.args[2]
        if isinstance(kind, types.Float | types.Integer):
            wide = types.float64 if isinstance(kind, types.Float) else types.int64
            parts = [target.cast(builder, values[2], kind, wide)]
        else:
            array = target.make_array(kind)(target, builder, values[2])
            parts = [builder.ptrtoint(array.data, I64)]
            for numbers in (array.shape, array.strides):
                parts += [builder.extract_value(numbers, axis) for axis in range(kind.ndim)]
        for i, part in enumerate(parts):
            address = builder.add(values[0], builder.mul(builder.add(values[1], I64(i)), I64(8)))
            builder.store(part, builder.inttoptr(address, part.type.as_pointer()))
        return target.get_dummy_value()

    if not isinstance(value, types.Array | types.Float | types.Integer):
        raise TypeError(f"record: {value} is neither an array nor a number")
    return types.void(types.int64, types.int64, types.unliteral(value)), generate


@numba_intrinsic
def recorded(context: Any, fields: Any, at: Any) -> Any:
    """The integer in field `at` of a table that is given by its address."""

    def generate(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        address = builder.add(values[0], builder.mul(values[1], I64(8)))
        return builder.load(builder.inttoptr(address, I64.as_pointer()))

    return types.int64(types.int64, types.int64), generate


@numba_intrinsic
def is_writeable(context: Any, array: Any) -> Any:
    """Whether NumPy allows to write into the array: part of its type, so a constant here."""

    def generate(target: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        return I1(int(signature.args[0].mutable))

    return types.boolean(array), generate
