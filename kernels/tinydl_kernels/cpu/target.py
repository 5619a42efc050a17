"""What the processor offers: the width of a vector register and how many of them there are.

Asked of Numba, not of the processor itself, so that the answer is about the code that will really be
made: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES (set both) compile for a lesser processor.
"""

from __future__ import annotations

import functools
from pathlib import Path

from numba.core.registry import cpu_target


@functools.cache
def codegen_target() -> tuple[str, str, frozenset[str]]:
    """(triple, processor name, features), for example
    ("x86_64-unknown-linux-gnu", "znver5", {"avx2", "avx512f", ...})."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = frozenset(item[1:] for item in features.split(",") if item.startswith("+"))
    return triple, name, enabled


def vector_bytes() -> int:
    """Width of a vector register: 64 with AVX-512, 32 with AVX2 and FMA, else 16 (SSE, NEON)."""
    _, _, features = codegen_target()
    if "avx512f" in features:
        return 64
    if "avx2" in features and "fma" in features:
        return 32
    return 16


def vector_registers() -> int:
    """Number of vector registers: 32 with AVX-512 and on 64-bit ARM, 16 on other x86."""
    triple, _, features = codegen_target()
    is_arm = triple.startswith(("aarch64", "arm64"))
    return 32 if is_arm or "avx512f" in features else 16


@functools.cache
def cache_bytes() -> tuple[int, int]:
    """Sizes of a core's L1 data cache and L2 cache; modest guesses where the system does not say."""
    sizes = {1: 32 << 10, 2: 512 << 10}
    for cache in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):  # Linux
        try:
            level, kind, size = ((cache / name).read_text().strip() for name in _CACHE_FILES)
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            sizes[int(level)] = int(size[:-1]) << 10
    return sizes[1], sizes[2]


_CACHE_FILES = ("level", "type", "size")
