"""CIFAR-10 and CIFAR-100 in their official binary form: records of label bytes and 3,072 pixel
bytes.

    CIFAR-10    label, 1024 red, 1024 green, 1024 blue            3,073 bytes a record
    CIFAR-100   coarse label, fine label, then pixels as above    3,074 bytes a record

The pixels of each color are 32 rows of 32. The Python version of these files is pickled, and loading
a pickle runs whatever code it holds: it is not read here.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images", and
https://www.cs.toronto.edu/~kriz/cifar.html, section "Binary version".
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tinydl.data.errors import DataError, MissingDataError, named
from tinydl.data.validation import check_labels

SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_MEMBER_BYTES = 1 << 28  # an official file has 30 MB (CIFAR-10) or 154 MB (CIFAR-100)


def read_members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The bytes of files in a folder or a tar file (gzipped or not), by their bare names.

    Raises:
        MissingDataError: one is not there.
        DataError: a truncated or corrupt archive, or a file far larger than any official one.
    """
    found = _from_folder(path, names) if path.is_dir() else _from_tar(path, names)
    if missing := [name for name in names if name not in found]:
        raise MissingDataError(f"{path} does not hold {', '.join(missing)}")
    return found


def decode_records(
    data: bytes, source: str, label_bytes: int, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 32, 32, 3) and labels (N,) of one file; of two labels the last (fine) one counts."""
    record = label_bytes + PIXELS
    if len(data) == 0 or len(data) % record:
        raise DataError(
            f"{source}: truncated or not a CIFAR file: {len(data)} bytes are no whole number of "
            f"records of {record} bytes"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = records[:, label_bytes - 1].astype(np.int64)
    with named(source):
        check_labels(labels, num_classes)
    planes = records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE)  # (N, C, H, W)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def decode_class_names(data: bytes, source: str, expected: int) -> tuple[str, ...]:
    """Class names from ``batches.meta.txt`` or ``fine_label_names.txt``: one a line."""
    try:
        lines = tuple(line.strip() for line in data.decode("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not a text file: {error}") from None
    if len(lines) != expected:
        raise DataError(f"{source}: expected {expected} class names, found {len(lines)}")
    return lines


def _from_folder(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for name in names:
        file = path / name
        if file.is_file():
            _check_size(file, name, os.path.getsize(file))
            found[name] = file.read_bytes()
    return found


def _from_tar(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Members are read into memory, never unpacked to disk: no path in the archive matters."""
    found = {}
    try:
        with _plain_bytes(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in names and member.isfile():
                    _check_size(path, name, member.size)
                    content = archive.extractfile(member)
                    found[name] = content.read() if content else b""
                    if len(found[name]) < member.size:
                        raise DataError(f"{path}: truncated in {name}")
            # tar stops at its end mark; gzip's checksum, which tells damaged pixels, comes after that.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the archive is truncated or corrupt: {error}") from error
    return found


def _plain_bytes(path: Path) -> BinaryIO:
    """The file's content, unzipped where it is a gzip file."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb")


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise DataError(f"{path}: {name} has {size} bytes, more than any CIFAR file")
