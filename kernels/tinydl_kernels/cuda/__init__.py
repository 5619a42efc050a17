"""The kernels for CuPy arrays, compiled by Numba for NVIDIA GPUs since Ampere (sm_80).

`tinydl_kernels.cuda.matmul` and the others are imported (and numba-cuda with them) when first used.
`ladder` holds the lesson: a matrix product from naive to fast.

Calls cannot be captured in a CUDA graph, for later replay: that is not supported. A graph keeps the addresses of what
a call worked with, and nobody keeps the memory.

* Parts of sums, packed factors and results of steps in between lie in memory from CuPy's pool, which has it back when
  the call returns. By the time of a replay other arrays may lie there, and the replay would overwrite them.
* Counters of blocks and rows of ones are kept for each stream (`device.place`). They are filled when first needed, in
  that stream, and given up when long unused: a graph that was captured before, or is replayed beside other calls,
  finds in them what is not meant for it.
* What is used for the first time is compiled, loaded and given its shared memory on the spot, and calls that return
  numbers wait for the device (`squared_norm`, `das_norms`, the loss in ``fit``). A capture forbids both.

`tune` and benchmarks/gpu_speeds.py do capture calls, to time them: after the same calls have run, in a stream that does
nothing else, and without a look at the results.

What has run where: every kernel is compared with its definition in Numba's simulator, assembled for sm_80 and sm_90,
and its PTX run on a machine in C, without a GPU (tests/kernels/cuda). Speeds: benchmarks/gpu_check.py measures them.
"""

from .._table import lazy_module

__getattr__, __dir__ = lazy_module(__name__)
