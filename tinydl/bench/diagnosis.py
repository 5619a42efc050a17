"""What `tinydl doctor` finds out: facts about the machine and the installation, each with a hint where it is odd.

Nothing is imported that is not needed to know, and nothing is started on a GPU or in MPI: whether they are there is
seen from what is installed and from the tools that come with them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tinydl.bench.contenders import best_core_type, host_features
from tinydl.bench.machine import (
    available_memory,
    busy_cores,
    in_bytes,
    physical_memory,
    processor_name,
    usable_cores,
    version,
)


@dataclass(frozen=True)
class Finding:
    """One fact, and what to do about it if it is odd."""

    section: str
    item: str
    value: str
    hint: str = ""


def examine() -> list[Finding]:
    """Everything, section by section. A check that itself fails says so and stops no other."""
    findings: list[Finding] = []
    for name, check in SECTIONS.items():
        try:
            findings += [Finding(name, *fact) for fact in check()]
        except Exception as error:  # whatever is broken here is what the reader wants to know
            hint = "this could not be found out, which is itself a sign"
            findings.append(Finding(name, "error", f"{type(error).__name__}: {error}", hint))
    return findings


Fact = tuple[str, ...]  # item, value, and a hint where there is one


# ---- processor and memory ------------------------------------------------------------------------------------


def processor() -> list[Fact]:
    from tinydl_kernels.cpu import describe_target

    target = describe_target()
    features = host_features()
    width = 8 * target["vector_bytes"]
    return [
        ("processor", processor_name()),
        ("vector features", " ".join(target["features"]) or "none that kernels use"),
        ("vector width", *vector_width(width, features)),
        ("code is made for", f"{target['cpu']}, {target['triple']}"),
        ("matmul tile", tile_text()),
        (
            "caches of a core",
            " + ".join(f"{in_bytes(n)} L{i + 1}" for i, n in enumerate(target["cache_bytes"])),
        ),
        ("cores", *cores_fact(usable_cores(), os.cpu_count() or 1, cgroup_cores())),
        ("load", *load_fact(busy_cores(), usable_cores())),
    ]


def vector_width(width: int, features: frozenset[str]) -> Fact:
    offered = 512 if "avx512f" in features else 256 if {"avx2", "fma"} <= features else 128
    value = f"{width} bits, {width // 32} float32 numbers at once"
    if width < offered:
        return (
            value,
            f"the processor has {offered} bits; NUMBA_CPU_NAME or NUMBA_CPU_FEATURES holds the kernels back",
        )
    return (value,)


def tile_text() -> str:
    from tinydl_kernels.cpu.matmul_tile import MR, VECTORS
    from tinydl_kernels.cpu.target import vector_bytes

    return f"{MR} × {VECTORS * vector_bytes() // 4} for float32, {MR} × {VECTORS * vector_bytes() // 8} for float64"


def cores_fact(usable: int, present: int, limit: float | None) -> Fact:
    value = f"{usable} usable" + (f" of {present}" if usable < present else "")
    if limit is not None and limit < usable:
        return (
            f"{value}, limited to the time of {limit:g}",
            f"a container allows the time of {limit:g} cores: more threads than that wait for each other; "
            f"set NUMBA_NUM_THREADS={max(1, int(limit))}",
        )
    return (value,)


def cgroup_cores() -> float | None:
    """How many cores' time a container may use; None where there is no limit."""
    file = Path("/sys/fs/cgroup/cpu.max")
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def load_fact(load: float | None, cores: int) -> Fact:
    if load is None:
        return ("unknown",)
    value = f"{load:.1f} programs wanted a core in the last minute"
    if load > cores / 2:
        return (
            value,
            f"other programs use this machine: of {cores} cores, about {load:.1f} are taken",
        )
    return (value,)


def memory() -> list[Fact]:
    free, total = available_memory(), physical_memory()
    odd = free is not None and total is not None and free < total / 20
    hint = (
        "almost nothing is free: the system may be swapping, and training would wait for the disk"
    )
    return [("memory", f"{in_bytes(total)}, {in_bytes(free)} available", hint if odd else "")]


