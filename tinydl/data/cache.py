"""Decoded arrays kept on disk, so that images are decoded once and not at each start."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydl.data.folders import cache_root

VERSION = 1  # raise it when what is cached, or how, changes

Arrays = dict[str, NDArray]


def cached_arrays(
    source: Path, build: Callable[[], tuple[Arrays, dict]], options: dict | None = None
) -> tuple[Arrays, dict]:
    """What ``build()`` returns, from the cache where ``source`` has not changed since it was put
    there.

    The key is the source's path, size and time of change (a folder's: those of all files below it)
    together with ``options``. An entry is written beside its place and then renamed, so that it is
    there whole or not at all, also when several processes write it at once. A damaged entry is
    built again. A cache that cannot be written costs a warning, not the run.

    Args:
        source: file or folder that the arrays are made of.
        build: returns named arrays and further plain data that JSON can hold.
        options: what else the result depends on.
    """
    folder = cache_root() / "decoded"
    place = _digest([VERSION, str(source.resolve()), options])
    entry = folder / f"{place}-{_digest(fingerprint(source))}"
    if (hit := _read(entry)) is not None:
        return hit
    shutil.rmtree(entry, ignore_errors=True)  # where it is there, but damaged
    arrays, data = build()
    try:
        _write(entry, arrays, data)
        for stale in folder.glob(f"{place}-*"):
            if stale != entry:
                shutil.rmtree(stale, ignore_errors=True)
    except OSError as error:
        warnings.warn(f"decoded arrays are not cached in {folder}: {error}", stacklevel=2)
    return arrays, data


def fingerprint(source: Path) -> list:
    """Size and time of change of a file, or of every file below a folder."""
    if source.is_dir():
        files = sorted(f for f in source.rglob("*") if f.is_file())
        return [[f.relative_to(source).as_posix(), *fingerprint(f)] for f in files]
    status = source.stat()
    return [status.st_size, status.st_mtime_ns]


def _digest(data: list) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _read(entry: Path) -> tuple[Arrays, dict] | None:
    """The entry's arrays and data; None where it is absent or damaged."""
    try:
        content = json.loads((entry / "content.json").read_text(encoding="utf-8"))
        arrays = {}
        for name, (dtype, shape) in content["arrays"].items():
            array = np.load(entry / f"{name}.npy", allow_pickle=False)
            if array.dtype.str != dtype or list(array.shape) != shape:
                return None
            arrays[name] = array
        return arrays, content["data"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None


def _write(entry: Path, arrays: Arrays, data: dict) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=entry.parent))
    try:
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", array, allow_pickle=False)
        shapes = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
        content = json.dumps({"arrays": shapes, "data": data})
        (unfinished / "content.json").write_text(content, encoding="utf-8")
        try:
            os.replace(unfinished, entry)
        except OSError:
            if not entry.is_dir():  # where it is, another process was first: its entry is as good
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
