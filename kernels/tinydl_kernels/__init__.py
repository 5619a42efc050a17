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

NAME_FIRST = ("activation", "activation_grad")  # whose first argument is a name, such as "relu"


def _dispatcher(name: str) -> Callable:
    place = 1 if name in NAME_FIRST else 0  # of the first argument that may be an array
    for_type: dict[type, Callable] = {}  # of that argument
    kernels: dict[bool, Callable] = {}  # on a CUDA device or not

    def kernel(*args: Any, **kwargs: Any) -> Any:
        # The commonest case first: every microsecond here is paid by each small layer.
        try:
            found = for_type[type(args[place])]
        except (IndexError, KeyError):
            found = find(args, kwargs)
        return found(*args, **kwargs)

    def find(args: tuple, kwargs: dict[str, Any]) -> Callable:
        on_device = _is_cuda(args, kwargs)
        if on_device not in kernels:
            kernels[on_device] = _find("cuda" if on_device else "cpu", name)
        if len(args) > place and _is_array(args[place]):
            for_type[type(args[place])] = kernels[on_device]
        return kernels[on_device]

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