# ---- Numba ---------------------------------------------------------------------------------------------------


def threads() -> list[Fact]:
    import numba
    from numba.core import config

    setting = str(config.THREADING_LAYER)  # type: ignore[attr-defined]
    return [
        ("kernels", *threads_fact(numba.get_num_threads(), usable_cores(), dict(os.environ))),
        ("threading layer", *layer_fact(layers_present(), setting)),
    ]


def threads_fact(count: int, cores: int, environment: dict[str, str]) -> Fact:
    value = f"{count} of {cores} cores"
    if count > cores:
        return (
            value,
            f"more threads than cores wait for each other: set NUMBA_NUM_THREADS={cores}",
        )
    if "OMP_NUM_THREADS" in environment and "NUMBA_NUM_THREADS" not in environment:
        return (
            value,
            "OMP_NUM_THREADS is set, but kernels go by NUMBA_NUM_THREADS, which is not",
        )
    if count < cores and "NUMBA_NUM_THREADS" in environment:
        return (f"{value} (NUMBA_NUM_THREADS={environment['NUMBA_NUM_THREADS']})",)
    return (value,)


def layers_present() -> list[str]:
    """Threading layers of Numba that can be loaded, in the order in which it prefers them."""
    import importlib

    found = []
    for layer, module in (("tbb", "tbbpool"), ("omp", "omppool"), ("workqueue", "workqueue")):
        try:
            importlib.import_module(f"numba.np.ufunc.{module}")
        except ImportError:
            continue
        found.append(layer)
    return found


def layer_fact(present: list[str], setting: str) -> Fact:
    if not present:
        return ("none", "Numba has no threads at all here: kernels run on one core")
    chosen = setting if setting in present else present[0]
    value = f"{chosen} (there are {', '.join(present)})"
    if chosen == "workqueue":
        return (
            value,
            "workqueue is slow to wake its threads, and ends the program when two Python threads run kernels at "
            "once; install OpenMP (libgomp) or tbb",
        )
    return (value,)


def cache() -> list[Fact]:
    from tinydl_kernels._cache import cache_folder

    folder = cache_folder()
    if folder is None:
        hint = "no folder is writable, so every process compiles anew: set NUMBA_CACHE_DIR to one that is"
        return [("compiled kernels", "kept nowhere", hint)]
    files = list(folder.glob("*.bin"))
    size = in_bytes(sum(file.stat().st_size for file in files))
    empty = (
        ""
        if files
        else "the first training run will compile for some seconds; tinydl warmup does it now"
    )
    return [("folder", str(folder)), ("compiled kernels", f"{len(files)}, {size}", empty)]


def numba_settings() -> list[Fact]:
    """Settings of Numba that change what kernels do; none of them is set as a rule."""
    reasons = {
        "NUMBA_DISABLE_JIT": "kernels run as plain Python, thousands of times slower: for debugging only",
        "NUMBA_OPT": "the optimization level is changed; kernels are meant for 3",
        "NUMBA_BOUNDSCHECK": "every access to an array is checked, which costs speed",
        "NUMBA_DEBUGINFO": "debug information is made, which costs compile time",
        "NUMBA_CPU_NAME": "code is made for another processor than this one",
        "NUMBA_CPU_FEATURES": "code is made for other features than this processor's",
        "NUMBA_THREADING_LAYER": "",
        "NUMBA_CACHE_DIR": "",
        "NUMBA_NUM_THREADS": "",
    }
    found: list[Fact] = [
        (name, os.environ[name], hint if os.environ[name] not in ("0", "") else "")
        for name, hint in reasons.items()
        if name in os.environ
    ]
    return found or [("variables", "none is set")]


# ---- other libraries -----------------------------------------------------------------------------------------


def blas() -> list[Fact]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.dot(np.ones(1), np.ones(1))
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    facts = [("NumPy's BLAS", *blas_fact(pool, best_core_type(host_features()))) for pool in pools]
    return facts or [("NumPy's BLAS", "unknown to threadpoolctl")]


