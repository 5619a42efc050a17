"""What the kernels are compiled for on this machine, and compiling them ahead of their first use."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from .._cache import cache_folder
from .._table import MODULES
from .matmul_blocked import block_sizes
from .matmul_tile import MR, VECTORS
from .target import cache_bytes, codegen_target, vector_bytes, vector_registers

_FEATURES = ("sse2", "avx", "avx2", "fma", "avx512f", "avx512vl", "neon", "sve")


def describe_target() -> dict[str, Any]:
    """Processor, vector registers, tile and blocks of matmul, and where machine code is kept."""
    triple, name, features = codegen_target()
    matmul = {}
    for dtype in ("float32", "float64"):
        itemsize = np.dtype(dtype).itemsize
        kc, nc = block_sizes(itemsize)
        tile = (MR, VECTORS * vector_bytes() // itemsize)
        matmul[dtype] = {"tile": tile, "inner_block": kc, "column_block": nc}
    return {
        "triple": triple,
        "cpu": name,
        "features": [feature for feature in _FEATURES if feature in features],
        "vector_bytes": vector_bytes(),
        "vector_registers": vector_registers(),
        "cache_bytes": cache_bytes(),
        "matmul": matmul,
        "cache_folder": str(cache_folder()),
    }


def warmup(modules: Iterable[str] = tuple(MODULES), dtype: str = "float32") -> list[str]:
    """Compile kernels ahead, or load them from the cache: those of each of the modules (see
    `tinydl_kernels._table`) that has a function `warmup(dtype)`. Returns the names of these."""
    warmed = []
    for name in modules:
        module = importlib.import_module(f"{__package__}.{name}")
        if hasattr(module, "warmup"):
            module.warmup(dtype)
            warmed.append(name)
    return warmed
