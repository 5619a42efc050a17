"""How much memory this process has held at most."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory() -> int:
    """Bytes of physical memory at the highest point of this process' life.

    On Linux from /proc: the number that ``getrusage`` gives there also counts what the PARENT held when it started
    this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
