"""A matrix product as a ladder: twelve kernels for a GPU, each a few lines more than the last.

Every rung computes C = A B for matrices stored by rows, of any size. `RUNGS` lists those that compute in
the arrays' own type; `TENSOR_CORES` the last ones, which round the factors and are for float32. The kernel
of everyday use is rung 8 or 9 plus what a lesson can do without (see `gemm`), on Hopper also the last rung itself.

    import tinydl_kernels.cuda.ladder as ladder
    c = ladder.RUNGS[0](a, b)

A GPU has a hundred and more multiprocessors on one side, and memory on the other. A product
of two n x n matrices needs n^3 multiply-adds for 3 n^2 numbers, and all rungs do the same arithmetic. They
differ in how often each number is fetched from how far away: device memory, shared memory of a block of
threads, registers of a thread.
"""

from .pipelined import BF16, DOUBLE_BUFFERED, TF32, WARP_TILES
from .rung import Rung
from .rungs import COALESCED, NAIVE, REGISTER_COLUMN, REGISTER_TILE, SHARED_TILE, VECTORIZED
from .warpgroups import WGMMA_BF16, WGMMA_TF32

RUNGS = (
    NAIVE,
    COALESCED,
    SHARED_TILE,
    REGISTER_COLUMN,
    REGISTER_TILE,
    VECTORIZED,
    DOUBLE_BUFFERED,
    WARP_TILES,
)
TENSOR_CORES = (TF32, BF16, WGMMA_TF32, WGMMA_BF16)

__all__ = ["RUNGS", "TENSOR_CORES", "Rung"]
