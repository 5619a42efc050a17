"""Keeping memory between training steps.

Every step makes the same arrays anew: outputs, gradients, masks. By default the C library gives large blocks back to
the operating system as soon as they are free and asks for them again in the next step; each page is then mapped,
filled with zeros and faulted in once more, which can cost a tenth of a step. Two settings of the GNU C library make it
keep them (``man mallopt``); elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import functools
import platform

M_TRIM_THRESHOLD = -1  # free memory at the heap's top beyond which it is given back
M_MMAP_THRESHOLD = -3  # size from which a block is mapped on its own, and unmapped when freed
LARGEST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to reuse freed memory; True where it understood. Once for the process."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_TRIM_THRESHOLD, LARGEST)) and bool(mallopt(M_MMAP_THRESHOLD, LARGEST))
