"""A GPU and its memory, as the kernels of this package see them.

Two ways to use the kernels exist:

* on a GPU, with CuPy arrays, in CuPy's current stream;
* in Numba's simulator (NUMBA_ENABLE_CUDASIM=1 in the environment before the first import), where each
  CUDA thread is a Python thread and NumPy arrays play the device's memory. It is for tests and for a
  debugger: slow, but every index is checked (see `simulated`).

Kernels take addresses and strides, as on the CPU, not arrays: each is compiled once for an element
type, and a launch does not have to look at array objects. Numba compiles them (see `compiling`), and CUDA's
driver starts them (see `launching`); this is the one module that imports CuPy.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from . import launching
from .compiling import (
    MISSING,
    SIMULATED,
    Usage,
    assemble,
    compile_ptx,
    cuda,
    device_function,
    intrinsic,
    kernel,
    types,
)  # fmt: skip

# Vectors of 16 bytes must lie at multiples of 16; the simulator knows no alignment.
VECTOR_BYTES = 16
ALIGNED = None if SIMULATED else VECTOR_BYTES
MOST_BLOCKS = 65535  # along the second and the third dimension of a grid
COMPUTE = ((8, 0), (9, 0))  # what the kernels are checked for: A100, H100 and H200

__all__ = [
    "ALIGNED",
    "COMPUTE",
    "MOST_BLOCKS",
    "SIMULATED",
    "VECTOR_BYTES",
    "Usage",
    "address",
    "assemble",
    "capability",
    "check_array",
    "compile_ptx",
    "cuda",
    "current",
    "device_function",
    "intrinsic",
    "kernel",
    "launch",
    "launch_again",
    "memory",
    "multiprocessors",
    "name",
    "namespace",
    "place",
    "require",
    "types",
]


@functools.cache  # of what went well; errors are not kept
def require() -> None:
    """Check that kernels can run.

    Raises:
        RuntimeError: there is no GPU, or its driver does not answer.
        ImportError: CuPy is missing.
    """
    if SIMULATED:
        return
    if not cuda.is_available():
        raise RuntimeError(f"no CUDA device can be used here: {_reason()}")
    try:
        _cupy().cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # CuPy's runtime may be newer than the driver
        raise RuntimeError(f"no CUDA device can be used here: CuPy finds {error}") from error


def _reason() -> str:
    error = cuda.cuda_error()
    return " ".join(str(error).split()) if error else "the driver finds none"


@functools.cache
def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            MISSING.format("CuPy, whose arrays tinydl_kernels.cuda takes,")
        ) from error
    return cupy


def launch(
    dispatcher: Any, grid: tuple[int, ...], threads: int, *arguments: Any, shared: int = 0
) -> None:
    """Start a kernel in CuPy's current stream; it runs when what is before it there has ended.

    Args:
        arguments: integers, floats, scalars of NumPy's, and tuples of integers.
        shared: bytes of shared memory beyond what the kernel declares, cuda.shared.array(0, ...) in it.

    Raises:
        ValueError: more blocks than a grid can have, or an argument out of range.
        TypeError: an argument of another type.
        RuntimeError: the driver cannot start the kernel, or one started earlier failed.
    """
    if 0 in grid:
        return
    if len(grid) > 1 and max(grid[1:]) > MOST_BLOCKS:
        raise ValueError(
            f"{dispatcher.__name__}: a grid of {grid} blocks is larger than {MOST_BLOCKS} along the "
            "second or the third dimension, which no GPU takes: give it the arrays in parts"
        )
    if SIMULATED:
        dispatcher[grid, threads, 0, shared](*arguments)
    else:
        library = _cupy().cuda
        stream = library.get_current_stream().ptr
        launching.start(dispatcher, grid, threads, arguments, shared, library.runtime, stream)


def launch_again(known: launching.Launch, *addresses: Any) -> None:
    """`launch` with arguments that are laid out already, but for these."""
    if SIMULATED:
        launch(known.dispatcher, known.grid, known.threads, *known.arguments(addresses))
    else:
        library = _cupy().cuda
        stream = library.get_current_stream().ptr
        launching.start_again(known, addresses, library.runtime, stream)


def address(x: Any) -> int:
    if SIMULATED:
        return x.__array_interface__["data"][0]
    try:
        return x.data.ptr  # CuPy's; quicker than to describe the whole array
    except AttributeError:
        return x.__cuda_array_interface__["data"][0]


def _simulated(x: Any) -> Any:
    from .simulated import Memory

    return Memory(x)


# What a kernel gets for an array: the address of its first element.
memory = _simulated if SIMULATED else address


def namespace() -> Any:
    """The array library of the device: CuPy, or NumPy in the simulator."""
    return np if SIMULATED else _cupy()


def check_array(where: str, name: str, x: Any) -> None:
    """
    Raises:
        TypeError: x is not in the device's memory.
    """
    if not SIMULATED and not hasattr(type(x), "__cuda_array_interface__"):
        raise TypeError(
            f"{where}: {name} is a {type(x).__module__}.{type(x).__qualname__}, which is not in the "
            "GPU's memory; cupy.asarray copies it there"
        )


def current() -> int:
    """The current device's number."""
    return 0 if SIMULATED else _cupy().cuda.runtime.getDevice()


def place() -> tuple[int, int, int]:
    """The current device, stream and thread: what is kept in a device's memory is kept once for each.

    Another stream would neither wait until it has been written, nor be waited for when it is given up. The
    thread counts because the default stream of each thread, where there is one, has the same name.
    """
    stream = 0 if SIMULATED else namespace().cuda.get_current_stream().ptr
    return current(), stream, threading.get_ident()


def multiprocessors() -> int:
    """How many multiprocessors the device has; in the simulator, as many as an H200."""
    return 132 if SIMULATED else launching.attribute("MULTIPROCESSOR_COUNT", current())


def name() -> str:
    """What the driver calls the device; in the simulator, an H200's name."""
    return "NVIDIA H200" if SIMULATED else launching.name(current())


def capability() -> tuple[int, int]:
    """The device's compute capability; in the simulator, an H200's."""
    return (9, 0) if SIMULATED else launching.capability(current())[:2]
