"""Where arrays live: in the host's memory, as NumPy's, or on a GPU, as CuPy's (``device="cuda"``).

Most code need not know. Kernels go by the arrays that they are given, and NumPy's functions hand CuPy's arrays over to
CuPy (NEP 13 and 18). Two kinds of code must know, and ask here: what makes an array from nothing (``namespace``), and
what brings arrays from one side to the other (all else). The two sides never mix by themselves: CuPy refuses that.

**Waiting.** A GPU works through a stream of orders while Python goes on giving more. Reading a result waits until all
that was ordered before has been done, and the GPU then stands idle until the next order comes. So a copy to the host is
asked for early and read late (``later``, ``now``), and batches are copied ahead (``ahead``).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("cpu", "cuda")


class DeviceError(RuntimeError):
    """``device="cuda"`` where it cannot be had; the message says what is missing."""


def require(name: str | None, local_rank: int | None = None) -> None:
    """Check that the device of this name can be used here; None is the CPU.

    Where several processes train together, each takes the GPU of its number on its computer, ``local_rank``; they
    share GPUs where there are fewer.

    Raises:
        ValueError: there is no such name.
        DeviceError: there is no GPU, or no driver, or a package is missing.
    """
    if name not in (None, *NAMES):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {name!r}")
    if name != "cuda":
        return
    try:
        from tinydl_kernels.cuda import device

        device.require()
    except (ImportError, RuntimeError) as error:
        raise DeviceError(f"device='cuda': {error}") from None
    try:
        if local_rank is not None:
            cuda = library().cuda
            cuda.Device(local_rank % cuda.runtime.getDeviceCount()).use()
        library().zeros(1)
    except Exception as error:  # whatever CuPy and the driver below it may find
        raise DeviceError(
            f"device='cuda': CuPy cannot use the GPU: {' '.join(str(error).split())}"
        ) from None


def library() -> Any:
    """The module whose arrays live on the GPU: CuPy."""
    from tinydl_kernels.cuda import device

    return device.namespace()


def is_on_device(x: Any) -> bool:
    return type(x) is not np.ndarray and hasattr(type(x), "__cuda_array_interface__")


def namespace(x: Any) -> Any:
    """The module that makes arrays beside ``x``: NumPy or CuPy."""
    return library() if is_on_device(x) else np


# ---- from one side to the other ----------------------------------------------------------------------------


def to_host(x: Any) -> Any:
    """``x`` as a NumPy array; a list of arrays as such a list. Waits for the device."""
    if isinstance(x, list | tuple):
        return [to_host(array) for array in x]
    return x.get() if is_on_device(x) else x


def host_copy(x: Any) -> NDArray:
    """A NumPy array of its own with what ``x`` holds."""
    return x.get() if is_on_device(x) else x.copy()


def beside(x: Any, other: Any) -> Any:
    """``x`` where ``other`` lives."""
    return library().asarray(x) if is_on_device(other) and not is_on_device(x) else x


def assign(target: Any, x: Any) -> None:
    """target[...] = x, wherever the two live."""
    target[...] = beside(x, target) if is_on_device(target) else to_host(x)


# ---- without waiting ---------------------------------------------------------------------------------------


class Later:
    """A copy of a device array on its way to the host: it begins at once, ``get`` waits until it has come.

    What the device is told to do in between, it does in between.
    """

    def __init__(self, x: Any) -> None:
        self._array = pinned(x.shape, x.dtype)
        if x.size:
            x.get(out=self._array, blocking=False)
        self._arrived = library().cuda.get_current_stream().record()

    def get(self) -> NDArray:
        self._arrived.synchronize()
        return self._array


def later(x: Any) -> Any:
    """``x`` itself, or of what lives on a device (also within a list) a copy on its way to the host."""
    if isinstance(x, list | tuple):
        return [later(array) for array in x]
    return Later(x) if is_on_device(x) else x


def now(x: Any) -> Any:
    """What ``later`` promised."""
    if isinstance(x, list):
        return [now(array) for array in x]
    return x.get() if isinstance(x, Later) else x


def pinned(shape: tuple[int, ...], dtype: Any) -> NDArray:
    """A host array in memory that stays in its place, so that the device can copy to and from it by itself."""
    size = math.prod(shape)
    if size == 0:
        return np.empty(shape, dtype)
    memory = library().cuda.alloc_pinned_memory(size * np.dtype(dtype).itemsize)
    return np.ndarray(shape, dtype, memory)


class Arriving:
    """A host array on its way to the device, in a stream of its own, beside what the device computes."""

    def __init__(self, x: NDArray, copies: Any) -> None:
        computing = library().cuda.get_current_stream()
        self._staged = pinned(x.shape, x.dtype)
        self._staged[...] = x
        self._array = library().empty(x.shape, x.dtype)
        # This memory belonged to earlier work of the computing stream, which may not be done with it.
        copies.wait_event(computing.record())
        if x.size:
            self._array.set(self._staged, stream=copies)
        self._arrived = copies.record()

    def get(self) -> Any:
        """The device array. Not this process waits for it, but what the device computes from now on."""
        library().cuda.get_current_stream().wait_event(self._arrived)
        return self._array

    def finish(self) -> None:
        """The copy is done, and the host's memory may be used for another."""
        self._arrived.synchronize()


def ahead(batches: Iterable[tuple]) -> Generator[tuple, None, None]:
    """The same batches (x, y, weight) with x on the device, each copied while the one before is computed on.

    Targets and weights stay on the host: metrics are measured there, and losses check them there before copying them.
    """
    copies = library().cuda.Stream(non_blocking=True)
    used: list[Arriving] = []  # by the batch before the one that is computed on
    coming: tuple[list[Arriving], Any, list] | None = None
    try:
        for x, *rest in batches:
            following = ([Arriving(np.asarray(array), copies) for array in as_list(x)], x, rest)
            if coming is not None:
                for copy in used:
                    copy.finish()
                used = coming[0]
                yield arrived(*coming)
            coming = following
        if coming is not None:
            yield arrived(*coming)
    finally:  # however this ends, nothing is copied any more when the memory is used for something else
        copies.synchronize()


def arrived(arriving: list[Arriving], x: Any, rest: list) -> tuple:
    arrays = [array.get() for array in arriving]
    return (arrays if isinstance(x, list) else arrays[0], *rest)


def as_list(x: Any) -> list:
    return x if isinstance(x, list) else [x]
