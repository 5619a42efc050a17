"""The one module that imports numba-cuda: compiling, launching, and what memory an array has.

The CUDA target left Numba for a package of its own, and that package's successor is announced; what
would have to change then stands here. Two ways to use the kernels exist:

* on a GPU, with CuPy arrays, in CuPy's current stream;
* in Numba's simulator (NUMBA_ENABLE_CUDASIM=1 in the environment before the first import), where each
  CUDA thread is a Python thread and NumPy arrays play the device's memory. It is for tests and for a
  debugger: slow, but every index is checked (see `simulated`).

Kernels take addresses and strides, as on the CPU, not arrays: each is compiled once for an element
type, and a launch does not have to look at array objects.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

MISSING = (
    "{} is missing: pip install 'tinydl[cuda]' ('tinydl[cuda12]' where the driver is for CUDA 12)"
)

try:
    import numba_cuda  # noqa: F401  (older versions of Numba have a numba.cuda of their own)
    from numba import cuda, types
    from numba.cuda.core import config
    from numba.cuda.extending import intrinsic
except ImportError as error:
    what = "numba-cuda, which compiles tinydl_kernels.cuda,"
    raise ImportError(MISSING.format(what)) from error

SIMULATED = bool(config.ENABLE_CUDASIM)
# Numba would warn of every launch of fewer than 128 blocks. Layers are as large as they are.
config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
# Vectors of 16 bytes must lie at multiples of 16; the simulator knows no alignment.
VECTOR_BYTES = 16
ALIGNED = None if SIMULATED else VECTOR_BYTES
RESERVED_SHARED = 1024  # bytes of shared memory that the system takes for each block, since sm_80
MOST_BLOCKS = 65535  # along the second and the third dimension of a grid
COMPUTE = ((8, 0), (9, 0))  # what the kernels are checked for: A100, H100 and H200

__all__ = [
    "ALIGNED",
    "COMPUTE",
    "MOST_BLOCKS",
    "SIMULATED",
    "VECTOR_BYTES",
    "address",
    "assemble",
    "check_array",
    "compile_ptx",
    "cuda",
    "current",
    "device_function",
    "intrinsic",
    "kernel",
    "launch",
    "memory",
    "multiprocessors",
    "namespace",
    "require",
    "types",
]


# --- compiling ------------------------------------------------------------------------------------


def kernel(threads: int, blocks: int = 1) -> Callable[[Callable], Any]:
    """Decorator: a kernel that runs with `threads` a block, of which `blocks` shall fit on one
    multiprocessor. The assembler limits registers accordingly."""
    if SIMULATED:
        return cuda.jit
    # lto=False: what the tests assemble without a GPU is then what a GPU runs.
    return cuda.jit(launch_bounds=(threads, blocks), lto=False)


def device_function(function: Callable) -> Any:
    """Decorator: a function that kernels call, inlined into them. It must not use `cuda`."""
    return function if SIMULATED else cuda.jit(device=True, forceinline=True)(function)


class Usage(NamedTuple):
    """What one thread, or for `shared` one block, of an assembled kernel needs."""

    registers: int
    shared: int  # bytes
    stack: int  # bytes of local memory: arrays that did not fit into registers, and spills
    spills: int  # bytes


def compile_ptx(dispatcher: Any, signature: tuple, compute: tuple) -> str:
    """A kernel's PTX for a compute capability, such as (9, 0); needs no GPU. (9, 0, "a") is for what only
    GPUs of exactly that capability have."""
    bounds = dispatcher.targetoptions["launch_bounds"]
    options = {"device": False, "abi": "numba", "cc": compute, "launch_bounds": bounds}
    with _device_of(compute):
        return cuda.compile(dispatcher.py_func, signature, **options)[0]


@contextlib.contextmanager
def _device_of(compute: tuple) -> Iterator[None]:
    """Numba asks the current device, which may not exist, for what to compile device functions."""
    from numba.cuda import dispatcher

    real = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=compute[:2])
    try:
        yield
    finally:
        dispatcher.get_current_device = real


def assemble(ptx: str, compute: tuple) -> tuple[bytes, Usage]:
    """Machine code and what it needs, from the assembler inside nvJitLink, which numba-cuda uses, too.

    Raises:
        RuntimeError: with the assembler's words.
    """
    from cuda.bindings import nvjitlink

    options = ["-arch=sm_" + "".join(map(str, compute)), "-Xptxas=-v", "-verbose"]
    handle = nvjitlink.create(len(options), options)
    try:
        code = ptx.encode() + b"\0"
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, code, len(code), "kernel")
        nvjitlink.complete(handle)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    except nvjitlink.nvJitLinkError as error:
        words = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, words)
        raise RuntimeError(f"the assembler refuses the kernel: {words.decode()}") from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), _usage(log.decode())


def _usage(log: str) -> Usage:
    used = re.search(r"used (\d+) registers.* (\d+) stack, (?:(\d+) bytes smem)?", log)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    if used is None or not spills:
        raise RuntimeError(f"the assembler's report is not understood: {log}")
    registers, stack, shared = (int(number or 0) for number in used.groups())
    return Usage(registers, shared, stack, sum(map(int, spills)))


# --- running --------------------------------------------------------------------------------------


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
    _cupy()


def _reason() -> str:
    error = cuda.cuda_error()
    return " ".join(str(error).split()) if error else "the driver finds none"


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
        shared: bytes of shared memory beyond what the kernel declares, cuda.shared.array(0, ...) in it.

    Raises:
        ValueError: more blocks than a grid can have.
    """
    if 0 in grid:
        return
    if max(grid[1:], default=0) > MOST_BLOCKS:
        raise ValueError(
            f"{dispatcher.__name__}: a grid of {grid} blocks is larger than {MOST_BLOCKS} along the "
            "second or the third dimension, which no GPU takes: give it the arrays in parts"
        )
    if SIMULATED:
        dispatcher[grid, threads, 0, shared](*arguments)
    else:
        stream = _stream(_cupy().cuda.get_current_stream().ptr)
        dispatcher[grid, threads, stream, shared](*arguments)


@functools.cache
def _stream(handle: int) -> Any:
    """Numba's object for a stream of CuPy's; the default one is 0 for both."""
    return cuda.external_stream(handle) if handle else 0


def memory(x: Any) -> Any:
    """What a kernel gets for an array: the address of its first element."""
    if SIMULATED:
        from .simulated import Memory

        return Memory(x)
    return address(x)


def address(x: Any) -> int:
    if SIMULATED:
        return x.__array_interface__["data"][0]
    pointer = getattr(x.data, "ptr", None)  # CuPy's; quicker than to describe the whole array
    return x.__cuda_array_interface__["data"][0] if pointer is None else pointer


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
    """The current device's number. What is kept in a device's memory is kept once for each device."""
    return 0 if SIMULATED else _cupy().cuda.runtime.getDevice()


def multiprocessors() -> int:
    """How many multiprocessors the device has; in the simulator, as many as an H200."""
    return 132 if SIMULATED else cuda.get_current_device().MULTIPROCESSOR_COUNT
