"""Shared memory that killed ranks leave behind.

MPICH's ranks on one machine share a file in /dev/shm and remove it when they end in order. Killed ones cannot: a few
MiB stay behind each time, and in a container /dev/shm often has only 64.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FOLDER = Path("/dev/shm")
PATTERN = "mpich_shm_*"


class SharedMemory:
    """Around a job: ``remove()`` deletes what it left in shared memory. Without effect where there is no /dev/shm."""

    def __enter__(self) -> SharedMemory:
        self._before = self._files()
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def remove(self) -> None:
        """Delete files that appeared since, are ours, and that no process has mapped any more."""
        for path in self._files() - self._before - mapped_files():
            with contextlib.suppress(OSError):
                if path.stat().st_uid == os.getuid():
                    path.unlink()

    def _files(self) -> set[Path]:
        return set(FOLDER.glob(PATTERN))


def mapped_files() -> set[Path]:
    """The files in /dev/shm that some process has mapped (or that this one may not know of)."""
    found: set[Path] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            for line in maps.read_text(errors="replace").splitlines():
                if str(FOLDER) in line:
                    found.add(Path(line.split(maxsplit=5)[5]))
    return found
