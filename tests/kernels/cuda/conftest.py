"""In Numba's simulator, blocks of threads run as `blocks` has it."""

from __future__ import annotations

import os

import pytest

from tests.kernels.cuda.blocks import use_barriers


@pytest.fixture(scope="session", autouse=True)
def barriers():
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
            use_barriers(patch)
        yield
