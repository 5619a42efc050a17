"""Kernels started on the machine in C instead of a GPU: compiled by Numba to PTX as always, and from there to C."""

from __future__ import annotations

import ctypes
import hashlib
import math
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.kernels.cuda.machine.translate import Kernel, translate
from tests.kernels.cuda.stand_ins import OnDevice, poisoned
from tinydl_kernels.cuda import compiling, device, launching

COMPILER = shutil.which("cc") or shutil.which("gcc")
OPTIONS = [
    "-O1",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-mfma",
    "-w",
    "-shared",
    "-fPIC",
]
H200 = {"MULTIPROCESSOR_COUNT": 132, "COMPUTE_CAPABILITY_MAJOR": 9, "COMPUTE_CAPABILITY_MINOR": 0}
ALIGNMENT = 512  # of memory, as CuPy has it
CELL_BYTES = 32  # struct global_cell


class Wrong(AssertionError):
    """What a kernel did that a GPU might not forgive."""


class Allocation(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("cells", ctypes.c_void_p))


class Machine:
    """Its memory, and the kernels that were compiled for it.

    Args:
        folder: for what is compiled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed = 0  # of the order in which threads run
        self.started: list[str] = []  # the names of kernels
        self.arrays: dict[int, tuple[Any, int, int]] = {}  # by their owners' identity
        self.extents: dict[int, tuple[Any, int, int]] = {}
        self.kernels: dict[tuple, tuple[Any, Kernel]] = {}

    # --- memory -----------------------------------------------------------------------------------

    def empty(self, shape: Any, dtype: Any = "float64") -> Any:
        """Memory that ends where the array does, full of NaN."""
        shape, dtype = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        owner = np.empty(size + ALIGNMENT, np.uint8)
        start = -owner.ctypes.data % ALIGNMENT
        array = owner[start : start + size].view(dtype).reshape(shape)
        array[...] = poisoned((), dtype)
        self.extents[id(owner)] = owner, array.ctypes.data, size
        return array.view(OnDevice)

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        if isinstance(x, OnDevice) and dtype in (None, x.dtype):
            return x
        x = np.asarray(x, dtype)
        array = self.empty(x.shape, x.dtype)
        array[...] = x
        return array

    def address(self, x: Any) -> int:
        """The address of an array, whose memory kernels may use from now on."""
        if not isinstance(x, OnDevice):
            raise Wrong(f"a {type(x).__qualname__} is not in the device's memory")
        owner = x
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        extent = owner, owner.ctypes.data, owner.nbytes
        self.arrays[id(owner)] = self.extents.get(id(owner), extent)
        return x.ctypes.data

    # --- kernels ----------------------------------------------------------------------------------

    def start(
        self, dispatcher: Any, grid: Any, threads: int, arguments: tuple, shared: int, *_: Any
    ) -> None:
        """In place of `launching.start`."""
        signature = launching.signature_of(dispatcher, launching.flat(arguments)[0])
        key = dispatcher, signature, launching.capability(0)
        if key not in self.kernels:
            self.kernels[key] = self.compiled(compiling.compile_ptx(*key))
        library, kernel = self.kernels[key]
        assert dispatcher.targetoptions["launch_bounds"][0] == threads
        self.started.append(dispatcher.py_func.__name__)
        self.run(library, kernel, (*grid, 1, 1)[:3], threads, shared, signature, arguments)

    def compiled(self, ptx: str) -> tuple[Any, Kernel]:
        kernel = translate(ptx)
        name = hashlib.sha256(kernel.source.encode()).hexdigest()[:20]
        source, library = self.folder / f"{name}.c", self.folder / f"{name}.so"
        source.write_text(kernel.source)
        include = f"-I{Path(__file__).parent}"
        subprocess.run([COMPILER, *OPTIONS, include, "-o", library, source, "-lm"], check=True)
        return ctypes.CDLL(str(library)), kernel

    def run(
        self,
        library: Any,
        kernel: Kernel,
        grid: tuple,
        threads: int,
        shared: int,
        signature: tuple,
        arguments: tuple,
    ) -> None:
        self.seed += 1
        allocations = sorted((start, size) for _, start, size in self.arrays.values() if size)
        cells = [np.zeros((size + 3) // 4 * CELL_BYTES, np.uint8) for _, size in allocations]
        table = (Allocation * len(allocations))(
            *(
                (start, size, c.ctypes.data)
                for (start, size), c in zip(allocations, cells, strict=True)
            )
        )
        parameters = launching.layout(signature).pack(*launching.flat(arguments)[1])
        message = ctypes.create_string_buffer(1000)
        wrong = library.launch(
            table, len(table), (ctypes.c_uint32 * 3)(*grid), threads, shared,
            ctypes.c_uint64(self.seed), parameters, kernel.shared, message,
        )  # fmt: skip
        if wrong:
            raise Wrong(f"{self.started[-1]}, {message.value.decode()}")


class Namespace:
    """CuPy, as far as kernels' callers need it: NumPy, but new arrays are on the device."""

    def __init__(self, machine: Machine) -> None:
        self.empty, self.asarray, self.array = machine.empty, machine.asarray, machine.asarray
        stream = SimpleNamespace(ptr=0)
        runtime = SimpleNamespace(getDevice=lambda: 0)
        self.cuda = SimpleNamespace(runtime=runtime, get_current_stream=lambda: stream)

    def full(self, shape: Any, value: Any, dtype: Any = None) -> Any:
        return self.asarray(np.full(shape, value, dtype))

    def zeros(self, shape: Any, dtype: Any = "float64") -> Any:
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any = "float64") -> Any:
        return self.full(shape, 1, dtype)

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            result = found(*arguments, **options)
            return result.view(OnDevice) if type(result) is np.ndarray else result

        return call


@contextmanager
def running(folder: Path, **attributes: int) -> Iterator[Machine]:
    """All launches run on a machine, by default one that says it is an H200."""
    machine, said = Machine(folder), H200 | attributes
    namespace = Namespace(machine)
    major, minor = (said[f"COMPUTE_CAPABILITY_{which}"] for which in ("MAJOR", "MINOR"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "start", machine.start)
        patch.setattr(launching, "attribute", lambda name, _: said[name])
        patch.setattr(launching, "name", lambda _: "NVIDIA H200", raising=False)
        patch.setattr(
            launching, "capability", lambda _: (major, minor, "a")[: 3 if major >= 9 else 2]
        )
        patch.setattr(device, "_cupy", lambda: namespace)
        patch.setattr(device, "require", lambda: None)
        patch.setattr(device, "address", machine.address)
        patch.setattr(device, "memory", machine.address)
        yield machine
