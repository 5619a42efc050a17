"""Kernels started on the machine in C instead of a GPU: compiled by Numba to PTX as always, and from there to C."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import pytest

from tests.kernels.cuda.machine.translate import translate
from tests.training.stand_in_cupy import LIBRARY, DeviceArray
from tinydl_kernels.cuda import compiling, device, launching

COMPILER = shutil.which("cc") or shutil.which("gcc")
OPTIONS = [
    "-O1",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-march=native",
    "-w",
    "-shared",
    "-fPIC",
]
H200 = {"MULTIPROCESSOR_COUNT": 132, "COMPUTE_CAPABILITY_MAJOR": 9, "COMPUTE_CAPABILITY_MINOR": 0}
CELL_BYTES = 32  # struct global_cell
ACCESS = np.dtype(  # struct access
    {
        "names": ("address", "line", "lane", "size", "shared", "writes"),
        "formats": ("u8", "u4", "u2", "u2", "u1", "u1"),
        "itemsize": 24,
    }
)
NUMBERS = itertools.count()  # of devices


class Wrong(AssertionError):
    """What a kernel did that a GPU might not forgive."""


class Loaded(NamedTuple):
    """A kernel, compiled."""

    name: str
    library: Any
    shared: int  # bytes, without what a launch asks for


class Allocation(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("cells", ctypes.c_void_p))


class Machine:
    """Stands for CUDA's driver where kernels are loaded and started; what else is asked of it, the real one's bindings
    answer.

    Args:
        folder: for what is compiled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replace()
        self.seed = 0  # of the order in which threads run
        self.arrays: WeakValueDictionary[int, np.ndarray] = WeakValueDictionary()  # that own memory
        self.ptx: dict[tuple, str] = {}
        self.edited: Callable[[str], str] = lambda ptx: ptx  # before it runs
        self.room, self.traced = 0, 0  # for so many accesses of a warp, and of which block
        self.accesses: dict[str, np.ndarray] = {}
        self.started: list[str] = []  # the names of kernels

    def replace(self) -> None:
        """Become another device, on which no kernel is loaded yet."""
        self.number = next(NUMBERS)

    def __getattr__(self, name: str) -> Any:
        return getattr(compiling.driver, name)

    def address(self, x: Any) -> int:
        """The address of an array, whose memory kernels may use from now on."""
        if not isinstance(x, DeviceArray):
            raise Wrong(f"a {type(x).__qualname__} is not in the device's memory")
        owner = x.host
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        self.arrays[id(owner)] = owner
        return x.host.ctypes.data

    def machine_code(self, *key: Any) -> tuple[str, Loaded]:
        """In place of `compiling.machine_code`."""
        if key not in self.ptx:
            self.ptx[key] = compiling.compile_ptx(*key)
        name, kernel = key[0].py_func.__name__, translate(self.edited(self.ptx[key]))
        return name, Loaded(name, self.compiled(kernel.source), kernel.shared)

    def compiled(self, source: str) -> Any:
        path = self.folder / f"{hashlib.sha256(source.encode()).hexdigest()[:20]}.c"
        library = path.with_suffix(".so")
        if not library.exists():
            path.write_text(source)
            include = f"-I{Path(__file__).parent}"
            subprocess.run([COMPILER, *OPTIONS, include, "-o", library, path, "-lm"], check=True)
        return ctypes.CDLL(str(library))

    # --- what the driver does ---------------------------------------------------------------------

    def cuModuleLoadData(self, code: Loaded) -> tuple:
        return 0, code

    def cuModuleGetFunction(self, module: Loaded, name: bytes) -> tuple:
        return 0, module

    def cuFuncSetAttribute(self, function: Loaded, which: Any, value: int) -> tuple:
        return (0,)

    def cuLaunchKernel(self, function: Loaded, *launch: Any) -> tuple:
        """
        Raises:
            Wrong: the kernel did what it must not.
        """
        x, y, z, threads, _, _, shared, _, _, extra = launch
        places = (ctypes.c_void_p * 4).from_address(extra)  # of parameters, and of their size
        size = ctypes.c_size_t.from_address(places[3]).value
        owners = sorted(self.arrays.values(), key=lambda x: x.ctypes.data)
        cells = [np.zeros((x.nbytes + 3) // 4 * CELL_BYTES, np.uint8) for x in owners]
        memory = (Allocation * len(owners))(
            *((x.ctypes.data, x.nbytes, c.ctypes.data) for x, c in zip(owners, cells, strict=True))
        )
        self.seed += 1
        self.started.append(function.name)
        message = ctypes.create_string_buffer(1000)
        accesses, count = np.zeros(self.room, ACCESS), ctypes.c_uint32()
        wrong = function.library.launch(
            memory, len(memory), (ctypes.c_uint32 * 3)(x, y, z), threads, shared,
            ctypes.c_uint64(self.seed), ctypes.string_at(places[1], size), function.shared,
            accesses.ctypes.data_as(ctypes.c_void_p), self.room, self.traced, ctypes.byref(count), message,
        )  # fmt: skip
        self.accesses[function.name] = accesses[: count.value]
        if wrong:
            raise Wrong(f"{function.name}, {message.value.decode()}")
        return (0,)


@contextmanager
def running(folder: Path, **attributes: int) -> Iterator[Machine]:
    """All launches run on a machine, by default one that says it is an H200."""
    machine, said = Machine(folder), H200 | attributes
    major, minor = (said[f"COMPUTE_CAPABILITY_{which}"] for which in ("MAJOR", "MINOR"))
    runtime = SimpleNamespace(getDevice=lambda: machine.number, free=lambda size: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LIBRARY.cuda, "runtime", runtime)
        patch.setattr(device, "_cupy", lambda: LIBRARY)
        patch.setattr(device, "require", lambda: None)
        patch.setattr(device, "address", machine.address)
        patch.setattr(device, "memory", machine.address)
        patch.setattr(launching, "driver", machine)
        patch.setattr(launching, "machine_code", machine.machine_code)
        patch.setattr(launching, "attribute", lambda name, _: said[name])
        patch.setattr(launching, "name", lambda _: "NVIDIA H200")
        patch.setattr(
            launching, "capability", lambda _: (major, minor, "a")[: 3 if major >= 9 else 2]
        )
        yield machine
