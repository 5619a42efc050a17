"""Shared memory that killed ranks leave behind.

Ranks on one machine share files in /dev/shm and remove them when they end in order. Killed ones cannot: a few MiB stay
behind each time, and in a container /dev/shm often has only 64. (Open MPI's launcher removes them in the ranks' place,
unless it was killed with them.)
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
# MPICH's; Open MPI's since 5.0, and before.
PATTERNS = ("mpich_shm_*", "sm_segment.*", "vader_segment.*")


class SharedMemory:
    """Made before a job: ``remove()`` then deletes what that left in shared memory, where there is a /dev/shm."""

    def __init__(self) -> None:
        self._before = self._files()

    def remove(self, seconds: float = 2.0) -> None:
        """Delete files that appeared since, are ours, and that no process has mapped any more.

        Killed ranks take a moment to end, in which they still have theirs: they are waited for.
        """
        until = time.monotonic() + seconds
        while True:
            mapped = mapped_files()
            appeared = self._files() - self._before
            for path in appeared - mapped:
                with contextlib.suppress(OSError):
                    if path.stat().st_uid == os.getuid():
                        path.unlink()
            if not appeared & mapped or time.monotonic() > until:
                return
            time.sleep(0.1)

    def _files(self) -> set[Path]:
        return {path for pattern in PATTERNS for path in FOLDER.glob(pattern)}


def mapped_files() -> set[Path]:
    """The files in /dev/shm that some process has mapped (or that this one may not know of)."""
    found: set[Path] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            for line in maps.read_text(errors="replace").splitlines():
                if str(FOLDER) in line:
                    found.add(Path(line.split(maxsplit=5)[5]))
    return found
