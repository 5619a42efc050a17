"""The kernels for NumPy arrays, compiled by Numba.

`tinydl_kernels.cpu.matmul` and the others are imported (and Numba with them) when first used.
`describe_target()` says for which processor features they are compiled, `warmup()` compiles ahead.
"""

from typing import Any

from .._table import lazy_module

_kernel, _names = lazy_module(__name__)
_ABOUT = ("describe_target", "warmup")


def __getattr__(name: str) -> Any:
    if name in _ABOUT:
        from . import about

        return getattr(about, name)
    return _kernel(name)


def __dir__() -> list[str]:
    return [*_names(), *_ABOUT]
