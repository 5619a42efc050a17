"""Are the CUDA kernels right? For gpu_check.py.

Against float64 computed by the GPU's own library (convolutions: by the definition, on the CPU), on fresh
random numbers, into memory full of NaN, with what lies around the result guarded.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import gpu_races
import numpy as np
from gpu_jobs import UNLIMITED, Allowance

SIZES = [(257, 129, 131), (64, 1000, 48), (5, 3, 7)]  # (M, K, N): no multiples of a tile
PATIENCE = 20.0  # seconds that a check may take before it is told of
# Largest ||result - expected|| / ||expected||.
LIMITS = {"float32": 1e-5, "float64": 1e-13, "tf32": 1e-3, "bf16": 1e-2}


def relative_error(result: Any, expected: Any) -> float:
    """||result - expected|| / ||expected||; infinite if anything is not finite."""
    difference = float(((result.astype("f8") - expected) ** 2).sum()) ** 0.5
    scale = float((expected**2).sum()) ** 0.5
    return difference / (scale or 1.0) if math.isfinite(difference) else math.inf


def guarded(xp: Any, shape: tuple[int, ...], dtype: str) -> tuple[Any, Callable[[], bool]]:
    """An array of NaN amid other memory, and whether that is still what it was."""
    margin, size = 1024, math.prod(shape)
    buffer = xp.full(size + 2 * margin, xp.nan, dtype)
    buffer[:margin] = buffer[margin + size :] = -1234.5
    edges = buffer[:margin], buffer[margin + size :]
    return buffer[margin : margin + size].reshape(shape), lambda: all(
        bool((edge == -1234.5).all()) for edge in edges
    )


def products_to_check(sizes: list[tuple[int, int, int]]) -> Iterator[dict[str, Any]]:
    """All layouts and types, on sizes that are no multiples of a tile."""
    layouts = itertools.product((False, True), (False, True))
    for (m, k, n), (a_turned, b_turned) in itertools.product(sizes, layouts):
        for dtype, precision in (
            ("float32", None), ("float64", None), ("float32", "tf32"), ("float32", "bf16"),
        ):  # fmt: skip
            yield {
                "shape": (m, k, n), "turned": (a_turned, b_turned), "dtype": dtype, "precision": precision,
            }  # fmt: skip


def check_product(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    from tinydl_kernels.cuda import matmul

    (m, k, n), dtype = case["shape"], case["dtype"]
    a, b = (xp.asarray(rng.standard_normal(s).astype(dtype)) for s in ((m, k), (k, n)))
    a, b = (
        xp.ascontiguousarray(x.T).T if turned else x
        for x, turned in zip((a, b), case["turned"], strict=True)
    )
    bias = xp.asarray(rng.standard_normal(n).astype(dtype))
    sums = xp.zeros(n, dtype)
    out, untouched = guarded(xp, (m, n), dtype)
    matmul(
        a, b, out, bias=bias, activation="leaky_relu", bias_grad=sums, precision=case["precision"]
    )
    z = a.astype("f8") @ b.astype("f8") + bias
    error = relative_error(out, xp.where(z < 0, 0.2 * z, z))
    # Cancellation makes the norm of column sums small: compare with that of their terms.
    scale = float((b.astype("f8") ** 2).sum()) ** 0.5
    sums_error = relative_error(sums, b.astype("f8").sum(axis=0)) if scale else 0.0
    wrong = not untouched() or sums_error > 100 * LIMITS[dtype]
    return math.inf if wrong else error


def packed_products_to_check(sizes: list[tuple[int, int, int]]) -> Iterator[dict[str, Any]]:
    """What large products are computed with on Hopper, for sizes at which it would not be chosen."""
    from tinydl_kernels.cuda import device, tiles, warpgroups

    if device.capability() == warpgroups.COMPUTE:
        for case in products_to_check(sizes):
            for name, parts in itertools.product(tiles.WARPGROUP_TILES, (1, 3)):
                if case["precision"]:
                    yield {**case, "tile": name, "parts": parts}


def check_packed_product(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    from tinydl_kernels.cuda import products, tiles

    tile, choose = tiles.WARPGROUP_TILES[case["tile"]], products.choose

    def forced(*arguments: Any) -> Any:  # but for sums of columns, which are in float32
        return (tile, case["parts"]) if case["precision"] in arguments else choose(*arguments)

    with unittest.mock.patch.object(products, "choose", forced):
        return check_product(xp, rng, case)


def convolutions_to_check() -> Iterator[dict[str, Any]]:
    for dtype, groups, strides, dilation, padding in itertools.product(
        ("float32", "float64"), (1, 2, 12), (1, 2), (1, 2), ("same", "valid")
    ):
        options = {"groups": groups, "strides": strides, "dilation": dilation, "padding": padding}
        yield {"dtype": dtype, **options}


def check_convolution(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    """The largest error of the forward pass and both gradients."""
    from tinydl_kernels import cuda, reference

    options = {name: value for name, value in case.items() if name != "dtype"}
    dtype, groups = case["dtype"], case["groups"]
    x = rng.standard_normal((3, 19, 17, 12)).astype(dtype)
    w = rng.standard_normal((3, 3, 12 // groups, 24)).astype(dtype)
    wide_x, wide_w = x.astype("f8"), w.astype("f8")
    y = reference.conv2d(wide_x, wide_w, **options)
    grad = rng.standard_normal(y.shape).astype(dtype)
    expected = (
        y,
        reference.conv2d_grad_input(grad.astype("f8"), wide_w, x.shape, **options),
        reference.conv2d_grad_weight(wide_x, grad.astype("f8"), w.shape, **options),
    )
    on_x, on_w, on_grad = map(xp.asarray, (x, w, grad))
    outs = [guarded(xp, values.shape, dtype) for values in expected]
    cuda.conv2d(on_x, on_w, out=outs[0][0], **options)
    cuda.conv2d_grad_input(on_grad, on_w, x.shape, out=outs[1][0], **options)
    cuda.conv2d_grad_weight(on_x, on_grad, w.shape, out=outs[2][0], **options)
    errors = [
        relative_error(out, xp.asarray(values)) if untouched() else math.inf
        for (out, untouched), values in zip(outs, expected, strict=True)
    ]
    return max(errors)


def check_rung(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    m, k, n = case["shape"]
    a, b = (xp.asarray(rng.standard_normal(s).astype(case["dtype"])) for s in ((m, k), (k, n)))
    return relative_error(case["rung"](a, b), a.astype("f8") @ b.astype("f8"))


def rungs_to_check() -> Iterator[dict[str, Any]]:
    from tinydl_kernels.cuda import ladder

    for rung in filter(ladder.Rung.runs_here, (*ladder.RUNGS, *ladder.TENSOR_CORES)):
        for dtype in ("float32", "float64")[: 1 if rung.reduced else 2]:
            for shape in SIZES:
                yield {"rung": rung, "dtype": dtype, "precision": rung.reduced, "shape": shape}


CHECKS: dict[str, tuple[Callable[..., float], Callable[[], Iterator[dict[str, Any]]]]] = {
    "matmul": (check_product, lambda: products_to_check(SIZES)),
    "matmul by warpgroups": (
        check_packed_product,  # the last: several stages of several tiles
        lambda: packed_products_to_check([*SIZES, (300, 1100, 520)]),
    ),
    "conv2d": (check_convolution, convolutions_to_check),
    "ladder": (check_rung, rungs_to_check),
    "same each time": (gpu_races.check_same, gpu_races.ways),
    "huge": (gpu_races.check_huge, gpu_races.huge_products),
}


@contextlib.contextmanager
def told_of(words: str) -> Iterator[None]:
    """Say what it is that does not end: the process may be killed before it could be found in the results."""
    timer = threading.Timer(PATIENCE, print, [f"  after {PATIENCE} s still at {words}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def right(
    xp: Any, operation: str, seed: int, allowance: Allowance = UNLIMITED
) -> list[dict[str, Any]]:
    """All checks of an operation: what was computed, its error, the limit and whether it holds."""
    check, cases = CHECKS[operation]
    rng, found, to_check = np.random.default_rng(seed), [], list(cases())
    for i, case in enumerate(to_check):
        if allowance.over:
            allowance.leave_out(f"{len(to_check) - i} of {len(to_check)} checks")
            break
        named = {key: getattr(value, "name", value) for key, value in case.items()}
        with told_of(f"{operation} {named}"):
            error = check(xp, rng, case)
        limit = LIMITS[case.get("precision") or case["dtype"]]
        verdict = {"error": error, "limit": limit, "right": error <= limit}
        found.append({"operation": operation, **named, **verdict})
        if error > limit:
            print(f"  WRONG {found[-1]}")
    print(f"{operation}: {sum(case['right'] for case in found)} of {len(found)} right")
    return found
