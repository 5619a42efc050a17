"""IDX, the format of MNIST's files: a header that gives type and shape, then the numbers,
big-endian.

    offset 0   two zero bytes
    offset 2   one byte: the type of the numbers (0x08 = uint8, ...)
    offset 3   one byte: the number d of dimensions
    offset 4   d unsigned 32-bit integers, big-endian: the shape
    then       the numbers, the last axis running fastest

Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tinydl.data.errors import DataError, existing

DTYPES: dict[int, np.dtype] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
# Deflate codes at most 258 bytes in 2 bits: no gzip file grows by more than this (RFC 1951, section
# 3.2.5).
MAX_DEFLATE_RATIO = 1032


def read_idx(path: str | os.PathLike[str]) -> NDArray:
    """The array in an IDX file, plain or gzipped (told by the file's first bytes, not by its name).

    Raises:
        MissingDataError: no such file.
        DataError: the file is not IDX, is shorter or longer than its header says, or its gzip
            coding is broken. The header is checked against the file's size before anything is
            allocated.
    """
    path = existing(path)
    size = path.stat().st_size
    with path.open("rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raw.seek(0)
            return _read(raw, path, size)
        raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=raw) as unzipped:
                return _read(cast(BinaryIO, unzipped), path, size * MAX_DEFLATE_RATIO)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: the gzip file is truncated or corrupt ({error})") from error


def _read(file: BinaryIO, path: Path, available: int) -> NDArray:
    """Parse header and numbers; ``available`` bounds the number of bytes that the file can hold."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or magic[3] == 0:
        raise DataError(
            f"{path}: not an IDX file: expected it to begin with 00 00, a type (08, 09, 0b, 0c, "
            f"0d, 0e) and a number of dimensions >= 1, got {magic.hex(' ') or 'nothing'}"
        )
    dtype, dimensions = DTYPES[magic[2]], magic[3]
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path}: truncated in the header: {dimensions} dimensions were announced")
    shape = struct.unpack(f">{dimensions}I", header)
    expected = math.prod(shape) * dtype.itemsize
    if expected > available:
        raise DataError(
            f"{path}: truncated or corrupt: its header announces an array of shape {shape}, "
            f"{expected} bytes, more than a file of this size can hold"
        )
    data = file.read(expected)
    if len(data) < expected:
        raise DataError(
            f"{path}: truncated: shape {shape} needs {expected} bytes after the header, "
            f"found {len(data)}"
        )
    if file.read(1):
        raise DataError(
            f"{path}: longer than its header says: shape {shape} needs {expected} bytes after it"
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))  # native byte order, and writable
