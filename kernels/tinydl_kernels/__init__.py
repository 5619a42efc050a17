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
    cpu_kernel: Callable | None = None
    cuda_kernel: Callable | None = None

    def kernel(*args: Any, **kwargs: Any) -> Any:
        nonlocal cpu_kernel, cuda_kernel
        # The commonest case first: every microsecond here is paid by each small layer.
        if cpu_kernel is not None and args and type(args[0]) is np.ndarray:
            return cpu_kernel(*args, **kwargs)
        if _is_cuda(args, kwargs):
            cuda_kernel = cuda_kernel or _find("cuda", name)
            return cuda_kernel(*args, **kwargs)
        cpu_kernel = cpu_kernel or _find("cpu", name)
        return cpu_kernel(*args, **kwargs)

    kernel.__name__ = kernel.__qualname__ = name
    kernel.__doc__ = f"See `tinydl_kernels.reference.{name}`, whose arguments and results it has."
    return kernel


def _is_cuda(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the first array among the arguments lives on a CUDA device."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, np.ndarray):
            return False
        if hasattr(type(value), "__cuda_array_interface__"):  # of the value itself it would be made
            return True
    return False


def _find(backend: str, name: str) -> Callable:
    return getattr(importlib.import_module(f"{__name__}.{backend}"), name)


# Written out as assignments by name so that `from tinydl_kernels import matmul` works.
for _name in MODULE_OF:
    globals()[_name] = _dispatcher(_name)
del _name
