"""The kernels for CuPy arrays, compiled by Numba for NVIDIA GPUs since Ampere (sm_80).

`tinydl_kernels.cuda.matmul` and the others are imported (and numba-cuda with them) when first used.
`ladder` holds the lesson: a matrix product from naive to fast.

What has run where: every kernel is compared with its definition in Numba's simulator, and assembled
for sm_80 and sm_90, without a GPU (tests/kernels/cuda). Speeds: benchmarks/gpu_check.py measures them.
"""

from .._table import lazy_module

__getattr__, __dir__ = lazy_module(__name__)
