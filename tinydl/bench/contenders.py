"""Who takes part in a measurement, in what environment, and who shares a process with whom.

A BLAS reads its settings once, when it is loaded, so they belong to a process. Contenders with one thread share a
process where their settings allow it: they then meet the same memory, the same clock and the same moment. With
more threads each gets a process of its own: the idle threads of one pool spin for a while before they sleep, and
would take the cores from the next.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinydl.bench.results import OURS

# Instruction sets that can be asked for, as each library wants to be told. NUMBA_CPU_NAME alone would not do:
# Numba would still add the features of the host.
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": (
        "+64bit,+adx,+aes,+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,+lzcnt,"
        "+mmx,+movbe,+pclmul,+popcnt,+rdrnd,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt"
    ),
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
INSTRUCTIONS: dict[str, dict[str, str]] = {"host": {}, "avx2": AVX2}

THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


@dataclass(frozen=True)
class Contender:
    """``name`` in tables and files; ``library`` as operations know it; ``core_type`` for its OpenBLAS, or "" for
    what OpenBLAS chooses itself."""

    name: str
    library: str
    core_type: str = ""
    shares_any_process: bool = False  # makes no use of the BLAS: its core type does not matter


def best_core_type(features: frozenset[str]) -> str:
    """The OpenBLAS core type whose kernels use all that the processor has.

    OpenBLAS goes by the processor's family, and takes AVX2 kernels on many that have AVX-512. "" leaves the choice
    to it.
    """
    if "avx512f" in features:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= features else ""


def host_features() -> frozenset[str]:
    """What the processor has, whatever the compiler is told to use."""
    from llvmlite import binding

    return frozenset(name for name, present in binding.get_host_cpu_features().items() if present)


def contenders(operation: str, peers: list[str], core_type: str) -> list[Contender]:
    """tinydl and its peers for an operation; peers that have nothing to offer there are left out.

    Peers: "openblas" (NumPy's matmul with the best core type), "numpy" (the same as installed), "torch".
    """
    found = [Contender(OURS, "tinydl", shares_any_process=True)]
    for peer in peers:
        if peer == "torch":
            layouts = {"matmul": [""], "passes": [""]}.get(operation, [":nchw", ":channels-last"])
            found += [
                Contender(f"torch{layout}", f"torch{layout}", shares_any_process=True)
                for layout in layouts
            ]
        elif operation == "matmul":
            found.append(Contender(peer, "numpy", core_type if peer == "openblas" else ""))
        elif operation == "passes" and peer == "numpy":
            found.append(Contender(peer, "numpy", shares_any_process=True))  # no BLAS is called
    return found


def group(parties: list[Contender], threads: int) -> list[tuple[str, list[Contender]]]:
    """(OpenBLAS core type, contenders) of each process to start."""
    if threads > 1:
        return [(c.core_type, [c]) for c in parties]
    core_types = list(dict.fromkeys(c.core_type for c in parties if not c.shares_any_process))
    groups: dict[str, list[Contender]] = {core: [] for core in core_types or [""]}
    first = next(iter(groups))
    for c in parties:
        groups[first if c.shares_any_process else c.core_type].append(c)
    return list(groups.items())


def environment(threads: int, core_type: str = "", instructions: str = "host") -> dict[str, str]:
    """The environment variables of a worker: read by the libraries when they are loaded."""
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if core_type:
        variables["OPENBLAS_CORETYPE"] = core_type
    return {**variables, **INSTRUCTIONS[instructions]}
