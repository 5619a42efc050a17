"""NumPy's own files, .npy and .npz: arrays only, never pickled objects."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, existing, named
from tinydl.data.splitting import stratified_split
from tinydl.data.validation import check_arrays, check_labels

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
ZIP_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
PARTS = ("x_train", "y_train", "x_test", "y_test")


def read_npy(path: str | os.PathLike[str]) -> NDArray:
    """The array in an .npy file.

    Raises:
        MissingDataError: no such file.
        DataError: a truncated or corrupt file, or one that holds pickled objects, which could run
            code. The header is checked against the file's size before anything is allocated.
    """
    path = existing(path)
    with path.open("rb") as file:
        return _read(file, path.stat().st_size, str(path))


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray]:
    """The arrays in an .npz file, by name; errors as of ``read_npy``."""
    path = existing(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    source = f"{path}: {member.filename}"
                    arrays[name] = _read(cast(BinaryIO, file), member.file_size, source)
    except DataError:
        raise
    except ZIP_ERRORS as error:
        raise DataError(f"{path}: not a readable .npz file: {error}") from error
    return arrays


def load_npz(
    path: str | os.PathLike[str], test_fraction: float = 0.2, seed: int = 0, name: str | None = None
) -> Dataset:
    """A data set from an .npz file with x_train, y_train, x_test, y_test, or with x and y, which
    are split.

    Whole-number labels (N,) are classes: the split is stratified over them, ``class_names`` are the
    numbers.

    Raises:
        DataError: other names, arrays of different lengths, NaN or infinity, or as of ``read_npy``.
    """
    path = Path(path)
    arrays = read_npz(path)
    with named(path):
        if set(PARTS) <= set(arrays):
            x_train, y_train, x_test, y_test = (arrays[part] for part in PARTS)
            check_arrays([("x_train", x_train), ("y_train", y_train)])
            check_arrays([("x_test", x_test), ("y_test", y_test)])
            _refuse_negative_classes(y_train)
            _refuse_negative_classes(y_test)
        elif {"x", "y"} <= set(arrays):
            check_arrays([("x", arrays["x"]), ("y", arrays["y"])])
            _refuse_negative_classes(arrays["y"])
            x_train, x_test, y_train, y_test = stratified_split(
                arrays["x"], arrays["y"], test_fraction, seed
            )
        else:
            found = ", ".join(arrays) or "nothing"
            raise DataError(f"expected the arrays {', '.join(PARTS)}, or x and y, found {found}")
    class_names: tuple[str, ...] = ()
    if y_train.ndim == 1 and y_train.dtype.kind in "iu":
        classes = max(int(y_train.max()), int(y_test.max())) + 1
        class_names = tuple(str(label) for label in range(classes))
        y_train, y_test = y_train.astype(np.int64), y_test.astype(np.int64)
    return Dataset(name or path.stem, x_train, y_train, x_test, y_test, class_names, str(path))


def _refuse_negative_classes(y: NDArray) -> None:
    if y.ndim == 1 and y.dtype.kind == "i":
        check_labels(y, max(int(y.max()) + 1, 1))


def _read(file: BinaryIO, size: int, source: str) -> NDArray:
    """One array; ``size`` is the number of bytes that the file has, which its header must agree with."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise DataError(f"{source}: unknown version {version} of the .npy format")
        shape, fortran_order, dtype = HEADERS[version](file)
    except DataError:
        raise
    except Exception as error:  # the header is parsed as Python text: corrupt ones raise many kinds
        raise DataError(f"{source}: not a readable .npy array: {error}") from error
    if dtype.hasobject:
        raise DataError(f"{source}: holds Python objects, which could run code: save plain numbers")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or expected > size:
        raise DataError(f"{source}: truncated or corrupt: shape {shape} of {dtype} in {size} bytes")
    data = file.read(expected)
    if len(data) < expected:
        raise DataError(
            f"{source}: truncated: shape {shape} of {dtype} needs {expected} bytes after the header, "
            f"found {len(data)}"
        )
    if file.read(1):
        raise DataError(f"{source}: longer than its header says: shape {shape} of {dtype}")
    try:
        array = np.ndarray(shape, dtype, buffer=data, order="F" if fortran_order else "C")
        return array.astype(dtype.newbyteorder("="), order="C")
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: corrupt: shape {shape} of {dtype}: {error}") from error
