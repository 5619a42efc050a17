"""Operations on small arrays that live in registers.

A register has no address: an array made by `cuda.local.array` becomes registers only if each index is a
constant once the compiler is done. It unrolls short loops, but leaves those with long bodies as they
are, and then the whole array goes to memory, hundreds of times slower. So the operations on large
arrays are written out here, element by element, by Python functions that write LLVM IR (`Registers`);
their twins for the simulator are the loops that they stand for.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .device import types
from .instructions import I32, twin
from .mma import MMA, mma_bf16, mma_tf32


class Registers:
    """A local array of known shape, while IR is written."""

    def __init__(
        self, context: Any, builder: Any, kind: Any, value: Any, columns: int = 1, first: int = 0
    ) -> None:
        self._builder, self._columns, self._first = builder, columns, first
        self._data = context.make_array(kind)(context, builder, value).data

    def _place(self, i: int, j: int) -> Any:
        return self._builder.gep(self._data, [I32(self._first + i * self._columns + j)])

    def get(self, i: int, j: int = 0) -> Any:
        return self._builder.load(self._place(i, j))

    def put(self, value: Any, i: int, j: int = 0) -> None:
        self._builder.store(value, self._place(i, j))


class Operations:
    """The operations on sums of a given shape, `sums[i, j]`, as functions for kernels.

    clear(sums): all become zero.
    adder(half) makes add_outer_product(sums, a, b).
    shift_columns(sums): the first row moves left by `run` elements.
    shift_rows(sums): each row becomes the next; the last stays.
    """

    def __init__(self, rows: int, columns: int, run: int) -> None:
        self._shape = rows, columns
        self.clear = self._operation(self._write_clear, _clear)
        self.shift_rows = self._operation(self._write_shift_rows, _shift_rows)

        def _shift_columns(sums: Any) -> None:
            for j in range(columns - run):
                sums[0, j] = sums[0, j + run]

        def write_shift_columns(sums: Registers) -> None:
            for j in range(columns - run):
                sums.put(sums.get(0, j + run), 0, j)

        self.shift_columns = self._operation(write_shift_columns, _shift_columns)

    def adder(self, half: int) -> Any:
        """add_outer_product(sums, a, b): sums[i, j] += a[i] b[j], by fused multiply-adds, where a and b have
        room for two columns and rows, and one half is meant."""
        rows, columns = self._shape

        def python(sums: Any, a: Any, b: Any) -> None:
            for i in range(rows):
                for j in range(columns):
                    sums[i, j] += a[half * rows + i] * b[half * columns + j]

        @twin(python)
        def add_outer_product(typingctx, sums, a, b):
            def write(context, builder, signature, arguments):
                c = Registers(context, builder, sums, arguments[0], columns)
                x = Registers(context, builder, a, arguments[1], first=half * rows)
                y = Registers(context, builder, b, arguments[2], first=half * columns)
                # To and fro, so that each product shares a factor with the one before, which need not be read
                # again. To read three numbers can take longer than one clock: so it was measured on Volta (Jia et
                # al., arXiv:1804.06826) and Ampere (Huerta et al., arXiv:2503.20481); here it was not.
                for i in range(rows):
                    for j in range(columns) if i % 2 == 0 else reversed(range(columns)):
                        product = builder.fmul(x.get(i), y.get(j))
                        c.put(builder.fadd(product, c.get(i, j)), i, j)
                return context.get_dummy_value()

            return types.void(sums, a, b), write

        return add_outer_product

    def _operation(self, write_it: Any, python: Any) -> Any:
        columns = self._shape[1]

        @twin(python)
        def operation(typingctx, sums):
            def write(context, builder, signature, arguments):
                write_it(Registers(context, builder, sums, arguments[0], columns))
                return context.get_dummy_value()

            return types.void(sums), write

        return operation

    def _write_clear(self, sums: Registers) -> None:
        zero = ir.Constant(sums.get(0).type, 0)
        for i in range(self._shape[0]):
            for j in range(self._shape[1]):
                sums.put(zero, i, j)

    def _write_shift_rows(self, sums: Registers) -> None:
        for i in range(self._shape[0] - 1):
            for j in range(self._shape[1]):
                sums.put(sums.get(i + 1, j), i, j)


def _clear(sums: Any) -> None:
    sums[...] = 0


def _shift_rows(sums: Any) -> None:
    sums[:-1] = sums[1:].copy()


def mma_tile(blocks_m: int, blocks_n: int, precision: str) -> Any:
    """The function that adds to sums, a grid of blocks of 16 x 8, the products of a_part, 4 registers for
    each row of blocks, and b_part, 2 for each column."""
    write_mma = MMA[precision]
    instruction = mma_tf32 if precision == "tf32" else mma_bf16

    def python(sums: Any, a_part: Any, b_part: Any) -> None:
        for i in range(blocks_m):
            for j in range(blocks_n):
                block = sums[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                a, b = a_part[4 * i : 4 * i + 4], b_part[2 * j : 2 * j + 2]
                block.flat = instruction(*block.ravel(), *a, *b)

    @twin(python)
    def mma(typingctx, sums, a_part, b_part):
        def write(context, builder, signature, arguments):
            c = Registers(context, builder, sums, arguments[0], 2 * blocks_n)
            a = Registers(context, builder, a_part, arguments[1])
            b = Registers(context, builder, b_part, arguments[2])
            for i in range(blocks_m):
                for j in range(blocks_n):
                    places = [(2 * i + x, 2 * j + y) for x in (0, 1) for y in (0, 1)]
                    registers = [a.get(4 * i + x) for x in range(4)]
                    registers += [b.get(2 * j + x) for x in range(2)]
                    found = write_mma(builder, [c.get(*place) for place in places], registers)
                    for value, place in zip(found, places, strict=True):
                        c.put(value, *place)
            return context.get_dummy_value()

        return types.void(sums, a_part, b_part), write

    return mma
