"""What stands for a GPU in these tests: poisoned memory in the simulator, and arrays that only say that
they are on a device."""

from __future__ import annotations

import re
import struct
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinydl_kernels.cuda import compiling, device, launching, tiles


def poisoned(shape: Any, dtype: Any) -> np.ndarray:
    """What memory holds before anybody writes to it: nothing that one could compute with."""
    array = np.empty(shape, dtype)
    array.fill(np.nan if array.dtype.kind == "f" else -(2**30))
    return array


@pytest.fixture(scope="module")
def poison() -> Any:
    """In the simulator, new memory of every kind is poisoned: an element that no one wrote shows."""
    from numba.cuda.simulator import kernelapi

    patch = pytest.MonkeyPatch()
    lock = threading.Lock()

    def shared_array(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> np.ndarray:
        frame = sys._getframe(1)  # the simulator, too, tells shared arrays apart by their line
        key = frame.f_code.co_filename, frame.f_lineno
        if shape == 0:  # what a launch asks for
            key, shape = "dynamic", self._dynshared_size // np.dtype(dtype).itemsize
        with lock:
            if key not in self._allocations:
                self._allocations[key] = poisoned(shape, np.dtype(dtype))
            return self._allocations[key]

    patch.setattr(kernelapi.FakeCUDAShared, "array", shared_array)
    patch.setattr(
        kernelapi.FakeCUDALocal,
        "array",
        lambda self, shape, dtype, alignment=None: poisoned(shape, np.dtype(dtype)),
    )
    library = SimpleNamespace(empty=poisoned, ones=np.ones)
    patch.setattr(device, "namespace", lambda: library)
    yield
    patch.undo()


class OnDevice(np.ndarray):
    """An array that says that it lies in a GPU's memory."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__


def on_device(*shape: int, dtype: str = "float32") -> Any:
    return np.zeros(shape, dtype).view(OnDevice)


KEYS: dict[str, Any] = {}  # by which the machine code of kernels is found on the disk


def launches(call: Callable[[], Any]) -> list[tuple[Any, tuple]]:
    """The kernels that a call would start on a GPU, each with the types of its arguments."""
    from numba import typeof

    found = []

    def launch(dispatcher: Any, grid: Any, threads: int, *arguments: Any, shared: int = 0) -> None:
        assert dispatcher.targetoptions["launch_bounds"][0] == threads
        signature = launching.signature_of(dispatcher, launching.flat(arguments)[0])
        assert signature == tuple(map(typeof, arguments))  # as Numba's own launches see them
        key = compiling.key_of(dispatcher, signature, (9, 0))
        assert KEYS.setdefault(key, dispatcher) is dispatcher, "two kernels would share a file"
        found.append((dispatcher, signature))

    def launch_again(known: launching.Launch, *addresses: int) -> None:
        launch(known.dispatcher, known.grid, known.threads, *known.arguments(addresses))

    library = SimpleNamespace(
        empty=lambda shape, dtype: np.empty(shape, dtype).view(OnDevice),
        ones=lambda shape, dtype: np.ones(shape, dtype).view(OnDevice),
        cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=0)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "launch", launch)
        patch.setattr(device, "launch_again", launch_again)
        patch.setattr(device, "require", lambda: None)
        patch.setattr(device, "current", lambda: 0)
        patch.setattr(device, "capability", lambda: (9, 0))
        patch.setattr(device, "multiprocessors", lambda: tiles.H200_MULTIPROCESSORS)
        patch.setattr(device, "name", lambda: tiles.H200)
        patch.setattr(device, "namespace", lambda: library)
        call()
    return found


OF_PTX = {"u8": "?", "u32": "i", "u64": "q", "f32": "f", "f64": "d"}  # in the words of `struct`


def parameters_of(ptx: str) -> list[tuple[str, int]]:
    """The parameters that a kernel's PTX declares: how `struct` names their types, and where they lie. Each is at a
    multiple of its size, behind the one before."""
    (declared,) = re.findall(r"\.entry\s+\S+\((.*?)\)", ptx, re.DOTALL)
    found, end = [], 0
    for kind, size in re.findall(r"\.param \.([a-z](\d+)) \w+", declared):
        size = int(size) // 8
        place = -(-end // size) * size
        found.append((OF_PTX[kind], place))
        end = place + size
    assert len(found) == declared.count(".param")
    return found


def check_layout(ptx: str, signature: tuple) -> None:
    """A launch lays the arguments out where the kernel reads them."""
    layout, found = launching.layout(signature), parameters_of(ptx)
    assert layout.format == "".join(code for code, _ in found)
    memory = layout.pack(*range(1, len(found) + 1))
    code, place = found[-1]
    assert len(memory) == place + struct.calcsize(code)  # the driver takes nothing behind the last
    for number, (code, place) in enumerate(found, 1):
        assert struct.unpack_from(code, memory, place) == (number if code != "?" else True,)
