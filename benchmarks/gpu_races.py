"""Is a result the same each time, and where indices need more than 32 bits? For gpu_right.py.

A race shows only sometimes: when a place in shared memory is written too early, or a block adds up what has not come
yet, or two streams use the same memory. All kernels here add up in an order of their own, so whatever else the GPU
does, a result has to be the same to the last bit.
"""

from __future__ import annotations

import math
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

REPEATS, STREAMS = 100, 4
# (M, K, N): as large as for warpgroups; with a sum in many parts; with a bias whose gradient is added up, too.
PRODUCTS = {"large": (2000, 2100, 2200), "long": (500, 30_000, 520), "small": (300, 200, 100)}
BATCH = (20_000, 70)
REPEATED_ROWS = 1000
# C and a packed A of more than 2^31 elements.
HUGE = [(70_000, 64, 40_000), (1_000_000, 2200, 64)]


def operations(xp: Any, rng: Any) -> dict[str, Callable[[], list[Any]]]:
    """Calls with results in fresh memory."""
    from tinydl_kernels.cuda import batch_moments, matmul

    def numbers(*shape: int) -> Any:
        return xp.asarray(rng.standard_normal(shape).astype("float32"))

    def product(a: Any, b: Any, precision: str | None) -> Callable[[], list[Any]]:
        def call() -> list[Any]:
            sums = xp.zeros(b.shape[1], "float32")
            return [matmul(a, b, bias_grad=sums, precision=precision), sums]

        return call

    def moments() -> list[Any]:
        running = xp.zeros(BATCH[1], "float32"), xp.ones(BATCH[1], "float32")
        return [*batch_moments(x, *running, 0.9, 1e-5), *running]

    x, found = numbers(*BATCH), {"moments": moments}
    for name, (m, k, n) in PRODUCTS.items():
        a, b = numbers(m, k), numbers(k, n)
        for precision in (None, "tf32", "bf16"):
            found[f"{name} product, {precision or 'float32'}"] = product(a, b, precision)
    return found


def all_the_same(xp: Any, results: list[Any], expected: list[Any]) -> Any:
    """Also False if there is a NaN."""
    same = [(result == right).all() for result, right in zip(results, expected, strict=True)]
    return xp.stack(same).all()


def ways() -> Iterator[dict[str, Any]]:
    for streams in (1, STREAMS):
        yield {"streams": streams, "dtype": "float32"}


def check_same(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    """0 if each operation gave the same in all streams at all times. Each stream begins with another operation, so
    that different ones run side by side."""
    calls = operations(xp, rng)
    expected = {name: call() for name, call in calls.items()}
    xp.cuda.Stream.null.synchronize()
    streams = [xp.cuda.Stream(non_blocking=True) for _ in range(case["streams"])]
    names, same = list(calls), []
    for turn in range(REPEATS):
        for i, stream in enumerate(streams):
            name = names[(turn + i) % len(names)]
            with stream:
                same.append((name, all_the_same(xp, calls[name](), expected[name])))
    for stream in streams:
        stream.synchronize()
    wrong = sorted({name for name, answer in same if not bool(answer)})
    if wrong:
        print(f"  not the same each time: {', '.join(wrong)}")
    return math.inf if wrong else 0.0


def huge_products() -> Iterator[dict[str, Any]]:
    for shape in HUGE:
        for precision in (None, "tf32", "bf16"):
            yield {"shape": shape, "dtype": "float32", "precision": precision}


def check_huge(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    """The same rows again and again have to give the same rows again and again; then the first tell for all. Skipped
    where the GPU's memory is too small."""
    from tinydl_kernels.cuda import device, matmul, products, tiles, warpgroups

    (m, k, n), precision = case["shape"], case["precision"]
    needed = 4 * (3 * m * k + 3 * m * n)
    if xp.cuda.runtime.memGetInfo()[0] < needed:
        print(f"  skipped: {case['shape']} takes {needed / 2**30:.0f} GiB")
        return 0.0
    rows = xp.asarray(rng.standard_normal((REPEATED_ROWS, k)).astype("float32"))
    b = xp.asarray(rng.standard_normal((k, n)).astype("float32"))
    a = xp.tile(rows, (m // REPEATED_ROWS, 1))
    choose = products.choose
    if precision and device.capability() == warpgroups.COMPUTE:
        tile = tiles.WARPGROUP_TILES["w128x128"]
        choose = lambda *arguments: (tile, 1)  # noqa: E731
    with unittest.mock.patch.object(products, "choose", choose):
        found = matmul(a, b, precision=precision).reshape(-1, REPEATED_ROWS, n)
    del a
    if not bool((found == found[0]).all()):
        return math.inf
    expected = rows.astype("f8") @ b.astype("f8")
    return float((((found[0] - expected) ** 2).sum() / (expected**2).sum()) ** 0.5)
