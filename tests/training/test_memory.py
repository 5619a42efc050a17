"""Freed memory stays with the process: making the same large array again faults no pages in."""

import platform
import resource

import numpy as np
import pytest

from tinydl.training.memory import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_arrays_of_the_same_size_reuse_pages():
    assert keep_freed_memory()

    def faults(repeats):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(repeats):
            arrays = [np.ones(1_000_000, np.float32) for _ in range(4)]
            del arrays
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults(2)
    pages = 4 * 4_000_000 // resource.getpagesize()
    assert faults(10) < pages  # ten times as many if each array were mapped anew
