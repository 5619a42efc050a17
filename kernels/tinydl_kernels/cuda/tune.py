"""Measure which tile is best for which shapes, and write `tuned`:  python -m tinydl_kernels.cuda.tune

Each class of shapes is represented by one shape. All tiles, and all numbers of parts into which the sum can
be cut, multiply the same random matrices; the median of several runs decides. Takes some minutes. What is written
counts on GPUs of the same name.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

try:
    from . import device, products, tiles, warpgroups
    from .operands import line
    from .products import Product, Result, matrix
except ImportError as error:
    if __name__ == "__main__":
        print(f"tune measures on a GPU: {error}", file=sys.stderr)
        sys.exit(2)
    raise

SIZES = (8, 32, 128, 512, 2048, 8192)  # one for each class of `tiles.shape_class`
LARGEST = 2**35  # multiply-adds; for larger products counts what is best in the next smaller class
KINDS = {
    "float32": ("float32", None),
    "float64": ("float64", None),
    "tf32": ("float32", "tf32"),
    "bf16": ("float32", "bf16"),
}  # what is multiplied, and how exactly
RUNS, CALLS = 7, 5

HEADER = '''"""The best tile for each class of shapes, written by `python -m tinydl_kernels.cuda.tune` on a GPU.

CHOICES: {{(precision or else dtype, class of M, of N, of K): (tile, parts)}}, see `tiles.choose`. They count on GPUs
of the name DEVICE.
"""

DEVICE = {device!r}
MEASURED = {date!r}

CHOICES: dict[tuple[str, int, int, int], tuple[str, int]] = {{
'''


def tune(
    seconds_of: Callable[[Callable[[], None]], float],
    sizes: Iterable[int] = SIZES,
    kinds: Iterable[str] = tuple(KINDS),
) -> dict[tuple[str, int, int, int], tuple[str, int]]:
    """The fastest (tile, parts) for each kind and class; `seconds_of` times a call. `sizes`: from the smallest to the
    largest, one for each class."""
    choices = {}
    for kind, (m, n, k) in itertools.product(kinds, itertools.product(sizes, repeat=3)):
        classes = tiles.shape_class(m, n, k)
        if m * n * k <= LARGEST:
            choices[(kind, *classes)] = _fastest(seconds_of, kind, m, n, k)
        else:
            choices[(kind, *classes)] = choices[(kind, *_next_smaller(classes))]
    return choices


def _next_smaller(classes: tuple[int, ...]) -> tuple[int, ...]:
    longest = classes.index(max(classes))
    return (*classes[:longest], classes[longest] - 1, *classes[longest + 1 :])


def _fastest(seconds_of: Callable, kind: str, m: int, n: int, k: int) -> tuple[str, int]:
    dtype, precision = KINDS[kind]
    a, b, c = (_random(shape, dtype) for shape in ((m, k), (k, n), (m, n)))
    operands = matrix(a.dtype.itemsize, k, 1), matrix(b.dtype.itemsize, 1, n)
    product = Product(*operands, Result(line(n)), (m, n, k))
    multiply = functools.partial(products.multiply, product, a, b, c, precision=precision)
    times = []
    hopper = device.capability() == warpgroups.COMPUTE
    for name, tile in tiles.available(dtype, m, n, k, 1, precision, warpgroups=hopper).items():
        for parts in tiles.parts_of(k, tile):
            seconds = seconds_of(functools.partial(multiply, tile=tile, parts=parts))
            times.append((seconds, name, parts))
    return min(times)[1:]


def write(path: Path, choices: dict, device_name: str, date: str | None) -> None:
    lines = [f"    {key!r}: {choice!r},\n" for key, choice in sorted(choices.items())]
    text = HEADER.format(device=device_name, date=date) + "".join(lines) + "}\n"
    path.write_text(text.replace("'", '"'))


def _random(shape: tuple[int, int], dtype: str) -> Any:
    """Random numbers: with zeros, a GPU draws less power and runs faster than it ever will."""
    return device.namespace().random.standard_normal(shape).astype(dtype)


def median_seconds(call: Callable[[], None]) -> float:
    """Median time of a call on the GPU, after two calls that compile and warm up.

    Starting a kernel from Python takes longer than a small product. So the calls are captured once, in the
    current stream, and what is timed is the replay of the graph.
    """
    cupy = device.namespace()
    stream = cupy.cuda.get_current_stream()
    call(), call()
    stream.begin_capture()
    for _ in range(CALLS):
        call()
    graph = stream.end_capture()
    times = []
    for _ in range(RUNS):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(stream)
        graph.launch(stream)
        end.record(stream)
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end) / 1e3 / CALLS)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("tuned.py"))
    out = parser.parse_args().out
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        parser.error(f"{out} cannot be written; --out names another file")
    try:
        if device.SIMULATED:
            raise RuntimeError("NUMBA_ENABLE_CUDASIM is set, which simulates one")
        device.require()
    except (RuntimeError, ImportError) as error:
        print(f"tune measures on a GPU: {error}", file=sys.stderr)
        sys.exit(2)
    with device.namespace().cuda.Stream(non_blocking=True):  # the default stream cannot be captured
        write(out, tune(median_seconds), device.name(), datetime.date.today().isoformat())
    print(f"{out}: measured on {device.name()}")


if __name__ == "__main__":
    main()
