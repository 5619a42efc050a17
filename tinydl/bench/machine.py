"""The machine and the software that a measurement was made on, as far as both matter for speed."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from tinydl.distributed.launch import usable_cores

PACKAGES = ("tinydl", "numpy", "numba", "llvmlite", "torch")


def describe_machine() -> dict[str, Any]:
    """Plain data for results files. Looks at Numba, so it takes half a second."""
    from tinydl_kernels.cpu import describe_target

    target = describe_target()
    target.pop("cache_folder")  # says nothing about speed, and names a user
    return {
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory": physical_memory(),
        "load": busy_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "target": target,
    }


def processor_name() -> str:
    """As the system calls it: the marketing name, or the architecture where there is none."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(
            r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.MULTILINE
        )
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def physical_memory() -> int | None:
    """Bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def busy_cores() -> float | None:
    """How many programs wanted a core, on average over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def version(package: str) -> str | None:
    """Of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def in_bytes(count: float | None) -> str:
    """A number of bytes as people read it."""
    if count is None:
        return "unknown"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit in ("bytes", "KiB") else f"{count:.1f} {unit}"
