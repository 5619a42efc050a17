"""In Numba's simulator, blocks of threads run as `blocks` has it; outside of it, a machine in C may stand for a GPU."""

from __future__ import annotations

import os

import pytest

from tests.kernels.cuda import ALL
from tests.kernels.cuda.blocks import use_barriers


@pytest.fixture(scope="session", autouse=True)
def barriers():
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
            use_barriers(patch)
        yield


@pytest.fixture(scope="session", params=[9, 8] if ALL else [9], ids=["sm_90", "sm_80"][: 1 + ALL])
def machine(tmp_path_factory, request):
    """An H200, and where all is tested an A100."""
    from tests.kernels.cuda.machine.running import running

    with running(
        tmp_path_factory.mktemp("machine"), COMPUTE_CAPABILITY_MAJOR=request.param
    ) as found:
        yield found


@pytest.fixture
def hopper(machine):
    from tinydl_kernels.cuda import device, warpgroups

    if device.capability() != warpgroups.COMPUTE:
        pytest.skip("only Hopper has wgmma")
