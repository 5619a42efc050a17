"""IDX files: what is read is what was written; what is broken is refused by name, without allocating."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.data import DataError, MissingDataError, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX coding of an array, from the format's description."""
    code = CODES[f"{array.dtype.kind}{array.dtype.itemsize}"]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(
    kind=st.sampled_from(sorted(CODES)),
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    zipped=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_reads_what_was_written(tmp_path_factory, kind, shape, zipped, seed):
    array = np.random.default_rng(seed).integers(0, 100, shape).astype(kind)
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    read = read_idx(path)
    assert read.dtype == np.dtype(kind) and read.dtype.isnative and read.flags.writeable
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_every_truncation_is_refused(tmp_path: Path, zipped: bool):
    data = idx_bytes(np.arange(24, dtype="u1").reshape(2, 3, 4))
    data = gzip.compress(data) if zipped else data
    path = tmp_path / "cut"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="cut"):
            read_idx(path)


def test_every_changed_byte_of_a_gzip_file_is_noticed_or_harmless(tmp_path: Path):
    array = np.arange(24, dtype="u1").reshape(2, 3, 4)
    data = gzip.compress(idx_bytes(array), mtime=0)
    path = tmp_path / "flipped"
    noticed = 0
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        try:
            # Time, system and flags of the gzip header may change without changing the content.
            np.testing.assert_array_equal(read_idx(path), array)
        except DataError as error:
            assert "flipped" in str(error)
            noticed += 1
    assert noticed >= len(data) - 8


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_an_absurd_header_allocates_nothing(tmp_path: Path, zipped: bool):
    data = bytes([0, 0, 0x08, 1]) + struct.pack(">I", 2**31) + bytes(50)
    path = tmp_path / "absurd"
    path.write_bytes(gzip.compress(data) if zipped else data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="announces an array of shape"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_trailing_bytes_are_refused(tmp_path: Path):
    path = tmp_path / "long"
    path.write_bytes(idx_bytes(np.zeros(3, "u1")) + b"x")
    with pytest.raises(DataError, match="longer than its header"):
        read_idx(path)


@pytest.mark.parametrize(
    "magic", [b"\0\0\x07\x01", b"\0\0\x08\x00", b"\x01\0\x08\x01", b"PK\x03\x04", b"\0\0\x08"]
)
def test_another_format_is_refused(tmp_path: Path, magic: bytes):
    path = tmp_path / "other"
    path.write_bytes(magic + bytes(20) if len(magic) == 4 else magic)
    with pytest.raises(DataError, match="not an IDX file"):
        read_idx(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(MissingDataError, match="no file at"):
        read_idx(tmp_path / "none")
