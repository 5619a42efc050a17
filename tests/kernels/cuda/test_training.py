"""The kernels of a training step, tested without a GPU: see `test_cuda`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.kernels.cuda.test_cuda import PYTHON, ROOT


@pytest.mark.parametrize("how", ["training", "training_assembled", "fit"])
def test_kernels(how):
    if PYTHON is None:
        pytest.skip("numba-cuda is not installed: `make test` tries to, or set TINYDL_CUDA_PYTHON")
    script = Path(__file__).with_name(f"check_{how}.py")
    simulated = str(int(how != "training_assembled"))
    variables = {"NUMBA_NUM_THREADS": "1", "NUMBA_ENABLE_CUDASIM": simulated}
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(script)]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
