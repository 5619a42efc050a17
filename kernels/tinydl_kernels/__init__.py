"""Arrays in, arrays out: the numerical kernels of tinydl. They know nothing of layers.

Each public name exists four times, with one signature and one meaning:

* `tinydl_kernels.reference.NAME`: the definition in plain NumPy. Its docstring is the manual.
* `tinydl_kernels.cpu.NAME`: compiled by Numba for the processor at hand; NumPy arrays.
* `tinydl_kernels.cuda.NAME`: Numba-CUDA; CuPy arrays.
* `tinydl_kernels.NAME`: picks one of the last two by the type of the first array given.

Importing this package is cheap: Numba is imported when the first kernel is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ._table import MODULE_OF

__all__ = sorted(MODULE_OF)


def _dispatcher(name: str) -> Callable:
    # of the first argument, or of the one behind a name such as "relu", where that is an array
    for_type: dict[type, Callable] = {}
    kernels: dict[bool, Callable] = {}  # on a CUDA device or not

    def kernel(*args: Any, **kwargs: Any) -> Any:
        # The commonest cases first: every microsecond here is paid by each small layer.
        known = for_type.get(type(args[0])) if args else None
        if known is None and len(args) > 1 and type(args[0]) is str:
            known = for_type.get(type(args[1]))
        if known is not None:
            return known(*args, **kwargs)
        on_device = _is_cuda(args, kwargs)
        if on_device not in kernels:
            kernels[on_device] = _find("cuda" if on_device else "cpu", name)
        first = args[1:2] if args and type(args[0]) is str else args[:1]
        if first and _is_array(first[0]):
            for_type[type(first[0])] = kernels[on_device]
        return kernels[on_device](*args, **kwargs)

    kernel.__name__ = kernel.__qualname__ = name
    kernel.__doc__ = f"See `tinydl_kernels.reference.{name}`, whose arguments and results it has."
    return kernel


def _is_array(x: Any) -> bool:
    # Of the value itself, and not its type, the interface would be made.
    return isinstance(x, np.ndarray) or hasattr(type(x), "__cuda_array_interface__")


def _is_cuda(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the first array among the arguments lives on a CUDA device."""
    for value in (*args, *kwargs.values()):
        if _is_array(value):
            return not isinstance(value, np.ndarray)
    return False


def _find(backend: str, name: str) -> Callable:
    return getattr(importlib.import_module(f"{__name__}.{backend}"), name)


# Written out as assignments by name so that `from tinydl_kernels import matmul` works.
for _name in MODULE_OF:
    globals()[_name] = _dispatcher(_name)
del _name
