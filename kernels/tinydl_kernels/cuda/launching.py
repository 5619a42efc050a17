"""Starting kernels, by cuLaunchKernel of CUDA's driver.

A kernel often runs for a few microseconds; to start it should not take the host longer. So all that can
be known before is found out once, when a kernel is started with arguments of such types for the first
time: then it is compiled, or read from the disk, and loaded. From then on a launch looks that up, lays the
arguments into one piece of memory as the kernel expects them, and calls the driver. Of a `Launch`, which is given
many times with other addresses, that piece of memory is kept, too.

An argument is an integer, such as an address (int64 in the kernel), a float (float64), a bool, a scalar
of NumPy's (of its type), a tuple of integers, or a tuple of such tuples. PTX has no tuples: each number in
them is a parameter. Parameters lie one behind the other, each at a multiple of its size, with nothing behind
the last (NVIDIA, "CUDA C++ Programming Guide", "Driver API", "Kernel Execution"). Python's `struct` packs its
values in the same way.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .compiling import driver, machine_code, types

__all__ = ["Launch", "attribute", "flat", "layout", "signature_of", "start", "start_again"]

MOST_BYTES = 32764  # of parameters; the assembler refuses a kernel that has more
TYPES = {
    int: types.int64, float: types.float64, bool: types.boolean,
    np.bool_: types.boolean, np.int32: types.int32, np.int64: types.int64,
    np.float32: types.float32, np.float64: types.float64,
}  # fmt: skip
CODES = {  # of `struct`
    types.boolean: "?", types.int32: "i", types.int64: "q",
    types.float32: "f", types.float64: "d",
}  # fmt: skip

ADDRESS = struct.Struct("q")


# --- starting -------------------------------------------------------------------------------------


class Loaded:
    """A kernel in the memory of one device, compiled for arguments of certain types."""

    __slots__ = ("function", "parameters", "shared")

    def __init__(self, function: Any, parameters: struct.Struct) -> None:
        self.function = function  # the driver's handle
        self.parameters = parameters
        self.shared = 0  # bytes of dynamic shared memory that it may be started with


class Launch:
    """A kernel with all its arguments but some addresses."""

    def __init__(
        self, dispatcher: Any, grid: tuple[int, ...], threads: int, after: tuple[tuple, ...]
    ) -> None:
        """
        Args:
            grid: one to three numbers of blocks, none of them 0.
            after: behind each address these arguments follow.
        """
        self.dispatcher, self.grid, self.threads, self.after = dispatcher, grid, threads, after
        self.blocks = (*grid, 1, 1)[:3]
        self.laid_out: dict[int, LaidOut] = {}  # on each device

    def arguments(self, addresses: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for address, following in zip(addresses, self.after, strict=True):
            found.append(address)
            found += following
        return found


class LaidOut(NamedTuple):
    """The parameters of a `Launch` on one device."""

    function: Any  # the driver's handle
    parameters: bytes
    places: list[int]  # in them, of the addresses


class Thread(threading.local):
    """What each thread of the host has of its own. The driver is called without Python's lock, so two
    threads must not lay out parameters in the same place."""

    def __init__(self) -> None:
        self.parameters = bytearray(MOST_BYTES)
        self.size = ctypes.c_size_t()
        place = ctypes.c_char.from_buffer(self.parameters)
        self._extra = (ctypes.c_void_p * 5)(
            driver.CU_LAUNCH_PARAM_BUFFER_POINTER, ctypes.addressof(place),
            driver.CU_LAUNCH_PARAM_BUFFER_SIZE, ctypes.addressof(self.size),
            driver.CU_LAUNCH_PARAM_END,
        )  # fmt: skip
        self.extra = ctypes.addressof(self._extra)
        self.devices: set[int] = set()  # whose context this thread has


_thread = Thread()
_loaded: dict[tuple, Loaded] = {}
_loading = threading.Lock()


def start(
    dispatcher: Any,
    grid: tuple[int, ...],
    threads: int,
    arguments: tuple,
    shared: int,
    runtime: Any,
    stream: int,
) -> None:
    """Start a kernel on the current device.

    Args:
        grid: one to three numbers of blocks, none of them 0.
        runtime: CUDA's runtime, as CuPy has it.
        stream: the driver's handle.

    Raises:
        TypeError, ValueError: an argument is none that kernels take.
        RuntimeError: the kernel cannot be assembled, or the driver refuses it.
    """
    thread, device = _thread, runtime.getDevice()
    if device not in thread.devices:
        runtime.free(0)  # of no memory: makes the device's context that of this thread
        thread.devices.add(device)
    try:
        kinds, numbers = flat(arguments)
    except TypeError:
        raise _refused(dispatcher, arguments) from None
    key = (dispatcher, device, *kinds)
    loaded = _loaded.get(key) or _load(key)
    if shared > loaded.shared:
        _allow_shared(dispatcher, loaded, shared)

    parameters = loaded.parameters
    try:
        parameters.pack_into(thread.parameters, 0, *numbers)
    except (struct.error, OverflowError):
        raise _refused(dispatcher, arguments) from None
    thread.size.value = parameters.size
    x, y, z = (*grid, 1, 1)[:3]
    result = driver.cuLaunchKernel(
        loaded.function, x, y, z, threads, 1, 1, shared, stream, 0, thread.extra
    )[0]
    if result:
        raise _not_started(dispatcher, grid, threads, result)


def start_again(launch: Launch, addresses: tuple[int, ...], runtime: Any, stream: int) -> None:
    """`start` for a `Launch`."""
    thread, device = _thread, runtime.getDevice()
    if device not in thread.devices:
        runtime.free(0)
        thread.devices.add(device)
    function, parameters, places = launch.laid_out.get(device) or _lay_out(launch, device)
    memory, size = thread.parameters, len(parameters)
    memory[:size] = parameters
    for place, address in zip(places, addresses, strict=True):
        ADDRESS.pack_into(memory, place, address)
    thread.size.value = size
    x, y, z = launch.blocks
    result = driver.cuLaunchKernel(
        function, x, y, z, launch.threads, 1, 1, 0, stream, 0, thread.extra
    )[0]
    if result:
        raise _not_started(launch.dispatcher, launch.grid, launch.threads, result)


def _lay_out(launch: Launch, device: int) -> LaidOut:
    arguments = launch.arguments([0] * len(launch.after))
    kinds, numbers = flat(arguments)
    key = (launch.dispatcher, device, *kinds)
    loaded = _loaded.get(key) or _load(key)
    places, before = [], 0
    for following in launch.after:
        places.append(struct.calcsize(loaded.parameters.format[:before] + "0q"))
        before += 1 + len(flat(following)[1])
    found = LaidOut(loaded.function, loaded.parameters.pack(*numbers), places)
    launch.laid_out[device] = found
    return found


def flat(arguments: Sequence) -> tuple[list, list]:
    """What kind each argument is of, and all numbers in them.

    A kind is a type; of a tuple, how many numbers are in it; of a tuple of tuples, that of each.

    Raises:
        TypeError: a tuple of tuples and numbers.
    """
    kinds: list[Any] = []
    numbers: list[Any] = []
    for x in arguments:
        if type(x) is not tuple:
            kinds.append(type(x))
            numbers.append(x)
        elif x and type(x[0]) is tuple:
            kinds.append(tuple(map(len, x)))
            for inner in x:
                numbers += inner
        else:
            kinds.append(len(x))
            numbers += x
    return kinds, numbers


def signature_of(dispatcher: Any, kinds: Sequence) -> tuple:
    """The types of parameters that a kernel is compiled for.

    Raises:
        TypeError: an argument is none that kernels take.
    """
    for place, kind in enumerate(kinds):
        if isinstance(kind, type) and kind not in TYPES:
            raise TypeError(
                f"{_name(dispatcher)}: argument {place} is a {kind.__module__}.{kind.__qualname__}; kernels take "
                f"tuples of integers and {', '.join(x.__name__ for x in TYPES)}"
            )
    return tuple(map(_type_of, kinds))


def _type_of(kind: Any) -> Any:
    if isinstance(kind, tuple):
        return types.Tuple(tuple(map(_type_of, kind)))
    return types.Tuple((types.int64,) * kind) if isinstance(kind, int) else TYPES[kind]


def layout(signature: tuple) -> struct.Struct:
    """Where the parameters of a kernel lie."""
    return struct.Struct("".join(map(_codes, signature)))


def _codes(kind: Any) -> str:
    return "".join(map(_codes, kind)) if isinstance(kind, types.BaseTuple) else CODES[kind]


def _refused(dispatcher: Any, arguments: tuple) -> Exception:
    """The error that names the argument that could not be laid out."""
    for place, x in enumerate(arguments):
        try:
            kinds, numbers = flat((x,))
            layout(signature_of(dispatcher, kinds)).pack(*numbers)
        except (struct.error, OverflowError, TypeError) as error:
            return ValueError(f"{_name(dispatcher)}: argument {place} is {x!r}: {error}")
    raise AssertionError("each argument by itself can be laid out")


# --- loading --------------------------------------------------------------------------------------


def _load(key: tuple) -> Loaded:
    """Compile, assemble and load a kernel on the current device, and keep it."""
    dispatcher, device, *kinds = key
    signature = signature_of(dispatcher, kinds)
    with _loading:  # another thread may want the same kernel
        if key in _loaded:
            return _loaded[key]
        name, code = machine_code(dispatcher, signature, capability(device))
        loading = f"loading {_name(dispatcher)}"
        module = _asked(loading, driver.cuModuleLoadData(code))
        function = _asked(loading, driver.cuModuleGetFunction(module, name.encode()))
        _loaded[key] = Loaded(function, layout(signature))
    return _loaded[key]


def _allow_shared(dispatcher: Any, loaded: Loaded, shared: int) -> None:
    """More than 48 KiB of dynamic shared memory must be asked for before the launch."""
    which = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    with _loading:
        if shared <= loaded.shared:  # by now: another thread may have asked for more
            return
        asking = f"asking for {shared} bytes of shared memory for a block of {_name(dispatcher)}"
        _asked(asking, driver.cuFuncSetAttribute(loaded.function, which, shared))
        loaded.shared = shared


@functools.cache
def capability(device: int) -> tuple:
    """The compute capability, such as (8, 0) or (9, 0, "a"), to compile for: from 9.0 on with what only GPUs
    of exactly this capability have."""
    major, minor = (
        attribute(f"COMPUTE_CAPABILITY_{which}", device) for which in ("MAJOR", "MINOR")
    )
    return (major, minor) if major < 9 else (major, minor, "a")


@functools.cache
def attribute(name: str, device: int) -> int:
    """What the driver says of a device: CU_DEVICE_ATTRIBUTE_ of that name."""
    asking = f"asking device {device} for {name}"
    _asked(asking, driver.cuInit(0))
    which = getattr(driver.CUdevice_attribute, "CU_DEVICE_ATTRIBUTE_" + name)
    return _asked(asking, driver.cuDeviceGetAttribute(which, device))


@functools.cache
def name(device: int) -> str:
    """What the driver calls a device."""
    asking = f"asking device {device} for its name"
    _asked(asking, driver.cuInit(0))
    return _asked(asking, driver.cuDeviceGetName(256, device)).partition(b"\0")[0].decode()


# --- errors ---------------------------------------------------------------------------------------

# What a kernel does wrong shows long after it was started: whatever is asked of the driver next gets this.
OF_EARLIER_WORK = {
    getattr(driver.CUresult, f"CUDA_ERROR_{name}")
    for name in (
        "ILLEGAL_ADDRESS", "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "ILLEGAL_INSTRUCTION",
        "INVALID_PC", "HARDWARE_STACK_ERROR", "ASSERT", "LAUNCH_TIMEOUT", "LAUNCH_FAILED", "ECC_UNCORRECTABLE",
    )
}  # fmt: skip


def _asked(doing: str, answer: tuple) -> Any:
    """What the driver answered.

    Raises:
        RuntimeError: it was an error.
    """
    if answer[0]:
        raise _failure(doing, answer[0])
    return answer[1] if len(answer) > 1 else None


def _not_started(dispatcher: Any, grid: tuple, threads: int, result: Any) -> RuntimeError:
    return _failure(f"starting {_name(dispatcher)} with {grid} blocks of {threads} threads", result)


def _failure(doing: str, result: Any) -> RuntimeError:
    name, words = (
        ask(result)[1].decode() for ask in (driver.cuGetErrorName, driver.cuGetErrorString)
    )
    if result in OF_EARLIER_WORK:
        return RuntimeError(
            f"a kernel started earlier failed, as showed when {doing}: {name}, {words}. This process can use "
            "the device no more; with CUDA_LAUNCH_BLOCKING=1 in the environment, the error shows at once"
        )
    return RuntimeError(f"{doing} failed: {name}, {words}")


def _name(dispatcher: Any) -> str:
    return dispatcher.py_func.__name__
