"""The inner loops of depthwise convolutions: a walk along the positions of a row, weights in registers.

A depthwise convolution has no sum over channels: channels are the lanes of a vector all the way,

    y[p, c] = sum over taps t of x[p + tap t, c] w[t, c]

so each number of x is needed by a few multiply-adds only, and what counts is to touch memory as rarely
as possible. Nothing is gathered or packed here. One vector of channels has one weight vector for each
tap; up to TAPS of them stay in registers, while T addresses, one for each tap, walk along x side by
side, and every step of theirs makes one vector of y. More taps are walked in several turns, which add
to what the first one left in y.

The gradient with respect to the weights is the same walk with the roles exchanged: y is read, and the
registers collect one sum for each tap.

    dw[t, c] = sum over positions p of x[p + tap t, c] dy[p, c]

A walk does not know about borders. Whoever starts it lets the taps that lie outside of the image walk
along a row of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from .simd import I64, Emitter, intrinsic
from .target import vector_registers

# As many weights, and addresses, as fit into the 16 registers of the lesser processors; and a kernel of
# 3 x 3 is by far the most frequent one.
TAPS = 9

RUN_HEAD = 2  # what a run's entry holds before the addresses of its taps


class Turn(NamedTuple):
    """What is compiled for a turn: whether it is a phase's first one, and for each of its taps, which
    tap (or -1) meets now what this one meets at the next position. Such a vector stays in a register
    instead of being loaded anew: vectors often lie in two cache lines, and then a load counts twice."""

    is_first: bool
    successors: tuple[int, ...]


def successors(rows: Sequence[int], columns: Sequence[int], stride: int) -> tuple[int, ...]:
    """For each tap of a turn, the tap one stride to the right of it."""
    places = list(zip(rows, columns, strict=True))
    if vector_registers() < 32:  # weights take them all
        return (-1,) * len(places)
    nexts = [(row, column + stride) for row, column in places]
    return tuple(places.index(place) if place in places else -1 for place in nexts)


def make_walk(turn: Turn, along: Callable) -> Any:
    """An intrinsic for a turn; `along` is `apply` or `collect`:

    walk(tables, run, start, step, rows, pitch, y_step, n, slope)

    Channels start ... start + n - 1 (a whole vector if n >= lanes, never more) of a run of positions. From
    `run` on, the tables hold how many positions there are, the address of y, and for each tap the address
    of x, all for channel 0 of the first position; from there it is y_step and `step` numbers to the next
    one. The vectors of `rows`, `pitch` apart, are the bias and then one for each tap.
    """

    def walk(
        e: Emitter,
        tables: ir.Value,
        run: ir.Value,
        start: ir.Value,
        step: ir.Value,
        rows: ir.Value,
        pitch: ir.Value,
        y_step: ir.Value,
        n: ir.Value,
        slope: ir.Value,
    ) -> None:
        builder, taps = e.builder, len(turn.successors)

        def entry(i: int) -> ir.Value:
            return builder.load(e.at(e.at(tables, run), i))

        def place(i: int) -> ir.Value:
            return builder.inttoptr(entry(i), e.element.as_pointer())

        count, y = entry(0), e.at(place(1), start)
        places = [place(RUN_HEAD + t) for t in range(taps)]
        vectors = [e.at(rows, builder.mul(pitch, I64(t))) for t in range(1 + taps)]
        is_whole, inside = builder.icmp_signed(">=", n, I64(e.lanes)), e.mask(n)
        with builder.if_else(is_whole) as (whole, part):
            for branch, mask in ((whole, None), (part, inside)):
                with branch:
                    x = _Windows(_Memory(e, mask), places, turn.successors, start, step)
                    along(e, x, turn.is_first, count, vectors, y, y_step, slope)

    return intrinsic(walk)


class _Memory:
    """Loads and stores of a vector, or of the part of it that exists."""

    def __init__(self, e: Emitter, mask: ir.Value | None) -> None:
        self.e, self.mask = e, mask

    def load(self, place: ir.Value) -> ir.Value:
        return self.e.load(place) if self.mask is None else self.e.masked_load(place, self.mask)

    def store(self, vector: ir.Value, place: ir.Value) -> None:
        if self.mask is None:
            self.e.store(vector, place)
        else:
            self.e.masked_store(vector, place, self.mask)


class _Windows:
    """What the taps meet, position after position."""

    def __init__(
        self,
        memory: _Memory,
        places: list[ir.Value],
        following: tuple[int, ...],
        start: ir.Value,
        step: ir.Value,
    ) -> None:
        self.memory, self.places, self.following, self.step = memory, places, following, step
        self.kept = [t for t, later in enumerate(following) if later >= 0]
        self.first = [start, *(self._load(t, start) for t in self.kept)]  # what a loop carries

    def _load(self, t: int, offset: ir.Value) -> ir.Value:
        return self.memory.load(self.memory.e.at(self.places[t], offset))

    def move(self, carried: list[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
        """(the vector of each tap, what to carry on), out of what was carried."""
        offset, *kept = carried
        known = dict(zip(self.kept, kept, strict=True))
        taps = range(len(self.places))
        vectors = [known[t] if t in known else self._load(t, offset) for t in taps]
        later = [vectors[self.following[t]] for t in self.kept]
        return vectors, [self.memory.e.builder.add(offset, self.step), *later]


def apply(
    e: Emitter,
    x: _Windows,
    is_first: bool,
    count: ir.Value,
    rows: list[ir.Value],
    y: ir.Value,
    y_step: ir.Value,
    slope: ir.Value,
) -> None:
    """y = f(bias + the sum over taps), or f(y + the sum); f(z) is z for z >= 0, else slope * z."""
    bias, *weights = map(e.load, rows)
    # 0 * -inf would be NaN, so relu chooses a zero instead of multiplying by one.
    is_relu, slopes = e.splat(e.builder.fcmp_ordered("==", slope, e.element(0.0))), e.splat(slope)

    def one(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        place, *window = carried
        vectors, window = x.move(window)
        total = bias if is_first else x.memory.load(place)
        for vector, weight in zip(vectors, weights, strict=True):
            total = e.fma(vector, weight, total)
        lower = e.select(is_relu, e.zero, e.mul(slopes, total))
        is_negative = e.builder.fcmp_ordered("<", total, e.zero)  # False for NaN: it passes
        x.memory.store(e.select(is_negative, lower, total), place)
        return [e.at(place, y_step), *window]

    e.loop(count, [y, *x.first], one, unroll=False)


def collect(
    e: Emitter,
    x: _Windows,
    is_first: bool,
    count: ir.Value,
    rows: list[ir.Value],
    y: ir.Value,
    y_step: ir.Value,
    slope: ir.Value,
) -> None:
    """rows[1 + t] += the sum of x y over the positions; rows[0] += the sum of y, in the first turn."""

    def one(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        place, total, *rest = carried
        sums, window = rest[: len(rows) - 1], rest[len(rows) - 1 :]
        vectors, window = x.move(window)
        factor = x.memory.load(place)
        total = e.add(total, factor) if is_first else total
        sums = [e.fma(vector, factor, s) for vector, s in zip(vectors, sums, strict=True)]
        return [e.at(place, y_step), total, *sums, *window]

    first = [y, *[e.zero] * len(rows), *x.first]
    _, *sums = e.loop(count, first, one, unroll=False)[: 1 + len(rows)]
    # One run's sums are added to those of the others: shorter chains of additions, less rounding.
    for t, value in enumerate(sums):
        if t > 0 or is_first:
            e.store(e.add(e.load(rows[t]), value), rows[t])
