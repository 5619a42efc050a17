"""Files of named arrays (safetensors) that are either whole or not there.

A file is written under another name in the same folder, forced to the disk, and then renamed over the old one,
which is one atomic operation: at any moment a reader finds the old file or the new one, never a part. A checksum
in the header tells a damaged file from a sound one.

Arrays and plain text are all that such a file can hold; reading one runs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]
BINARY = getattr(os, "O_BINARY", 0)  # Windows would turn line ends around otherwise


class SavedFileError(ValueError):
    """A file that cannot be used: damaged, cut off, of another kind, or of another model."""


def write_arrays(path: str | os.PathLike, arrays: Arrays, metadata: dict[str, Any]) -> None:
    """Write ``arrays`` and ``metadata`` (anything that JSON can hold) to ``path``, all or nothing.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        OSError: no such folder, no permission, a full disk. What was at ``path`` before is still there.
    """
    from safetensors.numpy import save

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected the name of a file to write")
    text = json.dumps(metadata)
    header = {"tinydl": text, "checksum": checksum(arrays, text)}
    contiguous = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }
    write_atomically(path, save(contiguous, header))


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step; on any error the old content stays, and no other file is left."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write to {path.parent}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            what = (
                f"cannot write {path} ({len(data):,} bytes): {error.strerror}; nothing was changed"
            )
            raise type(error)(error.errno, what) from None
        raise
    _sync_folder(path.parent)


def read_arrays(path: str | os.PathLike) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and metadata that ``write_arrays`` wrote.

    Raises:
        FileNotFoundError, IsADirectoryError: ``path`` is no file.
        SavedFileError: the file is cut off, damaged, or was not written by ``write_arrays``.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: expected a file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            if "tinydl" not in header:
                raise SavedFileError(f"{path} is a safetensors file, but not one that tinydl wrote")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SavedFileError(f"{path} is cut off or is no safetensors file: {error}") from None
    if header.get("checksum") != checksum(arrays, header["tinydl"]):
        raise SavedFileError(f"{path} is damaged: its checksum does not fit its content")
    return arrays, json.loads(header["tinydl"])


def checksum(arrays: Arrays, text: str) -> str:
    """SHA-256 over the metadata and over each array's name, dtype, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype} {arrays[name].shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Force the renaming itself to the disk, where the system can (Windows cannot open a folder)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
