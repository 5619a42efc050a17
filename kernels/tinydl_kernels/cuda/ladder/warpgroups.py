"""The top of the ladder on Hopper (compute capability 9.0): instructions of four warps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import device, products
from ..operands import line
from ..tiles import WARPGROUP_TILES, WarpgroupTile
from ..warpgroups import COMPUTE, Packed, multiplier
from .rung import Rung


def _wgmma_tf32(dtype: np.dtype, tile: WarpgroupTile, wide: bool) -> Any:
    """Rung 10: tensor cores that fetch their factors themselves.

    In rung 9, threads bring numbers from shared memory into registers, one instruction for each of a few, and
    the tensor cores wait for them. An instruction of Hopper, `wgmma`, belongs to a warpgroup of four warps. It
    multiplies 64 rows of A by 256 columns of B, where they lie in shared memory, and returns at once: while it
    runs, threads start the copies of what it will need next, and that is all they have to do.

    In return the factors must lie as it reads them: in core matrices of 8 rows of 16 bytes, along the sum. Two
    kernels pack A and B so, rounded to TF32, before they are multiplied (see `packing`). Descriptors tell where
    the core matrices are; fences order what threads did with what the tensor cores read (see `wgmma`).

    The kernel is that of everyday use.
    """
    return multiplier(Packed(tile, "tf32", wide))


def _wgmma_bf16(dtype: np.dtype, tile: WarpgroupTile, wide: bool) -> Any:
    """Rung 10, coarser: packing halves what the product then reads, and an instruction does twice the work."""
    return multiplier(Packed(tile, "bf16", wide))


class WarpgroupRung(Rung):
    """A rung whose factors are packed first."""

    compute = COMPUTE

    def __call__(self, a: Any, b: Any, *, tile: WarpgroupTile | None = None) -> Any:
        """As for any rung.

        Raises:
            RuntimeError: the GPU has another compute capability.
        """
        self._check(a, b)
        device.require()
        if not self.runs_here():
            raise RuntimeError(
                f"{self.name} needs a GPU of compute capability {self.compute}, and this one has "
                f"{device.capability()}"
            )
        (m, k), n = a.shape, b.shape[1]
        c = device.namespace().empty((m, n), a.dtype)
        steps = ([stride // x.itemsize for stride in x.strides] for x in (a, b))
        (a_row, a_column), (b_row, b_column) = steps
        size = a.dtype.itemsize
        product = products.Product(
            products.matrix(size, a_row, a_column),
            products.matrix(size, b_column, b_row),
            products.Result(line(n)),
            (m, n, k),
        )
        products.multiply(product, a, b, c, precision=self.reduced, tile=tile or self.tile, parts=1)
        return c


WGMMA_TF32 = WarpgroupRung("wgmma_tf32", _wgmma_tf32, WARPGROUP_TILES["w128x256"], "tf32")
WGMMA_BF16 = WarpgroupRung("wgmma_bf16", _wgmma_bf16, WARPGROUP_TILES["w128x256"], "bf16")
