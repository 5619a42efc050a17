"""Questions to device arrays that all kernels' callers ask."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import device

FLOATS = {"f": "float32", "d": "float64"}  # what kernels compute in: names by NumPy's short codes


def name_of(dtype: np.dtype) -> str:
    """dtype.name, which NumPy puts together anew each time, for one of FLOATS."""
    return FLOATS[dtype.char]


def check_floats(where: str, **arrays: Any) -> None:
    """
    Raises:
        TypeError: arrays that are not on the device, not float32 or float64, or not all alike.
        RuntimeError: there is no GPU.
    """
    first = kind = dtype = None
    for name, x in arrays.items():
        if type(x) is kind and x.dtype is dtype:  # as the first: nothing new
            continue
        device.check_array(where, name, x)
        if x.dtype.char not in FLOATS:
            raise TypeError(f"{where}: {name} is {x.dtype}, but must be float32 or float64")
        if first is None:
            first, kind, dtype = name, type(x), x.dtype
        if x.dtype != dtype:
            raise TypeError(f"{where}: {name} is {x.dtype}, but {first} is {dtype}")
    device.require()


def check_vector(where: str, name: str, x: Any, size: int, dtype: np.dtype) -> None:
    device.check_array(where, name, x)
    if x.dtype != dtype:
        raise TypeError(f"{where}: {name} must be an array of {dtype}, not {x.dtype}")
    if x.shape != (size,):
        raise ValueError(f"{where}: {name} must have shape {(size,)}, got {x.shape}")


def packed_vectors(where: str, like: Any, size: int, vectors: dict[str, Any]) -> Any:
    """`check_vector` and `packed` for many, in the memory and of the type of `like`."""
    if _lie_packed(like, size, vectors):
        return vectors.values()
    for name, x in vectors.items():
        check_vector(where, name, x, size, like.dtype)
    return [packed(x) for x in vectors.values()]


def check_pieces(where: str, like: Any, size: int, vectors: dict[str, Any]) -> None:
    """`check_vector` for many that a kernel changes in place; None is none.

    Raises:
        ValueError: a vector with gaps.
    """
    if _lie_packed(like, size, vectors):
        return
    for name, x in vectors.items():
        if x is None:
            continue
        check_vector(where, name, x, size, like.dtype)
        if packed(x) is not x:
            raise ValueError(f"{where}: {name} must lie in one piece")


def _lie_packed(like: Any, size: int, vectors: dict[str, Any]) -> bool:
    """Whether nothing is wrong with any of them, as nearly always."""
    kind, dtype, shape, strides = type(like), like.dtype, (size,), (like.dtype.itemsize,)
    for x in vectors.values():
        if type(x) is not kind or x.dtype is not dtype or x.shape != shape or x.strides != strides:
            return False
    return True


def packed(vector):
    """The vector with its elements side by side."""
    if vector is None or vector.strides[0] == vector.dtype.itemsize or len(vector) <= 1:
        return vector
    return vector.copy()


def overlap(x: Any, *others: Any) -> bool:
    """Whether the memory between the first and the last element of x meets that of another; None has none."""
    first, last = _extent(x)
    for y in others:
        if y is not None:
            begin, end = _extent(y)
            if first < end and begin < last:
                return True
    return False


def _extent(x) -> tuple[int, int]:
    start, flags = device.address(x), x.flags
    if flags.c_contiguous or flags.f_contiguous or x.size == 0:
        return start, start + x.nbytes
    spans = [(size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)]
    first, last = sum(min(0, s) for s in spans), sum(max(0, s) for s in spans)
    return start + first, start + last + x.dtype.itemsize


def plain(x: Any) -> Any:
    """x, or a copy of it that lies in one piece, the last axis innermost."""
    return x if x.flags.c_contiguous else x.copy(order="C")


def output(where: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, *inputs: Any) -> Any:
    """`out` if kernels can write straight into it, else fresh memory (see `deliver`)."""
    if out is None:
        return device.namespace().empty(shape, dtype)
    device.check_array(where, "out", out)
    if out.dtype != dtype:
        raise TypeError(f"{where}: out must be an array of {dtype}, not {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{where}: out must have shape {shape}, got {out.shape}")
    straight = out.flags.c_contiguous and not overlap(out, *inputs)
    return out if straight else device.namespace().empty(shape, dtype)


def deliver(result: Any, out: Any) -> Any:
    if out is None or result is out:
        return result
    out[...] = result
    return out
