"""What a rung of the ladder is, and how it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import device
from ..arrays import plain
from ..tiles import Tile, WarpgroupTile


class Rung:
    """A kernel for C = A B.

    `compute` is the one compute capability that has its instructions; None: all have.

    Args:
        make: make(dtype, tile, wide) returns the kernel (a, b, c, m, n, k, zero), for blocks that compute
            tile.height x tile.width elements of C with tile.threads threads; the grid is (blocks of
            columns, blocks of rows). `wide`: rows of A and B begin at multiples of 16 bytes.
        tile: `tile.blocks` is how many blocks the rung promises to fit on a multiprocessor at once.
        reduced: what tensor cores round the factors to.
    """

    compute: tuple[int, int] | None = None

    def __init__(
        self,
        name: str,
        make: Callable[[np.dtype, Any, bool], Any],
        tile: Tile | WarpgroupTile,
        reduced: str | None = None,
    ) -> None:
        self.name, self.tile, self.reduced = name, tile, reduced
        self.kernel = functools.cache(make)
        self.__doc__ = make.__doc__

    def __repr__(self) -> str:
        return f"Rung({self.name!r})"

    def __call__(self, a: Any, b: Any, *, tile: Any = None) -> Any:
        """A B, for device arrays (M, K) and (K, N) of one type, float32 or float64.

        Raises:
            TypeError, ValueError: arrays of other types, or shapes that do not fit.
        """
        self._check(a, b)
        device.require()
        dtype = np.dtype(a.dtype)
        tile = tile or self.tile_for(dtype)
        (m, k), n = a.shape, b.shape[1]
        a, b, c = plain(a), plain(b), device.namespace().empty((m, n), dtype)
        vector = device.VECTOR_BYTES // dtype.itemsize
        starts = [device.address(x) % device.VECTOR_BYTES for x in (a, b)]
        wide = not (k % vector or n % vector or any(starts))
        if m and n:
            grid = -(-n // tile.width), -(-m // tile.height)
            addresses = map(device.memory, (a, b, c))
            kernel = self.kernel(dtype, tile, wide)
            device.launch(kernel, grid, tile.threads, *addresses, m, n, k, dtype.type(0))
        return c

    def runs_here(self) -> bool:
        """Whether the GPU has its instructions."""
        return self.compute in (None, device.capability())

    def tile_for(self, dtype: np.dtype) -> Any:
        """Numbers of twice the size take twice the registers: half as many blocks fit."""
        blocks = self.tile.blocks if dtype == np.float32 else max(1, self.tile.blocks // 2)
        return self.tile._replace(blocks=blocks)

    def _check(self, a: Any, b: Any) -> None:
        for name, x in (("a", a), ("b", b)):
            device.check_array(self.name, name, x)
        types = (np.float32,) if self.reduced else (np.float32, np.float64)
        if a.dtype not in types or b.dtype != a.dtype:
            raise TypeError(f"{self.name}: a is {a.dtype} and b is {b.dtype}; both must be "
                            f"{' or both '.join(t.__name__ for t in types)}")  # fmt: skip
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(
                f"{self.name}: shapes {a.shape} and {b.shape} do not fit: (M, K) and (K, N)"
            )
