"""What it costs the host to start a kernel: the one of matrix products, which takes most arguments.

    python benchmarks/gpu_launch.py

Once with all its arguments, and once as products are started, when a plan holds all but the addresses.

With a GPU: until the driver has taken the launch, by our launcher and by Numba's. Blocks of this launch end at once, so
that the GPU is always waiting for the host. Without one, a driver that only takes note of what it gets stands for
CUDA's (tests/kernels/cuda/stand_in_driver.c, compiled here): then it is what Python does for a launch, and only
ours, since Numba asks the driver for more. Needs numba-cuda; a GPU needs CuPy, the stand-in a C compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import timeit
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the stand-in, which tests use as well
# Names the folder that it is in: the loader looks there from the start of a process.
STAND_IN = "TINYDL_STAND_IN_DRIVER"
LAUNCHES, REPEATS = 2000, 25


def microseconds(call: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Of one call, the fastest of some runs."""
    call()
    wait()
    timer = timeit.Timer(call)
    found = []
    for _ in range(REPEATS):
        found.append(timer.timeit(LAUNCHES) / LAUNCHES * 1e6)
        wait()
    return min(found)


def a_launch(device: Any, address: int) -> tuple:
    """The arguments of `device.launch` for a product of no rows: all is as in others, but that blocks end at once."""
    import numpy as np

    from tinydl_kernels.cuda.gemm import Gemm, gemm
    from tinydl_kernels.cuda.tiles import TILES

    tile = TILES["float32"]["64x64"]
    matrix = (address, 0, (64,), (1,), (0, 0, 0, 0))
    result = (address, 0, (64,), 1, address, 0, 0)
    sizes, steps = (0, 64, 64, 64, 1), (0, 0, 0, 0, 0)
    scalars = map(np.float32, (1, 0, 1))
    kernel = gemm(Gemm("float32", tile))
    return kernel, (1, 1, 1), tile.threads, *matrix, *matrix, *result, sizes, steps, 0, *scalars


def again(device: Any, launch: tuple) -> Callable[[], Any]:
    """The same launch, of which all but the addresses of A, B, C and bias is laid out."""
    from tinydl_kernels.cuda.launching import Launch

    kernel, grid, threads, *arguments = launch
    first = [place for place, x in enumerate(arguments) if x == arguments[0]]
    after = [tuple(arguments[i + 1 : j]) for i, j in zip(first, [*first[1:], None], strict=True)]
    known = Launch(kernel, grid, threads, tuple(after))
    addresses = [arguments[0]] * len(first)
    return lambda: device.launch_again(known, *addresses)


def on_gpu(device: Any) -> None:
    cupy = device.namespace()
    launch = a_launch(device, device.address(cupy.zeros(64 * 64, "f4")))
    kernel, grid, threads, *arguments = launch
    wait = cupy.cuda.get_current_stream().synchronize
    stream = device.cuda.external_stream(cupy.cuda.get_current_stream().ptr)
    ours = microseconds(lambda: device.launch(*launch), wait)
    laid_out = microseconds(again(device, launch), wait)
    warnings.simplefilter("ignore")  # Numba's, that one block is few
    numbas = microseconds(lambda: kernel[grid, threads, stream, 0](*arguments), wait)
    print(f"ours {ours:.2f} us, laid out before {laid_out:.2f} us, Numba's {numbas:.2f} us")


def on_stand_in(device: Any) -> None:
    import ctypes

    driver = ctypes.CDLL("libcuda.so.1")
    runtime = SimpleNamespace(
        getDevice=lambda: 0, free=lambda address: driver.make_context_current()
    )
    stream = SimpleNamespace(ptr=1)
    cuda = SimpleNamespace(runtime=runtime, get_current_stream=lambda: stream)
    device._cupy = lambda: SimpleNamespace(cuda=cuda)
    launch = a_launch(device, 4096)
    time = microseconds(lambda: device.launch(*launch), lambda: None)
    laid_out = microseconds(again(device, launch), lambda: None)
    print(
        f"ours {time:.2f} us, laid out before {laid_out:.2f} us, without what CUDA's driver takes"
    )


def again_with_stand_in() -> int:
    source = ROOT / "tests" / "kernels" / "cuda" / "stand_in_driver.c"
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/libcuda.so.1"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        path = os.pathsep.join(filter(None, (folder, os.environ.get("LD_LIBRARY_PATH"))))
        variables = os.environ | {"LD_LIBRARY_PATH": path, STAND_IN: folder}
        return subprocess.run([sys.executable, __file__], env=variables).returncode


def main() -> int:
    try:
        from tinydl_kernels.cuda import device
    except ImportError as error:
        print(f"gpu_launch: {error}", file=sys.stderr)
        return 2
    if device.SIMULATED:
        raise SystemExit("gpu_launch: not with NUMBA_ENABLE_CUDASIM=1")
    if STAND_IN in os.environ:
        on_stand_in(device)
        return 0
    try:
        device.require()
    except (RuntimeError, ImportError) as error:
        print(f"{error}; with a stand-in for the driver:")
        return again_with_stand_in()
    on_gpu(device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
