"""What the tests of data share: a cache of their own, files broken in every way, the real data where it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's cache."""
    monkeypatch.setenv("TINYDL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def real_data() -> Path:
    """The folder with real data sets."""
    folder = os.environ.get("TINYDL_DATA")
    if not folder:
        pytest.skip("TINYDL_DATA is not set: no real data to read")
    return Path(folder)


@pytest.fixture
def broken_copies(tmp_path: Path) -> Callable[..., Iterator[tuple[str, Path]]]:
    """A generator of damaged copies of a file: cut off at every offset, then with single bytes flipped.

    Yields (what was done, path); large files are cut at about ``cuts`` offsets, evenly spread.
    """

    def generate(path: Path, cuts: int = 200, flips: int = 100) -> Iterator[tuple[str, Path]]:
        data = path.read_bytes()
        copy = tmp_path / f"broken{path.suffix}"
        for length in range(0, len(data), max(1, len(data) // cuts)):
            copy.write_bytes(data[:length])
            yield f"cut to {length} of {len(data)} bytes", copy
        rng = np.random.default_rng(0)
        for at in rng.permutation(len(data))[:flips]:
            changed = bytearray(data)
            changed[at] ^= int(rng.integers(1, 256))
            copy.write_bytes(changed)
            yield f"byte {at} changed", copy

    return generate
