"""The CUDA kernels, tested without a GPU by the `check_*.py` beside this.

They run in Python interpreters of their own: the simulator is chosen before the first import, and numba-cuda
need not be in the environment that runs the other tests. TINYDL_CUDA_PYTHON names one that has it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "kernels" / "tinydl_kernels" / "cuda"
HAS_NUMBA_CUDA = importlib.util.find_spec("numba_cuda") is not None
COMPILER = shutil.which("cc") or shutil.which("gcc")
PYTHON = os.environ.get("TINYDL_CUDA_PYTHON") or (sys.executable if HAS_NUMBA_CUDA else None)


@pytest.mark.parametrize("how", ["simulated", "warpgroups", "assembled"])
def test_kernels(how):
    if PYTHON is None:
        pytest.skip("numba-cuda is not installed: `make test` tries to, or set TINYDL_CUDA_PYTHON")
    check(PYTHON, how, NUMBA_ENABLE_CUDASIM=str(int(how != "assembled")))


def check(python, *names, **variables):
    """Run the tests of check_{name}.py, for all names in one process."""
    scripts = [str(Path(__file__).with_name(f"check_{name}.py")) for name in names]
    variables = {"NUMBA_ENABLE_CUDASIM": "0", "NUMBA_NUM_THREADS": "1"} | variables
    variables["CUDA_VISIBLE_DEVICES"] = ""  # where there is a GPU, nobody must need it
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *scripts]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_machine():
    if PYTHON is None or COMPILER is None:
        pytest.skip("numba-cuda is not installed, see above, or no C compiler is")
    check(PYTHON, "machine", "traffic")


def test_launching(tmp_path):
    if PYTHON is None or COMPILER is None:
        pytest.skip("numba-cuda is not installed, see above, or no C compiler is")
    source, library = Path(__file__).with_name("stand_in_driver.c"), tmp_path / "libcuda.so.1"
    command = [COMPILER, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    check(PYTHON, "launching", LD_LIBRARY_PATH=str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path))


def test_tuning_without_a_gpu_says_so(tmp_path):
    if PYTHON is None:
        pytest.skip("numba-cuda is not installed: `make test` tries to, or set TINYDL_CUDA_PYTHON")
    table = tmp_path / "tuned.py"
    command = [PYTHON, "-m", "tinydl_kernels.cuda.tune", "--out", str(table)]
    places = {"PYTHONPATH": str(ROOT / "kernels"), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=os.environ | places, capture_output=True, text=True)
    assert result.returncode == 2 and not table.exists()
    assert result.stderr.startswith("tune measures on a GPU: no CUDA device can be used here")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "script", ["kernels/tinydl_kernels/cuda/tune.py", "benchmarks/gpu_check.py", "benchmarks/gpu_launch.py"]
)  # fmt: skip
def test_without_numba_cuda_one_line_says_so(script):
    path = ROOT / script
    start = f"runpy.run_path({str(path)!r}, run_name='__main__')"
    if "kernels" in script:
        start = "runpy.run_module('tinydl_kernels.cuda.tune', run_name='__main__', alter_sys=True)"
    code = f"import runpy, sys; sys.modules['numba_cuda'] = None; sys.path.insert(0, {str(path.parent)!r}); {start}"
    places = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=os.environ | places, capture_output=True, text=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.match(r"[\w ]+: numba-cuda, .* is missing: pip install 'tinydl\[cuda\]'", line)


@pytest.mark.skipif(HAS_NUMBA_CUDA, reason="numba-cuda is installed")
def test_what_is_missing_is_named():
    from tinydl_kernels import cuda

    with pytest.raises(ImportError, match=r"numba-cuda.* is missing: pip install 'tinydl\[cuda\]'"):
        cuda.matmul  # noqa: B018


def test_packages_below_are_known_to_one_module_each():
    pattern = re.compile(r"^\s*(from|import) (numba|cuda|cupy)\b", re.MULTILINE)
    users = {path.name for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text())}
    assert users == {"compiling.py", "device.py"}