def blas_fact(pool: dict, best: str) -> Fact:
    kernels = pool.get("architecture", "unknown")
    value = f"{pool['internal_api']} {pool.get('version')}, {kernels} kernels, {pool['num_threads']} threads"
    if pool["internal_api"] == "openblas" and best == "SkylakeX" and kernels in ("Haswell", "Zen"):
        return (
            value,
            f"it does not use AVX-512, so np.matmul runs at half speed; OPENBLAS_CORETYPE={best} set before "
            "NumPy is imported changes that (training does not call it)",
        )
    return (value,)


def mpi() -> list[Fact]:
    package = version("mpi4py")
    launchers = [path for name in ("mpiexec", "mpirun") if (path := find_tool(name))]
    facts: list[Fact] = [
        ("mpi4py", package or "not installed"),
        ("launcher", ", ".join(launchers) or "none found"),
    ]
    if launchers:
        facts.append(("implementation", first_line([launchers[0], "--version"])))
    if package and not launchers:
        facts[1] += (
            "mpi4py is installed, but there is no mpirun: install the package mpich or openmpi",
        )
    if launchers and not package:
        facts[0] += (
            "an MPI is there, but not mpi4py: pip install 'tinydl[mpi]' to train on many processes",
        )
    return facts


def gpu() -> list[Fact]:
    packages = [
        f"{name} {v}" for name in ("cupy", *CUPY_WHEELS, "numba-cuda") if (v := version(name))
    ]
    tool = find_tool("nvidia-smi")
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    devices = first_line([tool, *query]) if tool else ""
    facts: list[Fact] = [
        ("device", devices or "none found"),
        ("packages", ", ".join(packages) or "none"),
    ]
    if devices and not any(p.startswith("cupy") for p in packages):
        facts[1] += ("there is a GPU, but no CuPy, so everything runs on the processor",)
    return facts


CUPY_WHEELS = ("cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")


def find_tool(name: str) -> str | None:
    """Beside this Python first, where pip puts programs, then on the PATH."""
    beside = Path(sys.executable).parent
    return shutil.which(name, path=str(beside)) or shutil.which(name)


def first_line(command: list[str]) -> str:
    """Of what a program prints, with the next one if it is a heading; "" where it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        return ""
    return " ".join(" ".join(lines[: 2 if lines[0].endswith(":") else 1]).split())


# ---- data and versions ---------------------------------------------------------------------------------------


def data() -> list[Fact]:
    from tinydl.data.folders import data_root

    root = data_root()
    setting = os.environ.get("TINYDL_DATA")
    facts: list[Fact] = [("TINYDL_DATA", setting or "not set"), ("folder", str(root))]
    if setting and not Path(setting).expanduser().is_dir():
        facts[0] += ("there is no such folder",)
    if not root.is_dir():
        facts[1] = ("folder", f"{root} (not there yet; `tinydl data fetch NAME` makes it)")
    return facts


def versions() -> list[Fact]:
    facts: list[Fact] = [("python", f"{sys.version.split()[0]} ({sys.executable})")]
    facts += [(name, version(name) or "not installed") for name in NEEDED]
    facts += [(name, found) for name in OPTIONAL if (found := version(name))]
    if find_spec("tinydl_kernels") is None:
        facts.append(
            ("tinydl_kernels", "not found", "the kernels are missing: install tinydl again")
        )
    return facts


NEEDED = ("tinydl", "numpy", "numba", "llvmlite", "scikit-learn", "safetensors", "threadpoolctl")
OPTIONAL = ("matplotlib", "pillow", "pooch", "pyarrow", "mpi4py", "tensorboardX", "torch")

SECTIONS: dict[str, Callable[[], list[Fact]]] = {
    "Processor": processor,
    "Memory": memory,
    "Threads": threads,
    "Compiled kernels": cache,
    "Numba's settings": numba_settings,
    "BLAS": blas,
    "MPI": mpi,
    "GPU": gpu,
    "Data": data,
    "Versions": versions,
}
