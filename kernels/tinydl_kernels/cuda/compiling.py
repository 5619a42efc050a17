"""From Python functions to machine code: the one module that imports numba-cuda, and what comes with it.

The CUDA target left Numba for a package of its own, and that package's successor is announced; what
would have to change then stands here. Numba only compiles, to PTX. What starts a kernel is in
`launching`, and so the tests can assemble without a GPU exactly what a GPU runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from .._cache import Entries, cache_folder, identity_of

MISSING = (
    "{} is missing: pip install 'tinydl[cuda]' ('tinydl[cuda12]' where the driver is for CUDA 12)"
)

try:
    import numba_cuda  # older versions of Numba have a numba.cuda of their own
    from cuda.bindings import driver, nvjitlink
    from cuda.pathfinder import load_nvidia_dynamic_lib
    from numba import cuda, types
    from numba.cuda.core import config
    from numba.cuda.extending import intrinsic
except ImportError as error:
    what = "numba-cuda, which compiles tinydl_kernels.cuda,"
    raise ImportError(MISSING.format(what)) from error

SIMULATED = bool(config.ENABLE_CUDASIM)

__all__ = [
    "MISSING",
    "SIMULATED",
    "Usage",
    "assemble",
    "compile_ptx",
    "cuda",
    "device_function",
    "driver",
    "intrinsic",
    "kernel",
    "machine_code",
    "types",
]


def kernel(threads: int, blocks: int = 1) -> Callable[[Callable], Any]:
    """Decorator: a kernel that runs with `threads` a block, of which `blocks` shall fit on one
    multiprocessor. The assembler limits registers accordingly."""
    if SIMULATED:
        return cuda.jit
    return cuda.jit(launch_bounds=(threads, blocks))


def device_function(function: Callable) -> Any:
    """Decorator: a function that kernels call, inlined into them. In another module than theirs it must not use
    `cuda`, which the simulator replaces in the kernel's module alone: they pass what it needs of it."""
    return function if SIMULATED else cuda.jit(device=True, forceinline=True)(function)


class Usage(NamedTuple):
    """What one thread, or for `shared` one block, of an assembled kernel needs."""

    registers: int
    shared: int  # bytes
    stack: int  # bytes of local memory: arrays that did not fit into registers, and spills
    spills: int  # bytes
    warnings: tuple[str, ...] = ()  # of the assembler, with their numbers


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
    warnings = tuple(re.findall(r"\(C\d+\) .*", log))
    return Usage(registers, shared, stack, sum(map(int, spills)), warnings)


def machine_code(dispatcher: Any, signature: tuple, compute: tuple) -> tuple[str, bytes]:
    """A kernel's name, and its machine code for a compute capability.

    Both are kept on the disk: a kernel takes a second to compile, and a training step starts dozens. Other
    processes that want the same kernel, of the same types, wait until this one has it.
    """
    folder = cache_folder()
    if folder is None:
        return _compiled(dispatcher, signature, compute)
    entries, key = Entries(dispatcher.py_func, folder), key_of(dispatcher, signature, compute)
    found = entries.load(key)
    if found is None:
        try:
            found = entries.load(key) if entries.lock(key) else None
            if found is None:
                found = _compiled(dispatcher, signature, compute)
                entries.save(key, found)
        finally:
            entries.unlock(key)
    return found


def key_of(dispatcher: Any, signature: tuple, compute: tuple) -> str:
    """What the machine code of a kernel depends on, besides the sources of this package."""
    bounds = dispatcher.targetoptions["launch_bounds"]
    settings = (config.CUDA_DEBUGINFO_DEFAULT, config.FORCE_CUDA_CC, config.OPT != 0)
    made = (identity_of(dispatcher), signature, compute, bounds, settings)
    return repr((*made, numba_cuda.__version__, *map(_file_of, ("nvvm", "nvJitLink"))))


@functools.cache
def _file_of(library: str) -> tuple[str, int, int]:
    """What tells versions of a compiler of NVIDIA's apart: their numbers leave out the last part."""
    path = load_nvidia_dynamic_lib(library).abs_path
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def _compiled(dispatcher: Any, signature: tuple, compute: tuple) -> tuple[str, bytes]:
    ptx = compile_ptx(dispatcher, signature, compute)
    name = re.search(r"\.entry\s+([^\s(]+)", ptx)
    if name is None:
        raise RuntimeError(f"there is no kernel in this PTX: {ptx}")
    return name.group(1), assemble(ptx, compute)[0]
